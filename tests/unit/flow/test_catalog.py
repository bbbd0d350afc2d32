"""What the record is told of entities: each change once, whichever process sees it, and whatever fails in between."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from headgate.audit.event import payload_of
from headgate.audit.journal import CatalogChange
from headgate.errors import OutboxFull
from headgate.flow.catalog import Catalog
from headgate.model.entity import Entity, Field
from headgate.state.base import State
from headgate.state.sqlite import open_state

CUSTOMER = Entity(
    name="customer", pipeline="shop", table="main.customers", key=("id",),
    fields=(Field(name="id", type="integer", nullable=False),),
)  # fmt: skip
ORDER = msgspec.structs.replace(CUSTOMER, name="order", table="main.orders")
WIDER = msgspec.structs.replace(CUSTOMER, fields=(*CUSTOMER.fields, Field(name="email", type="string")))
INDEXED = msgspec.structs.replace(WIDER, lookups=("email",))


def digest(entity: Entity) -> str:
    return payload_of(msgspec.to_builtins(entity)).sha256


class Hand:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.ms = 1_000_000

    def __call__(self) -> int:
        return self.ms


class Book:
    """What was recorded; with `full`, there is no room."""

    def __init__(self) -> None:
        self.changes: list[CatalogChange] = []
        self.full = False

    def record(self, changes: Sequence[CatalogChange]) -> None:
        if self.full:
            raise OutboxFull("no room")
        self.changes += changes

    def take(self) -> list[tuple[str, str]]:
        """Entity and kind of what was recorded since it was asked last."""
        taken: list[tuple[str, str]] = [(change.entity, change.kind) for change in self.changes]
        self.changes = []
        return taken


@pytest.fixture
def clock() -> Hand:
    return Hand()


@pytest.fixture
def state(tmp_path: Path, clock: Hand) -> Iterator[State]:
    with closing(open_state(tmp_path / "state.db", clock=clock)) as opened:
        yield opened


@pytest.fixture
def book() -> Book:
    return Book()


def process(name: str, state: State, clock: Hand, book: Book) -> Catalog:
    return Catalog(state, "shop", name, clock, book.record)


def test_each_change_is_told_once_with_what_it_is(state: State, clock: Hand, book: Book) -> None:
    catalog = process("a", state, clock, book)
    catalog.defined([ORDER, CUSTOMER])
    catalog.tell()
    assert book.take() == [("customer", "defined"), ("order", "defined")]
    catalog.switched(CUSTOMER, 7)
    catalog.tell()
    (switched,) = book.changes
    assert (switched.kind, switched.build, switched.generation) == ("switched", CUSTOMER.build, 7)
    assert switched.definition.sha256 == digest(CUSTOMER) and switched.definition.json is msgspec.UNSET
    book.take()
    catalog.defined([WIDER, ORDER])
    catalog.tell()
    (changed,) = book.changes
    assert (changed.kind, changed.build, changed.previous_sha256) == ("changed", CUSTOMER.build, digest(CUSTOMER))
    assert isinstance(changed.definition.json, msgspec.Raw)
    assert msgspec.json.decode(changed.definition.json, type=Entity) == WIDER
    book.take()
    catalog.defined([WIDER, ORDER])
    catalog.switched(WIDER, 7)
    catalog.tell()
    assert book.take() == []


def test_rows_of_another_form_are_seen_from_their_switch_on(state: State, clock: Hand, book: Book) -> None:
    catalog = process("a", state, clock, book)
    catalog.defined([WIDER])
    catalog.switched(WIDER, 7)
    catalog.tell()
    catalog.defined([INDEXED])
    catalog.tell()
    catalog.switched(INDEXED, 7)
    catalog.tell()
    assert [change.build for change in book.changes[2:]] == [INDEXED.build, INDEXED.build]
    assert book.take()[2:] == [("customer", "changed"), ("customer", "switched")]


def test_of_many_processes_one_tells(state: State, clock: Hand, book: Book) -> None:
    processes = [process(f"p{number}", state, clock, book) for number in range(8)]
    for each in processes:
        each.defined([CUSTOMER])
        each.switched(CUSTOMER, 7)
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            list(pool.map(Catalog.tell, processes))
    assert book.take() == [("customer", "defined"), ("customer", "switched")]


def test_a_process_that_lags_behind_takes_nothing_back(state: State, clock: Hand, book: Book) -> None:
    late, early = process("late", state, clock, book), process("early", state, clock, book)
    for each, generation in ((late, 7), (early, 8)):
        each.defined([CUSTOMER])
        each.switched(CUSTOMER, generation)
    early.tell()
    late.tell()
    assert [change.generation for change in book.changes] == [0, 8]


def test_another_start_tells_nothing_again(state: State, clock: Hand, book: Book) -> None:
    for _ in range(2):
        catalog = process("a", state, clock, book)
        catalog.defined([CUSTOMER])
        catalog.switched(CUSTOMER, 7)
        catalog.tell()
    assert book.take() == [("customer", "defined"), ("customer", "switched")]


def test_what_there_is_no_room_for_is_told_later(
    state: State, clock: Hand, book: Book, caplog: pytest.LogCaptureFixture
) -> None:
    catalog = process("a", state, clock, book)
    catalog.defined([CUSTOMER])
    book.full = True
    catalog.tell()
    catalog.tell()
    assert caplog.text.count("is not in the record yet") == 1
    book.full = False
    catalog.tell()
    assert book.take() == [("customer", "defined")]


def test_who_dies_while_it_tells_is_stood_in_for(state: State, clock: Hand, book: Book) -> None:
    """It has reserved the telling, and nobody knows how far it came."""

    def die(changes: Sequence[CatalogChange]) -> None:
        raise SystemExit

    dying = Catalog(state, "shop", "dying", clock, die)
    dying.defined([CUSTOMER])
    with pytest.raises(SystemExit):
        dying.tell()
    other = process("other", state, clock, book)
    other.defined([CUSTOMER])
    other.tell()
    assert book.take() == [], "the first one may be about to tell"
    clock.ms += 10_001
    other.tell()
    assert book.take() == [("customer", "defined")]


def test_pipelines_are_told_of_apart(state: State, clock: Hand, book: Book) -> None:
    for pipeline in ("shop", "crm"):
        catalog = Catalog(state, pipeline, "a", clock, book.record)
        catalog.defined([msgspec.structs.replace(CUSTOMER, pipeline=pipeline)])
        catalog.tell()
    assert [(change.pipeline, change.kind) for change in book.changes] == [("shop", "defined"), ("crm", "defined")]
