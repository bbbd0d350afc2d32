"""How a batch of one partition's records becomes writes: DESIGN §4, rules 2 to 5, without any server."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from headgate.errors import Unavailable
from headgate.flow.fitting import Fitting
from headgate.flow.folding import MOST_ROWS, DecodeRows, Folding, merge
from headgate.flow.lanes import Lane
from headgate.log.base import Logged, slices_of
from headgate.model import change as changes
from headgate.model.change import UNAVAILABLE, Change, Marker
from headgate.model.entity import Declared, DeclaredField, Entity, Field
from headgate.model.envelope import decode_change, decode_rows, encode_change, source_prefix
from headgate.model.position import Partition, Progress
from headgate.model.row import Row
from headgate.stores.base import Write

PARTITION = Partition("shop.public.customers", 0)
ENTITY = Entity(
    name="customer",
    pipeline="shop",
    table="public.customers",
    key=("id",),
    fields=(Field(name="id", type="integer", nullable=False), Field(name="email", type="string")),
    lookups=("email",),
)
DECLARED = Declared(
    name="customer", pipeline="shop", table="public.customers", fields={"email": DeclaredField(type="string")}
)
PREFIX = source_prefix("test", "shop", "", "public.customers")


def decode(key: bytes | None, value: bytes | None) -> Change | None:
    return None if value is None else decode_change(key, value)


def row(number: int, **fields: Any) -> Change:
    """An update as a source tells it; `at` is its place in the source's order."""
    at = fields.pop("at", None)
    op = fields.pop("op", "u")
    values = {"id": number, "email": None, **fields}
    return Change(
        op=op,
        table="public.customers",
        key=json.dumps({"id": number}).encode(),
        after=None if op == "d" else json.dumps(values, separators=(",", ":")).encode(),
        sequence=None if at is None else changes.Sequence(at, at),
        snapshot=op == "r",
        time_ms=1,
    )


def marker(phase: Any, generation: int, at: int | None = None) -> Change:
    sequence = None if at is None else changes.Sequence(at, at)
    return Change(op="m", table="public.customers", marker=Marker(phase, generation), sequence=sequence)


def logged(*what: Change | bytes | None, start: int = 0) -> list[Logged]:
    records = []
    for offset, each in enumerate(what, start):
        if isinstance(each, Change):
            records.append(Logged(PARTITION, offset, 1, each.key, encode_change(each, PREFIX)))
        else:
            records.append(Logged(PARTITION, offset, 1, b'{"id":1}', each))
    return records


def fold(
    records: Sequence[Logged], progress: Progress | None = None, rows: dict[str, Row] | None = None, target: int = 0
) -> list[Write]:
    stored = progress or Progress(fence=1, generation=5)
    lane = Lane(ENTITY, PARTITION, stored, msgspec.structs.replace(stored, target=target))
    kept = rows or {}

    def folded(decode_rows: DecodeRows | None) -> list[Write]:
        read = lambda _, keys: {key: kept[key] for key in keys if key in kept}  # noqa: E731 (short, and used once)
        folding = Folding(lane, Fitting(ENTITY, DECLARED), decode, read, decode_rows)
        return folding.fold(slices_of(records)[0], 77)

    writes = folded(decode_rows)
    assert writes == folded(None), "the quick way says what the whole one says"
    return writes


def emails(write: Write) -> dict[str, Any]:
    return {key: json.loads(value)["email"] for key, value in write.puts.items()}


@pytest.mark.parametrize("phase", ["begin", "end"])
def test_a_snapshot_over_more_partitions_is_none_of_an_entity_that_was_built_for_fewer(phase: Any) -> None:
    spread = Change(op="m", table="public.customers", marker=Marker(phase, 6, partitions=2))
    older = Change(op="m", table="public.customers", marker=Marker("begin", 4, partitions=2))
    with pytest.raises(Unavailable):
        fold(logged(row(1, email="before"), spread), Progress(generation=6 if phase == "end" else 5))
    assert emails(fold(logged(older, row(1, email="a")))[0]) == {"1": "a"}


def test_the_last_change_of_a_key_wins_and_the_position_moves_past_all() -> None:
    (write,) = fold(logged(row(1, email="a"), row(2, email="b"), row(1, email="c")))
    assert emails(write) == {"1": "c", "2": "b"}
    assert write.expected == Progress(fence=1, generation=5)
    assert write.progress.offset == 3


def test_a_delete_and_a_return_within_one_batch() -> None:
    (write,) = fold(logged(row(1, email="a"), row(1, op="d"), row(2, email="x"), row(2, op="d"), row(2, email="y")))
    assert write.deletes == {"1"}
    assert emails(write) == {"2": "y"}


def test_a_redelivered_prefix_is_passed_over() -> None:
    (write,) = fold(logged(row(1, email="old"), row(2, email="new")), Progress(offset=1))
    assert emails(write) == {"2": "new"}
    assert fold(logged(row(1, email="old")), Progress(offset=1)) == []


def test_what_a_restarted_source_tells_again_never_moves_a_row_back() -> None:
    (write,) = fold(logged(row(1, email="new", at=20), row(1, email="old", at=10), row(2, email="same", at=20)))
    assert emails(write) == {"1": "new", "2": "same"}
    assert write.progress.high_water == changes.Sequence(20, 20)
    (later,) = fold(logged(row(1, op="d", at=19), start=3), write.progress)
    assert (later.deletes, later.progress.offset) == (frozenset(), 4)


def test_a_snapshot_opens_a_generation_and_its_end_drops_what_it_already_holds() -> None:
    records = logged(
        row(9, email="before", at=1), marker("begin", 8), row(1, op="r", email="snap"), marker("end", 8, at=50),
        row(1, email="older than the snapshot", at=49), row(2, email="newer", at=51),
    )  # fmt: skip
    before, after = fold(records)
    assert (before.progress.generation, emails(before)) == (5, {"9": "before"})
    assert before.progress == after.expected
    assert (after.progress.generation, after.progress.complete) == (8, True)
    assert emails(after) == {"1": "snap", "2": "newer"}
    assert after.progress.high_water == changes.Sequence(51, 51)


def test_a_generation_is_not_whole_before_the_log_has_been_caught_up_with() -> None:
    (write,) = fold(logged(marker("begin", 8), marker("end", 8, at=1)), Progress(), target=4)
    assert (write.progress.ended, write.progress.complete) == (True, False)
    (then,) = fold(logged(row(1, at=2), row(1, at=3), start=2), write.progress, target=4)
    assert then.progress.complete


def test_an_interrupted_snapshot_is_outdone_by_the_next_one() -> None:
    records = logged(marker("begin", 8), row(1, op="r"), marker("begin", 9), row(2, op="r"), marker("end", 8),
                     marker("end", 9))  # fmt: skip
    writes = fold(records)
    assert [write.progress.generation for write in writes] == [8, 9]
    assert set(writes[-1].puts) == {"2"}
    assert writes[-1].progress.complete


def test_a_truncate_starts_a_new_epoch_and_drops_nothing_that_came_after() -> None:
    gone = Change(op="t", table="public.customers", sequence=changes.Sequence(5, 5))
    before, after = fold(logged(row(1, at=4), gone, row(2, at=6)))
    assert (set(before.puts), before.progress.epoch) == ({"1"}, 0)
    assert (set(after.puts), after.progress.epoch) == ({"2"}, 1)


def test_a_column_that_was_left_out_comes_from_the_row_before() -> None:
    stored = {"1": Row("1", 0, 0, b'{"id":1,"email":"kept","big":"TOAST"}')}
    changed = row(1, email="new", big=UNAVAILABLE)
    (write,) = fold(logged(changed), rows=stored)
    assert json.loads(write.puts["1"]) == {"id": 1, "email": "new", "big": "TOAST"}
    (write,) = fold(logged(row(1, email="a", big="first"), changed))
    assert json.loads(write.puts["1"])["big"] == "first"


def test_a_left_out_column_without_a_trusted_row_is_a_dead_letter() -> None:
    flawed = {"1": Row("1", 0, 0, b'{"id":1,"big":"x"}', "schema_mismatch")}
    for stored in ({}, flawed):
        (write,) = fold(logged(row(1, email="new", big=UNAVAILABLE)), rows=stored)
        assert write.flaws == {"1": "schema_mismatch"}
        assert write.dead_letters[0].offset == 0
    (write,) = fold(logged(row(1, email="a", big="x"), row(1, op="d"), row(1, email="b", big=UNAVAILABLE)))[-1:]
    assert write.flaws == {"1": "schema_mismatch"}


def test_what_does_not_fit_is_kept_whole_and_its_key_marked_until_a_later_change_heals_it() -> None:
    bad = row(1, email=7)
    writes = fold(logged(row(1, email="good"), bad, row(2, email="other")))
    assert emails(writes[0]) == {"1": "good"}
    letter = writes[1].dead_letters[0]
    assert (letter.code, letter.offset, letter.entity, letter.time_ms) == ("schema_mismatch", 1, "customer", 77)
    assert letter.value == encode_change(bad, PREFIX)
    assert "$.email" in letter.message
    assert (writes[1].flaws, set(writes[1].puts)) == ({"1": "schema_mismatch"}, {"2"})
    (healed,) = fold(logged(bad, row(1, email="mended")))
    assert (healed.flaws, emails(healed)) == ({}, {"1": "mended"})
    assert len(healed.dead_letters) == 1


def test_garbage_is_a_dead_letter_and_stops_nothing() -> None:
    garbage = [b"", b"{", b"[]", b'{"op":"x"}', b'{"op":"c","after":7}', b"\xff\xfe", b'{"op":"u"}']
    writes = fold([*logged(*garbage), Logged(PARTITION, 7, 1, None, encode_change(row(3, email="x"), PREFIX)),
                   *logged(row(4, email="fine"), start=8)])  # fmt: skip
    letters = [letter for write in writes for letter in write.dead_letters]
    assert [letter.offset for letter in letters] == list(range(8))
    assert {letter.code for letter in letters} == {"change_undecodable"}
    assert emails(writes[-1]) == {"4": "fine"}
    assert writes[-1].progress.offset == 9


def test_a_tombstone_moves_the_position_alone() -> None:
    (write,) = fold(logged(None))
    assert (write.puts, write.deletes, write.progress.offset) == ({}, frozenset(), 1)


def test_writes_are_bounded_and_chained() -> None:
    writes = fold(logged(*(row(number) for number in range(MOST_ROWS * 2 + 10))))
    assert [len(write.puts) for write in writes] == [MOST_ROWS, MOST_ROWS, 10]
    assert [write.expected for write in writes[1:]] == [write.progress for write in writes[:-1]]


def test_merge_needs_no_base_where_nothing_was_left_out() -> None:
    assert merge(b'{"a":1}', None) == b'{"a":1}'


def test_after_the_log_was_lost_rows_stand_still_until_a_newer_snapshot_begins() -> None:
    lost = Progress(fence=1, generation=8, awaiting=True, epoch=3)
    records = logged(row(1, email="old"), marker("begin", 8), row(1, email="replayed"), marker("end", 8),
                     marker("begin", 9), row(2, op="r", email="new"), marker("end", 9, at=7))  # fmt: skip
    before, after = fold(records, lost)
    assert (before.puts, before.progress.generation, before.progress.offset) == ({}, 8, 4)
    assert not before.progress.complete
    assert (emails(after), after.progress.generation, after.progress.complete) == ({"2": "new"}, 9, True)


# --- topics that others fill -------------------------------------------------------------------------


class Readable:
    """Keys as they are, as those of JSON are."""

    def key(self, key: bytes | None, value: bytes | None) -> bytes:
        return key or b"null"

    def keys(self, keys: Sequence[bytes | None], values: Sequence[bytes | None]) -> Sequence[bytes | None]:
        return keys


def fold_of_others(
    changed: Sequence[Change], progress: Progress | None = None, rows: dict[str, Row] | None = None, partitions: int = 1
) -> list[Write]:
    """What these changes of others come to, each a record of its own."""
    entity = msgspec.structs.replace(ENTITY, partitions=partitions)
    stored = progress or Progress(generation=1, ended=True)
    kept = rows or {}
    folding = Folding(
        Lane(entity, PARTITION, stored, stored),
        Fitting(entity, Declared(name="customer", pipeline="shop", table="public.customers")),
        lambda _, value: changed[int(value or b"0")],
        lambda _, keys: {key: kept[key] for key in keys if key in kept},
        keys=Readable(),
    )
    records = [Logged(PARTITION, n, 1, change.key, str(n).encode()) for n, change in enumerate(changed)]
    return folding.fold(slices_of(records)[0], 77)


def test_a_truncate_of_others_in_one_partition_truncates_and_in_several_is_refused() -> None:
    gone = Change(op="t", table="public.customers")
    before, after = fold_of_others([row(1), gone, row(2)])
    assert (set(before.puts), set(after.puts), after.progress.epoch) == ({"1"}, {"2"}, 1)
    writes = fold_of_others([row(1), gone, row(2)], partitions=3)
    assert [letter.code for write in writes for letter in write.dead_letters] == ["truncate_unclear"]
    assert {write.progress.epoch for write in writes} == {0}


def test_where_whole_tables_are_read_again_what_follows_is_not_too_old() -> None:
    high = Progress(generation=1, ended=True, high_water=changes.Sequence(100, 100))
    read = msgspec.structs.replace(row(1, op="r", email="read", at=40), begins_anew=True)
    (write,) = fold_of_others([row(1, email="older", at=50), read, row(1, email="newer", at=41)], high)
    assert emails(write) == {"1": "newer"}
    assert write.progress.high_water == changes.Sequence(41, 41)
    (write,) = fold_of_others([msgspec.structs.replace(read, begins_anew=False), row(2, at=41)], high)
    assert set(write.puts) == {"1"}


def newest(number: int, value: int, most: int = 3) -> Change:
    key = json.dumps({"id": number}).encode()
    return Change(op="u", table="topic.t", key=key, after=json.dumps({"v": value}).encode(), latest=most)


def test_a_row_holds_the_newest_records_of_its_key_and_how_many_there_were() -> None:
    stored = {"1": Row("1", 0, 0, b'{"id":1,"count":7,"latest":[{"v":7},{"v":6},{"v":5}]}', "schema_mismatch")}
    (write,) = fold_of_others([newest(1, 8), newest(2, 1), newest(1, 9), newest(1, 10, most=2)], rows=stored)
    assert json.loads(write.puts["1"]) == {"id": 1, "count": 10, "latest": [{"v": 10}, {"v": 9}]}
    assert json.loads(write.puts["2"]) == {"id": 2, "count": 1, "latest": [{"v": 1}]}
    empty = {"1": Row("1", 0, 0, b"{}", "schema_mismatch")}
    (write,) = fold_of_others([newest(1, 1)], rows=empty)
    assert json.loads(write.puts["1"])["count"] == 1
