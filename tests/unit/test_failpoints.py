"""Failpoints: off unless asked for, and then each does what it says, at the time it says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from headgate import failpoints
from headgate.failpoints import VARIABLE, FailpointReached, arm, arm_with, reach
from tests.ways.deployment import until


@pytest.fixture(autouse=True)
def _disarmed() -> Iterator[None]:
    arm("")
    yield
    arm("")


def test_nothing_happens_unless_a_failpoint_is_armed() -> None:
    reach("a.step")
    arm("another.step=raise")
    reach("a.step")
    assert failpoints._armed.keys() == {"another.step"}


def test_it_acts_from_the_time_on_that_it_names() -> None:
    arm(" a.step = raise@3 ; b.step=raise;")
    reach("a.step")
    reach("a.step")
    for _ in range(2):
        with pytest.raises(FailpointReached):
            reach("a.step")
    with pytest.raises(FailpointReached):
        reach("b.step")


@pytest.mark.parametrize("wrong", ["a.step", "=kill", "a.step=explode", "a.step=kill@0", "a.step=kill@x", "a=kill,b"])
def test_what_is_none_is_refused_and_changes_nothing(wrong: str) -> None:
    arm("a.step=raise")
    with pytest.raises(ValueError, match="no failpoint"):
        arm(wrong)
    with pytest.raises(FailpointReached):
        reach("a.step")


def test_an_action_of_a_test_is_done_once_at_its_time() -> None:
    done: list[str] = []
    arm_with("a.step", lambda: done.append("acted"), at=2)
    reach("a.step")
    assert done == []
    reach("a.step")
    reach("a.step")
    assert done == ["acted"]


SCRIPT = "from headgate.failpoints import reach; print('before', flush=True); reach('a.step'); "
SCRIPT += "print('after'); reach('a.step')"


def started(action: str) -> subprocess.Popen[str]:
    environment = {**os.environ, VARIABLE: f"a.step={action}"}
    return subprocess.Popen([sys.executable, "-c", SCRIPT], env=environment, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip


def test_kill_ends_the_process_there() -> None:
    output, errors = (process := started("kill")).communicate(timeout=60)
    assert (output, process.returncode) == ("before\n", -signal.SIGKILL)
    assert "a.step: kill" in errors


def test_stop_freezes_it_until_it_is_told_to_go_on() -> None:
    process = started("stop")
    until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)
    process.send_signal(signal.SIGCONT)
    assert process.communicate(timeout=60)[0] == "before\nafter\n"


def test_hang_never_goes_on() -> None:
    process = started("hang")
    try:
        assert process.stderr is not None
        assert "a.step: hang" in process.stderr.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.3)
    finally:
        process.kill()
        process.communicate()
