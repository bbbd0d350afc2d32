"""Real servers for the tests, each started on its first use and stopped when the session ends.

A server that can't start fails the tests that ask for it. ALLOW_SKIP=1 skips them instead, with the reason. MariaDB
and MySQL come with no package of Python's: where one is not installed its tests are skipped. MariaDB's are not where
CI=true; MySQL's are there too, as Debian has no stable package of it.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import psycopg
import pymysql
import pytest
import redis
from confluent_kafka.admin import AdminClient
from psycopg import sql

from headgate.errors import HeadgateError
from headgate.stack import Connect, Kafka, MariaDB, MySQL, Postgres, Registry, Server, Valkey
from headgate.stack.base import kill_all_below
from headgate.stack.binlog import BinlogServer

AnyServer = TypeVar("AnyServer", bound=Server)
FOLDER_PREFIX = "headgate-tests-"
_redis_databases = itertools.cycle(range(1, 16))


@pytest.fixture(scope="session")
def services_folder() -> Iterator[Path]:
    """A throwaway folder for servers.

    Not pytest's own: that is closed to the account that root's servers run as, and stays so.
    """
    _sweep_leftovers()
    with throwaway_folder() as folder:
        yield folder


@contextmanager
def throwaway_folder() -> Iterator[Path]:
    """A folder whose servers are all stopped, and which is removed, at the end."""
    folder = Path(tempfile.mkdtemp(prefix=f"{FOLDER_PREFIX}{os.getpid()}-"))
    try:
        yield folder
    finally:
        _remove(folder)


@contextmanager
def started(server: AnyServer) -> Iterator[AnyServer]:
    """The server, started; stopped at the end, whatever happened in between."""
    if isinstance(server, BinlogServer):
        require_installed(type(server))
    try:
        server.start()
    except HeadgateError as error:
        if os.environ.get("ALLOW_SKIP") == "1":
            pytest.skip(f"{server.name} can't start: {error}")
        raise
    try:
        yield server
    finally:
        server.stop()


def require_installed(kind: type[BinlogServer]) -> None:
    """Skips the test where the server is not installed. In CI MariaDB has to be: there it runs, and fails."""
    if kind is MySQL and not MySQL.is_installed():
        pytest.skip("no mysqld of MySQL on the PATH nor in /usr/sbin: install MySQL's server")
    if kind is MariaDB and not MariaDB.is_installed() and os.environ.get("CI") != "true":
        pytest.skip("no mariadbd on the PATH nor in /usr/sbin: install MariaDB's server (Debian's mariadb-server)")


@pytest.fixture(scope="session")
def kafka(services_folder: Path) -> Iterator[Kafka]:
    """The session's Kafka."""
    with started(Kafka(services_folder / "kafka")) as server:
        yield server


@pytest.fixture(scope="session")
def postgres(services_folder: Path) -> Iterator[Postgres]:
    """The session's PostgreSQL."""
    with started(Postgres(services_folder / "postgres")) as server:
        yield server


@pytest.fixture(scope="session")
def valkey(services_folder: Path) -> Iterator[Valkey]:
    """The session's Valkey."""
    with started(Valkey(services_folder / "valkey")) as server:
        yield server


@pytest.fixture(scope="session")
def registry(services_folder: Path) -> Iterator[Registry]:
    """The session's schema registry."""
    with started(Registry(services_folder / "registry")) as server:
        yield server


@pytest.fixture(scope="session")
def connect(services_folder: Path, kafka: Kafka) -> Iterator[Connect]:
    """The session's Kafka Connect, on the session's Kafka."""
    with started(Connect(services_folder / "connect", kafka)) as server:
        yield server


@pytest.fixture
def database(postgres: Postgres) -> Iterator[str]:
    """The DSN of a fresh database. Afterwards it is dropped, with its slots and whoever is still in it."""
    name = f"t_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
        admin.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
    try:
        yield postgres.dsn(name)
    finally:
        postgres.start()  # a test may have killed or frozen it
        _drop_database(postgres, name)


@pytest.fixture(scope="session")
def mariadb(services_folder: Path) -> Iterator[MariaDB]:
    """The session's MariaDB."""
    with started(MariaDB(services_folder / "mariadb")) as server:
        yield server


@pytest.fixture(scope="session")
def mysql(services_folder: Path) -> Iterator[MySQL]:
    """The session's MySQL."""
    with started(MySQL(services_folder / "mysql")) as server:
        yield server


@pytest.fixture(scope="session", params=["mariadb", "mysql"])
def binlog_server(request: pytest.FixtureRequest) -> BinlogServer:
    """The session's MariaDB, and its MySQL: a test that asks for it runs once on each."""
    server: BinlogServer = request.getfixturevalue(request.param)
    return server


@pytest.fixture
def binlog_database(binlog_server: BinlogServer) -> Iterator[str]:
    """The DSN of a fresh database, once on MariaDB and once on MySQL. Afterwards it is dropped."""
    with fresh_database(binlog_server) as dsn:
        yield dsn


@pytest.fixture
def mariadb_database(mariadb: MariaDB) -> Iterator[str]:
    """The DSN of a fresh database on MariaDB. Afterwards it is dropped."""
    with fresh_database(mariadb) as dsn:
        yield dsn


@contextmanager
def fresh_database(server: BinlogServer) -> Iterator[str]:
    """The DSN of a database that is dropped at the end."""
    name = f"t_{uuid.uuid4().hex[:12]}"
    _on_server(server, f"create database {name} character set utf8mb4")
    yield server.dsn(name)
    server.start()  # a test may have killed or frozen it
    _on_server(server, f"drop database {name}")


@pytest.fixture
def redis_url(valkey: Valkey) -> Iterator[str]:
    """The URL of an empty logical database. Channels are common to all of them."""
    url = valkey.url(next(_redis_databases))
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    yield url
    valkey.start()  # a test may have killed or frozen it
    with redis.Redis.from_url(url) as client:
        client.flushdb()


@pytest.fixture
def topic_prefix(kafka: Kafka) -> Iterator[str]:
    """A prefix that no other test's topics have. Afterwards the topics that begin with it are deleted."""
    prefix = f"t{uuid.uuid4().hex[:12]}."
    yield prefix
    kafka.start()  # a test may have killed or frozen it
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    topics = [topic for topic in admin.list_topics(timeout=60).topics if topic.startswith(prefix)]
    if topics:
        for deleted in admin.delete_topics(topics).values():
            deleted.result(60)


def _on_server(server: BinlogServer, statement: str) -> None:
    with pymysql.connect(host="127.0.0.1", port=server.port, user="root", autocommit=True) as admin:
        admin.cursor().execute(statement)


def _drop_database(postgres: Postgres, name: str) -> None:
    with psycopg.connect(postgres.dsn(), autocommit=True) as admin:
        # Nobody may come back between the end of a slot's reader and the end of the slot.
        admin.execute(sql.SQL("alter database {} allow_connections false").format(sql.Identifier(name)))
        admin.execute("select pg_terminate_backend(pid, 60000) from pg_stat_activity where datname = %s", [name])
        admin.execute(
            "select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = %s", [name]
        )
        admin.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


def _sweep_leftovers() -> None:
    """Stop and remove what sessions that were killed before their end have left."""
    for folder in Path(tempfile.gettempdir()).glob(f"{FOLDER_PREFIX}*-*"):
        owner = folder.name.removeprefix(FOLDER_PREFIX).split("-")[0]
        if folder.stat().st_uid == os.geteuid() and owner.isdigit() and not _is_alive(int(owner)):
            _remove(folder)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # someone else's, and alive
    return True


def _remove(folder: Path) -> None:
    kill_all_below(folder)
    shutil.rmtree(folder)
