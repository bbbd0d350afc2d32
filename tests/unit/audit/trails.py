"""A trail as a writer leaves it, for the tests to tamper with."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import msgspec

from headgate.audit.chain import Chain, Linked
from headgate.audit.checkpoints import Checkpoint, Checkpoints, Witness
from headgate.audit.event import cloudevent, event_id
from headgate.audit.signing import PublicKeys, Signer
from headgate.audit.verify import Entry, Report, Verifier

NOW_MS = 1_800_000_000_000


def body_of(number: int) -> tuple[str, bytes]:
    """An event and its id."""
    id_ = event_id(NOW_MS + number, number.to_bytes(10, "big"))
    return id_, cloudevent({"number": number}, id=id_, type="dev.headgate.test.v1", source="/test", time_ms=NOW_MS)


def checkpoints(folder: Path) -> Checkpoints:
    """What makes checkpoints in this folder."""
    numbers = itertools.count(1_000_000)
    return Checkpoints(
        Signer(folder),
        Witness(folder),
        source="/test",
        clock=lambda: NOW_MS,
        random_bytes=lambda count: next(numbers).to_bytes(count, "big"),
    )


def chain_of(
    folder: Path, writer: str = "w-1", count: int = 10, every: int = 4
) -> tuple[list[Linked], list[Checkpoint]]:
    """A writer's whole chain, with a checkpoint after each `every` events and at the end."""
    chain, maker = Chain(writer), checkpoints(folder)
    events, made = [], []
    for number in range(1, count + 1):
        events.append(chain.add(*body_of(number)))
        if number % every == 0 or number == count:
            checkpoint = maker.make(writer, chain.seq, chain.link, final=number == count)
            events.append(chain.add(checkpoint.id, maker.event(checkpoint)))
            made.append(checkpoint)
    return events, made


def entries_of(writer: str, events: Sequence[Linked]) -> list[Entry]:
    """The same as a trail holds it."""
    return [Entry(writer, each.seq, each.id, each.previous, each.link, each.body) for each in events]


def keys_of(folder: Path) -> PublicKeys:
    """This folder's key alone."""
    return PublicKeys([Signer(folder).public()])


def verified(entries: Sequence[Entry], keys: PublicKeys, witness: Sequence[Checkpoint] = ()) -> Report:
    """What the verifier says of a trail."""
    verifier = Verifier(keys, witness)
    for entry in entries:
        verifier.take(entry)
    return verifier.report()


def kinds(report: Report) -> list[tuple[str, int]]:
    """What was found, and where."""
    return [(breach.kind, breach.seq) for breach in report.breaches]


def changed(entry: Entry, **fields: object) -> Entry:
    """The entry with other fields."""
    return msgspec.structs.replace(entry, **fields)
