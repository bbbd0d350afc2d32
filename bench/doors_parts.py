"""Where the time of one governed call goes.

The server of doors.py in a process that looks at itself: each millisecond of CPU it notes which part the event loop's
thread is in, by the innermost frame whose file belongs to one; what other threads use is the outbox's. That is at 16
connections, in µs of CPU a call. What one call waits for, Valkey's answers and the disk, is measured at one connection.

    python bench/doors_parts.py --serve CONFIG   (doors.py starts it)
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import FrameType
from typing import Any

from doors_house import CALLERS, EXPRESS, House, has_express
from doors_load import ERAS, load, start_on
from measure import cpu_seconds, line

from headgate.app import App
from headgate.audit.outbox import Outbox
from headgate.cli.processes import run_loop
from headgate.config import load as load_config
from headgate.connections._multiplexed import Multiplexed

EVERY_S = 0.001
WARM_TRIES = 5
DISK = "outbox's thread: chain, commit, fsync"
REST = "event loop and tasks"
PARTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("HTTP: accept, parse, send", ("/uvicorn/", "/starlette/", "/server/guard.py", "/server/crowd.py",
                                   "/server/listen.py")),
    ("request: rules, body, what is asked",
     ("/server/headers.py", "/server/request.py", "/server/message.py", "/server/http.py", "/server/pages.py",
      "/server/returning.py", "/serving/")),
    ("identity", ("/access/identity.py", "/access/token", "/access/verified.py", "/access/revocations.py",
                  "/access/jwks.py", "/access/keys.py", "/access/proxy.py", "/jwt/")),
    ("policy: grant and tool", ("/access/policy", "/access/rules.py", "/access/conditions.py", "/access/document.py",
                                "/server/toolbox.py")),
    ("budget and row: one round trip", ("/access/budget.py", "/server/paying.py", "/state/", "/stores/",
                                        "/connections/", "/access/view.py", "/access/window.py", "/access/paging.py",
                                        "/model/")),
    ("mask", ("/access/sight.py", "/access/lens.py", "/access/masks.py", "/access/treatments.py", "/access/parts.py")),
    ("event: made, handed over", ("/audit/", "/server/record.py", "/server/opened.py")),
    ("the tool and its answer", ("/server/wire.py", "/server/answers.py", "/server/gate.py", "/server/acts.py",
                                 "/server/express", "/tools/")),
    ("the SDK", ("/mcp/", "/mcp_types/", "/pydantic/", "/anyio/", "/sse_starlette/")),
    ("the page", ("/server/call.py", "/server/straight.py", "/server/once.py", "/server/mcp.py")),
)  # fmt: skip
"""A part's name, and what the path of its files holds. The first that fits counts."""


# --- the server ----------------------------------------------------------------------------------


class Looking:
    """Counts CPU by parts, and notes what calls wait for."""

    def __init__(self) -> None:
        self._parts: dict[str, str] = {}
        self._spent: defaultdict[str, float] = defaultdict(float)
        self._loop_s = self._all_s = 0.0
        self._waits: dict[str, list[float]] = {"valkey": [], "outbox": []}
        for method in ("ask_all", "run", "begin"):
            self._watch(Multiplexed, method, "valkey")
        self._watch(Outbox, "put", "outbox")
        self._watch_told(Multiplexed, "post", "valkey")
        self._watch_told(Outbox, "post", "outbox")

    def begin(self) -> None:
        """Forgets what was, and looks from now on. On the event loop's thread."""
        self._spent.clear()
        for waits in self._waits.values():
            waits.clear()
        self._loop_s, self._all_s = time.thread_time(), time.process_time()
        signal.signal(signal.SIGPROF, self._look)
        signal.setitimer(signal.ITIMER_PROF, EVERY_S, EVERY_S)

    def end(self) -> dict[str, Any]:
        """Shares of the CPU by part, and the median of each wait in µs."""
        signal.setitimer(signal.ITIMER_PROF, 0)
        total = sum(self._spent.values()) or 1.0
        waits = {name: round(statistics.median(each) * 1e6) for name, each in self._waits.items() if each}
        return {"shares": {name: spent / total for name, spent in self._spent.items()}, "waits_us": waits}

    def _look(self, _number: int, frame: FrameType | None) -> None:
        loop_s, all_s = time.thread_time(), time.process_time()
        mine, every = loop_s - self._loop_s, all_s - self._all_s
        self._loop_s, self._all_s = loop_s, all_s
        self._spent[self._part_of(frame)] += mine
        self._spent[DISK] += max(0.0, every - mine)

    def _part_of(self, frame: FrameType | None) -> str:
        while frame is not None:
            name = frame.f_code.co_filename
            part = self._parts.get(name)
            if part is None:
                part = self._parts[name] = _part_of_file(name)
            if part:
                return part
            frame = frame.f_back
        return REST

    def _watch(self, owner: type, method: str, name: str) -> None:
        """Notes how long it takes until what the method answers is done, be it a coroutine or a future."""
        inner: Callable[..., Any] = getattr(owner, method)
        waits = self._waits[name]

        async def awaited(answer: Awaitable[Any], began: float) -> Any:
            try:
                return await answer
            finally:
                waits.append(time.perf_counter() - began)

        def timed(*words: Any, **more: Any) -> Any:
            began = time.perf_counter()
            answer = inner(*words, **more)
            if not isinstance(answer, asyncio.Future):
                return awaited(answer, began)
            answer.add_done_callback(lambda _: waits.append(time.perf_counter() - began))
            return answer

        setattr(owner, method, timed)

    def _watch_told(self, owner: type, method: str, name: str) -> None:
        """As `_watch`, of a method whose last argument by place is told what comes of it."""
        inner: Callable[..., Any] = getattr(owner, method)
        waits = self._waits[name]

        def timed(*words: Any, **more: Any) -> Any:
            return inner(*words[:-1], _told_then(words[-1], time.perf_counter(), waits), **more)

        setattr(owner, method, timed)


def _told_then(told: Callable[[Any], None], began: float, waits: list[float]) -> Callable[[Any], None]:
    def noted(reply: Any) -> None:
        waits.append(time.perf_counter() - began)
        told(reply)

    return noted


def _part_of_file(name: str) -> str:
    path = name.replace("\\", "/")
    return next((part for part, places in PARTS if any(place in path for place in places)), "")


def serve(config: Path) -> None:
    """Serves until standard input ends; each line of it begins or ends a look, whose findings are a line of output."""
    looking = Looking()
    with App(load_config(config)) as app:
        run_loop(_serve(app, looking))


async def _serve(app: App, looking: Looking) -> None:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def obey() -> None:
        for word in sys.stdin:
            loop.call_soon_threadsafe(_begin if word.strip() == "begin" else _end, looking)
        loop.call_soon_threadsafe(stop.set)

    threading.Thread(target=obey, daemon=True).start()
    await app.serve_http(lambda port: print(port, flush=True), stop)


def _begin(looking: Looking) -> None:
    looking.begin()
    print("{}", flush=True)


def _end(looking: Looking) -> None:
    print(json.dumps(looking.end()), flush=True)


# --- the table -----------------------------------------------------------------------------------


class Watched:
    """That server, from outside."""

    def __init__(self, house: House, core: int, express: str) -> None:
        command = [sys.executable, __file__, "--serve", str(house.config(express))]
        self.process = start_on([core], command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.port = int(self._said())

    def tell(self, word: str) -> dict[str, Any]:
        """Begins or ends a look."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        said: dict[str, Any] = json.loads(self._said())
        return said

    def stop(self) -> None:
        """Ends it in order."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        try:
            self.process.wait(60)
        finally:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()

    def _said(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()


def print_parts(house: House, core: int, seconds: float) -> int:
    """A line for each lane: where the time of one call goes. Answers how many calls were answered."""
    answers = 0
    for express in EXPRESS if has_express() else ("",):
        watched = Watched(house, core, express)
        try:
            answers += _print_parts(watched, house, seconds, express)
        finally:
            watched.stop()
    return answers


def _print_parts(watched: Watched, house: House, seconds: float, express: str) -> int:
    asks = house.asks(watched.port, ERAS[0])
    answers = 0
    for _ in range(WARM_TRIES):
        answers += len(load(watched.port, asks, 16, min(seconds, 1.0)).took)
        if answers > CALLERS:
            break
    watched.tell("begin")
    before = cpu_seconds(watched.process.pid)
    calls = len(load(watched.port, asks, 16, seconds).took)
    spent = cpu_seconds(watched.process.pid) - before
    shares = watched.tell("end")["shares"]
    watched.tell("begin")
    alone = load(watched.port, asks, 1, seconds / 2).took
    waits = watched.tell("end")["waits_us"]
    a_call_us = spent / calls * 1e6
    line(
        "headgate: parts of a call",
        **({"express": express} if express else {}),
        cpu_us=round(a_call_us, 1),
        cpu_us_of={
            name: round(shares[name] * a_call_us, 1)
            for name in (*(part for part, _ in PARTS), REST, DISK)
            if name in shares
        },
        alone_us={"answer": round(statistics.median(alone) * 1e6), **waits},
    )
    return answers + calls + len(alone)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--serve", type=Path, required=True, metavar="CONFIG")
    serve(parser.parse_args().serve)
