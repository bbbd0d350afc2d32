"""The way of a change from a real MariaDB or MySQL to an agent's answer, on the config that `headgate init` drafts."""

from __future__ import annotations

import random
import threading
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pymysql
import pytest

from headgate.stack.ports import free_port
from headgate.telemetry import wall_clock_ms
from tests.ways.deployment import caught_up, headgate, reader_of, until
from tests.ways.operating import command, operator
from tests.ways.workload import MysqlTables, assert_tables_equal, run_workload

PASSWORD = "correct-horse-battery"
CHANGES = 2_400


class Load:
    """The owner's transactions, in a thread of their own, as many as have been allowed."""

    def __init__(self, tables: MysqlTables) -> None:
        self.done = 0
        self._allowed = threading.Semaphore(0)
        self._ended = False
        self._failed: list[Exception] = []
        self._thread = threading.Thread(target=self._run, args=(tables,), name="owner")
        self._thread.start()

    def allow(self, transactions: int) -> None:
        self._allowed.release(transactions)

    def until(self, transactions: int) -> None:
        """Allows them up to so many in all, and waits for them."""
        self.allow(transactions - self.done)
        until(lambda: self._failed or self.done >= transactions)

    def finish(self) -> None:
        """All that is left."""
        self.allow(CHANGES)
        self._thread.join()
        assert self._failed == []

    def close(self) -> None:
        self._ended = True
        self.allow(1)
        self._thread.join()

    def _run(self, tables: MysqlTables) -> None:
        try:
            run_workload(tables, random.Random(4), CHANGES, ended=self._turn)
        except Exception as error:
            self._failed.append(error)

    def _turn(self) -> bool:
        self._allowed.acquire()
        self.done += 1
        return self._ended


@pytest.fixture
def owner(binlog_database: str) -> Iterator[pymysql.Connection[pymysql.cursors.Cursor]]:
    parts = urlsplit(binlog_database)
    connection = pymysql.connect(
        host="127.0.0.1", port=parts.port or 0, user="root", database=parts.path.strip("/"), autocommit=True
    )
    with closing(connection):
        yield connection


@pytest.fixture
def user(owner: pymysql.Connection[pymysql.cursors.Cursor], binlog_database: str) -> Iterator[str]:
    """A user with a password, and the privileges that the docs name."""
    name = f"u_{uuid.uuid4().hex[:8]}"
    with owner.cursor() as cursor:
        cursor.execute(f"create user {name} identified by %s", [PASSWORD])
        cursor.execute(f"grant select on {urlsplit(binlog_database).path.strip('/')}.* to {name}")
        cursor.execute(f"grant reload, replication slave, replication client on *.* to {name}")
        yield name
        cursor.execute(f"drop user {name}")


async def test_a_drafted_config_carries_a_mariadb_or_mysql_to_an_agent_through_load_a_crash_and_a_new_column(
    tmp_path: Path,
    binlog_database: str,
    owner: pymysql.Connection[pymysql.cursors.Cursor],
    user: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with closing(MysqlTables(binlog_database)) as tables, closing(Load(tables)) as load, owner.cursor() as cursor:
        load.until(20)
        config = tmp_path / "headgate.yaml"
        url = binlog_database.replace("root@", f"{user}:{PASSWORD}@")
        said = command(tmp_path, "init", url, "--name", "shop")
        assert PASSWORD not in said + config.read_text()
        monkeypatch.setenv("HEADGATE_SOURCE_PASSWORD", PASSWORD)
        assert "fine" in command(tmp_path, "check")
        with headgate(tmp_path, "run", "--port", str(free_port())) as process:
            load.until(40)
            await _is_whole(config)
            load.allow(40)
            until(lambda: load.done > 60)
            process.crash()
            process.start()
            cursor.execute("alter table things add column colour varchar(9)")
            load.allow(20)
            await _is_whole(config)
            with operator(tmp_path, process.url(), "shop") as ops:
                load.finish()
                cursor.execute("update things set colour = concat('c', id % 7)")
                await assert_tables_equal(config, tables, wall_clock_ms())
                key, row = next(iter(tables.rows("thing").items()))
                assert ops.values("thing", key) == row
                assert ops.freshness("thing")["state"] == "fresh"
                assert (ops.letters(), ops.faults(), ops.status()) == ([], [], "running")
                command(tmp_path, "verify", "shop")


async def _is_whole(config: Path) -> None:
    """Waits until the store holds what the source held a moment ago: the snapshot, and changes after it."""
    reader, app = reader_of(config)
    try:
        await caught_up(reader, "thing", wall_clock_ms())
    finally:
        await reader.close()
        app.close()
