"""Any stream of records: both ways of folding agree, and where it is cut into slices changes nothing."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from headgate.model import change as changes
from headgate.model.change import UNAVAILABLE, Change
from headgate.model.position import Progress
from headgate.stores.base import Write
from tests.unit.flow.test_folding import fold, logged, marker, row

KEYS = st.integers(1, 4)
PLACES = st.integers(1, 30)
EMAILS = st.sampled_from(["a@x", "b@x", None, 7])
"""7 does not fit."""

WHOLE: st.SearchStrategy[Change | bytes | None] = st.one_of(
    st.builds(lambda key, email, at: row(key, email=email, at=at), KEYS, EMAILS, PLACES),
    st.builds(lambda key, at: row(key, op="d", at=at), KEYS, PLACES),
    st.builds(lambda key, email: row(key, op="r", email=email), KEYS, EMAILS),
    st.builds(marker, st.sampled_from(["begin", "end"]),
              st.integers(4, 7), PLACES),
    st.builds(lambda at: Change(op="t", table="public.customers", sequence=changes.Sequence(at, at)), PLACES),
    st.sampled_from([None, b"", b"{", b'{"op":"x"}', b'{"op":"u"}']),
)  # fmt: skip
PARTIAL = st.builds(lambda key, at: row(key, email="c@x", at=at, big=UNAVAILABLE), KEYS, PLACES)
"""Leaves a column out, so that it needs the row that is stored."""
AT = st.builds(lambda awaiting: Progress(fence=1, generation=5, awaiting=awaiting), st.booleans())


def left(writes: list[Write], before: Progress) -> tuple[Progress, dict[tuple[int, int, str], Any], list[Any]]:
    """What a store holds that has done these writes: its position, the rows of each generation, the dead letters."""
    rows: dict[tuple[int, int, str], Any] = {}
    letters: list[Any] = []
    at = before
    for write in writes:
        assert write.expected == at, "each write expects what the one before it leaves"
        at = write.progress
        space = (at.generation, at.epoch)
        for key, value in write.puts.items():
            rows[*space, key] = msgspec.json.decode(value)
        for key in write.deletes:
            rows.pop((*space, key), None)
        for key, flaw in write.flaws.items():
            rows[*space, key] = flaw
        letters += [(letter.offset, letter.code) for letter in write.dead_letters]
    return at, rows, letters


@given(st.lists(WHOLE | PARTIAL, min_size=1, max_size=30), AT)
def test_the_quick_way_folds_as_the_whole_one_does(stream: list[Any], before: Progress) -> None:
    left(fold(logged(*stream), before), before)  # `fold` compares the two


@given(st.lists(WHOLE, min_size=2, max_size=30), AT, st.data())
def test_where_a_stream_is_cut_changes_nothing(stream: list[Any], before: Progress, data: st.DataObject) -> None:
    records = logged(*stream)
    cut = data.draw(st.integers(1, len(records) - 1))
    first = fold(records[:cut], before)
    between = first[-1].progress if first else before
    at_once, in_two = left(fold(records, before), before), left([*first, *fold(records[cut:], between)], before)
    assert at_once == in_two


IN_ORDER = st.lists(st.tuples(KEYS, st.sampled_from(["a@x", "b@x"]), st.sampled_from("ud"), st.booleans()), min_size=1)


@given(IN_ORDER, AT, st.none() | PLACES)
def test_changes_in_order_fold_at_once_as_one_by_one(
    stream: list[tuple[int, str, str, bool]], before: Progress, high: int | None
) -> None:
    """Also where some of them are older than what was applied, and where tombstones are among them."""
    what: list[Change | bytes | None] = []
    for place, (key, email, op, is_followed) in enumerate(stream, 1):
        what += [row(key, email=email, op=op, at=place), *([None] if is_followed else [])]
    newest = changes.Sequence(high, high) if high else None
    left(fold(logged(*what), at := msgspec.structs.replace(before, high_water=newest)), at)  # `fold` compares the two
