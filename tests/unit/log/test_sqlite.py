"""The embedded log's file: durable, private, shared between processes, and clear about what is wrong with it."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from headgate.errors import LogError, Unavailable
from headgate.log.base import Record, Topic
from headgate.log.sqlite import SqliteLog, database, open_log
from headgate.model.position import Partition, Position
from headgate.telemetry import wall_clock_ms

PLACE = Partition("t", 0)
WITHIN_S = 60.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "log.db"


@pytest.fixture
def log(path: Path) -> Iterator[SqliteLog]:
    log = open_log(path, clock=wall_clock_ms)
    log.ensure([Topic(name="t")])
    yield log
    log.close()


WRITES_FOR_EVER = """
import sys
from pathlib import Path
from headgate.log.base import Record
from headgate.log.sqlite import open_log
from headgate.telemetry import wall_clock_ms

appender = open_log(Path(sys.argv[1]), clock=wall_clock_ms).appender()
number = 0
while True:
    for _ in range(7):
        appender.append("t", Record(b"k", b"%d" % number))
        number += 1
    appender.checkpoint(number)
    print(appender.acknowledged(), flush=True)
"""


def test_what_a_killed_process_was_told_is_there_without_gaps(log: SqliteLog, path: Path) -> None:
    writer = subprocess.Popen([sys.executable, "-c", WRITES_FOR_EVER, str(path)], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    told = [int(writer.stdout.readline()) for _ in range(50)]
    writer.send_signal(signal.SIGKILL)
    told += [int(line) for line in writer.stdout.read().splitlines() if line]
    writer.wait(WITHIN_S)
    writer.stdout.close()
    reader = log.read({PLACE: 0})
    values = [int(record.value or b"") for record in reader.poll(10_000_000, 0)]
    reader.close()
    assert values == list(range(len(values)))
    assert len(values) >= told[-1]
    assert len(values) % 7 == 0, "a commit is whole or not at all"


def test_a_waiting_reader_sees_what_another_process_appends(log: SqliteLog, path: Path) -> None:
    reader = log.read({PLACE: 0})
    assert list(reader.poll(1, 0)) == []
    writer = subprocess.Popen([sys.executable, "-c", WRITES_FOR_EVER, str(path)], stdout=subprocess.DEVNULL)
    try:
        assert len(reader.poll(7, WITHIN_S)) == 7
    finally:
        writer.kill()
        writer.wait(WITHIN_S)
        reader.close()


def test_every_commit_is_fsynced(path: Path, log: SqliteLog) -> None:
    connection = database.connect(path)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    connection.close()


def test_the_file_is_its_owners_alone(path: Path, log: SqliteLog) -> None:
    log.appender().close()
    assert {file.name: oct(file.stat().st_mode & 0o777) for file in path.parent.iterdir()} == dict.fromkeys(
        ["log.db", "log.db-wal", "log.db-shm"], "0o600"
    )


def test_a_topic_made_later_is_followed(log: SqliteLog) -> None:
    asked: list[frozenset[Partition]] = []

    def on_assign(fresh: frozenset[Partition]) -> Position:
        asked.append(fresh)
        return {}

    reader = log.follow(["t", "later"], "g", on_assign, lambda _: None)
    assert list(reader.poll(1, 0)) == []
    log.ensure([Topic(name="later", partitions=2)])
    assert list(reader.poll(1, 0)) == []
    assert asked == [{PLACE}, {Partition("later", 0), Partition("later", 1)}]
    reader.close()


def test_a_partition_is_not_starved_by_a_busy_one(log: SqliteLog) -> None:
    log.ensure([Topic(name="busy")])
    appender = log.appender()
    for number in range(100):
        appender.append("busy", Record(b"k", b"%d" % number))
    appender.append("t", Record(b"k", b"v"))
    appender.flush(1)
    reader = log.read({Partition("busy", 0): 0, PLACE: 0})
    found = [record.partition for _ in range(3) for record in reader.poll(10, 0)]
    assert PLACE in found
    reader.close()
    appender.close()


def test_many_appenders_at_once_lose_nothing(log: SqliteLog) -> None:
    def append(name: int) -> None:
        appender = log.appender()
        for number in range(200):
            appender.append("t", Record(b"%d" % name, b"%d" % number))
            if not number % 20:
                appender.flush(WITHIN_S)
        appender.close()

    threads = [threading.Thread(target=append, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WITHIN_S)
    reader = log.read({PLACE: 0})
    found = reader.poll(10_000, 0)
    reader.close()
    assert [record.offset for record in found] == list(range(800))
    for name in range(4):
        values = [int(record.value or b"") for record in found if record.key == b"%d" % name]
        assert values == list(range(200))


# --- what is wrong -------------------------------------------------------------------------------


def test_a_file_that_is_no_log_is_refused(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"no database at all, " * 100)
    with pytest.raises(LogError, match="damaged"):
        open_log(path, clock=wall_clock_ms)


def test_the_database_of_another_program_is_refused_and_left_alone(path: Path) -> None:
    path.parent.mkdir()
    connection = sqlite3.connect(path)
    connection.executescript("PRAGMA user_version = 7; CREATE TABLE theirs (x);")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(LogError, match="another program or version"):
        open_log(path, clock=wall_clock_ms)
    assert path.read_bytes() == before


def test_a_folder_that_can_not_be_made_is_told_without_its_path(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file where the folder should be")
    with pytest.raises(LogError, match="permissions") as raised:
        open_log(tmp_path / "data" / "log.db", clock=wall_clock_ms)
    assert str(tmp_path) not in str(raised.value)


def test_a_file_held_by_another_is_tried_again_and_nothing_is_lost(
    log: SqliteLog, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.05)
    appender = log.appender()
    appender.append("t", Record(b"k", b"v"))
    appender.checkpoint(1)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable):
        appender.acknowledged()
    assert appender.ends() == {}
    holder.execute("ROLLBACK")
    holder.close()
    assert appender.acknowledged() == 1
    assert appender.ends() == {PLACE: 1}
    appender.close()


FILLS_ITS_DISK = """
import resource, signal, sys
from pathlib import Path
from headgate.errors import LogError
from headgate.log.base import Record
from headgate.log.sqlite import open_log
from headgate.telemetry import wall_clock_ms

appender = open_log(Path(sys.argv[1]), clock=wall_clock_ms).appender()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
told = []
try:
    for number in range(1_000):
        appender.append("t", Record(b"k", bytes(1_000)))
        appender.checkpoint(number)
        told.append(appender.acknowledged())
except LogError as error:
    print(told[-1], error)
try:
    appender.append("t", Record(b"k", b"v"))
except LogError:
    print("spent")
appender.close()
"""


def test_a_full_disk_spends_the_appender_and_keeps_what_was_told(log: SqliteLog, path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", FILLS_ITS_DISK, str(path)], capture_output=True, text=True, timeout=WITHIN_S
    )
    first, second = ended.stdout.splitlines()
    told, _, message = first.partition(" ")
    assert "free space" in message
    assert second == "spent"
    assert log.end(["t"]) == {PLACE: int(told) + 1}


def test_another_file_is_another_log(tmp_path: Path) -> None:
    found = set()
    for name in ("one.db", "two.db"):
        log = open_log(tmp_path / name, clock=wall_clock_ms)
        log.ensure([Topic(name="t")])
        found.add(log.identities(["t"])["t"])
        log.close()
    assert len(found) == 2
