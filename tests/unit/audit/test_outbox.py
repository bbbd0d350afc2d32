"""The outbox: what was appended is on the disk, whatever happens next."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from headgate.audit import outbox as outbox_module
from headgate.audit.outbox import Outbox, new_writer
from headgate.audit.outbox_file import OutboxFile, file_of, publishing_lock, writer_lock, writers
from headgate.errors import OutboxError

WITHIN_S = 60.0


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    with closing(Outbox(tmp_path, "w-1", clock=lambda: 7)) as opened:
        yield opened


def events(folder: Path, writer: str = "w-1") -> list[tuple[int, str, bytes]]:
    """All events of an outbox: number, id and body."""
    with closing(OutboxFile(folder, writer)) as file:
        return [(event.seq, event.id, event.body) for event in file.events(0, 1_000_000)]


# --- appending -----------------------------------------------------------------------------------


async def test_an_appended_event_is_in_the_file(outbox: Outbox, tmp_path: Path) -> None:
    await outbox.append(b"first", "a")
    assert events(tmp_path) == [(1, "a", b"first")]
    await outbox.append(b"second", "b")
    assert events(tmp_path) == [(1, "a", b"first"), (2, "b", b"second")]
    assert outbox.committed.is_set()
    assert outbox.recorded == 2


async def test_many_calls_share_a_transaction(tmp_path: Path) -> None:
    commits = itertools.count(1)  # the clock is asked once a transaction
    with closing(Outbox(tmp_path, "w-1", clock=lambda: next(commits))) as outbox:
        await asyncio.gather(*(outbox.append(b"", str(number)) for number in range(200)))
    assert [(seq, id) for seq, id, _ in events(tmp_path)] == [(n + 1, str(n)) for n in range(200)]
    assert next(commits) <= 10


async def test_what_the_next_turns_of_the_loop_bring_shares_the_transaction_too(tmp_path: Path) -> None:
    commits = itertools.count(1)
    with closing(Outbox(tmp_path, "w-1", clock=lambda: next(commits))) as outbox:
        waiting = []
        for number in range(5):
            waiting.append(outbox.put(b"", str(number)))
            await asyncio.sleep(0)
        await asyncio.wait_for(asyncio.gather(*waiting), WITHIN_S)
        assert next(commits) == 2


async def test_whoever_waits_while_others_go_on_and_on_is_not_forgotten(outbox: Outbox, tmp_path: Path) -> None:
    first, others = outbox.put(b"", "first"), 0
    while not first.done():
        outbox.post(b"", f"other {others}", lambda error: None)
        others += 1
        await asyncio.sleep(0)
    assert events(tmp_path)[0][1] == "first"


async def test_a_lone_event_is_on_the_disk_before_posting_returns(outbox: Outbox, tmp_path: Path) -> None:
    told: list[OutboxError | None] = []
    outbox.post(b"first", "a", told.append, alone=True)
    assert told == [None]
    assert events(tmp_path) == [(1, "a", b"first")]
    assert outbox.committed.is_set()


async def test_a_lone_event_keeps_its_place_behind_others(outbox: Outbox, tmp_path: Path) -> None:
    others = [asyncio.ensure_future(outbox.append(b"", str(number))) for number in range(3)]
    await asyncio.sleep(0)
    written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    outbox.post(b"", "lone", lambda error: written.set_result(None), alone=True)
    assert not written.done(), "the thread has the others"
    await asyncio.gather(written, *others)
    assert [id for _, id, _ in events(tmp_path)] == ["0", "1", "2", "lone"]


async def test_on_a_slow_disk_lone_events_are_the_threads_too(
    outbox: Outbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "_QUICK_S", -1.0)
    outbox.post(b"", "slow", lambda error: None, alone=True)
    told: list[OutboxError | None] = []
    for number in range(2):
        outbox.post(b"", str(number), told.append, alone=True)
    assert not told
    await outbox.append(b"", "after")
    assert told == [None, None]
    assert [id for _, id, _ in events(tmp_path)] == ["slow", "0", "1", "after"]


async def test_a_lone_event_that_can_not_be_written_is_told_so(tmp_path: Path) -> None:
    with closing(Outbox(tmp_path, "w-1", clock=lambda: 7, max_bytes=100)) as outbox:
        told: list[OutboxError | None] = []
        outbox.post(b"x" * 100, "a", told.append, alone=True)
        assert isinstance(told[0], OutboxError)
        assert outbox.fault is not None


async def test_a_cancelled_append_is_written_all_the_same(outbox: Outbox, tmp_path: Path) -> None:
    cancelled = asyncio.create_task(outbox.append(b"", "cancelled"))
    await asyncio.sleep(0)  # it now waits
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    await outbox.append(b"", "after")
    assert [id for _, id, _ in events(tmp_path)] == ["cancelled", "after"]


async def test_closing_writes_what_waits(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path, "w-1", clock=lambda: 0)
    waiting = [asyncio.create_task(outbox.append(b"", str(number))) for number in range(50)]
    await asyncio.sleep(0)
    outbox.close()
    await asyncio.gather(*waiting)
    assert len(events(tmp_path)) == 50
    with pytest.raises(OutboxError):
        await outbox.append(b"", "late")
    outbox.close()


async def test_several_event_loops_may_append(outbox: Outbox, tmp_path: Path) -> None:
    def elsewhere(name: str) -> None:
        async def append() -> None:
            await asyncio.gather(*(outbox.append(b"", f"{name}{number}") for number in range(20)))

        asyncio.run(append())

    await asyncio.gather(*(asyncio.to_thread(elsewhere, name) for name in "ab"), outbox.append(b"", "here"))
    assert sorted(seq for seq, _, _ in events(tmp_path)) == list(range(1, 42))


async def test_numbers_go_on_in_a_file_that_is_opened_again(tmp_path: Path) -> None:
    with closing(Outbox(tmp_path, "w-1", clock=lambda: 0)) as outbox:
        await outbox.append(b"", "a")
        await outbox.append(b"", "b")
    with closing(OutboxFile(tmp_path, "w-1")) as file:
        file.mark_published(2)
        assert file.prune(before_ms=1, keep=0) == 0, "the newest one stays, for the next to be linked to"
    with closing(Outbox(tmp_path, "w-1", clock=lambda: 0)) as outbox:
        await outbox.append(b"", "c")
        assert outbox.recorded == 1
    assert [(seq, id) for seq, id, _ in events(tmp_path)] == [(1, "a"), (2, "b"), (3, "c")]


def test_a_writer_that_lives_is_not_another(outbox: Outbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "_LOCK_WITHIN_S", 0.0)
    with pytest.raises(OutboxError, match="another process"):
        Outbox(tmp_path, "w-1", clock=lambda: 0)


@pytest.mark.parametrize("writer", ["", ".", "../w", "a/b", "a b", "x" * 200, "w\n"])
def test_a_writers_name_stays_in_the_folder(tmp_path: Path, writer: str) -> None:
    with pytest.raises(OutboxError):
        Outbox(tmp_path / "outbox", writer, clock=lambda: 0)
    assert not list(tmp_path.rglob("*.events"))


def test_a_file_that_is_no_outbox_is_refused_in_plain_words(tmp_path: Path) -> None:
    file_of(tmp_path, "w-1").write_bytes(b"something else " * 100)
    with pytest.raises(OutboxError) as refused:
        Outbox(tmp_path, "w-1", clock=lambda: 0)
    assert str(tmp_path) not in refused.value.message
    lock = writer_lock(tmp_path, "w-1")
    assert lock is not None, "a failed opening keeps no lock"
    lock.release()


async def test_it_is_for_its_owner_alone(outbox: Outbox, tmp_path: Path) -> None:
    await outbox.append(b"", "a")
    with closing(OutboxFile(tmp_path, "w-1")) as file:
        file.withhold(1)
    modes = {(path.is_dir(), stat.S_IMODE(path.stat().st_mode)) for path in tmp_path.rglob("*")}
    assert modes == {(True, 0o700), (False, 0o600)}


def test_new_writers_differ_and_have_a_name_that_a_file_can_have(tmp_path: Path) -> None:
    names = {new_writer(1_700_000_000_000, os.urandom) for _ in range(10)}
    assert len(names) == 10
    assert all(file_of(tmp_path, name).parent == tmp_path for name in names)


# --- crashes and full disks ----------------------------------------------------------------------

CRASHING = """
import asyncio, sys
from pathlib import Path
from headgate.audit.outbox import Outbox

outbox = Outbox(Path(sys.argv[1]), "w-1", clock=lambda: 0)

async def worker(name):
    for number in range(1_000_000):
        await outbox.append(b"x" * 500, f"{name}-{number}")
        print(f"{name}-{number}", flush=True)

async def main():
    await asyncio.gather(*(worker(name) for name in range(10)))

asyncio.run(main())
"""


def test_nothing_that_was_answered_is_lost_by_kill_9(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CRASHING, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        answered = [process.stdout.readline().strip() for _ in range(300)]
        process.send_signal(signal.SIGKILL)
        answered += [line.strip() for line in process.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
    assert all(answered)
    with closing(OutboxFile(tmp_path, "w-1")) as file:
        kept = file.unpublished(1_000_000)
    assert set(answered) <= {event.id for event in kept}
    assert [event.seq for event in kept] == list(range(1, len(kept) + 1))
    lock = writer_lock(tmp_path, "w-1")
    assert lock is not None, "a dead writer holds no lock"
    lock.release()


FULL_DISK = """
import asyncio, resource, sys
from pathlib import Path
from headgate.audit.outbox import Outbox
from headgate.errors import OutboxError

outbox = Outbox(Path(sys.argv[1]), "w-1", clock=lambda: 0)
unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)

async def append(name):
    try:
        await outbox.append(b"x" * 1000, name)
    except OutboxError as error:
        assert sys.argv[1] not in error.message
        print("refused", name)
    else:
        print("kept", name)

async def main():
    await append("before")
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, unlimited[1]))
    for round in range(20):
        await asyncio.gather(*(append(f"full-{round}-{number}") for number in range(5)))
    resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    await append("after")

asyncio.run(main())
outbox.close()
"""


def test_a_full_disk_refuses_each_call_until_there_is_room(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, timeout=WITHIN_S, check=False
    )
    assert done.returncode == 0, done.stderr
    told = [line.split() for line in done.stdout.splitlines()]
    kept = [name for verdict, name in told if verdict == "kept"]
    assert len(told) == 102
    assert {"before", "after"} <= set(kept)
    assert ["refused", "full-19-4"] in told
    assert sorted(id for _, id, _ in events(tmp_path)) == sorted(kept)
    assert [seq for seq, _, _ in events(tmp_path)] == list(range(1, len(kept) + 1))


# --- the file, as a publisher sees it ------------------------------------------------------------


async def test_what_is_published_is_noted(outbox: Outbox, tmp_path: Path) -> None:
    for name in "abcd":
        await outbox.append(b"", name)
    with closing(OutboxFile(tmp_path, "w-1")) as file:
        assert [event.id for event in file.unpublished(2)] == ["a", "b"]
        assert file.backlog() == 4
        file.mark_published(3)
        file.mark_published(1)
        assert ([event.id for event in file.unpublished(9)], file.backlog()) == (["d"], 1)
        file.withhold(2)
        file.withhold(4)
    with closing(OutboxFile(tmp_path, "w-1")) as file:
        assert (file.published(), file.withheld(), file.last()) == (3, frozenset({2, 4}), 4)


def test_a_file_that_was_removed_is_not_made_anew(tmp_path: Path) -> None:
    with pytest.raises(OutboxError):
        OutboxFile(tmp_path, "w-1")
    assert list(tmp_path.iterdir()) == []


def test_a_writer_that_died_at_its_birth_has_no_events(tmp_path: Path) -> None:
    file_of(tmp_path, "w-1").mkdir()
    with closing(OutboxFile(tmp_path, "w-1")) as file:
        assert (file.unpublished(10), file.backlog()) == ([], 0)


def test_a_lock_is_one_persons_and_survives_the_removal_of_its_file(tmp_path: Path) -> None:
    first = publishing_lock(tmp_path, "w-1")
    assert first is not None
    assert publishing_lock(tmp_path, "w-1") is None
    other = publishing_lock(tmp_path, "w-2")
    assert other is not None
    other.release()
    first.release(remove=True)
    second = publishing_lock(tmp_path, "w-1")
    assert second is not None
    assert publishing_lock(tmp_path, "w-1") is None
    second.release()


def test_the_writers_of_a_folder_are_listed(tmp_path: Path) -> None:
    assert writers(tmp_path / "missing") == []
    for writer in ("b.example-1", "a"):
        Outbox(tmp_path, writer, clock=lambda: 0).close()
    assert writers(tmp_path) == ["a", "b.example-1"]
