"""What every kind of source keeps, run against each kind that has a ground in `source_kinds`.

The SQL here is the same for all kinds. What one kind alone has (REPLACE, TOAST, ...) is in its unit tests.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import random
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from headgate import plugins
from headgate.errors import SourceBusy, SourceError, TableWithoutKey
from headgate.model.change import Change
from headgate.telemetry import wall_clock_ms

from .source_kinds.base import Ground
from .source_kinds.replica import DEADLINE_S, Replica, Run

PEOPLE = "CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT)"


CAPTURED = [kind for kind in plugins.kinds("sources") if hasattr(plugins.load("sources", kind), "open_source")]
"""Those that capture a database; the others' topics are filled by someone else."""


SERVERS: Mapping[str, Sequence[str]] = {"mysql": ("mariadb", "mysql")}
"""Of a kind that reads more than one kind of server, their fixtures, each of which is given to its `open_ground`."""
GROUNDS = [
    *((kind,) for kind in CAPTURED if kind not in SERVERS),
    *((kind, server) for kind, servers in SERVERS.items() for server in servers),
]


@pytest.fixture(params=GROUNDS, ids=["-".join(each) for each in GROUNDS])
def ground(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ground]:
    """An empty database of each kind, on each of its servers. A kind without a ground fails: none goes untested."""
    kind, *servers = request.param
    module = importlib.import_module(f"tests.contracts.source_kinds.{kind}")
    with closing(module.open_ground(request, tmp_path, *map(request.getfixturevalue, servers))) as opened:
        yield opened


@pytest.fixture
def replica(ground: Ground) -> Replica:
    return Replica(ground)


def people(*ids: int) -> str:
    return "INSERT INTO people (id, name) VALUES " + ", ".join(f"({number}, 'n{number}')" for number in ids)


def ops(changes: Sequence[Change]) -> list[tuple[Any, ...]]:
    """Operation and the key's values of every change of a row."""
    return [(change.op, *json.loads(change.key).values()) for change in changes if change.key is not None]


def generations(changes: Sequence[Change], table: str) -> list[tuple[str, int]]:
    """Phase and generation of a table's markers."""
    return [(c.marker.phase, c.marker.generation) for c in changes if c.marker is not None and c.table == table]


# --- snapshot, then changes ----------------------------------------------------------------------


def test_a_snapshot_comes_first_between_its_markers(ground: Ground, replica: Replica) -> None:
    ground.execute(PEOPLE, people(1, 2, 3))
    with Run(ground, replica, batch=2) as run:
        run.catch_up("people")
        assert [change.op for change in run.seen] == ["m", "r", "r", "r", "m"]
        begin, end = generations(run.seen, ground.qualified("people"))
        assert (begin[0], end[0]) == ("begin", "end")
        assert begin[1] == end[1] > 0
        assert sorted(row["id"] for row in replica.rows("people")) == [1, 2, 3]


def test_a_scan_gives_the_rows_that_capture_gives(ground: Ground, replica: Replica) -> None:
    ground.execute(PEOPLE, people(*range(1, 8)), "UPDATE people SET name = NULL WHERE id = 3")
    with Run(ground, replica, batch=2) as run:
        run.catch_up("people")
        captured = {change.key: change.after for change in run.seen if change.marker is None}
        scanned = list(ground.source().scan(ground.qualified("people"), 3))  # beside a capture, without its lock
    assert {key: row for batch in scanned for key, row in batch} == captured
    assert max(len(batch) for batch in scanned) <= 3
    with pytest.raises(SourceError):
        list(ground.source().scan(ground.qualified("nothing"), 3))


def test_an_empty_table_has_a_snapshot_too(ground: Ground, replica: Replica) -> None:
    ground.execute(PEOPLE)
    with Run(ground, replica) as run:
        run.until(lambda: len(generations(run.seen, ground.qualified("people"))) == 2, "both markers")
        run.catch_up("people")
        assert replica.rows("people") == []


def test_a_table_is_announced_before_its_rows(ground: Ground, replica: Replica) -> None:
    ground.execute(PEOPLE, people(1))
    with Run(ground, replica) as run:
        run.until(lambda: bool(run.seen), "a change")
        assert replica.tables[ground.qualified("people")].key == ("id",)


def test_inserts_updates_and_deletes_follow(ground: Ground, replica: Replica) -> None:
    ground.execute(PEOPLE, people(1, 2))
    with Run(ground, replica) as run:
        run.catch_up("people")
        ground.execute(people(3))
        assert ops(run.catch_up("people")) == [("c", 3)]
        ground.execute("UPDATE people SET name = 'other' WHERE id = 1")
        assert ops(run.catch_up("people")) == [("u", 1)]
        ground.execute("DELETE FROM people WHERE id = 2")
        assert ops(run.catch_up("people")) == [("d", 2)]


def test_an_upsert_follows(ground: Ground, replica: Replica) -> None:
    upsert = "INSERT INTO people (id, name) VALUES ({}, 'x') ON CONFLICT (id) DO UPDATE SET name = excluded.name"
    ground.execute(PEOPLE, people(1))
    with Run(ground, replica) as run:
        run.catch_up("people")
        ground.execute(upsert.format(1), upsert.format(2))
        assert ops(run.catch_up("people")) == [("u", 1), ("c", 2)]


def test_a_change_of_a_key_is_a_delete_and_a_create(ground: Ground, replica: Replica) -> None:
    ground.execute(PEOPLE, people(1))
    with Run(ground, replica) as run:
        run.catch_up("people")
        ground.execute("UPDATE people SET id = 10 WHERE id = 1")
        assert ops(run.catch_up("people")) == [("d", 1), ("c", 10)]


def test_a_composite_key_keeps_its_order(ground: Ground, replica: Replica) -> None:
    ground.execute(
        "CREATE TABLE seats (n INTEGER, \"ro w\" TEXT, who TEXT, PRIMARY KEY (\"ro w\", n))",
        "INSERT INTO seats VALUES (1, 'a', 'x'), (1, 'b', 'y')",
    )  # fmt: skip
    with Run(ground, replica) as run:
        run.catch_up("seats")
        assert replica.tables[ground.qualified("seats")].key == ("ro w", "n")
        ground.execute("UPDATE seats SET n = 2 WHERE who = 'y'", "DELETE FROM seats WHERE who = 'x'")
        found = run.catch_up("seats")
        assert sorted(ops(found)) == [("c", "b", 2), ("d", "a", 1), ("d", "b", 1)]
        assert [json.loads(change.key or b"") for change in found if change.op == "c"] == [{"ro w": "b", "n": 2}]


def test_emptying_a_table_empties_the_replica(ground: Ground, replica: Replica) -> None:
    ground.execute(PEOPLE, people(1, 2, 3))
    with Run(ground, replica) as run:
        run.catch_up("people")
        ground.empty("people")
        ground.execute(people(9))
        run.catch_up("people")
        assert [row["id"] for row in replica.rows("people")] == [9]


def test_a_rolled_back_change_is_no_change(ground: Ground, replica: Replica) -> None:
    ground.execute(PEOPLE)
    with Run(ground, replica) as run:
        run.catch_up("people")
        ground.execute("SAVEPOINT s", people(1), "ROLLBACK TO s", people(2))
        assert ops(run.catch_up("people")) == [("c", 2)]


# --- sequence and head ---------------------------------------------------------------------------


def test_sequences_never_go_back_and_heads_cover_them(ground: Ground, replica: Replica) -> None:
    ground.execute(PEOPLE, people(1))
    with Run(ground, replica) as run:
        run.catch_up("people")
        for number in range(2, 8):
            ground.execute(people(number), f"UPDATE people SET name = 'x' WHERE id = {number - 1}")
        found = [change.sequence for change in run.catch_up("people")]
        assert len(found) >= 7
        assert all(sequence is not None for sequence in found)
        assert found == sorted(sequence for sequence in found if sequence is not None)
        newest = max(sequence for sequence in found if sequence is not None)
        run.until(lambda: run.heads[-1].sequence >= newest, "a head that covers them")


def test_heads_move_while_nothing_changes(ground: Ground, replica: Replica) -> None:
    ground.execute(PEOPLE)
    with Run(ground, replica) as run:
        run.catch_up("people")
        first, asked_ms = run.heads[-1], ground.source().now_ms()
        assert asked_ms >= first.time_ms, "heads have their times by the clock that a source tells"
        run.until(lambda: run.heads[-1].time_ms > asked_ms, "a later head")
        assert run.heads[-1].sequence >= first.sequence
        assert run.heads[-1].time_ms <= ground.source().now_ms()


# --- runs that end -------------------------------------------------------------------------------


def test_a_new_run_goes_on_after_what_was_confirmed(ground: Ground, replica: Replica) -> None:
    ground.execute(PEOPLE, people(1))
    with Run(ground, replica) as run:
        run.catch_up("people")
        ground.execute(people(2))
        run.catch_up("people")
        run.confirms = False
        ground.execute(people(3))
        run.catch_up("people")
    ground.execute(people(4), "DELETE FROM people WHERE id = 1")
    with Run(ground, replica) as run:
        assert sorted(ops(run.catch_up("people"))) == [("c", 3), ("c", 4), ("d", 1)]


def test_an_interrupted_snapshot_starts_again_with_a_larger_generation(ground: Ground, replica: Replica) -> None:
    ground.execute(PEOPLE, people(*range(40)))
    name = ground.qualified("people")
    with Run(ground, replica, batch=5, confirm=False) as run:
        run.until(lambda: len(run.seen) > 10, "a part of the snapshot")
        assert [phase for phase, _ in generations(run.seen, name)] == ["begin"]
        interrupted = generations(run.seen, name)[0][1]
    ground.execute("DELETE FROM people WHERE id < 20")
    with Run(ground, replica, batch=5) as run:
        run.catch_up("people")
        (_, began), (_, ended) = generations(run.seen, name)
        assert began == ended > interrupted
        assert len(replica.rows("people")) == 20


def test_a_snapshot_whose_end_was_not_confirmed_is_taken_again(ground: Ground, replica: Replica) -> None:
    ground.execute(PEOPLE, people(1, 2))
    name = ground.qualified("people")
    with Run(ground, replica, confirm=False) as run:
        run.catch_up("people")
        first = generations(run.seen, name)[0][1]
    with Run(ground, replica) as run:
        run.until(lambda: len(generations(run.seen, name)) == 2, "another snapshot")
        run.catch_up("people")
        assert generations(run.seen, name)[0][1] > first


def test_a_resnapshot_that_is_interrupted_begins_again_though_nobody_asks_anew(
    ground: Ground, replica: Replica
) -> None:
    """The wish for it is forgotten as it begins: half a generation must not be all that there is of the table."""
    ground.execute(PEOPLE, people(*range(40)), "CREATE TABLE pets (id INTEGER PRIMARY KEY)")
    name = ground.qualified("people")
    with Run(ground, replica) as run:
        run.catch_up("people", "pets")
    with Run(ground, replica, batch=5, resnapshot=["people"]) as run:
        run.until(lambda: len(run.seen) > 10, "a part of the snapshot")
        ((phase, interrupted),) = generations(run.seen, name)
        assert phase == "begin"
    ground.execute("DELETE FROM people WHERE id < 20")
    with Run(ground, replica) as run:
        run.until(lambda: len(generations(run.seen, name)) == 2, "another snapshot")
        run.catch_up("people", "pets")
        (_, began), (_, ended) = generations(run.seen, name)
        assert began == ended > interrupted
        assert {change.table for change in run.seen} == {name}


def test_writes_during_a_snapshot_are_not_lost(ground: Ground, replica: Replica) -> None:
    ground.execute(PEOPLE, people(*range(30)))
    with Run(ground, replica, batch=5) as run:
        run.until(lambda: len(run.seen) > 7, "a part of the snapshot")
        ground.execute("DELETE FROM people WHERE id IN (0, 29)", "UPDATE people SET name = 'late' WHERE id IN (1, 28)")
        ground.execute("UPDATE people SET id = 100 WHERE id = 15", people(101))
        run.catch_up("people")


def test_a_table_named_later_has_its_own_snapshot(ground: Ground, replica: Replica) -> None:
    ground.execute(PEOPLE, people(1), "CREATE TABLE pets (id INTEGER PRIMARY KEY)", "INSERT INTO pets VALUES (7)")
    with Run(ground, replica, ["people"]) as run:
        run.catch_up("people")
        assert {change.table for change in run.seen} == {ground.qualified("people")}
    with Run(ground, replica, ["people", "pets"]) as run:
        found = run.catch_up("people", "pets")
        assert {change.table for change in found} == {ground.qualified("pets")}


def test_a_resnapshot_reads_its_table_again_and_no_other(ground: Ground, replica: Replica) -> None:
    ground.execute(PEOPLE, people(1), "CREATE TABLE pets (id INTEGER PRIMARY KEY)")
    name = ground.qualified("people")
    with Run(ground, replica) as run:
        run.catch_up("people", "pets")
        first = generations(run.seen, name)[0][1]
    with Run(ground, replica, resnapshot=["people"]) as run:
        run.until(lambda: len(generations(run.seen, name)) == 2, "another snapshot")
        run.catch_up("people", "pets")
        assert generations(run.seen, name)[0][1] > first
        assert {change.table for change in run.seen} == {name}
    with Run(ground, replica) as run:
        assert run.catch_up("people") == []


# --- the owner's schema --------------------------------------------------------------------------


def test_tables_are_described(ground: Ground) -> None:
    ground.execute(
        PEOPLE,
        "CREATE TABLE pets (id INTEGER PRIMARY KEY, tag TEXT NOT NULL UNIQUE, owner INTEGER REFERENCES people (id))",
        "CREATE INDEX by_owner ON pets (owner)",
        "CREATE VIEW nobody AS SELECT * FROM people",
    )
    tables = {table.name: table for table in ground.source().tables()}
    assert sorted(tables) == sorted(map(ground.qualified, ["people", "pets"]))
    pets = tables[ground.qualified("pets")]
    assert [(column.name, column.type, column.nullable) for column in pets.columns] == [
        ("id", "integer", False),
        ("tag", "string", False),
        ("owner", "integer", True),
    ]
    assert (pets.key, pets.unique, pets.indexed) == (("id",), (("tag",),), (("owner",),))
    (foreign,) = pets.foreign_keys
    assert (foreign.columns, foreign.table, foreign.refers_to) == (("owner",), ground.qualified("people"), ("id",))


def test_a_new_column_is_announced_before_the_rows_that_have_it(ground: Ground, replica: Replica) -> None:
    ground.execute(PEOPLE)
    with Run(ground, replica) as run:
        run.catch_up("people")
        ground.execute("ALTER TABLE people ADD COLUMN mail TEXT")
        ground.execute("INSERT INTO people VALUES (1, 'n', 'm@example.org')")
        run.until(lambda: any(change.after and b"mail" in change.after for change in run.seen), "the row")
        column = replica.tables[ground.qualified("people")].column("mail")
        assert column is not None and column.type == "string"
        run.catch_up("people")


def test_a_table_without_a_key_is_named(ground: Ground) -> None:
    ground.execute(PEOPLE, "CREATE TABLE notes (words TEXT)")
    with pytest.raises(TableWithoutKey, match="notes"):
        ground.source(["people", "notes"]).tables()
    with pytest.raises(TableWithoutKey, match="notes"):
        ground.source(["people", "notes"]).capture(now_ms=wall_clock_ms)
    assert any(f.level == "error" and "notes" in f.message for f in ground.source(["notes"]).diagnose())
    assert [table.name for table in ground.source().tables()] == [ground.qualified("people")]
    assert any(f.level == "warning" and "notes" in f.message for f in ground.source().diagnose())


def test_its_owner_writes_on_into_a_table_without_a_key(ground: Ground, replica: Replica) -> None:
    ground.execute(PEOPLE, "CREATE TABLE notes (words TEXT)")
    with Run(ground, replica) as run:
        ground.execute("INSERT INTO notes VALUES ('a')", "UPDATE notes SET words = 'b'", "DELETE FROM notes", people(1))
        run.catch_up("people")
        assert {change.table for change in run.seen} == {ground.qualified("people")}


def test_a_missing_table_is_named(ground: Ground) -> None:
    ground.execute(PEOPLE)
    with pytest.raises(SourceError, match="pepole"):
        ground.source(["pepole"]).tables()
    assert any(f.level == "error" and "pepole" in f.message for f in ground.source(["pepole"]).diagnose())


# --- one capturer, which leaves nothing ----------------------------------------------------------


def test_a_second_capturer_is_refused_until_the_first_has_gone(ground: Ground, replica: Replica) -> None:
    ground.execute(PEOPLE, people(1))
    with Run(ground, replica) as run:
        run.catch_up("people")
        with pytest.raises(SourceBusy), Run(ground, Replica(ground)) as rival:
            rival.step()
        ground.execute(people(2))
        run.catch_up("people")
    with Run(ground, replica) as run:
        run.catch_up("people")


def test_detach_leaves_nothing_and_may_be_repeated(ground: Ground, replica: Replica) -> None:
    ground.execute(PEOPLE, people(1))
    with Run(ground, replica) as run:
        run.catch_up("people")
    assert ground.leftovers()
    taken = ground.source().detach()
    assert taken and all(taken)
    assert ground.leftovers() == []
    assert list(ground.source().detach()) == []
    ground.execute(people(2))
    with Run(ground, replica) as run:
        run.until(lambda: bool(generations(run.seen, ground.qualified("people"))), "a new snapshot")
        run.catch_up("people")


def test_stop_from_another_thread_ends_the_batches(ground: Ground) -> None:
    ground.execute(PEOPLE, people(1))
    capture = ground.source().capture(now_ms=wall_clock_ms)
    reading, ended = threading.Event(), threading.Event()

    def drain() -> None:
        for batch in capture.batches(60.0):
            if any(change.marker and change.marker.phase == "end" for change in batch.changes):
                reading.set()
        ended.set()

    with closing(capture):
        reader = threading.Thread(target=drain)
        reader.start()
        assert reading.wait(DEADLINE_S)
        capture.stop()
        assert ended.wait(DEADLINE_S)
        reader.join()


def test_nothing_stands_in_the_way_of_a_sound_database(ground: Ground) -> None:
    ground.execute(PEOPLE)
    assert [f for f in ground.source().diagnose() if f.level == "error"] == []


# --- all together --------------------------------------------------------------------------------


def test_a_random_workload_converges(ground: Ground, replica: Replica) -> None:
    ground.execute(PEOPLE, "CREATE TABLE seats (a TEXT, b INTEGER, c TEXT, PRIMARY KEY (a, b))")
    dice = random.Random(20)
    for run_number in range(6):
        with Run(ground, replica, batch=7, confirm=False) as run:
            for _ in range(30):
                ground.execute(*(_random_statement(dice) for _ in range(dice.randint(1, 4))))
                if dice.random() < 0.1:
                    ground.empty(dice.choice(["people", "seats"]))
                if dice.random() < 0.4:
                    run.step()
                run.confirms = dice.random() < 0.5 or run_number == 5
            if dice.random() < 0.5 or run_number == 5:
                run.catch_up("people", "seats")
    assert replica.holds("people") and replica.holds("seats")


def _random_statement(dice: random.Random) -> str:
    """An insert or upsert, an update, a key change or a delete; keys are few, so that they meet."""
    key, other, word = dice.randint(1, 25), dice.randint(26, 400), f"w{dice.randint(1, 9)}"
    return dice.choice(
        [
            f"INSERT INTO people (id, name) VALUES ({key}, '{word}')"
            " ON CONFLICT (id) DO UPDATE SET name = excluded.name",
            f"INSERT INTO seats (a, b, c) VALUES ('{word}', {key}, NULL) ON CONFLICT DO NOTHING",
            f"UPDATE people SET name = '{word}' WHERE id % 5 = {key % 5}",
            f"UPDATE people SET id = {other} WHERE id = {key}"
            f" AND NOT EXISTS (SELECT 1 FROM (SELECT id FROM people) AS p WHERE p.id = {other})",
            f"UPDATE seats SET c = '{word}', b = b + 1000 WHERE b = {key}"
            f" AND NOT EXISTS (SELECT 1 FROM (SELECT b FROM seats) AS s WHERE s.b = {key + 1000})",
            f"DELETE FROM people WHERE id > {other}",
            f"DELETE FROM seats WHERE a = '{word}' AND b > {key}",
        ]
    )
