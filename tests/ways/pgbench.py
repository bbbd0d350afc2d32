"""pgbench, PostgreSQL's own load, and whether the store holds what its tables hold."""

from __future__ import annotations

import subprocess
import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

import psycopg

from headgate.stack import Postgres
from headgate.stores.base import Reader
from tests.ways.deployment import all_rows, caught_up, reader_of, until

KEYS = {"pgbench_account": "aid", "pgbench_branch": "bid", "pgbench_teller": "tid", "pgbench_history": "id"}
"""Entity → key column. Their names are the tables' in the singular."""
LOOKUPS = {"pgbench_branch": "bbalance", "pgbench_teller": "tbalance", "pgbench_history": "aid"}
"""Entity → a column to look up by. The balances move with every transaction."""


def entities(pipeline: str) -> str:
    """The config's block that declares the lookups."""
    lines = [
        f"  {entity}: {{from: {pipeline}.public.{_table(entity)}"
        + (f", lookups: [{LOOKUPS[entity]}]}}" if entity in LOOKUPS else "}")
        for entity in KEYS
    ]
    return "entities:\n" + "\n".join(lines) + "\n"


def fill(postgres: Postgres, dsn: str) -> None:
    """Makes the tables. The history gets a key, as a table without one is never captured."""
    subprocess.run([*_program(postgres), "-i", "-q", "-s", "1", dsn], check=True, capture_output=True)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("alter table pgbench_history add column id bigint generated always as identity primary key")


def run(postgres: Postgres, dsn: str, transactions: int) -> None:
    """Its own load: four clients, each with so many transactions over four tables."""
    command = [*_program(postgres), "-n", "-c", "4", "-j", "2", "-t", str(transactions), dsn]
    subprocess.run(command, check=True, capture_output=True)


class Load:
    """pgbench without an end, for the length of a block. It ends with its server, and is then started again."""

    def __init__(self, postgres: Postgres, dsn: str, transactions_per_s: int, script: Path | None = None) -> None:
        """`script` is what each transaction does instead of pgbench's own four tables."""
        rate = ["-R", str(transactions_per_s), "-T", "86400", *(["-f", str(script)] if script else [])]
        self._command = [*_program(postgres), "-n", "-c", "4", "-j", "2", *rate, dsn]
        self._dsn = dsn
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pgbench", daemon=True)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        until(lambda: not self._clients())

    def _run(self) -> None:
        while not self._stop.is_set():
            process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            while process.poll() is None and not self._stop.wait(0.05):
                pass
            process.kill()
            process.wait()

    def _clients(self) -> int:
        """Those of its sessions that the server has not ended yet: they may still commit."""
        with psycopg.connect(self._dsn) as connection:
            row = connection.execute(
                "select count(*) from pg_stat_activity"
                " where application_name = 'pgbench' and datname = current_database()"
            ).fetchone()
        assert row is not None
        return int(row[0])


def _program(postgres: Postgres) -> list[str]:
    return [str(postgres.programs() / "pgbench")]


def source_clock_ms(dsn: str) -> int:
    """Now, by the server's clock."""
    with psycopg.connect(dsn) as connection:
        row = connection.execute("select (extract(epoch from clock_timestamp()) * 1000)::bigint").fetchone()
    assert row is not None
    return int(row[0])


async def assert_equal(config: Path, dsn: str, *, lookups: bool = False, patience_s: float = 60.0) -> None:
    """Once the store says that it is whole as of now, it holds exactly the rows of the database."""
    since_ms = source_clock_ms(dsn)
    reader, app = reader_of(config)
    try:
        for entity, key in KEYS.items():
            await caught_up(reader, entity, since_ms, patience_s)
            stored = {row[key]: row for row in await all_rows(reader, entity)}
            expected = _rows(dsn, entity, key)
            assert len(stored) == len(expected) == (await reader.count(entity)).rows, entity
            for each, row in expected.items():
                assert _without_spelling(stored[each]) == _without_spelling(row), (entity, each)
            if lookups and entity in LOOKUPS:
                await _assert_lookups(reader, entity, LOOKUPS[entity], key, expected)
    finally:
        await reader.close()
        app.close()


async def _assert_lookups(reader: Reader, entity: str, field: str, key: str, rows: dict[Any, dict[str, Any]]) -> None:
    """Each value leads to the rows that have it, and to no others."""
    keys_under: dict[Any, set[str]] = defaultdict(set)
    for row in rows.values():
        keys_under[row[field]].add(str(row[key]))
    for value, keys in list(keys_under.items())[:200]:
        found = await reader.lookup(entity, field, [value], limit=1_000)
        assert {row.key for row in found.rows} == keys, (entity, field, value)


def _rows(dsn: str, entity: str, key: str) -> dict[Any, dict[str, Any]]:
    with psycopg.connect(dsn) as connection:
        found = connection.execute(f"select to_jsonb(t) from {_table(entity)} t".encode())
        return {row[0][key]: row[0] for row in found.fetchall()}


def _table(entity: str) -> str:
    return {"pgbench_branch": "pgbench_branches", "pgbench_history": "pgbench_history"}.get(entity, f"{entity}s")


def _without_spelling(row: dict[str, Any]) -> dict[str, Any]:
    """Timestamps without the ways to write the same one; a char(n)'s padding is data and stays."""
    return {name: value.replace("+00:00", "Z") if name == "mtime" and value else value for name, value in row.items()}
