"""What materialize tells of: which rows readers see otherwise, in few words."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from headgate.flow.touching import Touching
from headgate.model.position import Progress
from headgate.stores.base import Write
from headgate.subscriptions.base import MOST_KEYS, Touched

BEFORE = Progress(offset=1, generation=1, complete=True)


class Told:
    """What was told, a mapping for each time."""

    def __init__(self) -> None:
        self.said: list[Mapping[str, Collection[str] | None]] = []
        self.touching = Touching(self.tell)

    def tell(self, touched: Touched) -> None:
        self.said.append({name: None if keys is None else set(keys) for name, keys in touched.items()})

    def wrote(self, entity: str = "customer", progress: Progress = BEFORE, **what: Any) -> None:
        self.touching.wrote(Write(entity=entity, partition=0, expected=BEFORE, progress=progress, **what), BEFORE)


def test_keys_that_were_put_deleted_or_marked_are_told_together() -> None:
    told = Told()
    told.wrote(puts={"1": b"{}"}, deletes=frozenset({"2"}))
    told.wrote(flaws={"3": "schema_mismatch"})
    told.wrote("order", puts={"7": b"{}"})
    told.touching.tell()
    assert told.said == [{"customer": {"1", "2", "3"}, "order": {"7"}}]


def test_what_was_told_is_not_told_again_and_nothing_is_not_told() -> None:
    told = Told()
    told.wrote()  # moves the position, or freshness
    told.touching.tell()
    told.wrote(puts={"1": b"{}"})
    told.touching.tell()
    told.touching.tell()
    assert told.said == [{"customer": {"1"}}]


def test_too_many_keys_are_the_entity() -> None:
    told = Told()
    for number in range(MOST_KEYS + 1):
        told.wrote(puts={str(number): b"{}"})
    told.wrote("order", puts={str(number): b"{}" for number in range(MOST_KEYS)})
    told.touching.tell()
    assert told.said == [{"customer": None, "order": {str(number) for number in range(MOST_KEYS)}}]


def test_a_truncate_names_no_keys() -> None:
    told = Told()
    told.wrote(progress=Progress(offset=2, generation=1, complete=True, epoch=1))
    told.touching.tell()
    assert told.said == [{"customer": None}]


def test_an_entity_as_a_whole_outdoes_its_keys() -> None:
    told = Told()
    told.wrote(puts={"1": b"{}"})
    told.touching.entity("customer")
    told.wrote(puts={"2": b"{}"})
    told.touching.tell()
    assert told.said == [{"customer": None}]
