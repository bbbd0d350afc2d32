"""What every server of the stack has in common: a folder, ports, one detached process, a real readiness check."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, Protocol

from headgate.errors import MissingExtra, StackError
from headgate.stack import process
from headgate.stack.account import own_folder, unprivileged
from headgate.stack.ports import is_free, keep_ports
from headgate.stack.process import Process

Progress = Callable[[str], None]
Connection = dict[str, str]
PID_FILE = "process.json"


def silent(message: str) -> None:
    """The progress callback of those who don't listen."""


class Service(Protocol):
    """A real server on this machine.

    `start` and `stop` are idempotent, and work across processes: what one process started, another that
    names the same folder can see and stop.
    """

    name: ClassVar[str]

    @property
    def is_running(self) -> bool:
        """Whether its process lives. It may be frozen."""

    def start(self) -> None:
        """Start it and wait until it answers its own protocol. Raises StackError; then nothing runs."""

    def stop(self) -> None:
        """Stop it and wait until it has gone. Its data stay."""

    def connection(self) -> Connection:
        """Its entry of a config's `connections:` block. Raises StackError before the first start."""


class Server(ABC):
    """The common part of all services. A kind of server fills in what is abstract."""

    name: ClassVar[str]
    port_names: ClassVar[Sequence[str]] = ("main",)
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    start_within: ClassVar[float] = 180.0
    stop_within: ClassVar[float] = 20.0

    def __init__(self, folder: Path, *, progress: Progress = silent) -> None:
        self.folder = Path(folder)
        self.progress = progress
        self.account = unprivileged()

    # --- what a kind of server fills in ----------------------------------------------------------

    @abstractmethod
    def prepare(self) -> None:
        """Make everything that the command needs, inside `home`. Runs before each start."""

    @abstractmethod
    def command(self) -> list[str]:
        """The program and its arguments."""

    @abstractmethod
    def answers(self) -> bool:
        """One real handshake. OSError counts as no."""

    @abstractmethod
    def connection(self) -> Connection:
        """Its entry of a config's `connections:` block. Raises StackError before the first start."""

    def environment(self) -> Mapping[str, str]:
        """The environment of its process: ours, with a home of its own."""
        return {**os.environ, "HOME": str(self.home)}

    # --- what its users call ---------------------------------------------------------------------

    def start(self) -> None:
        """Start it and wait until it answers its own protocol.

        A running one is left alone (a frozen one goes on). It keeps the ports of its first start. Raises
        StackError with the end of its log when it does not come up; then nothing of it runs.
        """
        own_folder(self.folder, self.account)
        with exclusive(self.home / "lock"):
            if self.is_running:
                self.resume()
            else:
                self._launch()
            self._wait_until_ready()

    def stop(self) -> None:
        """Stop it in its own way, by SIGKILL if it does not listen, and wait until it has gone.

        Its data stay. A stopped or frozen one is no error.
        """
        running = self.process
        if running is not None:
            process.end(running, self.stop_signal, within=self.stop_within)
            self._pid_file.unlink(missing_ok=True)

    def kill(self) -> None:
        """End it and its child processes with SIGKILL, as a crash would. `start` brings it back."""
        process.kill(self._running())
        self._pid_file.unlink(missing_ok=True)

    def pause(self) -> None:
        """Freeze it and its child processes (SIGSTOP): its sockets stay open and nothing answers."""
        process.freeze(self._running())

    def resume(self) -> None:
        """Let it go on after `pause` (SIGCONT). One that was not frozen is left as it is."""
        process.thaw(self._running())

    def purge(self) -> None:
        """Stop it and remove its folder with all data."""
        self.stop()
        shutil.rmtree(self.home, ignore_errors=True)
        if self.folder.is_symlink():
            self.folder.unlink()

    @property
    def is_running(self) -> bool:
        """Whether its process lives. It may be frozen."""
        return self.process is not None

    @property
    def pid(self) -> int:
        """The pid of its process. Raises StackError when it does not run."""
        return self._running().pid

    @property
    def port(self) -> int:
        """The loopback port that clients connect to. Raises StackError before the first start."""
        return self.ports[self.port_names[0]]

    @property
    def ports(self) -> dict[str, int]:
        """All its ports by name. Raises StackError before the first start."""
        file = self.home / "ports.json"
        if not file.exists():
            raise StackError(f"{self.name} has no port yet: it was never started in {self.folder}.")
        ports: dict[str, int] = json.loads(file.read_text())
        return ports

    @property
    def home(self) -> Path:
        """Where its folder really lies."""
        return self.folder.resolve()

    @property
    def log(self) -> Path:
        """The file that takes what it prints."""
        return self.home / f"{self.name}.log"

    @property
    def process(self) -> Process | None:
        """Its living process, if there is one."""
        try:
            found = Process(**json.loads(self._pid_file.read_text()))
        except FileNotFoundError:
            return None
        return found if found.is_alive else None

    # --- for the kinds of servers ----------------------------------------------------------------

    def write(self, name: str, text: str) -> Path:
        """Write a file into its folder, readable by the account that it runs as."""
        file = self.home / name
        file.write_text(text)
        if self.account:
            os.chown(file, self.account.uid, self.account.gid)
        return file

    def make_folder(self, name: str) -> Path:
        """Make a private folder inside its folder, owned by the account that it runs as."""
        path = self.home / name
        path.mkdir(mode=0o700, exist_ok=True)
        if self.account:
            os.chown(path, self.account.uid, self.account.gid)
        return path

    def run(self, command: Sequence[str]) -> None:
        """Run a command of its own to the end, as the account that it runs as. Raises StackError."""
        process.run_to_end(
            command, folder=self.home, log=self.log, environment=self.environment(), account=self.account
        )

    # --- the steps of a start --------------------------------------------------------------------

    def _launch(self) -> None:
        ports = keep_ports(self.home / "ports.json", self.port_names)
        for port in ports.values():
            if not is_free(port):
                raise StackError(
                    f"{self.name} can't start: another process listens on its port {port}. End that process, "
                    f"or remove {self.folder} to start anew on another port."
                )
        self.prepare()
        started = process.spawn(
            self.command(), folder=self.home, log=self.log, environment=self.environment(), account=self.account
        )
        self._pid_file.write_text(json.dumps({"pid": started.pid, "began": started.began}))

    def _wait_until_ready(self) -> None:
        settled = process.wait_for(lambda: not self.is_running or self._answers_now(), self.start_within)
        if settled and self.is_running:
            return
        reason = f"did not answer within {self.start_within:g} s" if self.is_running else "ended at once"
        self.stop()
        raise StackError(f"{self.name} {reason}.\n{process.tail(self.log)}")

    def _answers_now(self) -> bool:
        try:
            return self.answers()
        except OSError:
            return False

    def _running(self) -> Process:
        running = self.process
        if running is None:
            raise StackError(f"{self.name} does not run.")
        return running

    @property
    def _pid_file(self) -> Path:
        return self.home / PID_FILE


@contextmanager
def exclusive(file: Path) -> Iterator[None]:
    """Hold a lock between processes. Another that wants it waits."""
    with file.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def kill_all_below(folder: Path) -> None:
    """End every server whose folder lies below `folder`, of whatever kind, by SIGKILL.

    For folders that are about to be thrown away, such as those of a test session that was itself killed.
    """
    for found in folder.rglob(PID_FILE):
        process.kill(Process(**json.loads(found.read_text())))


def package_folder(package: str) -> Path:
    """The folder of an installed package, without importing it. Raises MissingExtra."""
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise MissingExtra("stack", package)
    return Path(found.submodule_search_locations[0])
