"""What every kind of subscriptions must do: one suite, run against each kind found in the folder, on the real thing."""

from __future__ import annotations

import asyncio
import multiprocessing
import sqlite3
import stat
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest
import redis
from pydantic import SecretStr

from headgate import plugins
from headgate.connections.postgres import Config as PostgresConfig
from headgate.connections.redis import Config as RedisConfig
from headgate.errors import Unavailable
from headgate.stack import Valkey
from headgate.subscriptions._telling import Teller
from headgate.subscriptions.base import EVERYTHING, MOST_KEYS, Hearer, Sender, Touch, decode, encode
from headgate.subscriptions.sqlite import KEPT
from tests.services import started

WITHIN_S = 60.0


class Kind(NamedTuple):
    """One kind on the real thing."""

    name: str
    target: Any

    def sender(self) -> Sender:
        sender: Sender = plugins.load("subscriptions", self.name).open_sender(self.target)
        return sender

    def hearer(self) -> Hearer:
        hearer: Hearer = plugins.load("subscriptions", self.name).open_hearer(self.target)
        return hearer


def _sqlite(request: pytest.FixtureRequest) -> Kind:
    folder: Path = request.getfixturevalue("tmp_path")
    return Kind("sqlite", folder / "data" / "notices.db")


def _redis(request: pytest.FixtureRequest) -> Kind:
    url = SecretStr(request.getfixturevalue("redis_url"))
    return Kind("redis", RedisConfig(url=url, prefix=f"t{uuid.uuid4().hex[:12]}"))


def _postgres(request: pytest.FixtureRequest) -> Kind:
    return Kind("postgres", PostgresConfig(dsn=SecretStr(request.getfixturevalue("database"))))


KINDS: dict[str, Callable[[pytest.FixtureRequest], Kind]] = {
    "sqlite": _sqlite, "redis": _redis, "postgres": _postgres,
}  # fmt: skip


def test_every_kind_is_tested_and_each_store_has_one() -> None:
    assert sorted(KINDS) == plugins.kinds("subscriptions") == plugins.kinds("stores")


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param](request)


class Ear:
    """What one hearer has heard."""

    def __init__(self) -> None:
        self.heard: list[Touch] = []
        self.begun = 0
        self.failure: BaseException | None = None

    async def until(self, holds: Callable[[Ear], bool]) -> None:
        """Waits until that holds, with a deadline."""
        async with asyncio.timeout(WITHIN_S):
            while True:
                if holds(self):
                    return
                await asyncio.sleep(0.005)

    def keys(self, entity: str) -> set[str]:
        """All keys of an entity that were told."""
        return {key for touch in self.heard if touch.entity == entity for key in touch.keys or ()}

    async def _hear(self, hearer: Hearer) -> None:
        try:
            await hearer.hear(self.heard.extend, self._listening)
        except Unavailable as error:
            self.failure = error

    def _listening(self) -> None:
        self.begun += 1


@asynccontextmanager
async def hearing(kind: Kind) -> AsyncIterator[Ear]:
    """A hearer at work, which misses nothing any more."""
    ear = Ear()
    task = asyncio.create_task(ear._hear(kind.hearer()))
    try:
        await ear.until(lambda ear: ear.begun > 0)
        yield ear
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


# --- what is heard -------------------------------------------------------------------------------


async def test_every_hearer_hears_what_is_sent_in_its_order(kind: Kind) -> None:
    said = [Touch("customer", (str(number),)) for number in range(200)]
    with closing(kind.sender()) as sender:
        async with hearing(kind) as one, hearing(kind) as other:
            for touch in said:
                sender.send(encode({touch.entity: touch.keys}, sender.most_bytes))
            for ear in (one, other):
                await ear.until(lambda ear: len(ear.heard) >= len(said))
    assert one.heard == other.heard == said


async def test_what_was_sent_before_it_listened_is_not_heard(kind: Kind) -> None:
    with closing(kind.sender()) as sender:
        sender.send(encode({"customer": ["before"]}, sender.most_bytes))
        async with hearing(kind) as ear:
            sender.send(encode({"customer": ["after"]}, sender.most_bytes))
            await ear.until(lambda ear: bool(ear.heard))
    assert ear.heard == [Touch("customer", ("after",))]


async def test_keys_of_all_characters_arrive_as_they_were(kind: Kind) -> None:
    keys = ("a%2Fb,c", "\u00fc\U0001f600", "'; drop table notice; --", '"', "x" * 2_000)
    with closing(kind.sender()) as sender:
        async with hearing(kind) as ear:
            sender.send(encode({"order's": keys}, sender.most_bytes))
            await ear.until(lambda ear: bool(ear.heard))
    assert ear.heard == [Touch("order's", keys)]


async def test_a_message_that_is_too_long_says_more_in_fewer_words(kind: Kind) -> None:
    with closing(kind.sender()) as sender:
        async with hearing(kind) as ear:
            for touched in ({"customer": ["x" * 70_000]}, {f"entity {number}": None for number in range(10_000)}):
                sender.send(encode(touched, sender.most_bytes))
            await ear.until(lambda ear: len(ear.heard) == 2)
    assert ear.heard == [Touch("customer"), EVERYTHING]


def _send(kind: Kind, entity: str, count: int) -> None:
    with closing(kind.sender()) as sender:
        for number in range(count):
            sender.send(encode({entity: [str(number)]}, sender.most_bytes))


async def test_senders_of_several_processes_are_all_heard(kind: Kind) -> None:
    spawned = multiprocessing.get_context("spawn")
    async with hearing(kind) as ear:
        senders = [spawned.Process(target=_send, args=(kind, f"of {number}", 50)) for number in range(2)]
        for sender in senders:
            sender.start()
        for number in range(2):
            await ear.until(lambda ear: len(ear.keys(f"of {number}")) == 50)  # noqa: B023 - asked at once
        for sender in senders:
            await asyncio.to_thread(sender.join, WITHIN_S)
            assert sender.exitcode == 0


async def test_a_hearer_may_hear_again(kind: Kind) -> None:
    hearer = kind.hearer()
    with closing(kind.sender()) as sender:
        for number in range(3):
            ear = Ear()
            task = asyncio.create_task(ear._hear(hearer))
            await ear.until(lambda ear: ear.begun == 1)
            sender.send(encode({"customer": [str(number)]}, sender.most_bytes))
            await ear.until(lambda ear: bool(ear.heard))
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert ear.heard == [Touch("customer", (str(number),))]


async def test_what_nobody_can_have_meant_may_mean_everything(kind: Kind) -> None:
    with closing(kind.sender()) as sender:
        async with hearing(kind) as ear:
            sender.send(b'{"is": "another form"}')
            await ear.until(lambda ear: bool(ear.heard))
    assert ear.heard == [EVERYTHING]


# --- faults --------------------------------------------------------------------------------------


async def test_a_redis_that_goes_away_is_told_of(services_folder: Path) -> None:
    with started(Valkey(services_folder / f"heard-{uuid.uuid4().hex[:6]}")) as server:
        kind = Kind("redis", RedisConfig(url=SecretStr(server.url())))
        with closing(kind.sender()) as sender:
            async with hearing(kind) as ear:
                server.stop()
                await ear.until(lambda ear: ear.failure is not None)
            with pytest.raises(Unavailable):
                sender.send(b"[]")


async def test_a_redis_connection_that_is_cut_is_told_of(redis_url: str) -> None:
    kind = Kind("redis", RedisConfig(url=SecretStr(redis_url)))
    with closing(redis.Redis.from_url(redis_url)) as operator:
        async with hearing(kind) as ear:
            operator.client_kill_filter(_type="pubsub")
            await ear.until(lambda ear: ear.failure is not None or ear.begun > 1)


async def test_a_postgres_connection_that_is_cut_is_told_of(database: str) -> None:
    kind = Kind("postgres", PostgresConfig(dsn=SecretStr(database)))
    with closing(kind.sender()) as sender, psycopg.connect(database, autocommit=True) as operator:
        async with hearing(kind) as ear:
            sender.send(encode({"customer": None}, sender.most_bytes))
            operator.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity "
                "where datname = current_database() and pid <> pg_backend_pid()"
            )
            await ear.until(lambda ear: ear.failure is not None)
            with pytest.raises(Unavailable):
                sender.send(b"[]")
        async with hearing(kind) as ear:
            sender.send(encode({"customer": None}, sender.most_bytes))
            await ear.until(lambda ear: bool(ear.heard))


async def test_who_reads_so_late_that_messages_are_gone_is_told_so(tmp_path: Path) -> None:
    kind = Kind("sqlite", tmp_path / "notices.db")
    with closing(kind.sender()) as sender:
        async with hearing(kind) as ear:
            for number in range(3 * KEPT):  # the event loop, and with it the reader, stands still
                sender.send(encode({"customer": [str(number)]}, sender.most_bytes))
            await ear.until(lambda ear: bool(ear.heard))
    assert ear.heard == [EVERYTHING]
    with closing(sqlite3.connect(tmp_path / "notices.db")) as file:
        [(rows,)] = file.execute("select count(*) from notice")
    assert KEPT <= rows < 2 * KEPT
    assert stat.S_IMODE((tmp_path / "notices.db").stat().st_mode) == 0o600


async def test_a_file_that_is_none_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "notices.db").write_bytes(b"no database at all, but text that is long enough to be looked at")
    kind = Kind("sqlite", tmp_path / "notices.db")
    with pytest.raises(Unavailable):
        await kind.hearer().hear(lambda _: None, lambda: None)
    with closing(kind.sender()) as sender, pytest.raises(Unavailable):
        sender.send(b"[]")


# --- telling -------------------------------------------------------------------------------------


async def test_a_teller_tells_from_a_thread_of_its_own(kind: Kind) -> None:
    async with hearing(kind) as ear:
        with closing(Teller(kind.sender())) as teller:
            teller.tell({"customer": {"1", "2"}, "order": None})
            await ear.until(lambda ear: len(ear.heard) == 2)
            assert ear.keys("customer") == {"1", "2"}
            assert Touch("order") in ear.heard
            teller.tell({"customer": {str(number) for number in range(MOST_KEYS + 1)}})
            await ear.until(lambda ear: Touch("customer") in ear.heard)
            teller.tell({"last": ["word"]})
        await ear.until(lambda ear: ear.keys("last") == {"word"})  # closing sends what is left


class Stalling:
    """A sender that a test lets fail and wait."""

    most_bytes = 64 * 1024

    def __init__(self) -> None:
        self.sent: list[Sequence[Touch]] = []
        self.failures = 0
        self.gate = multiprocessing.Event()
        self.gate.set()

    def send(self, message: bytes) -> None:
        assert self.gate.wait(WITHIN_S)
        if self.failures:
            self.failures -= 1
            raise Unavailable("not now")
        self.sent.append(decode(message))

    def close(self) -> None:
        self.sent.append([])


def _until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_what_is_told_while_a_message_is_under_way_goes_out_as_one() -> None:
    sender = Stalling()
    sender.gate.clear()
    with closing(Teller(sender)) as teller:
        teller.tell({"first": ["1"]})
        _until(lambda: not teller._touched)
        for number in range(1_000):
            teller.tell({"customer": [str(number % 10)], "order": None if number % 2 else ["1"]})
        sender.gate.set()
        _until(lambda: len(sender.sent) == 2)
    later = {touch.entity: touch.keys for touch in sender.sent[1]}
    assert {*(later["customer"] or ())} == {str(number) for number in range(10)}
    assert later["order"] is None
    assert sender.sent[-1] == []  # closed


def test_what_could_not_be_told_becomes_everything() -> None:
    sender = Stalling()
    sender.failures = 2
    with closing(Teller(sender)) as teller:
        teller.tell({"customer": ["1"]})
        _until(lambda: bool(sender.sent))
    assert EVERYTHING in sender.sent[0]
