"""Signals of a process that serves, as they come to this one."""

from __future__ import annotations

import asyncio
import os
import signal

from headgate.cli.processes import run_loop
from headgate.cli.signals import Signals


def kill(number: signal.Signals) -> None:
    """Python acts on a signal between two of its own steps: after this line, or in the loop's wait."""
    os.kill(os.getpid(), number)


def test_the_first_to_end_stops_and_the_second_hurries_also_after_the_loop() -> None:
    hurried: list[bool] = []
    before = signal.getsignal(signal.SIGTERM)
    signals = Signals(lambda: hurried.append(True))

    async def serve() -> None:
        signals.attach()
        asyncio.get_running_loop().call_later(0.01, kill, signal.SIGTERM)
        await asyncio.wait_for(signals.orders.stop.wait(), 60)
        assert not signals.orders.hurry.is_set()

    with signals.minded():
        run_loop(serve())
        assert not hurried
        kill(signal.SIGINT)
        assert hurried
        assert signals.orders.hurry.is_set()
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_before_the_loop_is_not_lost() -> None:
    signals = Signals()

    async def serve() -> None:
        signals.attach()
        await asyncio.wait_for(signals.orders.stop.wait(), 60)
        await asyncio.wait_for(signals.orders.look.wait(), 60)

    with signals.minded():
        kill(signal.SIGHUP)
        kill(signal.SIGTERM)
        run_loop(serve())


def test_a_worker_leaves_the_terminal_to_its_parent_and_hurries_by_its_word() -> None:
    signals = Signals()
    with signals.minded(by_parent=True):
        kill(signal.SIGINT)
        assert not signals.orders.stop.is_set()
        kill(signal.SIGTERM)
        assert (signals.orders.stop.is_set(), signals.orders.hurry.is_set()) == (True, False)
        kill(signal.SIGUSR1)
        assert signals.orders.hurry.is_set()
