"""What `verify` makes of a source and a store: nothing is called the same that was not found to be."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from headgate.cli.verify import run_verify
from headgate.config import parse
from headgate.errors import Unavailable
from headgate.flow.verify import Difference, Verification, Verified
from headgate.model.entity import Entity, Field
from headgate.sources.base import Capture
from headgate.testing import NOW_MS, MemoryReader

ITEM = Entity(name="item", pipeline="shop", table="items", key=("id",), fields=(Field(name="id", type="integer"),))


class Table:
    """A source with a clock of its own, whose rows change before each look from the second on."""

    def __init__(self, rows: dict[int, int], clock_ms: int, change: Callable[[dict[int, int]], None]) -> None:
        self.rows = rows
        self.clock_ms = clock_ms
        self._change = change
        self._looks = 0

    def now_ms(self) -> int:
        return self.clock_ms

    def scan(self, table: str, size: int) -> Iterator[Sequence[tuple[bytes, bytes]]]:
        if self._looks:
            self._change(self.rows)
        self._looks += 1
        yield [(json.dumps({"id": key}).encode(), json.dumps(_row(key, n)).encode()) for key, n in self.rows.items()]

    def tables(self) -> Any:
        raise AssertionError("it is not asked")

    def capture(self, *, resnapshot: Sequence[str] = (), now_ms: Callable[[], int]) -> Capture:
        raise AssertionError("it is not asked")

    def detach(self) -> Any:
        raise AssertionError("it is not asked")

    def diagnose(self) -> Any:
        raise AssertionError("it is not asked")

    def describe(self) -> str:
        return "a table"


def _row(key: int, n: int) -> dict[str, int]:
    return {"id": key, "n": n}


def verified(
    source: dict[int, int],
    stored: dict[int, int],
    *,
    source_clock_ms: int = NOW_MS,
    as_of_ms: int = NOW_MS + 1,
    change: Callable[[dict[int, int]], None] = lambda rows: None,
    most_suspects: int = 100,
) -> Verified:
    table = Table(dict(source), source_clock_ms, change)
    reader = MemoryReader([ITEM], {"item": [_row(key, n) for key, n in stored.items()]}, as_of_ms=as_of_ms)
    verification = Verification(
        table, reader, ITEM, settle_s=0.1, progress=lambda what, rows: None, most_suspects=most_suspects
    )
    return asyncio.run(verification.run())


def test_rows_that_are_the_same_and_rows_that_are_not() -> None:
    assert verified({1: 1, 2: 2}, {2: 2, 1: 1}).outcome == "same"
    result = verified({1: 1, 2: 2, 3: 3}, {2: 2, 3: 4, 5: 5})
    assert result.outcome == "different"
    assert result.differences == (
        Difference(key="1", kind="missing"),
        Difference(key="3", kind="different"),
        Difference(key="5", kind="extra"),
    )


@pytest.mark.parametrize("ahead_ms", [-3_600_000, 3_600_000])
def test_the_store_has_caught_up_by_the_clock_of_the_source_and_not_by_ours(ahead_ms: int) -> None:
    clock_ms = NOW_MS + ahead_ms
    assert verified({1: 1}, {1: 2}, source_clock_ms=clock_ms, as_of_ms=clock_ms + 1).outcome == "different"
    with pytest.raises(Unavailable):
        verified({1: 1}, {1: 2}, source_clock_ms=clock_ms, as_of_ms=clock_ms)


def test_keys_that_change_at_each_look_are_not_the_same() -> None:
    def lift(rows: dict[int, int]) -> None:
        rows[1] += 1

    result = verified({1: 1, 2: 2}, {1: 0, 2: 2}, change=lift)
    assert (result.total, result.unsettled, result.outcome) == (0, 1, "unclear")
    both = verified({1: 1, 2: 2}, {1: 0, 2: 3}, change=lift)
    assert (both.total, both.unsettled, both.outcome) == (1, 1, "different")


def test_what_is_too_much_to_be_looked_at_again_is_said_and_is_not_the_same() -> None:
    source = dict.fromkeys(range(10), 0)
    looks: list[int] = []

    def settle(rows: dict[int, int]) -> None:
        looks.append(len(looks))
        if len(looks) > 1:  # once they are suspected
            rows.update(dict.fromkeys(range(4), 1))

    result = verified(source, {**source, 0: 1, 1: 1, 2: 1, 3: 1, 8: 1}, change=settle, most_suspects=3)
    assert (result.total, result.left_out) == (0, 2)
    assert result.outcome == "unclear"


@pytest.mark.parametrize(
    ("results", "code", "said"),
    [
        ([Verified(entity="item", rows=3)], 0, "item: the same, 3 rows\n"),
        ([Verified(entity="item", rows=3, total=1, unsettled=2)], 1, "1 of 3 rows differ and stay different; 2 keys"),
        ([Verified(entity="a", rows=3), Verified(entity="b", rows=3, unsettled=1)], 2, "b: not known to be the same"),
        ([Verified(entity="item", rows=9, left_out=4)], 2, "4 more differed at first and were not looked at again"),
        ([Verified(entity="a", rows=1, left_out=1), Verified(entity="b", rows=1, total=1)], 1, "b: 1 of 1 rows"),
    ],
)
def test_each_outcome_has_its_exit_code_and_its_words(
    results: list[Verified],
    code: int,
    said: str,
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def verify(*_: Any) -> list[Verified]:
        return results

    monkeypatch.setattr("headgate.app.App.verify", verify)
    config = parse(f"data: {tmp_path}\npipelines: {{shop: {{source: {{kind: sqlite, path: s.db}}}}}}\n", tmp_path, {})
    assert run_verify(config, "shop", 1.0) == code
    assert said in capsys.readouterr().out
