"""Debezium's connectors for MariaDB and MySQL on a real Kafka Connect, from real servers to an agent's answer."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pymysql
import pytest
from pymysql.cursors import Cursor

from headgate.errors import StackError
from headgate.stack import Connect, Kafka, MariaDB, MySQL, Registry, Stack
from headgate.state.sqlite import open_state
from headgate.telemetry import wall_clock_ms
from tests.services import fresh_database, require_installed, started
from tests.ways.debezium import FORMATS, Connector, Format, asked, config_of, converters
from tests.ways.deployment import all_rows, caught_up, client, headgate, reader_of, ready, until
from tests.ways.test_debezium_restarts import (
    Watching,
    assert_as_of_goes_on,
    ends_as,
    repeated,
    stored,
    told,
    value_of,
)
from tests.ways.test_mysql_source import Owner, Run
from tests.ways.test_mysql_types import TYPES
from tests.ways.test_staleness import agent_of

_ROWS = 40
_CRASHES = 2
_WORKER = {
    "group.id": "mariadb",
    "config.storage.topic": "mariadb.configs",
    "offset.storage.topic": "mariadb.offsets",
    "status.storage.topic": "mariadb.status",
    "offset.flush.interval.ms": "7000",  # what was sent since then is sent again after a crash
    "scheduled.rebalance.max.delay.ms": "0",
    "session.timeout.ms": "6000",
    "heartbeat.interval.ms": "1500",
}
_BEAT = "insert into {}.headgate_heartbeat values (1, now(3)) on duplicate key update ts = now(3)"
_pause = threading.Event()
"""Never set: writers and watchers take their time."""


@pytest.fixture(scope="module")
def worker(services_folder: Path, kafka: Kafka) -> Iterator[Connect]:
    """A Kafka Connect with all of Debezium's connectors, to be killed, which seldom notes how far it has come."""
    folder = services_folder / "connect-mariadb"
    with started(Connect(folder, kafka, settings=_WORKER, plugins=("mariadb", "mysql"))) as server:
        yield server


@contextmanager
def session(database: str) -> Iterator[Cursor]:
    """A session of the database's owner, which commits each statement."""
    parts = urlsplit(database)
    with pymysql.connect(
        host="127.0.0.1", port=parts.port or 0, user="root", database=name_of(database), autocommit=True
    ) as connection:
        yield connection.cursor()


def name_of(database: str) -> str:
    return urlsplit(database).path.strip("/")


class MariaDBConnector(Connector):
    """One connector on MariaDB, which puts nothing at the server."""

    @property
    def heartbeat(self) -> str:
        return f"{{table: {name_of(self.database)}.headgate_heartbeat}}"

    def rest(self) -> None:
        """Stops it, where it is."""
        asked(self.connect, "PUT", f"/connectors/{self.name}/stop").raise_for_status()
        until(lambda: self.state() == "none")

    def move(self, server: MariaDB) -> None:
        """Lets one that rests go on at another server."""
        settings = {**self._settings(), "database.port": str(server.port)}
        asked(self.connect, "PUT", f"/connectors/{self.name}/config", settings).raise_for_status()
        asked(self.connect, "PUT", f"/connectors/{self.name}/resume").raise_for_status()
        self.await_running()

    def _prepare(self) -> None:
        with session(self.database) as owner:
            owner.execute("create table headgate_heartbeat (id int primary key, ts timestamp(3))")

    def _settings(self) -> dict[str, str]:
        name, port = name_of(self.database), urlsplit(self.database).port
        return {
            "connector.class": "io.debezium.connector.mariadb.MariaDbConnector",
            "database.hostname": "127.0.0.1",
            "database.port": str(port),
            "database.user": "root",
            "database.password": "",
            "database.ssl.mode": "disable",
            "database.server.id": str(5_000 + int(self.name[3:], 16) % 1_000_000),
            "database.include.list": name,
            "table.include.list": f"{self._tables},{name}.headgate_heartbeat",
            "topic.prefix": self.name,
            "topic.creation.default.partitions": "3",
            "topic.creation.default.replication.factor": "1",
            "schema.history.internal.kafka.bootstrap.servers": self.connect.kafka.bootstrap_servers,
            "schema.history.internal.kafka.topic": f"{self.name}.history",
            "schema.history.internal.store.only.captured.databases.ddl": "true",
            "heartbeat.interval.ms": "300",
            "heartbeat.action.query": _BEAT.format(name),
            "connect.keep.alive.interval.ms": "2000",  # else an idle server lets it beat once in 48 s
            "skipped.operations": "none",
            "poll.interval.ms": "10",
        }

    def _clean(self) -> None:
        """The database goes as a whole."""


class MySQLConnector(MariaDBConnector):
    """One connector on MySQL."""

    def _settings(self) -> dict[str, str]:
        return {
            **super()._settings(),
            "connector.class": "io.debezium.connector.mysql.MySqlConnector",
            "database.ssl.mode": "disabled",
        }


def connector(connect: Connect, database: str, table: str, **more: str) -> AbstractContextManager[MariaDBConnector]:
    """A running connector on MariaDB for the length of a block."""
    return running(MariaDBConnector(connect, database, f"{name_of(database)}.{table}"), **more)


@contextmanager
def running(made: MariaDBConnector, **more: str) -> Iterator[MariaDBConnector]:
    """It, for the length of a block."""
    try:
        made.register(**more)
        yield made
    finally:
        made.remove()


def test_each_of_the_connectors_is_there_beside_the_others(worker: Connect) -> None:
    found = {each["class"].rpartition(".")[2] for each in asked(worker, "GET", "/connector-plugins").json()}
    assert found >= {"PostgresConnector", "MariaDbConnector", "MySqlConnector"}


@pytest.mark.parametrize(("kind", "connector"), [(MariaDB, "MariaDbConnector"), (MySQL, "MySqlConnector")])
def test_a_stack_with_a_mariadb_or_mysql_has_its_connector(
    services_folder: Path, kind: type[MariaDB | MySQL], connector: str
) -> None:
    require_installed(kind)
    stack = Stack(services_folder / "stack", ["connect", kind.name])
    try:
        stack.up()
        url = (stack.service("connect").connection())["url"]
        found = {each["class"].rpartition(".")[2] for each in httpx.get(f"{url}/connector-plugins", timeout=60).json()}
        assert found & {"PostgresConnector", "MariaDbConnector", "MySqlConnector"} == {"PostgresConnector", connector}
    finally:
        stack.down(purge=True)


def test_a_plugin_that_there_is_not_is_refused(services_folder: Path, kafka: Kafka) -> None:
    with pytest.raises(StackError, match="no plugin 'oracle'"):
        Connect(services_folder / "none", kafka, plugins=["oracle"])


# --- what is read --------------------------------------------------------------------------------

_POINT = {"x": 1.0, "y": 2.0, "wkb": "AQEAAAAAAAAAAADwPwAAAAAAAABA", "srid": None}
_THEIRS: dict[str, Any] = {"b": "18446744073709551615", "w": _POINT}
"""What the connector tells in another type than our own capture: unsigned 64 bits as a decimal, and geometry."""
_UNTURNED: dict[str, Any] = {
    "b": -1, "f": "2026-02-03Z", "g": "2026-02-03T04:05:06.12Z", "i": None, "s": "BQA=", "t": "2026-02-03T00:00:00Z",
}  # fmt: skip
"""What stays as the connector spells it where no schema says what it is. It loses times, and wraps unsigned numbers."""
_READABLE = {"decimal.handling.mode": "string", "time.precision.mode": "isostring"}


def columns() -> str:
    return ", ".join(f"{name} {declared}" for name, (declared, _, _) in TYPES.items())


def row(number: int) -> str:
    return f"({number}, {', '.join(given for _, given, _ in TYPES.values())})"


@pytest.mark.parametrize("form", FORMATS)
async def test_rows_reach_an_agent_as_a_person_reads_them_and_as_our_own_capture_does(
    form: Format,
    tmp_path: Path,
    kafka: Kafka,
    worker: Connect,
    registry: Registry,
    mariadb_database: str,
    redis_url: str,
) -> None:
    name = name_of(mariadb_database)
    with session(mariadb_database) as owner:
        owner.execute("set time_zone = '+00:00'")
        owner.execute(f"create table things (id bigint primary key, {columns()})")
        owner.execute(f"insert into things values {row(1)}, {row(2)}")
        more = _READABLE if form == "plain" else {"bigint.unsigned.handling.mode": "precise"}
        with connector(worker, mariadb_database, "things", **converters(form, registry.url), **more) as made:
            config = config_of(
                tmp_path, made, kafka, redis_url, f"{name}.things", registry_url=registry.url, heartbeat=made.heartbeat,
                entities=f"entities: {{thing: {{from: {made.name}.{name}.things, lookups: [k],"
                         " fields: {q: {type: json}}}}",
            )  # fmt: skip
            with headgate(tmp_path, "run") as process:
                until(lambda: ready(process.url()))
                owner.execute(f"insert into things values {row(3)}, {row(4)}")
                owner.execute("update things set k = 'new' where id = 2")
                owner.execute("update things set id = 40, k = 'moved' where id = 4")
                owner.execute("delete from things where id = 1")
                rows = await stored_rows(config)
                async with client(process.url()) as agent:
                    answer = await agent.call_tool("lookup_thing", {"k": "moved"})
    expected = {column: value for column, (_, _, value) in TYPES.items()} | _THEIRS
    expected |= _UNTURNED if form == "plain" else {}
    assert rows == {
        2: {"id": 2, **expected, "k": "new"}, 3: {"id": 3, **expected}, 40: {"id": 40, **expected, "k": "moved"},
    }  # fmt: skip
    assert answer.structured_content is not None and answer.meta is not None
    (found,) = answer.structured_content["rows"]
    assert (found["values"]["id"], found["values"]["c"]) == (40, expected["c"])
    assert answer.meta["headgate/freshness"]["state"] == "fresh"
    if form != "plain":
        ours = own_rows(mariadb_database, tmp_path)
        assert {key: {**each, **_THEIRS} for key, each in ours.items()} == rows


async def test_rows_of_a_mysql_reach_the_store_as_our_own_capture_reads_them(
    tmp_path: Path, mysql: MySQL, kafka: Kafka, worker: Connect, redis_url: str
) -> None:
    precise = {"bigint.unsigned.handling.mode": "precise", **converters("inline", "")}
    with fresh_database(mysql) as database, session(database) as owner:
        name = name_of(database)
        owner.execute("set time_zone = '+00:00'")
        owner.execute(f"create table things (id bigint primary key, {columns()})")
        owner.execute(f"insert into things values {row(1)}, {row(2)}")
        with running(MySQLConnector(worker, database, f"{name}.things"), **precise) as made:
            entities = f"entities: {{thing: {{from: {made.name}.{name}.things}}}}"
            config = config_of(tmp_path, made, kafka, redis_url, f"{name}.things", entities, heartbeat=made.heartbeat)
            with headgate(tmp_path, "run") as process:
                until(lambda: ready(process.url()))
                owner.execute(f"insert into things values {row(3)}, {row(4)}")
                owner.execute("update things set k = 'new' where id = 2")
                owner.execute("update things set id = 40 where id = 4")
                owner.execute("delete from things where id = 1")
                rows = await stored_rows(config)
        expected = {column: value for column, (_, _, value) in TYPES.items()} | _THEIRS
        assert rows == {2: {"id": 2, **expected, "k": "new"}, **{key: {"id": key, **expected} for key in (3, 40)}}
        ours = own_rows(database, tmp_path)
        assert {key: {**each, **_THEIRS} for key, each in ours.items()} == rows


async def stored_rows(config: Path) -> dict[int, dict[str, Any]]:
    """The rows of the store, once it holds what has been committed."""
    reader, app = reader_of(config)
    try:
        await caught_up(reader, "thing", wall_clock_ms())
        return {each["id"]: each for each in await all_rows(reader, "thing")}
    finally:
        await reader.close()
        app.close()


def own_rows(database: str, folder: Path) -> dict[int, dict[str, Any]]:
    """The table as our own capture reads it."""
    with (
        closing(open_state(folder / "own.db", clock=wall_clock_ms)) as state,
        closing(Owner(database, state)) as owner,
        Run(owner.source("things")) as run,
    ):
        run.covering(wall_clock_ms() + 1)
        return {key["id"]: after for _, key, after in run.rows()}


# --- how it changes ------------------------------------------------------------------------------


def make_counted(owner: Cursor, rows: int) -> None:
    owner.execute("create table counted (id int primary key, v bigint)")
    owner.execute("insert into counted values " + ", ".join(f"({number}, 0)" for number in range(1, rows + 1)))


def test_a_truncate_empties_a_topic_of_one_partition(
    tmp_path: Path, kafka: Kafka, worker: Connect, mariadb_database: str, redis_url: str
) -> None:
    name = name_of(mariadb_database)
    with session(mariadb_database) as owner:
        make_counted(owner, 2)
        with connector(worker, mariadb_database, "counted", **{"topic.creation.default.partitions": "1"}) as made:
            config_of(tmp_path, made, kafka, redis_url, f"{name}.counted", heartbeat=made.heartbeat,
                      entities=f"entities: {{counted: {{from: {made.name}.{name}.counted}}}}")  # fmt: skip
            with headgate(tmp_path, "run") as process, agent_of(process) as agent:
                until(lambda: ready(process.url()))
                until(lambda: value_of(agent, 2) == 0)
                owner.execute("truncate table counted")
                owner.execute("insert into counted values (2, 3)")
                until(lambda: (value_of(agent, 1), value_of(agent, 2)) == (None, 3))


def test_an_idle_server_is_fresh_and_a_silent_one_is_not(
    tmp_path: Path, kafka: Kafka, worker: Connect, mariadb: MariaDB, mariadb_database: str, redis_url: str
) -> None:
    name = name_of(mariadb_database)
    with session(mariadb_database) as owner:
        make_counted(owner, 1)
    with connector(worker, mariadb_database, "counted") as made:
        config_of(tmp_path, made, kafka, redis_url, f"{name}.counted", heartbeat=made.heartbeat,
                  entities=f"entities: {{counted: {{from: {made.name}.{name}.counted}}}}")  # fmt: skip
        with headgate(tmp_path, "run") as process, agent_of(process) as agent:
            until(lambda: ready(process.url()))
            until(lambda: told(agent)["state"] == "fresh")
            assert_as_of_goes_on(agent)
            mariadb.pause()
            try:
                until(lambda: told(agent)["staleness_ms"] > 10_000)
                until(lambda: made.state() == "RUNNING")  # its status knows nothing of it
                assert told(agent)["staleness_ms"] > 10_000
            finally:
                mariadb.resume()
            until(lambda: told(agent)["staleness_ms"] < 8_000)


class Writing:
    """Transactions that overlap, each of which counts some rows up more than once, for the length of a block."""

    def __init__(self, database: str) -> None:
        self._database = database
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(random.Random(seed),)) for seed in range(3)]

    def __enter__(self) -> Writing:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, dice: random.Random) -> None:
        with session(self._database) as owner:
            while not self._stop.is_set():
                owner.execute("begin")
                for number in sorted(dice.sample(range(1, _ROWS + 1), dice.randint(1, 6))):
                    for _ in range(dice.choice((1, 1, 3))):
                        owner.execute("update counted set v = v + 1 where id = %s", [number])
                    _pause.wait(dice.choice((0, 0, 0.005)))
                owner.execute("commit")
                _pause.wait(0.005)


def counted(database: str) -> dict[int, int]:
    with session(database) as owner:
        owner.execute("select id, v from counted")
        return dict(owner.fetchall())


def await_changes(database: str, most: int) -> None:
    before = sum(counted(database).values())
    until(lambda: sum(counted(database).values()) > before + most)


async def test_no_row_goes_back_when_the_connector_is_killed_before_it_has_noted_how_far_it_was(
    tmp_path: Path, kafka: Kafka, worker: Connect, mariadb_database: str, redis_url: str
) -> None:
    table = f"{name_of(mariadb_database)}.counted"
    with session(mariadb_database) as owner:
        make_counted(owner, _ROWS)
    with connector(worker, mariadb_database, "counted") as made:
        config = config_of(tmp_path, made, kafka, redis_url, table, heartbeat=made.heartbeat,
                           entities=f"entities: {{counted: {{from: {made.name}.{table}}}}}")  # fmt: skip
        with headgate(tmp_path, "run") as process:
            until(lambda: ready(process.url()))
            with Watching(config) as watching, Writing(mariadb_database):
                made.await_noted()
                for _ in range(_CRASHES):
                    await_changes(mariadb_database, 2_000)
                    worker.kill()
                    with session(mariadb_database) as owner:
                        owner.execute("flush binary logs")
                    worker.start()
                    made.await_running()
                    assert await stored(config, wall_clock_ms())
            await ends_as(config, counted(mariadb_database))
            assert watching.looks > 20
            assert watching.gone_back == []
        assert repeated(made, kafka, table) > 0, "nothing was told again, so that nothing was shown"


# --- where it is told by another server ------------------------------------------------------------


@contextmanager
def pair(folder: Path) -> Iterator[tuple[MariaDB, MariaDB]]:
    """A primary and its replica, whose own binary log is younger."""
    with (
        started(MariaDB(folder / "primary")) as primary,
        started(MariaDB(folder / "replica", server_id=8)) as replica,
    ):
        with session(primary.dsn("mysql")) as owner:
            owner.execute("create database shop character set utf8mb4")
            for _ in range(5):
                owner.execute("flush binary logs")
        with session(replica.dsn("mysql")) as owner:
            owner.execute(
                "change master to master_host = '127.0.0.1', master_port = %s, master_user = 'root',"
                " master_use_gtid = slave_pos", [primary.port],
            )  # fmt: skip
            owner.execute("start slave")
        yield primary, replica


def await_replica(primary: MariaDB, replica: MariaDB) -> None:
    """Until the replica has all that the primary has."""
    with session(primary.dsn("mysql")) as owner, session(replica.dsn("mysql")) as follower:
        owner.execute("select @@gtid_binlog_pos")
        ((reached,),) = owner.fetchall()
        follower.execute("select master_gtid_wait(%s, 60)", [reached])
        assert follower.fetchall() == ((0,),)


async def test_a_connector_that_moves_to_a_replica_loses_nothing(
    tmp_path: Path, services_folder: Path, kafka: Kafka, worker: Connect, redis_url: str
) -> None:
    with pair(services_folder / "pair") as (primary, replica):
        with session(primary.dsn("shop")) as owner:
            make_counted(owner, _ROWS)
        with connector(worker, primary.dsn("shop"), "counted") as made:
            config = config_of(tmp_path, made, kafka, redis_url, "shop.counted", heartbeat=made.heartbeat,
                               entities=f"entities: {{counted: {{from: {made.name}.shop.counted}}}}")  # fmt: skip
            with headgate(tmp_path, "run") as process:
                until(lambda: ready(process.url()))
                with session(primary.dsn("shop")) as owner:
                    owner.execute("update counted set v = 1")
                assert set((await stored(config, wall_clock_ms())).values()) == {1}
                made.rest()
                with session(primary.dsn("shop")) as owner:
                    owner.execute("update counted set v = 2")
                    owner.execute("delete from counted where id = 1")
                await_replica(primary, replica)
                primary.kill()
                made.move(replica)
                found = await stored(config, wall_clock_ms())
                assert found == counted(replica.dsn("shop"))
                assert 1 not in found and set(found.values()) == {2}
                with session(replica.dsn("shop")) as owner:
                    owner.execute("update counted set v = 3 where id = 2")
                assert (await stored(config, wall_clock_ms()))[2] == 3
