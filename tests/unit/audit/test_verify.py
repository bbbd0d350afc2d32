"""Verifying: a trail that was touched is found to be, and where; one that was not is whole."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.audit import verify as verify_module
from headgate.audit.chain import Chain, link_of
from headgate.audit.checkpoints import Checkpoint
from headgate.audit.signing import PublicKeys
from headgate.audit.stub import stub_of
from headgate.audit.verify import Entry
from tests.unit.audit.trails import (
    body_of,
    chain_of,
    changed,
    checkpoints,
    entries_of,
    keys_of,
    kinds,
    verified,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture
def keys(folder: Path) -> PublicKeys:
    return keys_of(folder)


@pytest.fixture
def trail(folder: Path) -> list[Entry]:
    return entries_of("w-1", chain_of(folder)[0])


@pytest.fixture
def witness(folder: Path) -> list[Checkpoint]:
    return chain_of(folder)[1]


def test_a_trail_that_nobody_touched_is_whole(trail: list[Entry], keys: PublicKeys, witness: list[Checkpoint]) -> None:
    report = verified(trail, keys, witness[-1:])
    assert report.breaches == []
    (part,) = report.writers
    assert (report.events, part.first, part.last, part.signed, part.final) == (13, 1, 13, 12, True)


def test_writers_may_be_mixed(folder: Path, keys: PublicKeys) -> None:
    trails = [entries_of(writer, chain_of(folder, writer)[0]) for writer in ("w-1", "w-2", "w-3")]
    mixed = [entry for row in zip(*trails, strict=True) for entry in row]
    report = verified(mixed, keys)
    assert (report.breached, len(report.writers)) == (0, 3)


@pytest.mark.parametrize("field", ["writer", "id", "previous", "link", "body"])
def test_a_changed_event_is_named(trail: list[Entry], keys: PublicKeys, field: str) -> None:
    for place, entry in enumerate(trail):
        value = getattr(entry, field)
        other = value + "x" if isinstance(value, str) else bytes([value[0] ^ 1]) + value[1:]
        found = kinds(verified([*trail[:place], changed(entry, **{field: other}), *trail[place + 1 :]], keys))
        assert ("changed", entry.seq) in found, (field, entry.seq, found)


def test_an_event_that_is_linked_anew_breaks_the_link_after_it(trail: list[Entry], keys: PublicKeys) -> None:
    id_, body = body_of(99)
    entry = trail[5]
    forged = changed(entry, id=id_, body=body, link=link_of(entry.previous, "w-1", entry.seq, id_, body))
    assert kinds(verified([*trail[:5], forged, *trail[6:]], keys)) == [("changed", 7)]


def test_a_whole_chain_that_is_forged_lacks_the_signature(
    trail: list[Entry], folder: Path, tmp_path: Path, keys: PublicKeys, witness: list[Checkpoint]
) -> None:
    forged = entries_of("w-1", chain_of(tmp_path)[0])
    found = kinds(verified(forged, keys, witness[-1:]))
    assert ("unknown_key", 5) in found and ("changed", 12) in found


def test_a_signature_that_does_not_hold_is_named(trail: list[Entry], folder: Path, keys: PublicKeys) -> None:
    chain, maker = Chain("w-1"), checkpoints(folder)
    chain.add(*body_of(1))
    good = maker.make("w-1", chain.seq, chain.link, final=False)
    wrong = maker.make("w-1", chain.seq, bytes(32), final=False)
    forged = Checkpoint(
        **{name: getattr(good, name) for name in good.__struct_fields__} | {"signature": wrong.signature}
    )
    chain = Chain("w-1")
    events = [chain.add(*body_of(1)), chain.add(forged.id, maker.event(forged))]
    assert kinds(verified(entries_of("w-1", events), keys)) == [("signature", 2)]


def test_a_checkpoint_of_another_chain_does_not_vouch_for_this_one(folder: Path, keys: PublicKeys) -> None:
    maker, chain = checkpoints(folder), Chain("w-1")
    events = [chain.add(*body_of(1))]
    strange = maker.make("w-2", chain.seq, chain.link, final=True)
    events.append(chain.add(strange.id, maker.event(strange)))
    report = verified(entries_of("w-1", events), keys)
    assert kinds(report) == [("signature", 2)] and report.writers[0].signed == 0


@pytest.mark.parametrize("place", [1, 5, 11])
def test_a_missing_event_is_named(trail: list[Entry], keys: PublicKeys, place: int) -> None:
    assert kinds(verified([*trail[:place], *trail[place + 1 :]], keys)) == [("missing", place + 1)]


def test_a_missing_stretch_is_named_once(trail: list[Entry], keys: PublicKeys) -> None:
    report = verified([*trail[:3], *trail[8:]], keys)
    assert [breach.message for breach in report.breaches] == ["the events 4 to 8 are missing"]


def test_events_in_another_order_are_named(trail: list[Entry], keys: PublicKeys) -> None:
    swapped = [*trail[:4], trail[5], trail[4], *trail[6:]]
    assert kinds(verified(swapped, keys)) == [("reordered", 5)]


def test_what_was_before_the_first_event_has_expired(trail: list[Entry], keys: PublicKeys) -> None:
    report = verified(trail[6:], keys)
    assert (report.breached, report.writers[0].first) == (0, 7)
    assert kinds(verified([*trail[6:], trail[2]], keys)) == [("reordered", 3)]


def test_the_same_again_is_no_breach_and_another_content_is(trail: list[Entry], keys: PublicKeys) -> None:
    report = verified([*trail[:9], *trail[4:]], keys)
    assert (report.breached, report.repeated) == (0, 5)
    id_, body = body_of(99)
    other = changed(trail[4], id=id_, body=body, link=link_of(trail[4].previous, "w-1", 5, id_, body))
    assert kinds(verified([*trail[:9], other, *trail[9:]], keys)) == [("doubled", 5)]


def test_what_comes_again_long_after_is_told_by_where_it_leads(
    trail: list[Entry], keys: PublicKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify_module, "REMEMBERED", 3)
    assert verified([*trail, *trail[2:]], keys).breached == 0
    assert verified([*trail[:10], *trail[2:]], keys).breached == 0
    assert kinds(verified([*trail, *trail[2:5]], keys)) == [("doubled", 3)]
    chain = Chain("w-1", 2, trail[1].link)
    forged = entries_of("w-1", [chain.add(*body_of(number)) for number in range(90, 101)])
    assert ("doubled", 13) in kinds(verified([*trail, *forged], keys))


@pytest.mark.parametrize("kept", [0, 1, 8, 12])
def test_a_tail_that_was_cut_off_is_found_by_the_checkpoint_apart(
    trail: list[Entry], keys: PublicKeys, witness: list[Checkpoint], kept: int
) -> None:
    assert kinds(verified(trail[:kept], keys, witness[-1:])) == [("cut", kept + 1)]


def test_without_its_last_checkpoint_a_trail_is_open(trail: list[Entry], keys: PublicKeys) -> None:
    (part,) = verified(trail[:-1], keys).writers
    assert (part.signed, part.final) == (9, False)


def test_a_stub_holds_its_place_and_nothing_in_it_can_be_changed(folder: Path, keys: PublicKeys) -> None:
    events, _ = chain_of(folder)
    trail = entries_of("w-1", events)
    stub = stub_of("w-1", events[4])
    report = verified([*trail[:4], changed(trail[4], body=stub), *trail[5:]], keys)
    assert (report.breached, report.withheld) == (0, 1)
    for place in range(len(stub)):
        flipped = stub[:place] + bytes([stub[place] ^ 1]) + stub[place + 1 :]
        assert verified([*trail[:4], changed(trail[4], body=flipped), *trail[5:]], keys).breached, place
    assert verified([*trail[:4], changed(trail[4], body=stub_of("w-2", events[4])), *trail[5:]], keys).breached


def test_thousands_of_breaches_are_counted_and_not_kept(trail: list[Entry], keys: PublicKeys) -> None:
    report = verified([changed(trail[0], body=b"{}")] * 5_000, keys)
    assert (report.breached, len(report.breaches)) == (5_000, verify_module.MOST_BREACHES)


@settings(max_examples=200)
@given(seed=st.integers(0, 2**32))
def test_no_tampering_at_random_goes_unseen(folder: Path, seed: int) -> None:
    """Whatever is taken out, moved, changed or added: it is found, unless the trail is what it was."""
    chance = random.Random(seed)
    events, witness = chain_of(folder)
    trail = entries_of("w-1", events)
    tampered = list(trail)
    for _ in range(chance.randint(1, 3)):
        _tamper(tampered, chance)
    report = verified(tampered, keys_of(folder), witness[-1:])
    distinct = [entry for place, entry in enumerate(tampered) if entry not in tampered[:place]]
    expired = tampered and distinct == trail[trail.index(distinct[0]) :] if distinct and distinct[0] in trail else False
    if report.breached == 0:
        assert expired, "only repeated events and an expired beginning are no breach"


def _tamper(trail: list[Entry], chance: random.Random) -> None:
    if not trail:
        return
    place = chance.randrange(len(trail))
    match chance.randrange(4):
        case 0:
            del trail[place]
        case 1:
            trail.insert(chance.randrange(len(trail)), trail.pop(place))
        case 2:
            body = bytearray(trail[place].body)
            body[chance.randrange(len(body))] ^= 1 << chance.randrange(8)
            trail[place] = changed(trail[place], body=bytes(body))
        case 3:
            del trail[place:]
