"""What retrying dead letters does to rows: it mends what is still flawed, and never lets a row go back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from headgate.flow.fitting import Fitting
from headgate.flow.folding import Folding
from headgate.flow.lanes import Lane
from headgate.flow.materializing import Decoding
from headgate.flow.retrying import Retrying, Verdicts
from headgate.log.base import slices_of
from headgate.model.change import UNAVAILABLE, Change
from headgate.model.entity import Declared
from headgate.model.row import Row
from headgate.stores.base import Writer
from headgate.stores.sqlite import open_writer
from tests.unit.flow.test_folding import DECLARED, ENTITY, PARTITION, decode, logged, marker, row

LOOSE = Declared(name="customer", pipeline="shop", table="public.customers")


class Shop:
    """One lane over a real store: records are applied as they come, with one set of declared fields."""

    def __init__(self, folder: Path) -> None:
        self.writer: Writer = open_writer(folder / "store.db", [ENTITY])
        self.writer.define([ENTITY])
        (progress,) = self.writer.claim("customer", [0]).values()
        self.lane = Lane(ENTITY, PARTITION, progress, progress)
        self.apply(marker("begin", 5), marker("end", 5))

    def apply(self, *what: Change | bytes | None) -> None:
        """The next records of the partition."""
        folding = Folding(self.lane, Fitting(ENTITY, DECLARED), decode, self._read)
        for write in folding.fold(slices_of(logged(*what, start=self.lane.progress.offset))[0], 77):
            self.writer.apply([write])
            self.lane.progress = self.lane.start = write.progress

    def retry(self, declared: Declared = LOOSE) -> Verdicts:
        """All letters, as if the entity's declared fields were these now."""
        rooms: Any = _Rooms()
        groups: dict[str, list[str]] = {}
        ids = self.writer.dead_letter_ids("shop")
        for letter in sorted(self.writer.dead_letters("shop", ids), key=lambda letter: letter.offset):
            groups.setdefault(letter.row or letter.id, []).append(letter.id)
        verdicts = Retrying(rooms, self.writer, Fitting(ENTITY, declared)).judge(self.lane, list(groups.values()))
        self.writer.apply([verdicts.write(self.lane)])
        return verdicts

    def stored(self, number: int = 1) -> Row:
        return self._read(self.lane.progress.generation, [str(number)])[str(number)]

    def email(self, number: int = 1) -> Any:
        return json.loads(self.stored(number).json).get("email")

    def letters(self) -> list[int]:
        """The offsets of those that are left."""
        ids = self.writer.dead_letter_ids("shop")
        return sorted(letter.offset for letter in self.writer.dead_letters("shop", ids))

    def _read(self, generation: int, keys: Any) -> dict[str, Row]:
        return self.writer.read("customer", generation, keys)


class _Rooms:
    """The part of `Materializing` that retrying works with."""

    pipeline = "shop"

    @staticmethod
    def decoding(table: str) -> Decoding:
        return Decoding(decode, None, None)

    @staticmethod
    def clock() -> int:
        return 99


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    opened = Shop(tmp_path)
    yield opened
    opened.writer.close()


def test_a_change_that_fits_by_now_mends_its_row_and_is_gone(shop: Shop) -> None:
    shop.apply(row(1, email="good", at=1), row(1, email=7, at=2), row(2, email="other", at=9))
    assert (shop.stored().flaw, shop.email()) == ("schema_mismatch", "good")
    before = shop.lane.progress
    shop.retry()
    assert (shop.stored().flaw, shop.email(), shop.letters()) == ("", 7, [])
    assert shop.lane.progress == before


def test_a_change_that_fails_again_stays_with_its_new_reason(shop: Shop) -> None:
    shop.apply(row(1, email=7, at=1))
    (kept,) = shop.retry(DECLARED).kept
    assert (kept.tried_ms, kept.time_ms, kept.code) == (99, 77, "schema_mismatch")
    assert shop.letters() == [kept.offset]
    assert shop.stored().flaw == "schema_mismatch"


def test_a_row_that_a_later_change_has_healed_does_not_go_back(shop: Shop) -> None:
    shop.apply(row(1, email=7, at=1), row(1, email="newer", at=2))
    assert shop.letters() == [2]
    shop.retry()
    assert (shop.email(), shop.letters()) == ("newer", [])


def test_of_several_changes_of_a_row_the_newest_counts(shop: Shop) -> None:
    shop.apply(row(1, email=7, at=1), row(1, email="between", at=2), row(1, email=8, at=3))
    shop.retry()
    assert (shop.email(), shop.stored().flaw, shop.letters()) == (8, "", [])


def test_when_the_newest_fails_again_nothing_older_is_applied(shop: Shop) -> None:
    shop.apply(row(1, email="first", at=1), row(1, email=7, at=2), row(1, email="between", at=3), b"garbage")
    shop.retry()
    assert (shop.email(), shop.stored().flaw) == ("between", "change_undecodable")
    assert shop.letters() == [3, 5]


def test_a_delete_that_could_not_be_applied_is_applied(shop: Shop) -> None:
    shop.apply(row(1, email="there", at=1))
    offset = shop.lane.progress.offset
    shop.apply(b"garbage")
    (letter,) = shop.writer.dead_letters("shop", shop.writer.dead_letter_ids("shop"))
    (record,) = logged(row(1, op="d", at=2), start=offset)
    mended = msgspec.structs.replace(letter, value=record.value)  # as if its format could be read by now
    keep = Verdicts(kept=[mended])
    shop.writer.apply([keep.write(shop.lane)])
    shop.retry()
    assert shop.letters() == []
    assert shop.writer.read("customer", 5, ["1"]) == {}


def test_what_was_old_when_it_came_is_passed_over_as_it_would_have_been(shop: Shop) -> None:
    shop.apply(row(1, email="newest", at=8))
    shop.apply(b"garbage")
    (letter,) = shop.writer.dead_letters("shop", shop.writer.dead_letter_ids("shop"))
    (again,) = logged(row(1, email="told again by a restarted source", at=3))
    shop.writer.apply([Verdicts(kept=[msgspec.structs.replace(letter, value=again.value)]).write(shop.lane)])
    shop.retry()
    assert (shop.email(), shop.letters()) == ("newest", [])


@pytest.mark.parametrize("since", ["snapshot", "truncate"])
def test_what_a_snapshot_or_a_truncate_has_overtaken_is_removed(shop: Shop, since: str) -> None:
    shop.apply(row(1, email=7, at=1))
    if since == "snapshot":
        shop.apply(marker("begin", 9), row(1, op="r", email="snap"), marker("end", 9, at=5))
    else:
        shop.apply(Change(op="t", table="public.customers", sequence=None), row(1, email="after", at=7))
    shop.retry()
    assert shop.letters() == []
    assert (shop.email(), shop.stored().flaw) == ("snap" if since == "snapshot" else "after", "")


def test_a_change_that_leaves_columns_out_is_not_put_together_with_a_row_that_is_not_trusted(shop: Shop) -> None:
    shop.apply(row(1, email="a", big="old", at=1), row(1, email=7, big=UNAVAILABLE, at=2))
    (kept,) = shop.retry().kept
    assert "re-snapshot" in kept.message
    assert shop.stored().flaw == "schema_mismatch"


def test_a_record_whose_row_is_not_known_is_never_applied(shop: Shop) -> None:
    shop.apply(b"garbage")
    (letter,) = shop.writer.dead_letters("shop", shop.writer.dead_letter_ids("shop"))
    (good,) = logged(row(1, email="x", at=1))
    strange = msgspec.structs.replace(letter, row=None, value=good.value)
    shop.writer.apply([Verdicts(kept=[strange]).write(shop.lane)])
    (kept,) = shop.retry().kept
    assert "resnapshot_table" in kept.message
    assert shop.letters() == [2]
