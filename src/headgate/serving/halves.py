"""The halves of pipelines that run in this process, each on a thread, as the config has them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from headgate.config import Pipeline
from headgate.telemetry import logger

_log = logger("serving.halves")


@dataclass
class Opened:
    """What the halves of one pipeline run with; closed once they have ended."""

    pipeline: Pipeline
    stop: threading.Event = field(default_factory=threading.Event)
    stack: ExitStack = field(default_factory=ExitStack)


Half = tuple[str, Callable[[], None]]
"""A thread's name, and what it runs until `Opened.stop`."""


class Halves:
    """Starts and ends threads. One thread uses it at a time.

    A half goes on from its saved position, so that ending it and starting it anew loses and doubles nothing.
    """

    def __init__(self, open_: Callable[[Opened], Sequence[Half]], join_s: float) -> None:
        """`open_` answers a pipeline's halves; what it opens for them it leaves on the `stack`."""
        self._open = open_
        self._join_s = join_s
        self._running: dict[str, tuple[Opened, list[threading.Thread]]] = {}

    def follow(self, pipelines: Mapping[str, Pipeline]) -> None:
        """Ends the halves of pipelines that changed or are gone, and starts those of what changed or is new.

        Blocks until those that are to end have ended, for a while at most.
        """
        changed = [name for name in {**self._running, **pipelines} if self._is_other(name, pipelines.get(name))]
        self._end([name for name in changed if name in self._running])
        for name in changed:
            if name in pipelines:
                self._begin(pipelines[name])

    def close(self) -> None:
        """Ends all of them. Idempotent."""
        self._end(list(self._running))

    def _is_other(self, name: str, pipeline: Pipeline | None) -> bool:
        """How fresh answers are to be is of those who answer."""
        if name not in self._running or pipeline is None:
            return True
        before = self._running[name][0].pipeline
        bound = before.settings.freshness_bound_s
        return before != replace(pipeline, settings=pipeline.settings.model_copy(update={"freshness_bound_s": bound}))

    def _begin(self, pipeline: Pipeline) -> None:
        opened = Opened(pipeline)
        threads = [threading.Thread(target=run, name=name, daemon=True) for name, run in self._open(opened)]
        self._running[pipeline.name] = (opened, threads)
        for thread in threads:
            thread.start()

    def _end(self, names: Sequence[str]) -> None:
        ending = [self._running.pop(name) for name in names]
        for opened, _ in ending:
            opened.stop.set()
        until_s = time.monotonic() + self._join_s
        for opened, threads in ending:
            for thread in threads:
                thread.join(max(0.0, until_s - time.monotonic()))
                if thread.is_alive():
                    _log.warning("%s has not ended in time; whoever goes on from here fences it off", thread.name)
            opened.stack.close()
