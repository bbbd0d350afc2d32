"""The outbox: where a call event is made durable before the call is answered."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from headgate.audit.chain import Chain
from headgate.audit.checkpoints import Checkpoint, Checkpoints
from headgate.audit.event import event_id
from headgate.audit.lasting import Lasting
from headgate.audit.outbox_file import FileLock, OutboxFile, Room, writer_lock
from headgate.errors import HeadgateError, OutboxError, OutboxFull
from headgate.telemetry import Clock, logger

CHECKPOINT_EVERY = 1_000
"""So many events a checkpoint covers at most."""

_AT_MOST = 4_096
_TURNS = 12
"""So many turns of the event loop an event waits for others at most: a write costs what a score more events do."""
_EMPTY_TURNS = 2
"""How many of them may bring nothing."""
_ENOUGH = 32
"""With so many nobody waits for more: while they are written, others come."""
_LOCK_WITHIN_S = 5.0
_CHECKPOINT_AFTER_S = 60.0
_QUICK_S = 0.002
"""A commit that takes no longer may hold up an event loop. One that did is the thread's until one is quick again."""
_LOOK_EVERY_S = 1.0
_LEVELS = (0.5, 0.8, 0.95)
_SAY_EVERY_S = 10.0
_log = logger("audit")


class _Waiting(msgspec.Struct, gc=False):
    id: str
    body: bytes
    loop: asyncio.AbstractEventLoop
    told: Callable[[OutboxError | None], None]
    required: bool


class Outbox:
    """This process's outbox: the folder `<folder>/<writer>.events`, locked for as long as the process lives.

    Events get the numbers 1, 2, 3 … in the order of `append`, without gaps, and each is a link of the writer's
    chain. One thread writes: it takes all events that wait and writes them in one step with one sync, so
    that many calls share it; an event that comes alone is written by whoever brings it. Whatever is appended stays
    until it is published and older than the publisher's retention. A checkpoint follows each thousand events, the
    last ones within a minute, and the very last one.
    """

    def __init__(
        self,
        folder: Path,
        writer: str,
        *,
        clock: Clock,
        checkpoints: Checkpoints | None = None,
        max_bytes: int = 0,
        serves_when_full: bool = False,
    ) -> None:
        """Opens or makes it. OutboxError when it can't be used, or another process is that writer.

        Without `checkpoints` none are made. It takes `max_bytes` at most, unless that is 0.
        `serves_when_full` lets calls be answered that there is no room to record.
        """
        self.writer = writer
        self.folder = folder
        self.committed = threading.Event()
        """Set after each commit, for the publisher to wait on and clear."""
        self.recorded = 0
        """How many events this process has made durable, checkpoints not counted."""
        self.unrecorded = 0
        """How many there was no room for, whose calls were answered nonetheless."""
        self.fault: OutboxError | None = None
        """Why the newest events could not be written; None while they can."""
        self.room = Room(used=0, most=1)
        """How full it was a second ago at most, when something was written."""
        self._clock = clock
        self._checkpoints = checkpoints
        self._serves_when_full = serves_when_full
        self._waiting: list[_Waiting] = []
        self._mutex = threading.Lock()
        self._changed = threading.Condition(self._mutex)
        self._writing = threading.Lock()
        """Held from when it is decided what is written next until it is written: whoever came first has the number."""
        self._is_quick = True
        self._is_ready = False
        """Whether the thread is to take what waits."""
        self._closed = False
        self._level = 0.0
        self._look_at_s = 0.0
        self._say_at_s = 0.0
        self._lock = _take_lock(folder, writer)
        try:
            self._file = OutboxFile(folder, writer, own=True, max_bytes=max_bytes)
            self._chain = self._file.end()
            self._signed = self._chain.seq
            self._look_at_room()
        except BaseException:
            self._lock.release()
            raise
        self._thread = threading.Thread(target=self._run, name="headgate-outbox", daemon=True)
        self._thread.start()

    async def append(self, event: bytes, event_id: str, *, required: bool = False) -> None:
        """Returns once the event is on the disk. OutboxError when it can't be: then the call isn't answered.

        `event_id` is the CloudEvents id within the event. Where calls are answered though there is no room for
        their events, it returns then too, unless the event is `required`. After a cancellation the event is
        written nonetheless, and waited for.
        """
        await self.put(event, event_id, required=required)

    def put(self, event: bytes, event_id: str, *, required: bool = False) -> asyncio.Future[None]:
        """As `append`, but answers at once with what is done when that would return."""
        written = Lasting()

        def told(error: OutboxError | None) -> None:
            if error is None:
                written.set_result(None)
            else:
                written.set_exception(error)

        self.post(event, event_id, told, required=required)
        return written

    def post(
        self,
        event: bytes,
        event_id: str,
        told: Callable[[OutboxError | None], None],
        *,
        required: bool = False,
        alone: bool = False,
    ) -> None:
        """As `append`, but answers at once; `told` is called in this loop, with what that would raise or None.

        Where nobody else's event is to be expected (`alone`) and the disk is quick, that is before this returns: to
        hand a single event to the thread and to hear of it takes as long as the disk does.
        """
        loop = asyncio.get_running_loop()
        one = _Waiting(event_id, event, loop, told, required)
        if alone and self._is_quick and self._write_alone(one):
            return
        with self._mutex:
            if self._closed:
                raise OutboxError("this process is stopping: try again at another one")
            waiting = self._waiting
            waiting.append(one)
            is_first = len(waiting) == 1 or waiting[0].loop is not loop
        if is_first:  # with others before it, the thread is told in a moment, and takes all there are
            loop.call_soon(self._gather, loop, 0, _EMPTY_TURNS, _TURNS)
        elif len(waiting) == _ENOUGH:
            self._hand_over()

    def _write_alone(self, one: _Waiting) -> bool:
        """Whether it could be done here and now: not while others wait, or the thread writes."""
        if not self._writing.acquire(blocking=False):
            return False
        try:
            if self._waiting or self._closed:
                return False
            error = self._commit([one])
        finally:
            self._writing.release()
        self._tell([one], error)
        return True

    def _gather(self, loop: asyncio.AbstractEventLoop, known: int, empty: int, turns: int) -> None:
        """Tells the thread once the loop's turns bring no more: one write is for all that they have brought."""
        found = len(self._waiting)
        empty -= found <= known
        if turns and empty >= 0 and found < _ENOUGH:
            loop.call_soon(self._gather, loop, found, empty, turns - 1)
            return
        self._hand_over()

    def _hand_over(self) -> None:
        """Tells the thread."""
        with self._changed:
            self._is_ready = bool(self._waiting)  # the thread may have taken them with others'
            self._changed.notify()

    def close(self) -> None:
        """Writes what waits and the last checkpoint, then lets go of the file and its lock. Never raises."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._changed.notify()
        self._thread.join()
        self._file.close()
        self._lock.release()

    # --- the thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            self._wait()
            with self._writing:
                batch = self._take()
                error = self._commit(batch) if batch else self._sign_what_is_left()
            self._settle(batch, error)
            if not batch and self._closed:
                return

    def _wait(self) -> None:
        """Until something waits, it is closed, or a checkpoint is due."""
        within_s = _CHECKPOINT_AFTER_S if self._checkpoints is not None else None
        with self._changed:
            self._changed.wait_for(lambda: self._is_ready or self._closed, within_s)

    def _take(self) -> list[_Waiting]:
        with self._mutex:
            batch = self._waiting[:_AT_MOST]
            del self._waiting[:_AT_MOST]
            self._is_ready = bool(self._waiting)
        return batch

    def _sign_what_is_left(self) -> OutboxError | None:
        """A checkpoint for what came since the last one; the last of all even where nothing did."""
        is_unsigned = self.recorded if self._closed else self._chain.seq > self._signed
        if self._checkpoints is None or not is_unsigned:
            return None
        return self._commit([], final=self._closed)

    def _commit(self, batch: Sequence[_Waiting], *, final: bool = False) -> OutboxError | None:
        """What to tell those who wait if it failed; the numbers are then given out again."""
        chain = self._chain.copy()
        events = [chain.add(each.id, each.body) for each in batch]
        is_due = self._is_due(chain, batch)
        checkpoint = self._checkpoint(chain, final=final) if is_due else None
        if checkpoint is not None:
            assert self._checkpoints is not None, "it has made the checkpoint"
            events.append(chain.add(checkpoint.id, self._checkpoints.event(checkpoint)))
        began = time.monotonic()
        try:
            if batch:  # a last checkpoint may use the reserve
                self._file.require_room()
            self._file.add(events, self._clock())
            self._is_quick = time.monotonic() - began < _QUICK_S
        except OutboxError as error:
            self._is_quick = False
            self.fault = error
            return error
        self.fault = None
        self._chain = chain
        if is_due:
            self._signed = chain.seq  # also where none could be made, which is not tried at each commit
        self.recorded += len(batch)
        self.committed.set()
        if checkpoint is not None:
            self._witness(checkpoint)
        self._look_at_room()
        return None

    def _settle(self, batch: Sequence[_Waiting], error: OutboxError | None) -> None:
        for loop in {waiting.loop for waiting in batch}:
            settled = [waiting for waiting in batch if waiting.loop is loop]
            try:
                loop.call_soon_threadsafe(self._tell, settled, error)
            except RuntimeError:
                pass  # that loop has ended, and nobody waits there

    def _tell(self, settled: Sequence[_Waiting], error: OutboxError | None) -> None:
        """In the loop of those who wait."""
        for waiting in settled:
            found = error
            if isinstance(error, OutboxFull) and self._serves_when_full and not waiting.required:
                self._go_unrecorded(error)
                found = None
            try:
                waiting.told(None if found is None else type(found)(found.message))
            except Exception:
                _log.exception("whoever waited for the record of %s failed", waiting.id)

    # --- checkpoints -----------------------------------------------------------------------------

    def _is_due(self, chain: Chain, batch: Sequence[_Waiting]) -> bool:
        return self._checkpoints is not None and (not batch or chain.seq - self._signed >= CHECKPOINT_EVERY)

    def _checkpoint(self, chain: Chain, *, final: bool) -> Checkpoint | None:
        """None when none can be made: calls go on, and the trail's end is unproven, which is said."""
        assert self._checkpoints is not None, "one is due"
        try:
            return self._checkpoints.make(self.writer, chain.seq, chain.link, final=final)
        except HeadgateError as error:
            _log.error("the record goes on without a signed checkpoint: %s", error.message)
            return None

    def _witness(self, checkpoint: Checkpoint) -> None:
        assert self._checkpoints is not None, "it has made the checkpoint"
        try:
            self._checkpoints.witness(checkpoint)
        except HeadgateError as error:
            _log.error("a checkpoint is in the record alone: %s", error.message)

    # --- room ------------------------------------------------------------------------------------

    def _look_at_room(self) -> None:
        now = time.monotonic()
        if now < self._look_at_s:
            return
        self._look_at_s = now + _LOOK_EVERY_S
        self.room = self._file.room()
        level = max((level for level in _LEVELS if self.room.fill >= level), default=0.0)
        if level > self._level:
            _log.warning(
                "the outbox is %d %% full (%d MiB of %d): events wait for the log, or the disk is short of room",
                self.room.fill * 100, self.room.used >> 20, self.room.most >> 20,
            )  # fmt: skip
        self._level = level

    def _go_unrecorded(self, error: OutboxFull) -> None:
        """Says loudly, every ten seconds, that calls are answered without a record."""
        self.unrecorded += 1
        now = time.monotonic()
        if now >= self._say_at_s:
            self._say_at_s = now + _SAY_EVERY_S
            _log.error("%d calls were answered WITHOUT a record, as audit.on_full_disk says: %s",
                       self.unrecorded, error.message)  # fmt: skip


def new_writer(time_ms: int, random_bytes: Callable[[int], bytes]) -> str:
    """A name for this process as a writer. Each process takes a new one.

    Consumers tell doubles by writer and number, and a dead writer's file is removed once it is published.
    """
    return f"w-{event_id(time_ms, random_bytes(10))}"


def _take_lock(folder: Path, writer: str) -> FileLock:
    """A publisher may hold the lock of a writer that seemed dead, for the moment of its publishing."""
    deadline = time.monotonic() + _LOCK_WITHIN_S
    while True:
        lock = writer_lock(folder, writer)
        if lock is not None:
            return lock
        if time.monotonic() > deadline:
            raise OutboxError("another process writes this outbox: give each process a name of its own")
        threading.Event().wait(0.05)
