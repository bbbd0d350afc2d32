"""Failpoints: named steps at which a test, and nobody else, makes this process fail.

`HEADGATE_FAILPOINTS="call.acted=kill; state.put=raise@3"` kills the process with SIGKILL when it reaches the step
`call.acted` and raises at the third time that it reaches `state.put`. Actions:

- `kill`: the process ends at once, as by kill -9 or a power cut;
- `raise`: `FailpointReached` is raised, which no code of ours expects;
- `stop`: the process is frozen (SIGSTOP) until somebody sends SIGCONT, once;
- `hang`: this thread never goes on; on an event loop nothing else of it does either.

Off unless the variable is set, and then `reach` costs one look at an empty table. It is no setting, and so it is
read here and not in the config.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from headgate.telemetry import logger

VARIABLE = "HEADGATE_FAILPOINTS"

_log = logger("failpoints")


class FailpointReached(Exception):
    """A step whose failpoint says `raise`."""


@dataclass
class _Armed:
    action: Callable[[], None]
    name: str
    passes: int
    """How many more times it is passed before it acts; it acts every time from then on, or `once`."""
    once: bool = False


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _raise() -> None:
    raise FailpointReached("a failpoint was reached")


def _stop() -> None:
    # To this thread, which then stops before it does anything more. Another one that took it in would let it go on.
    signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)


def _hang() -> None:
    threading.Event().wait()


_ACTIONS: Mapping[str, Callable[[], None]] = {"kill": _kill, "raise": _raise, "stop": _stop, "hang": _hang}
_armed: dict[str, _Armed] = {}
_counting = threading.Lock()


def reach(step: str) -> None:
    """Says that this step is reached: nothing happens unless a failpoint is armed for it. For any thread."""
    if _armed:
        _act(step)


def _act(step: str) -> None:
    armed = _armed.get(step)
    if armed is None:
        return
    with _counting:
        armed.passes -= 1
        is_due = armed.passes == -1 or (armed.passes < 0 and not armed.once)
    if is_due:
        _log.warning("failpoint %s: %s", step, armed.name)
        armed.action()


def arm(text: str) -> None:
    """Arms the failpoints of a text in the variable's form in place of all that were armed; '' arms none.

    ValueError when the text is not of that form.
    """
    parsed = dict(_parsed(each) for each in text.split(";") if each.strip())
    _armed.clear()
    _armed.update(parsed)


def arm_with(step: str, action: Callable[[], None], at: int = 1) -> None:
    """Arms one more failpoint, of this process alone: it does `action` once, when the step is reached for that time."""
    _armed[step] = _Armed(action, "action", at - 1, once=True)


def _parsed(text: str) -> tuple[str, _Armed]:
    step, _, action = text.partition("=")
    name, _, number = action.strip().partition("@")
    if not step.strip() or name not in _ACTIONS or (number and not (number.isdigit() and int(number) > 0)):
        raise ValueError(f"{text.strip()!r} is no failpoint: write step={'|'.join(_ACTIONS)}, or step=kill@3")
    return step.strip(), _Armed(_ACTIONS[name], name, int(number or 1) - 1, once=name == "stop")


arm(os.environ.get(VARIABLE, ""))
