"""No way of SQLite's to change a row goes unnoticed, REPLACE and cascades included."""

from __future__ import annotations

import pytest

from .grounds import Replica, Run, SqliteGround, keys, ops

PEOPLE = "CREATE TABLE people (id INTEGER PRIMARY KEY, mail TEXT UNIQUE, name TEXT)"

REPLACES = {
    "insert over a unique column": (
        [PEOPLE, "INSERT INTO people VALUES (1, 'a', 'x'), (2, 'b', 'y')"],
        "INSERT OR REPLACE INTO people VALUES (3, 'a', 'z')",
    ),
    "insert over two rows at once": (
        ["CREATE TABLE people (id INTEGER PRIMARY KEY, a UNIQUE, b UNIQUE)",
         "INSERT INTO people VALUES (1, 1, 1), (2, 2, 2), (3, 3, 3)"],
        "REPLACE INTO people VALUES (4, 1, 2)",
    ),
    "insert of many rows that replace each other": (
        [PEOPLE],
        "INSERT OR REPLACE INTO people SELECT value, value % 2, 'n' FROM"
        " (WITH RECURSIVE n (value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM n LIMIT 9) SELECT value FROM n)",
    ),
    "update over a unique column": (
        [PEOPLE, "INSERT INTO people VALUES (1, 'a', 'x'), (2, 'b', 'y')"],
        "UPDATE OR REPLACE people SET mail = 'a' WHERE id = 2",
    ),
    "update over another key": (
        [PEOPLE, "INSERT INTO people VALUES (1, 'a', 'x'), (2, 'b', 'y')"],
        "UPDATE OR REPLACE people SET id = 1 WHERE id = 2",
    ),
    "a constraint that says so itself": (
        ["CREATE TABLE people (id INTEGER PRIMARY KEY, mail TEXT UNIQUE ON CONFLICT REPLACE)",
         "INSERT INTO people VALUES (1, 'a')"],
        "INSERT INTO people VALUES (2, 'a')",
    ),
    "several unique columns together": (
        ["CREATE TABLE people (id INTEGER PRIMARY KEY, a, b, UNIQUE (a, b))",
         "INSERT INTO people VALUES (1, 1, 1), (2, 1, 2)"],
        "REPLACE INTO people VALUES (3, 1, 1)",
    ),
    "an index with another collation than its column": (
        ["CREATE TABLE people (id INTEGER PRIMARY KEY, mail TEXT)",
         "CREATE UNIQUE INDEX by_mail ON people (mail COLLATE NOCASE)", "INSERT INTO people VALUES (1, 'A')"],
        "REPLACE INTO people VALUES (2, 'a')",
    ),
    "a partial index": (
        ["CREATE TABLE people (id INTEGER PRIMARY KEY, mail TEXT, live INT)",
         "CREATE UNIQUE INDEX by_mail ON people (mail) WHERE live",
         "INSERT INTO people VALUES (1, 'a', 1), (2, 'a', 0)"],
        "REPLACE INTO people VALUES (3, 'a', 1)",
    ),
    "a generated column": (
        ["CREATE TABLE people (id INTEGER PRIMARY KEY, mail TEXT, low TEXT UNIQUE AS (lower(mail)) STORED)",
         "INSERT INTO people (id, mail) VALUES (1, 'A')"],
        "REPLACE INTO people (id, mail) VALUES (2, 'a')",
    ),
    "a virtual generated column, updated": (
        ["CREATE TABLE people (id INTEGER PRIMARY KEY, mail TEXT, low TEXT AS (lower(mail)))",
         "CREATE UNIQUE INDEX by_low ON people (low)", "INSERT INTO people (id, mail) VALUES (1, 'A'), (2, 'b')"],
        "UPDATE OR REPLACE people SET mail = 'a' WHERE id = 2",
    ),
    "a forbidden null, for which REPLACE puts the default": (
        ["CREATE TABLE people (id INTEGER PRIMARY KEY, mail TEXT NOT NULL DEFAULT 'none' UNIQUE)",
         "INSERT INTO people VALUES (1, 'none')"],
        "REPLACE INTO people VALUES (2, NULL)",
    ),
    "a text key that is spelled otherwise": (
        ["CREATE TABLE people (id TEXT COLLATE NOCASE PRIMARY KEY, name TEXT)",
         "INSERT INTO people VALUES ('ann', 'x'), ('bob', 'y')"],
        "REPLACE INTO people VALUES ('ANN', 'z')",
    ),
    "a key without a type": (
        ["CREATE TABLE people (id PRIMARY KEY, name TEXT)", "INSERT INTO people VALUES (1, 'x')"],
        "REPLACE INTO people VALUES (1.0, 'z')",
    ),
    "a table without rowid": (
        ["CREATE TABLE people (a TEXT, b INT, mail TEXT UNIQUE, PRIMARY KEY (a, b)) WITHOUT ROWID",
         "INSERT INTO people VALUES ('x', 1, 'm'), ('x', 2, 'n')"],
        "REPLACE INTO people VALUES ('x', 3, 'm')",
    ),
    "an owner with recursive triggers": (
        [PEOPLE, "INSERT INTO people VALUES (1, 'a', 'x')"],
        "INSERT OR REPLACE INTO people VALUES (3, 'a', 'z')",
    ),
    "a row that is ignored": (
        [PEOPLE, "INSERT INTO people VALUES (1, 'a', 'x')"],
        "INSERT OR IGNORE INTO people VALUES (2, 'a', 'z'), (3, 'b', 'z')",
    ),
    "an upsert over a unique column": (
        [PEOPLE, "INSERT INTO people VALUES (1, 'a', 'x')"],
        "INSERT INTO people VALUES (2, 'a', 'z') ON CONFLICT (mail) DO UPDATE SET id = 9, name = excluded.name",
    ),
    "an update of a key's spelling": (
        ["CREATE TABLE people (id TEXT COLLATE NOCASE PRIMARY KEY)", "INSERT INTO people VALUES ('ann')"],
        "UPDATE people SET id = 'Ann'",
    ),
    "an update of a key's type": (
        ["CREATE TABLE people (id PRIMARY KEY)", "INSERT INTO people VALUES (1)"],
        "UPDATE people SET id = 1.0",
    ),
    "all rows deleted": ([PEOPLE, "INSERT INTO people VALUES (1, 'a', 'x'), (2, 'b', 'y')"], "DELETE FROM people"),
    "keys that move along": (
        ["CREATE TABLE people (id INT PRIMARY KEY)", "INSERT INTO people VALUES (3), (2), (1)"],
        "UPDATE people SET id = id + 1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REPLACES)
def test_a_statement_converges(case: str, ground: SqliteGround, replica: Replica) -> None:
    schema, statement = REPLACES[case]
    if "recursive" in case:
        ground.owner.execute("PRAGMA recursive_triggers = ON")
    ground.execute(*schema)
    with Run(ground, replica) as run:
        run.catch_up("people")
        before = str(ground.rows("people"))
        ground.execute(statement)
        assert str(ground.rows("people")) != before
        run.catch_up("people")


CHILDREN = {
    "on delete cascade": "DELETE FROM parents WHERE id = 1",
    "on update cascade": "UPDATE parents SET id = 7 WHERE id = 1",
    "a replaced parent": "REPLACE INTO parents VALUES (1, 'new')",
    "a parent replaced by its name": "REPLACE INTO parents VALUES (5, 'b')",
}


@pytest.mark.parametrize("case", CHILDREN)
def test_what_a_foreign_key_does_to_children_is_seen(case: str, ground: SqliteGround, replica: Replica) -> None:
    ground.execute(
        "CREATE TABLE parents (id INTEGER PRIMARY KEY, name TEXT UNIQUE)",
        "CREATE TABLE owned (id INTEGER PRIMARY KEY, parent REFERENCES parents ON DELETE CASCADE ON UPDATE CASCADE)",
        "CREATE TABLE loose (id INTEGER PRIMARY KEY, parent REFERENCES parents ON DELETE SET NULL ON UPDATE CASCADE)",
        "CREATE TABLE keyed (parent REFERENCES parents ON DELETE CASCADE ON UPDATE CASCADE, n, PRIMARY KEY (parent, n))"
        " WITHOUT ROWID",
        "INSERT INTO parents VALUES (1, 'a'), (2, 'b')",
        "INSERT INTO owned VALUES (10, 1), (11, 2)",
        "INSERT INTO loose VALUES (20, 1), (21, 2)",
        "INSERT INTO keyed VALUES (1, 1), (2, 1)",
    )
    with Run(ground, replica) as run:
        run.catch_up("parents", "owned", "loose", "keyed")
        ground.execute(CHILDREN[case])
        found = run.catch_up("parents", "owned", "loose", "keyed")
        assert {"main.owned", "main.loose", "main.keyed"} <= {change.table for change in found}


def test_the_owners_own_triggers_are_seen(ground: SqliteGround, replica: Replica) -> None:
    ground.execute(
        "CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT, touched INT DEFAULT 0)",
        "CREATE TABLE totals (name TEXT PRIMARY KEY, n INT)",
        "CREATE TRIGGER touch AFTER UPDATE OF name ON people BEGIN"
        " UPDATE people SET touched = touched + 1 WHERE id = NEW.id; END",
        "CREATE TRIGGER total AFTER INSERT ON people BEGIN"
        " INSERT INTO totals VALUES (NEW.name, 1) ON CONFLICT DO UPDATE SET n = n + 1; END",
    )
    with Run(ground, replica) as run:
        run.catch_up("people", "totals")
        ground.execute("INSERT INTO people (name) VALUES ('a'), ('a')", "UPDATE people SET name = 'b' WHERE id = 1")
        run.catch_up("people", "totals")
        assert keys(replica, "totals", "name", "n") == [("a", 2)]


def test_a_row_that_came_and_went_is_gone(ground: SqliteGround, replica: Replica) -> None:
    ground.execute(PEOPLE)
    with Run(ground, replica) as run:
        run.catch_up("people")
        ground.execute("INSERT INTO people VALUES (1, 'a', 'x')", "DELETE FROM people", PEOPLE.replace("people", "b"))
        run.until(lambda: bool(ops(run.seen)), "the row's change")
        assert ops(run.seen) == [("d", 1)]


def test_what_the_owner_asks_of_its_connection_is_unchanged(ground: SqliteGround, replica: Replica) -> None:
    ground.execute(PEOPLE)
    with Run(ground, replica) as run:
        run.catch_up("people")
        cursor = ground.owner.execute("INSERT OR REPLACE INTO people VALUES (41, 'a', 'x')")
        assert cursor.lastrowid == 41
        assert ground.owner.execute("SELECT last_insert_rowid(), changes()").fetchone() == (41, 1)
        assert ground.owner.execute("UPDATE people SET id = 42 RETURNING id").fetchall() == [(42,)]


def test_strange_names_are_captured(ground: SqliteGround, replica: Replica) -> None:
    strange = """we"ird 'ta.ble"""
    quoted = strange.replace('"', '""')
    ground.execute(
        f'CREATE TABLE "{quoted}" ("se""lect" TEXT, "a b" INT, "Ünï" UNIQUE, PRIMARY KEY ("se""lect", "a b"))',
        f"""INSERT INTO "{quoted}" VALUES ('it''s', 1, 'x')""",
    )
    with Run(ground, replica) as run:
        run.until(lambda: len(replica.rows(strange)) == 1, "the snapshot")
        ground.execute(f"""INSERT OR REPLACE INTO "{quoted}" VALUES ('k', 2, 'x')""")
        run.until(lambda: keys(replica, strange, 'se"lect', "a b") == [("k", 2)], "the change")


def test_a_key_may_have_more_parts_than_the_change_table_was_made_for(ground: SqliteGround, replica: Replica) -> None:
    ground.execute(
        "CREATE TABLE few (a PRIMARY KEY)", "CREATE TABLE many (a, b, c, d, e, f, PRIMARY KEY (f,e,d,c,b,a))"
    )
    with Run(ground, replica, ["few"]) as run:
        run.catch_up("few")
    ground.execute("INSERT INTO many VALUES (1, 2, 3, 4, 5, 6)")
    with Run(ground, replica) as run:
        run.catch_up("few", "many")
        ground.execute("UPDATE many SET f = 7, a = 0")
        assert ops(run.catch_up("many")) == [("d", 6, 5, 4, 3, 2, 1), ("c", 7, 5, 4, 3, 2, 0)]


def test_a_collation_of_the_owners_program_needs_not_be_known_here(ground: SqliteGround, replica: Replica) -> None:
    ground.owner.create_collation("backwards", lambda one, other: (one[::-1] > other[::-1]) - (one[::-1] < other[::-1]))
    ground.execute("CREATE TABLE people (id TEXT COLLATE backwards PRIMARY KEY, name TEXT)")
    with Run(ground, replica) as run:
        run.catch_up("people")
        ground.execute("INSERT INTO people VALUES ('a', 'x'), ('b', 'y')", "DELETE FROM people WHERE name = 'x'")
        assert sorted(ops(run.catch_up("people"))) == [("c", "b"), ("d", "a")]


def test_a_row_with_a_null_in_its_key_is_passed_over_and_said(ground: SqliteGround, replica: Replica) -> None:
    ground.execute("CREATE TABLE odd (a TEXT PRIMARY KEY, b)", "INSERT INTO odd VALUES (NULL, 1), ('k', 2)")
    with Run(ground, replica) as run:
        run.until(lambda: keys(replica, "odd", "a") == [("k",)], "the row with a key")
        ground.execute("INSERT INTO odd VALUES (NULL, 3), ('l', 4)")
        run.until(lambda: keys(replica, "odd", "a") == [("k",), ("l",)], "the new row with a key")
    assert any("null in their key" in finding.message for finding in ground.source().diagnose())


def test_what_replace_removes_through_an_expression_is_warned_of(ground: SqliteGround) -> None:
    ground.execute(PEOPLE, "CREATE UNIQUE INDEX by_low ON people (lower(mail))")
    (warning,) = [f for f in ground.source().diagnose() if "by_low" in f.message]
    assert warning.level == "warning" and warning.mend


def test_views_virtual_tables_and_their_shadows_are_passed_over(ground: SqliteGround) -> None:
    ground.execute(PEOPLE, "CREATE VIEW seen AS SELECT * FROM people", "CREATE VIRTUAL TABLE words USING fts5 (text)")
    assert [table.name for table in ground.source().tables()] == ["main.people"]
