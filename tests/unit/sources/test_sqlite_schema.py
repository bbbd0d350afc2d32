"""The owner changes tables, indexes and what we put there, while capture runs and while it doesn't."""

from __future__ import annotations

import re

import pytest

from headgate.errors import SourceError, TableWithoutKey
from headgate.telemetry import wall_clock_ms

from .grounds import Replica, Run, SqliteGround, ops, snapshots

PEOPLE = "CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT)"
TWO = "INSERT INTO people (id, name) VALUES (1, 'a'), (2, 'b')"

ALTERATIONS: dict[str, list[str]] = {
    "a column with a default": ["ALTER TABLE people ADD COLUMN plan TEXT DEFAULT 'free'"],
    "a column renamed": ["ALTER TABLE people RENAME COLUMN name TO title"],
    "a column dropped": ["ALTER TABLE people DROP COLUMN name"],
    "altered and written at once": [
        "ALTER TABLE people ADD COLUMN plan TEXT",
        "UPDATE people SET plan = 'vip' WHERE id = 1",
        "DELETE FROM people WHERE id = 2",
    ],
    "rebuilt": [
        "CREATE TABLE fresh (id INTEGER PRIMARY KEY, name INT NOT NULL)",
        "INSERT INTO fresh SELECT id + 10, id FROM people",
        "DROP TABLE people",
        "ALTER TABLE fresh RENAME TO people",
    ],
    "dropped and made again": ["DROP TABLE people", PEOPLE, "INSERT INTO people VALUES (9, 'z')"],
    "a unique index, and a REPLACE through it": [
        "CREATE UNIQUE INDEX by_name ON people (name)",
        "INSERT OR REPLACE INTO people VALUES (5, 'a')",
    ],
}


@pytest.mark.parametrize("case", ALTERATIONS)
@pytest.mark.parametrize("when", ["while capturing", "in between"])
def test_an_altered_table_converges(case: str, when: str, ground: SqliteGround, replica: Replica) -> None:
    ground.execute(PEOPLE, TWO)
    with Run(ground, replica) as run:
        run.catch_up("people")
        if when == "while capturing":
            ground.execute(*ALTERATIONS[case])
            run.catch_up("people")
    if when == "in between":
        ground.execute(*ALTERATIONS[case])
    with Run(ground, replica) as run:
        run.catch_up("people")
        ground.execute("DELETE FROM people WHERE rowid = 1")
        run.catch_up("people")
        names = [column.name for column in replica.tables["main.people"].columns]
        assert all(list(row) == names for row in replica.rows("people"))


def test_a_new_unique_index_is_heeded(ground: SqliteGround, replica: Replica) -> None:
    ground.execute(PEOPLE, TWO)
    with Run(ground, replica) as run:
        run.catch_up("people")
        ground.execute("CREATE UNIQUE INDEX by_name ON people (name)")
        run.until(lambda: replica.tables["main.people"].unique == (("name",),), "the index")
        run.catch_up("people")
        ground.execute("REPLACE INTO people VALUES (3, 'a')")
        assert ops(run.catch_up("people")) == [("d", 1), ("c", 3)]
        ground.execute("DROP INDEX by_name")
        run.until(lambda: replica.tables["main.people"].unique == (), "the end of the index")
        ground.execute("ALTER TABLE people DROP COLUMN name")
        run.catch_up("people")


def test_an_index_or_another_table_costs_no_snapshot(ground: SqliteGround, replica: Replica) -> None:
    ground.execute(PEOPLE, TWO)
    with Run(ground, replica, ["people"]) as run:
        run.catch_up("people")
        before = len(run.seen)
        ground.execute("CREATE INDEX by_name ON people (name)", "CREATE TABLE other (id INTEGER PRIMARY KEY)")
        ground.owner.execute("VACUUM")
        run.until(lambda: replica.tables["main.people"].indexed == (("name",),), "the index")
        ground.execute("UPDATE people SET name = 'c' WHERE id = 1")
        run.catch_up("people")
        assert ops(run.seen[before:]) == [("u", 1)]


def test_a_table_made_while_capturing_is_captured(ground: SqliteGround, replica: Replica) -> None:
    ground.execute(PEOPLE)
    with Run(ground, replica) as run:
        run.catch_up("people")
        ground.execute("CREATE TABLE pets (id INTEGER PRIMARY KEY)", "INSERT INTO pets VALUES (1)")
        run.catch_up("pets")
        ground.execute("INSERT INTO pets VALUES (2)")
        run.catch_up("pets")


def test_a_renamed_table_ends_and_begins(ground: SqliteGround, replica: Replica) -> None:
    ground.execute(PEOPLE, TWO)
    with Run(ground, replica) as run:
        run.catch_up("people")
        ground.execute("ALTER TABLE people RENAME TO persons", "INSERT INTO persons VALUES (3, 'c')")
        run.catch_up("persons")
        assert replica.rows("people") == []
        ground.execute("DELETE FROM persons WHERE id = 1")
        run.catch_up("persons")


@pytest.mark.parametrize("tables", [[], ["people", "pets"]], ids=["all tables", "named tables"])
def test_a_dropped_table_is_emptied_once_and_the_others_go_on(
    tables: list[str], ground: SqliteGround, replica: Replica
) -> None:
    ground.execute(PEOPLE, TWO, "CREATE TABLE pets (id INTEGER PRIMARY KEY)")
    with Run(ground, replica, tables) as run:
        run.catch_up("people", "pets")
        run.confirms = False
        ground.execute("DROP TABLE people", "INSERT INTO pets VALUES (1)")
        run.catch_up("pets")
        assert replica.rows("people") == []
    with Run(ground, replica, tables) as run:
        run.catch_up("pets")
        assert [change.op for change in run.seen] == ["t", "c"]
    with Run(ground, replica, tables) as run:
        assert run.catch_up("pets") == []
        ground.execute(PEOPLE, TWO)
        run.catch_up("people")


OTHER_KEYS = {
    "another column": ["DROP TABLE people", "CREATE TABLE people (name TEXT PRIMARY KEY)"],
    "another name": ["ALTER TABLE people RENAME COLUMN id TO number"],
}


@pytest.mark.parametrize("case", OTHER_KEYS)
def test_another_key_stops_capture_until_a_snapshot_is_asked_for(
    case: str, ground: SqliteGround, replica: Replica
) -> None:
    ground.execute(PEOPLE, TWO)
    with Run(ground, replica) as run:
        run.catch_up("people")
        ground.execute(*OTHER_KEYS[case])
        with pytest.raises(SourceError, match=r"main\.people.*another primary key.*new snapshot"):
            run.until(lambda: False, "the error")
    with pytest.raises(SourceError, match="another primary key"):
        Run(ground, replica)
    ground.execute("INSERT INTO people (name) VALUES ('k')")
    with Run(ground, replica, resnapshot=["people"]) as run:
        run.catch_up("people")
    with Run(ground, replica) as run:
        ground.execute("INSERT INTO people (name) VALUES ('l')")
        assert [change.op for change in run.catch_up("people")] == ["c"]


def test_a_captured_table_that_lost_its_key_is_named(ground: SqliteGround, replica: Replica) -> None:
    ground.execute(PEOPLE)
    with Run(ground, replica) as run:
        run.catch_up("people")
        ground.execute("DROP TABLE people", "CREATE TABLE people (name TEXT)")
        with pytest.raises(TableWithoutKey, match="people"):
            run.until(lambda: False, "the error")


def test_a_late_confirmation_does_not_end_a_newer_snapshot(ground: SqliteGround, replica: Replica) -> None:
    ground.execute(PEOPLE, TWO)
    with Run(ground, replica, batch=1, confirm=False) as run:
        run.catch_up("people")
        ground.execute("DROP TRIGGER headgate_update_people", "UPDATE people SET name = 'unseen'")
        run.until(lambda: len(snapshots(run.seen)) == 2, "the second snapshot's begin")
        run.capture.confirm(run.step().token)  # the first snapshot's end, and no end of the second
    with Run(ground, replica) as run:
        run.until(lambda: bool(run.heads), "a head")
        assert snapshots(run.seen) == ["main.people"]
        run.catch_up("people")


SABOTAGE = {
    "a trigger": "DROP TRIGGER headgate_update_people",
    "the change table": "DROP TABLE headgate_changes",
    "the state table": "DROP TABLE headgate_state",
}


@pytest.mark.parametrize("case", SABOTAGE)
def test_what_the_owner_removes_of_ours_is_put_back(case: str, ground: SqliteGround, replica: Replica) -> None:
    ground.execute(PEOPLE, TWO, "CREATE TABLE pets (id INTEGER PRIMARY KEY)")
    with Run(ground, replica) as run:
        run.catch_up("people", "pets")
        ground.execute("INSERT INTO pets VALUES (1), (2), (3), (4), (5), (6)")
        run.catch_up("people", "pets")
        newest, before = run.heads[-1].sequence, len(run.seen)
        ground.execute("UPDATE people SET name = 'before' WHERE id = 1", SABOTAGE[case])
        if case != "the change table":  # without it a write is refused, until it is back
            ground.execute("UPDATE people SET name = 'unseen' WHERE id = 2")
        run.until(lambda: "main.people" in snapshots(run.seen[before:]), "another snapshot")
        run.catch_up("people", "pets")
        ground.execute("UPDATE people SET name = 'after'")
        assert ops(run.catch_up("people")) == [("u", 1), ("u", 2)]
        assert run.heads[-1].sequence > newest
        others = [] if case == "a trigger" else ["main.pets"]
        assert snapshots(run.seen[before:]) == ["main.people", *others]


def test_a_table_no_longer_named_is_let_go(ground: SqliteGround, replica: Replica) -> None:
    ground.execute(PEOPLE, TWO, "CREATE TABLE pets (id INTEGER PRIMARY KEY)")
    with Run(ground, replica) as run:
        run.catch_up("people", "pets")
    with Run(ground, replica, ["main.PETS"]) as run:
        run.catch_up("pets")
        assert not [name for name in ground.leftovers() if re.search("people", name)]
        ground.execute("UPDATE people SET name = 'unseen'")
    with Run(ground, replica) as run:
        run.catch_up("people", "pets")
        assert snapshots(run.seen) == ["main.people"]


def test_tables_are_told_apart_by_any_case(ground: SqliteGround) -> None:
    ground.execute('CREATE TABLE "People" (id INTEGER PRIMARY KEY)')
    assert [table.name for table in ground.source(["main.people"]).tables()] == ["main.People"]


def test_foreign_keys_and_indexes_are_described(ground: SqliteGround) -> None:
    ground.execute(
        "CREATE TABLE Halls (a INT, b INT, PRIMARY KEY (b, a)) WITHOUT ROWID",
        "CREATE TABLE seats (id TEXT PRIMARY KEY, x INT, y INT, z TEXT, FOREIGN KEY (x, y) REFERENCES halls)",
        "CREATE UNIQUE INDEX u ON seats (x, y)",
        "CREATE UNIQUE INDEX part ON seats (z) WHERE x > 0",
        "CREATE INDEX e ON seats (lower(z))",
        "CREATE INDEX i ON seats (y DESC)",
    )
    halls, seats = ground.source(["halls", "seats"]).tables()
    assert (halls.key, seats.key) == (("b", "a"), ("id",))
    assert (seats.unique, seats.indexed) == ((("x", "y"),), (("y",),))
    (foreign,) = seats.foreign_keys
    assert (foreign.columns, foreign.table, foreign.refers_to) == (("x", "y"), "main.Halls", ("b", "a"))


def test_a_refused_setup_leaves_the_file_as_it_was(ground: SqliteGround) -> None:
    ground.execute(PEOPLE, "CREATE TABLE notes (words TEXT)")
    with pytest.raises(TableWithoutKey):
        ground.source(["people", "notes"]).capture(now_ms=wall_clock_ms)
    assert [name for name in ground.leftovers() if "." not in name] == []
