"""What every kind of state must do: one suite, run against each kind found in the folder, on the real thing."""

from __future__ import annotations

import multiprocessing
import sqlite3
import stat
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pytest
import redis

from headgate import plugins
from headgate.connections.redis import Config
from headgate.errors import StateConflict, Unavailable
from headgate.stack import Valkey
from headgate.state.base import Entry, State
from headgate.state.sqlite import NUMBERS_KEPT_MS
from headgate.telemetry import Clock, wall_clock_ms

WITHIN_S = 60.0


# --- the kinds -----------------------------------------------------------------------------------


class Kind(Protocol):
    """One kind of state, on the real thing."""

    name: str

    @property
    def target(self) -> Any:
        """What `open_state` takes."""

    @property
    def clock(self) -> Clock: ...

    def await_end(self, state: State, key: str) -> None:
        """Returns once an entry of a short life is over."""


@dataclass
class Sqlite:
    target: Path
    name: str = "sqlite"
    now_ms: int = 1_700_000_000_000

    @property
    def clock(self) -> Clock:
        return lambda: self.now_ms

    def await_end(self, state: State, key: str) -> None:
        self.now_ms += 50


@dataclass
class Redis:
    target: Config
    name: str = "redis"
    clock: Clock = field(default=wall_clock_ms)

    def await_end(self, state: State, key: str) -> None:
        deadline = time.monotonic() + WITHIN_S
        while state.get(key) is not None:
            assert time.monotonic() < deadline, "the entry outlives its time"


def _sqlite(request: pytest.FixtureRequest) -> Kind:
    folder: Path = request.getfixturevalue("tmp_path")
    return Sqlite(folder / "data" / "state.db")


def _redis(request: pytest.FixtureRequest) -> Kind:
    return Redis(Config.model_validate({"url": request.getfixturevalue("redis_url")}))


KINDS: dict[str, Callable[[pytest.FixtureRequest], Kind]] = {"sqlite": _sqlite, "redis": _redis}


def test_every_kind_is_tested() -> None:
    assert sorted(KINDS) == plugins.kinds("state")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param](request)


@pytest.fixture
def state(kind: Kind) -> Iterator[State]:
    with closing(open_as(kind.name, kind.target, kind.clock)) as opened:
        yield opened


def open_as(name: str, target: Any, clock: Clock) -> State:
    opened: State = plugins.load("state", name).open_state(target, clock=clock)
    return opened


# --- single entries ------------------------------------------------------------------------------


def test_an_entry_is_read_back_as_it_was_written(state: State) -> None:
    for value in (b"", b"|", b"1|2", bytes(range(256)), b"x" * 100_000):
        version = state.put("key", value)
        assert state.get("key") == Entry(value, version)


def test_versions_start_at_one_and_grow_by_one_per_key(state: State) -> None:
    assert [state.put("a", b"") for _ in range(3)] == [1, 2, 3]
    assert state.put("b", b"") == 1


def test_what_was_never_written_is_not_there(state: State) -> None:
    assert state.get("nothing") is None
    assert state.delete("nothing") is False
    assert state.delete("nothing", expect=0) is False


@pytest.mark.parametrize("expect", [0, 1, 3])
def test_a_write_that_expects_another_version_changes_nothing(state: State, expect: int) -> None:
    state.put("key", b"one")
    state.put("key", b"two")
    with pytest.raises(StateConflict):
        state.put("key", b"three", expect=expect)
    with pytest.raises(StateConflict):
        state.delete("key", expect=expect)
    assert state.get("key") == Entry(b"two", 2)


def test_a_write_that_expects_a_missing_entry_changes_nothing(state: State) -> None:
    with pytest.raises(StateConflict):
        state.put("key", b"", expect=1)
    with pytest.raises(StateConflict):
        state.delete("key", expect=1)
    assert state.get("key") is None
    assert state.put("key", b"", expect=0) == 1


def test_a_write_that_expects_what_stands_there_is_taken(state: State) -> None:
    assert state.put("key", b"one", expect=0) == 1
    assert state.put("key", b"two", expect=1) == 2
    assert state.delete("key", expect=2) is True
    assert state.get("key") is None


def test_a_version_read_before_a_removal_never_matches_again(state: State) -> None:
    state.put("lease", b"mine")
    state.delete("lease")
    assert state.put("lease", b"theirs", expect=0) == 2
    with pytest.raises(StateConflict):
        state.put("lease", b"mine", expect=1)


# --- time to live --------------------------------------------------------------------------------


def test_an_entry_ends_with_its_time(kind: Kind, state: State) -> None:
    state.put("short", b"", ttl_ms=50)
    state.put("long", b"", ttl_ms=600_000)
    kind.await_end(state, "short")
    assert state.get("short") is None
    assert state.delete("short") is False
    assert state.get("long") == Entry(b"", 1)
    assert list(state.scan("")) == ["long"]


def test_a_version_read_before_the_end_never_matches_again(kind: Kind, state: State) -> None:
    state.put("lease", b"mine", ttl_ms=50)
    kind.await_end(state, "lease")
    with pytest.raises(StateConflict):
        state.put("lease", b"mine", expect=1)
    assert state.put("lease", b"theirs", expect=0, ttl_ms=600_000) == 2
    with pytest.raises(StateConflict):
        state.put("lease", b"mine", expect=1)


def test_every_write_sets_the_time_anew(kind: Kind, state: State) -> None:
    state.put("other", b"", ttl_ms=50)
    state.put("lasting", b"", ttl_ms=50)
    state.put("lasting", b"")
    state.put("longer", b"", ttl_ms=50)
    state.put("longer", b"", ttl_ms=600_000)
    kind.await_end(state, "other")
    assert list(state.scan("")) == ["lasting", "longer"]


@pytest.mark.parametrize("ttl_ms", [0, -1])
def test_a_time_to_live_that_is_over_before_it_begins_is_a_mistake(state: State, ttl_ms: int) -> None:
    with pytest.raises(ValueError, match="positive"):
        state.put("key", b"", ttl_ms=ttl_ms)


# --- scans ---------------------------------------------------------------------------------------


def test_a_scan_takes_the_prefix_literally_and_sorts_by_key(state: State) -> None:
    keys = ["a", "a/", "a/*", "a/1", "a/2?", "a/[x]", "a/\\", "a/ä", "a/\U0001f600", "a0", "b/1", "A/1"]
    for key in reversed(keys):
        state.put(key, key.encode())
    assert state.scan("a/") == {key: Entry(key.encode(), 1) for key in sorted(keys) if key.startswith("a/")}
    assert list(state.scan("a/")) == sorted(key for key in keys if key.startswith("a/"))
    assert list(state.scan("a/*")) == ["a/*"]
    assert list(state.scan("")) == sorted(keys)
    assert state.scan("c") == {}


def test_a_scan_leaves_out_what_was_removed(state: State) -> None:
    for number in range(300):
        state.put(f"key/{number:03}", b"")
    for number in range(0, 300, 2):
        state.delete(f"key/{number:03}")
    assert list(state.scan("key/")) == [f"key/{number:03}" for number in range(1, 300, 2)]


# --- several threads and processes ---------------------------------------------------------------


def test_what_one_process_writes_another_reads(kind: Kind, state: State) -> None:
    with closing(open_as(kind.name, kind.target, kind.clock)) as other:
        state.put("key", b"here")
        assert other.get("key") == Entry(b"here", 1)
        assert other.put("key", b"there", expect=1) == 2
        assert state.get("key") == Entry(b"there", 2)


def test_of_many_who_claim_one_key_one_gets_it(state: State) -> None:
    def claim(number: int) -> bool:
        try:
            state.put("claim", str(number).encode(), expect=0)
        except StateConflict:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        won = list(threads.map(claim, range(64)))
    winner = state.get("claim")
    assert won.count(True) == 1
    assert winner == Entry(str(won.index(True)).encode(), 1)


def test_increments_of_two_processes_with_eight_threads_all_count(kind: Kind, state: State) -> None:
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as processes:
        done = [processes.submit(count_up, kind.name, kind.target) for _ in range(2)]
        assert sum(each.result(WITHIN_S * 4) for each in done) == 2 * 8 * 15
    assert state.get("counter") == Entry(b"240", 240)


def count_up(name: str, target: Any) -> int:
    """Fifteen increments by each of eight threads; answers how many were taken."""
    with closing(open_as(name, target, wall_clock_ms)) as state, ThreadPoolExecutor(8) as threads:
        return sum(threads.map(lambda _: _increment(state), range(8 * 15)))


def _increment(state: State) -> int:
    while True:
        entry = state.get("counter") or Entry(b"0", 0)
        try:
            state.put("counter", str(int(entry.value) + 1).encode(), expect=entry.version)
        except StateConflict:
            continue
        return 1


# --- what is particular to one kind --------------------------------------------------------------


def test_the_file_is_for_its_owner_alone(tmp_path: Path) -> None:
    file = tmp_path / "state.db"
    with closing(open_as("sqlite", file, wall_clock_ms)) as state:
        state.put("key", b"")
        modes = {stat.S_IMODE(part.stat().st_mode) for part in tmp_path.glob("state.db*")}
    assert modes == {0o600}


def test_the_file_forgets_versions_in_the_end(tmp_path: Path) -> None:
    kind = Sqlite(tmp_path / "state.db")
    with closing(open_as("sqlite", kind.target, kind.clock)) as state:
        state.put("gone", b"")
        state.delete("gone")
        state.put("ended", b"", ttl_ms=50)
        kind.now_ms += NUMBERS_KEPT_MS + 100
        state.put("here", b"")
        with closing(sqlite3.connect(kind.target)) as database:
            assert database.execute("select key from entry").fetchall() == [("here",)]
        assert state.put("gone", b"", expect=0) == 1


def test_a_file_that_is_no_database_is_unavailable(tmp_path: Path) -> None:
    file = tmp_path / "state.db"
    file.write_bytes(b"something else " * 100)
    with pytest.raises(Unavailable) as refused:
        open_as("sqlite", file, wall_clock_ms)
    assert str(tmp_path) not in refused.value.message
    assert file.read_bytes().startswith(b"something else")


def test_redis_keeps_no_names_of_what_has_ended(redis_url: str) -> None:
    kind = Redis(Config.model_validate({"url": redis_url}))
    with closing(open_as("redis", kind.target, kind.clock)) as state, redis.Redis.from_url(redis_url) as client:
        for number in range(20):
            state.put(f"short/{number}", b"", ttl_ms=50)
        for number in range(20):
            kind.await_end(state, f"short/{number}")
        deadline = time.monotonic() + WITHIN_S
        while client.zrange("{headgate:state}:names", 0, -1) != [b"here"]:
            assert time.monotonic() < deadline
            state.put("here", b"")
        assert client.zcard("{headgate:state}:ends") == 0
        assert all(key.startswith(b"{headgate:state}:") for key in client.scan_iter())


def test_a_redis_that_is_gone_is_unavailable_until_it_is_back(valkey: Valkey, redis_url: str) -> None:
    with closing(open_as("redis", Config.model_validate({"url": redis_url}), wall_clock_ms)) as state:
        state.put("key", b"")
        valkey.kill()
        for ask in (lambda: state.get("key"), lambda: state.put("key", b""), lambda: state.scan("")):
            with pytest.raises(Unavailable):
                ask()
        valkey.start()
        assert state.put("key", b"", expect=0) == 1
