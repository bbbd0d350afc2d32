"""Detached processes that a later process can find again: spawn, watch, freeze and end them by pid.

A pid alone proves nothing, because the kernel hands it out again. So a process is remembered as its pid
and the moment it began (with the boot it began in), and is only ever signalled while both still agree.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from headgate.errors import StackError
from headgate.stack.account import Account, as_account

PROC = Path("/proc")
POLL_SECONDS = 0.02
# The shell leaves at once, so that the server is a child of init and of nobody here: no zombie waits for
# us, and the server outlives whoever started it. `exec` keeps $! the server's own pid.
DETACH = '{ exec "$@"; } 1>&2 </dev/null & echo $!'


@dataclass(frozen=True, slots=True)
class Process:
    """One process on this machine, told apart from a later one that is given the same pid."""

    pid: int
    began: str

    @property
    def is_alive(self) -> bool:
        """True while this very process runs (or is stopped); a zombie that holds nothing counts as dead."""
        found = _entry(self.pid)
        return found is not None and found.began == self.began

    def signal(self, number: signal.Signals) -> None:
        """Send a signal. Nothing happens when the process has gone."""
        if not self.is_alive:
            return
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            pass  # it left between the look and the signal

    def family(self) -> list[Process]:
        """This process and all its living descendants, parents first."""
        children: dict[int, list[_Entry]] = {}
        for entry in _entries():
            children.setdefault(entry.parent, []).append(entry)
        found, queue = [self], [self.pid]
        while queue:
            for entry in children.get(queue.pop(0), ()):
                found.append(Process(entry.pid, entry.began))
                queue.append(entry.pid)
        return found


@dataclass(frozen=True, slots=True)
class _Entry:
    pid: int
    parent: int
    began: str


def spawn(
    command: Sequence[str], *, folder: Path, log: Path, environment: Mapping[str, str], account: Account | None
) -> Process:
    """Start `command` in `folder`, detached, its output appended to `log`.

    It runs in a session of its own (a Ctrl-C in the terminal does not reach it), as `account` if one is
    given. Returns as soon as it was started, not when it is ready.
    """
    with log.open("ab") as output:
        started = subprocess.run(
            ["/bin/sh", "-c", DETACH, "sh", *command],
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=output,
            start_new_session=True,
            check=True,
            text=True,
            **as_account(account),
        )
    pid = int(started.stdout)
    found = _entry(pid)
    return Process(pid, found.began if found else "gone")


def run_to_end(
    command: Sequence[str], *, folder: Path, log: Path, environment: Mapping[str, str], account: Account | None
) -> None:
    """Run `command` to its end, its output appended to `log`.

    Raises StackError with the end of its log when it does not succeed.
    """
    with log.open("ab") as output:
        ended = subprocess.run(
            list(command),
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
            timeout=120,
            **as_account(account),
        )
    if ended.returncode:
        raise StackError(f"{Path(command[0]).name} ended with {ended.returncode}.\n{tail(log)}")


def end(process: Process, number: signal.Signals, *, within: float) -> None:
    """Ask a process to stop; after `within` seconds kill it and its descendants. Returns once all are gone."""
    process.signal(signal.SIGCONT)  # a frozen process could not act on the next signal
    process.signal(number)
    if not wait_for(lambda: not process.is_alive, within):
        kill(process)


def kill(process: Process) -> None:
    """End a process and its descendants with SIGKILL. Returns once all are gone."""
    process.signal(signal.SIGSTOP)  # so that it can have no more children while they are listed
    family = process.family()
    for member in family:
        member.signal(signal.SIGKILL)
    if not wait_for(lambda: not any(member.is_alive for member in family), 10):
        raise StackError(f"process {process.pid} does not end, not even by SIGKILL")


def freeze(process: Process) -> None:
    """Stop a process and its descendants (SIGSTOP), as a hung machine would."""
    process.signal(signal.SIGSTOP)
    for member in process.family():
        member.signal(signal.SIGSTOP)


def thaw(process: Process) -> None:
    """Let a frozen process and its descendants go on (SIGCONT), the descendants first."""
    for member in reversed(process.family()):
        member.signal(signal.SIGCONT)


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    """Poll `condition` until it holds. False when it did not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def working_in(folder: Path) -> list[int]:
    """The pids of the living processes whose working folder is `folder` (none known without a /proc)."""
    return [entry.pid for entry in _entries() if _working_folder(entry.pid) == folder]


def _working_folder(pid: int) -> Path | None:
    try:
        return PROC.joinpath(str(pid), "cwd").readlink()
    except OSError:
        return None  # it has gone, or is someone else's


def tail(log: Path, lines: int = 12) -> str:
    """The last lines of a log, for a message to the operator."""
    if not log.exists():
        return "It wrote no log."
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - 8192))
        kept = stream.read().decode(errors="replace").splitlines()[-lines:]
    return "\n".join([f"The end of {log}:", *(f"  {line}" for line in kept)])


def _entry(pid: int) -> _Entry | None:
    if not PROC.joinpath("self/stat").exists():
        return next((entry for entry in _listed_by_ps() if entry.pid == pid), None)
    try:
        stat = PROC.joinpath(str(pid), "stat").read_text(errors="replace")
    except OSError:
        return None
    # The second field is the command in brackets and may hold spaces and brackets itself.
    state, parent, *rest = stat.rpartition(")")[2].split()
    # A zombie keeps its sockets open until its last thread has ended; after that it holds nothing, though
    # a lazy init may leave it in the table for long.
    if state == "X" or (state == "Z" and rest[15] == "1"):
        return None
    return _Entry(pid, int(parent), f"{_boot()}/{rest[17]}")


def _entries() -> list[_Entry]:
    if not PROC.joinpath("self/stat").exists():
        return _listed_by_ps()
    found = (_entry(int(path.name)) for path in PROC.iterdir() if path.name.isdigit())
    return [entry for entry in found if entry]


def _boot() -> str:
    try:
        return PROC.joinpath("sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""  # a hardened container may hide it; the tick count alone then has to do


def _listed_by_ps() -> list[_Entry]:
    """The same facts where there is no /proc (macOS)."""
    listing = subprocess.run(
        ["ps", "-axo", "pid=,ppid=,stat=,lstart="], capture_output=True, check=True, text=True
    ).stdout
    rows = [line.split(maxsplit=3) for line in listing.splitlines()]
    return [_Entry(int(row[0]), int(row[1]), row[3]) for row in rows if not row[2].startswith("Z")]
