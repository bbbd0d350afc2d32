"""The parent of several serving processes: it owns the port, hands each client to the worker with the fewest, and
starts anew a worker that has died.

It does nothing else, so that nothing in it can fail by what a client sends. Workers are forked from it, and so begin
by the config that holds, also while the file is broken. Handing over sockets, rather than letting workers accept,
keeps a few long connections evenly spread: a shared listening socket wakes whoever slept last, and SO_REUSEPORT
throws dice.
"""

from __future__ import annotations

import contextlib
import gc
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from headgate.config import Config, load
from headgate.errors import ConfigError
from headgate.serving.board import Board, Standing
from headgate.serving.handed import CLIENT, DRAIN, ENDING, LEFT, PACKET, READY, TAKEN
from headgate.serving.live import merged
from headgate.serving.reload import version_of
from headgate.telemetry import logger

WRONG_CONFIG = 78
"""A worker's exit code when it can't serve by its config (EX_CONFIG of sysexits.h)."""

_TICK_S = 0.5
_SILENT_S = 5.0
"""After so long without a round of its loop a worker gets no more clients."""
_DEAD_S = 60.0
"""After so long it is killed."""
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 10.0
_SETTLED_S = 10.0
"""A worker that lived so long has not failed at its start."""
_LEFT_TO_END_S = 30.0
"""Beyond the drain, for the record to be published."""
_AT_ONCE = 64
_log = logger("serving.parent")

_OURS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


@dataclass(frozen=True)
class Place:
    """What a worker begins with."""

    config: Config
    version: str
    """Of the config's text."""
    number: int
    line: socket.socket
    board: Board


Run = Callable[[Place], int]
"""One worker's whole life; answers its exit code."""


@dataclass
class _Worker:
    number: int
    pid: int = 0
    line: socket.socket | None = None
    is_ready: bool = False
    clients: int = 0
    begun_s: float = 0.0
    due_s: float = 0.0
    """When it is to be started; while it runs, nothing."""
    pause_s: float = _FIRST_PAUSE_S
    beats: int = 0
    silent_s: float = 0.0
    turn: int = 0
    """When it got its last client, among all."""

    @property
    def can_take(self) -> bool:
        return self.is_ready and self.line is not None and self.silent_s < _SILENT_S


class Parent:
    """Runs workers on one listening socket until it is told to stop."""

    def __init__(
        self, config: Config, version: str, listener: socket.socket, workers: int, run: Run, ready: Callable[[], None]
    ) -> None:
        """`ready` is called once all workers serve for the first time."""
        self._config = config
        self._version = version
        self._listener = listener
        self._run_worker = run
        self._ready: Callable[[], None] | None = ready
        self._board = Board(workers)
        self._workers = [_Worker(number) for number in range(workers)]
        self._selector = selectors.DefaultSelector()
        self._wake, self._waker = socket.socketpair()
        self._signals: list[int] = []
        self._turns = 0
        self._is_accepting = False
        self._stopping_s: float | None = None
        self._code = 0
        self._ticked_s = 0.0

    def run(self) -> int:
        """Serves until SIGTERM or SIGINT, then drains; a second one hurries. SIGHUP lets workers look at their files.

        Answers the exit code: 0, or 1 when a worker could not serve by its config at the start, or had to be killed
        at the end.
        """
        gc.freeze()  # so that what is shared with the workers stays shared
        with self._listening_to_signals():
            self._selector.register(self._wake, selectors.EVENT_READ, self._woken)
            while self._stopping_s is None or any(worker.pid for worker in self._workers):
                for key, _ in self._selector.select(self._until_next()):
                    key.data()
                self._act_on_signals()
                self._reap()
                self._tick()
                self._start_due()
                self._mind_port()
        return self._code

    # --- the port ---

    def _mind_port(self) -> None:
        """Accepts while someone can take; until then clients wait in the kernel's queue, and none is refused."""
        wanted = self._stopping_s is None and any(worker.can_take for worker in self._workers)
        if wanted and not self._is_accepting:
            self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        elif self._is_accepting and not wanted:
            self._selector.unregister(self._listener)
        self._is_accepting = wanted

    def _accept(self) -> None:
        for worker in self._workers:
            self._hear(worker)  # who has left by now is not counted any more
        for _ in range(_AT_ONCE):
            takers = sorted(
                (worker for worker in self._workers if worker.can_take), key=lambda each: (each.clients, each.turn)
            )
            if not takers:
                return
            try:
                client, _ = self._listener.accept()
            except OSError:  # nobody there any more, or no files left for now
                return
            with client:
                self._hand_over(client, takers)

    def _hand_over(self, client: socket.socket, takers: list[_Worker]) -> None:
        for worker in takers:
            assert worker.line is not None, "it can take"
            try:
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                socket.send_fds(worker.line, [CLIENT], [client.fileno()])
            except OSError:
                continue  # its line is full, or it has just died
            worker.clients += 1
            self._turns += 1
            worker.turn = self._turns
            return

    # --- workers ---

    def _start_due(self) -> None:
        now = time.monotonic()
        for worker in self._workers:
            if not worker.pid and self._stopping_s is None and worker.due_s <= now:
                self._start(worker)

    def _start(self, worker: _Worker) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        self._board.stand(worker.number, Standing.starting)
        self._board.mark(worker.number, silent=False)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        pid = os.fork()
        if pid == 0:
            self._become(worker, ours, theirs)
        theirs.close()
        worker.pid, worker.line, worker.begun_s = pid, ours, time.monotonic()
        worker.is_ready, worker.clients, worker.silent_s = False, 0, 0.0
        self._selector.register(ours, selectors.EVENT_READ, lambda: self._hear(worker))

    def _become(self, worker: _Worker, ours: socket.socket, theirs: socket.socket) -> None:
        """The child: lets go of all that is the parent's, lives, and never comes back."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
                signal.signal(number, signal.SIG_IGN)  # until the worker minds them itself
            self._selector.close()
            lines = [each.line for each in self._workers if each.line is not None]
            for each in (self._listener, self._wake, self._waker, ours, *lines):
                each.close()
            code = self._run_worker(Place(self._config, self._version, worker.number, theirs, self._board))
        except BaseException:  # the parent's stack is below: nothing may go there
            _log.exception("worker %d failed", worker.number)
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _hear(self, worker: _Worker) -> None:
        line = worker.line
        for _ in range(_AT_ONCE):
            if line is None:
                return
            try:
                packet = line.recv(PACKET)
            except BlockingIOError:
                return
            except OSError:
                packet = b""
            if not packet:  # it is gone, or about to be
                self._drop_line(worker)
                return
            self._note(worker, packet)

    def _note(self, worker: _Worker, packet: bytes) -> None:
        match packet[:1]:
            case b"R" if packet == READY:
                worker.is_ready = True
                if self._ready is not None and all(each.is_ready for each in self._workers):
                    self._ready()
                    self._ready = None
            case b"E" if packet == ENDING:
                worker.is_ready = False
            case b"-":
                worker.clients = max(0, worker.clients - int(packet.removeprefix(LEFT)))
            case b"T":
                self._take(packet.removeprefix(TAKEN).decode())

    def _take(self, version: str) -> None:
        """A worker serves by this version of the config: those that are started from now on shall too."""
        file = self._config.path
        if file is None:
            return
        try:
            if version_of(file.read_bytes()) == version:
                self._config, self._version = merged(self._config, load(file), flows=False).config, version
        except (OSError, ConfigError):
            _log.warning("the config has changed again: a worker that is started now begins by the one before")

    def _drop_line(self, worker: _Worker) -> None:
        if worker.line is not None:
            self._selector.unregister(worker.line)
            worker.line.close()
            worker.line = None
        worker.is_ready = False

    def _reap(self) -> None:
        for worker in self._workers:
            if worker.pid:
                pid, status = os.waitpid(worker.pid, os.WNOHANG)
                if pid:
                    self._buried(worker, os.waitstatus_to_exitcode(status))

    def _buried(self, worker: _Worker, code: int) -> None:
        self._drop_line(worker)
        worker.pid = 0
        self._board.stand(worker.number, Standing.absent)
        if self._stopping_s is not None:
            self._code = self._code or int(code != 0)
            return
        if code == WRONG_CONFIG and self._ready is not None:
            self._code = 1  # it has said why, and would again
            self._stop()
            return
        now = time.monotonic()
        if now - worker.begun_s >= _SETTLED_S:
            worker.pause_s = _FIRST_PAUSE_S
        worker.due_s = now + worker.pause_s
        _log.error("worker %d has ended (%d): another one starts in %.1f s", worker.number, code, worker.pause_s)
        worker.pause_s = min(worker.pause_s * 2, _LONGEST_PAUSE_S)

    # --- time ---

    def _until_next(self) -> float:
        now = time.monotonic()
        due = [worker.due_s - now for worker in self._workers if not worker.pid and self._stopping_s is None]
        return max(0.0, min([_TICK_S, *due]))

    def _tick(self) -> None:
        """Looks whether each worker's loop goes round. What this process slept itself does not count."""
        now = time.monotonic()
        passed = min(now - self._ticked_s, 2 * _TICK_S)
        if passed < _TICK_S:
            return
        self._ticked_s = now
        for worker in self._workers:
            beats = self._board.beats(worker.number)
            still = worker.is_ready and beats == worker.beats
            worker.silent_s, worker.beats = (worker.silent_s + passed if still else 0.0), beats
            self._board.mark(worker.number, silent=worker.silent_s >= _SILENT_S)
            if worker.pid and (worker.silent_s >= _DEAD_S or self._is_over(now)):
                os.kill(worker.pid, signal.SIGKILL)

    def _is_over(self, now: float) -> bool:
        bound_s = self._config.server.limits.drain_s + _LEFT_TO_END_S
        return self._stopping_s is not None and now - self._stopping_s > bound_s

    # --- orders ---

    def _act_on_signals(self) -> None:
        while self._signals:
            number = self._signals.pop(0)
            if number == signal.SIGHUP:
                self._signal_all(signal.SIGHUP)
            elif self._stopping_s is None:
                self._stop()
            else:
                self._signal_all(signal.SIGUSR1)

    def _stop(self) -> None:
        """The port is left at once; the workers drain."""
        self._stopping_s = time.monotonic()
        self._mind_port()
        self._listener.close()
        for worker in self._workers:
            if worker.line is not None:
                try:
                    worker.line.send(DRAIN)
                except OSError:  # its line is full: it does not read
                    self._signal([worker], signal.SIGTERM)

    def _signal_all(self, number: signal.Signals) -> None:
        self._signal(self._workers, number)

    def _signal(self, workers: Sequence[_Worker], number: signal.Signals) -> None:
        for worker in workers:
            if worker.pid:  # not reaped yet, so that the number is its own
                os.kill(worker.pid, number)

    @contextlib.contextmanager
    def _listening_to_signals(self) -> Iterator[None]:
        for end in (self._wake, self._waker):
            end.setblocking(False)
        before = {number: signal.signal(number, self._signalled) for number in _OURS}
        before_fd = signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        try:
            yield
        finally:
            signal.set_wakeup_fd(before_fd)
            for number, handler in before.items():
                signal.signal(number, handler)

    def _signalled(self, number: int, _: object) -> None:
        if number != signal.SIGCHLD:  # that one only wakes
            self._signals.append(number)

    def _woken(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wake.recv(4_096)
