"""The owner writes from any program, is never held up, and may do with the file what owners do."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from headgate.errors import HeadgateError, SourceBusy, SourceError, SourceNotReady, Unavailable
from headgate.sources.sqlite import Config, open_source
from headgate.sources.sqlite.database import fault
from headgate.telemetry import wall_clock_ms

from .grounds import Replica, Run, SqliteGround, ops, snapshots

PEOPLE = "CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT UNIQUE)"
MANY = (
    "INSERT INTO people SELECT value, 'n' || value FROM (WITH RECURSIVE n (value) AS"
    " (SELECT 1 UNION ALL SELECT value + 1 FROM n LIMIT 2500) SELECT value FROM n)"
)


def impatient(ground: SqliteGround) -> sqlite3.Connection:
    """A connection of the owner's that never waits for a lock."""
    return sqlite3.connect(ground.path, isolation_level=None, timeout=0)


@pytest.mark.skipif(shutil.which("sqlite3") is None, reason="this machine has no sqlite3 program")
def test_the_sqlite3_program_is_one_of_the_owners(ground: SqliteGround, replica: Replica) -> None:
    ground.execute(PEOPLE)
    with Run(ground, replica) as run:
        run.catch_up("people")
        subprocess.run(
            ["sqlite3", ground.path, "insert into people values (7, 'a'); replace into people values (8, 'a')"],
            check=True,
        )
        assert ops(run.catch_up("people")) == [("d", 7), ("c", 8)]


def test_no_lock_is_held_between_batches(ground: SqliteGround, replica: Replica) -> None:
    ground.execute(PEOPLE, MANY)
    with closing(impatient(ground)) as writer, Run(ground, replica, batch=100) as run:
        for number in range(5000, 5100):  # through the snapshot, the changes after it, and pruning
            run.step()
            writer.execute("INSERT INTO people VALUES (?, ?)", (number, f"n{number}"))
        run.catch_up("people")


def test_a_long_transaction_of_the_owners_holds_up_nothing(ground: SqliteGround, replica: Replica) -> None:
    ground.execute(PEOPLE, MANY)
    with closing(impatient(ground)) as writer, Run(ground, replica, batch=500) as run:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("DELETE FROM people WHERE id > 5")
        run.catch_up("people")  # the snapshot is read and confirmed, as of before that delete
        heads = len(run.heads)
        run.until(lambda: len(run.heads) > heads + 2, "heads")
        writer.execute("COMMIT")
        run.catch_up("people")
        assert len(replica.rows("people")) == 5


def test_many_writers_and_capture_go_on_together(ground: SqliteGround, replica: Replica) -> None:
    ground.execute(PEOPLE, "CREATE TABLE done (id INTEGER PRIMARY KEY)")
    failures: list[Exception] = []

    def write(first: int) -> None:
        try:
            with closing(sqlite3.connect(ground.path, isolation_level=None, timeout=60)) as writer:
                for number in range(first, first + 150):
                    writer.execute("INSERT INTO people VALUES (?, ?)", (number, f"n{number}"))
                    writer.execute("INSERT OR REPLACE INTO people VALUES (?, ?)", (number + 5000, f"n{number - 1}"))
                writer.execute("INSERT INTO done VALUES (?)", (first,))
        except sqlite3.Error as error:
            failures.append(error)

    writers = [threading.Thread(target=write, args=(first,)) for first in (0, 1000, 2000)]
    with Run(ground, replica, batch=50) as run:
        for writer in writers:
            writer.start()
        run.until(lambda: len(replica.rows("done")) == 3 or bool(failures), "the writers")
        for writer in writers:
            writer.join()
        assert failures == []
        run.catch_up("people", "done")


def test_consumed_changes_are_pruned_while_capturing(ground: SqliteGround, replica: Replica) -> None:
    ground.execute(PEOPLE)
    with Run(ground, replica) as run:
        run.catch_up("people")
        ground.execute(MANY)
        run.until(lambda: replica.holds("people"), "the rows")
        run.until(lambda: ground.rows("headgate_changes") == [], "an empty change table")
        before = run.heads[-1].sequence
        ground.execute("DELETE FROM people WHERE id = 1")
        run.catch_up("people")
        assert run.heads[-1].sequence > before


def test_unconfirmed_changes_are_kept(ground: SqliteGround, replica: Replica) -> None:
    ground.execute(PEOPLE)
    with Run(ground, replica) as run:
        run.catch_up("people")
        run.confirms = False
        ground.execute(MANY)
        run.catch_up("people")
    assert len(ground.rows("headgate_changes")) == 2500


def test_what_a_snapshot_shows_is_not_told_again_as_changes(ground: SqliteGround, replica: Replica) -> None:
    ground.execute(PEOPLE)
    with Run(ground, replica) as run:
        run.catch_up("people")
        run.confirms = False
        ground.execute("INSERT INTO people VALUES (1, 'a'), (2, 'b')", "DELETE FROM people WHERE id = 2")
        run.catch_up("people")
    with Run(ground, replica, resnapshot=["people"]) as run:
        run.until(lambda: bool(run.heads), "a head")
        assert [change.op for change in run.seen] == ["m", "r", "m"]


def test_another_data_folder_reads_everything_itself(ground: SqliteGround, replica: Replica) -> None:
    ground.execute(PEOPLE, "INSERT INTO people VALUES (1, 'a')")
    with Run(ground, replica) as run:
        run.catch_up("people")
    ground.folder = ground.folder.with_name("another")
    with Run(ground, Replica(ground)) as run:
        run.until(lambda: snapshots(run.seen) == ["main.people"], "a snapshot")
        run.catch_up("people")


def test_a_restored_backup_is_read_anew(ground: SqliteGround, replica: Replica) -> None:
    ground.execute(PEOPLE, "INSERT INTO people VALUES (1, 'a')")
    with Run(ground, replica) as run:
        run.catch_up("people")
    backup = ground.path.with_name("backup.db")
    ground.owner.execute("VACUUM INTO ?", (str(backup),))
    with Run(ground, replica) as run:
        ground.execute("INSERT INTO people VALUES (2, 'b'), (3, 'c')")
        run.catch_up("people")
    ground.close()
    for ending in ("-wal", "-shm"):
        Path(f"{ground.path}{ending}").unlink(missing_ok=True)
    backup.replace(ground.path)
    ground.owner = sqlite3.connect(ground.path, isolation_level=None, timeout=60)
    with Run(ground, replica) as run:
        run.catch_up("people")
        ground.execute("INSERT INTO people VALUES (4, 'd')")
        run.catch_up("people")
        assert [row["id"] for row in replica.rows("people")] == [1, 4]


def test_a_replaced_file_ends_the_run(ground: SqliteGround, replica: Replica) -> None:
    ground.execute(PEOPLE)
    with Run(ground, replica) as run:
        run.catch_up("people")
        ground.path.rename(ground.path.with_name("moved.db"))
        with pytest.raises(Unavailable, match="replaced"):
            run.until(lambda: False, "the error")


CAPTURE = """
import sys
from pathlib import Path
from headgate.sources.sqlite import Config, open_source
from headgate.telemetry import wall_clock_ms
source = open_source(Config(path=sys.argv[1]), "shop", Path(sys.argv[2]), wall_clock_ms)
capture = source.capture(now_ms=wall_clock_ms)
print("captures", flush=True)
sys.stdin.read()
"""


def test_a_killed_capturer_lets_go_of_the_file(ground: SqliteGround, replica: Replica, tmp_path: Path) -> None:
    ground.execute(PEOPLE, "INSERT INTO people VALUES (1, 'a')")
    command = [sys.executable, "-c", CAPTURE, str(ground.path), str(tmp_path / "other data")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"captures\n"
        with pytest.raises(SourceBusy):
            Run(ground, replica)
        with pytest.raises(SourceBusy):
            ground.source().detach()
        process.kill()
    with Run(ground, replica) as run:
        run.catch_up("people")


def test_the_journal_mode_is_given_back(ground: SqliteGround, replica: Replica) -> None:
    ground.execute(PEOPLE)
    assert any("journal mode is delete" in finding.message for finding in ground.source().diagnose())
    with Run(ground, replica) as run:
        run.catch_up("people")
        assert ground.owner.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    ground.close()
    assert "journal mode back to delete" in ground.source().detach()
    ground.owner = sqlite3.connect(ground.path, isolation_level=None)
    assert ground.owner.execute("PRAGMA journal_mode").fetchone() == ("delete",)


def test_wal_waits_for_a_moment_without_others(ground: SqliteGround, replica: Replica) -> None:
    ground.execute(PEOPLE, MANY)
    busy, release = threading.Event(), threading.Event()

    def hold() -> None:
        with closing(impatient(ground)) as other:
            other.execute("BEGIN IMMEDIATE")
            busy.set()
            assert release.wait(60)
            other.execute("COMMIT")

    holder = threading.Thread(target=hold)
    holder.start()
    assert busy.wait(60)
    threading.Timer(0.1, release.set).start()  # the lock goes while capture waits for it
    with Run(ground, replica) as run:
        run.catch_up("people")
    holder.join()


# --- files that can't be captured ----------------------------------------------------------------


UNFIT = {
    "missing": (SourceError, "does not exist"),
    "a folder": (SourceError, "does not exist"),
    "no database": (SourceError, "no SQLite database, or an encrypted one"),
    "damaged": (SourceError, "damaged"),
}


def make_unfit(case: str, path: Path) -> None:
    if case == "a folder":
        path.mkdir()
    elif case == "no database":
        path.write_bytes(b"\x8f" * 8192)
    elif case == "damaged":
        with closing(sqlite3.connect(path)) as owner:
            owner.executescript(PEOPLE)
        path.write_bytes(path.read_bytes()[:100] + b"\xff" * 5000)


@pytest.mark.parametrize("case", UNFIT)
def test_an_unfit_file_is_an_error_with_its_mend(case: str, tmp_path: Path) -> None:
    path = tmp_path / "secret-place.db"
    make_unfit(case, path)
    kind, words = UNFIT[case]
    source = open_source(Config(path=str(path)), "shop", tmp_path / "data", wall_clock_ms)
    for attempt in (source.tables, lambda: source.capture(now_ms=wall_clock_ms), source.detach):
        with pytest.raises(kind, match=words) as caught:
            attempt()
        assert "secret-place" not in caught.value.message
    (finding,) = [found for found in source.diagnose() if found.level == "error"]
    assert words in finding.message and finding.mend
    assert [file.name for file in tmp_path.iterdir()] == ([] if case == "missing" else [path.name])


def provoke(path: Path, how: str) -> sqlite3.Error:
    """A real error of SQLite's."""
    mode = "ro" if how == "read-only" else "rw"
    with closing(sqlite3.connect(f"{path.as_uri()}?mode={mode}", uri=True, isolation_level=None, timeout=0)) as owner:
        if how == "full":
            owner.execute("PRAGMA max_page_count = 1")
        statement = "SELECT nothing FROM people" if how == "a wrong statement" else MANY
        with pytest.raises(sqlite3.Error) as caught:
            owner.execute(statement).fetchall()
        return caught.value


@pytest.mark.parametrize(
    ("how", "kind"),
    [("read-only", SourceNotReady), ("full", SourceError), ("busy", Unavailable), ("a wrong statement", SourceError)],
)
def test_an_error_of_sqlites_becomes_ours(how: str, kind: type[HeadgateError], ground: SqliteGround) -> None:
    ground.execute(PEOPLE)
    if how == "busy":
        ground.owner.execute("BEGIN IMMEDIATE")
    error = fault(provoke(ground.path, how))
    assert type(error) is kind
    assert ": " in error.message and "people" not in error.message
