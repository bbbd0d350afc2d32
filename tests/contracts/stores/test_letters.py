"""Dead letters as writers need them: found by id, copied at least once, settled with the rows they concern."""

from __future__ import annotations

import pytest
from msgspec import structs

from headgate.errors import Refused
from headgate.model.change import Sequence
from tests.contracts.stores.cases import Store, customer, letter, values


def test_ids_come_oldest_first_and_letters_in_the_order_asked(store: Store) -> None:
    feed = store.feed()
    assert feed.writer.dead_letter_ids("shop") == []
    feed.apply(feed.write(0, letters=[letter(1, 300), letter(2, 100)]))
    feed.apply(feed.write(1, letters=[letter(3, 200), letter(9, 1, pipeline="other")]))
    assert feed.writer.dead_letter_ids("shop") == [letter(offset, 0).id for offset in (2, 3, 1)]
    asked = [letter(1, 0).id, "customer/gone/0/0", letter(2, 0).id]
    assert feed.writer.dead_letters("shop", asked) == [letter(1, 300), letter(2, 100)]
    assert feed.writer.dead_letters("shop", []) == []


def test_two_entities_of_one_topic_keep_a_letter_each(store: Store) -> None:
    feed = store.feed()
    feed.apply(feed.write(0, letters=[letter(1, 1), letter(1, 2, entity="other")]))
    assert len(feed.writer.dead_letter_ids("shop")) == 2


def test_all_of_a_letter_comes_back(store: Store) -> None:
    feed = store.feed()
    whole = letter(
        1, 1, row="a,b/ü", generation=7, epoch=2, high_water=Sequence(5, 6), tried_ms=9, key=None, value=None
    )
    feed.apply(feed.write(0, letters=[whole]))
    assert feed.writer.dead_letters("shop", [whole.id]) == [whole]


def test_a_letter_is_due_to_be_copied_until_that_is_noted(store: Store) -> None:
    feed = store.feed()
    feed.apply(feed.write(0, letters=[letter(offset, offset) for offset in range(5)]))
    assert len(feed.writer.uncopied_dead_letters("shop", 3)) == 3
    feed.writer.note_copied("shop", [letter(offset, 0).id for offset in range(4)])
    feed.writer.note_copied("shop", [letter(0, 0).id])
    feed.writer.note_copied("shop", [])
    assert feed.writer.uncopied_dead_letters("shop", 9) == [letter(4, 4)]
    assert len(feed.writer.dead_letter_ids("shop")) == 5


def test_a_letter_that_was_tried_again_is_not_copied_again(store: Store) -> None:
    feed = store.feed()
    feed.apply(feed.write(0, letters=[letter(1, 1)]))
    feed.writer.note_copied("shop", [letter(1, 1).id])
    feed.apply(feed.write(0, letters=[letter(1, 1, tried_ms=5, message="again")]))
    assert feed.writer.uncopied_dead_letters("shop", 9) == []
    (kept,) = feed.writer.dead_letters("shop", [letter(1, 1).id])
    assert kept.message == "again"


def test_a_letter_that_is_dropped_is_no_longer_due(store: Store) -> None:
    feed = store.feed()
    feed.apply(feed.write(0, letters=[letter(1, 1)]))
    assert feed.writer.drop_dead_letters("shop", [letter(1, 1).id]) == 1
    assert feed.writer.uncopied_dead_letters("shop", 9) == []


async def test_a_letter_is_settled_in_the_step_that_mends_its_row(store: Store) -> None:
    feed = store.feed()
    feed.show(customer(1))
    flawed = feed.write(1, flaws={"1": "schema_mismatch"}, letters=[letter(1, 1), letter(2, 2)])
    feed.apply(flawed)
    mended = feed.write(1, {"1": customer(1, plan="vip")}, offset=feed.progress[1].offset)
    refused = structs.replace(mended, expected=flawed.expected)
    with pytest.raises(Refused):
        feed.writer.apply([structs.replace(refused, settled=[letter(1, 1).id])])
    assert len(feed.writer.dead_letter_ids("shop")) == 2
    feed.apply(structs.replace(mended, settled=[letter(1, 1).id, "customer/gone/0/0"]))
    reader = store.reader()
    (row,) = (await reader.get("customer", ["1"])).rows
    assert (row.flaw, values([row])["1"]["plan"]) == ("", "vip")
    assert await reader.dead_letters("shop", 9) == ([letter(2, 2)], 1)
