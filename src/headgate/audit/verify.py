"""Whether a trail is whole: nothing changed, missing, in another order, doubled with other content, or cut off.

A trail is read once, from its beginning to its end, whatever its size. What is kept meanwhile is the end of each
writer's chain and the links of the newest 200,000 events.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Literal

import msgspec

from headgate.audit.chain import first_link, link_of_digest
from headgate.audit.checkpoints import Checkpoint, checkpoint_in
from headgate.audit.signing import PublicKeys
from headgate.audit.stub import digest_of, stub_in

Kind = Literal["changed", "missing", "reordered", "doubled", "cut", "signature", "unknown_key", "foreign"]

REMEMBERED = 200_000
"""So many of the newest events' links are held against what comes again."""
MOST_BREACHES = 1_000
"""Beyond these only their number is kept."""


class Entry(msgspec.Struct, frozen=True, gc=False):
    """An event as a trail holds it. Nothing of it is taken for true."""

    writer: str
    seq: int
    id: str
    previous: bytes
    link: bytes
    body: bytes


class Breach(msgspec.Struct, frozen=True, kw_only=True):
    """Where a trail does not hold, and how."""

    kind: Kind
    writer: str = ""
    seq: int = 0
    id: str = ""
    message: str = ""


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """One writer's part of a trail."""

    writer: str
    first: int
    """1, or where the trail begins now: what was before has expired."""
    last: int
    signed: int
    """Up to where a checkpoint that holds covers it; 0 when none does."""
    final: bool
    """Whether the writer's last checkpoint is there. Without it the writer lives, or was killed."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What was found. The trail is whole when there are no breaches."""

    events: int
    repeated: int
    """Events that came again with the same content: at least once is what publishing promises."""
    withheld: int
    """Events of which the trail has the digest alone, for they were too large for the log."""
    writers: Sequence[Verified]
    breaches: Sequence[Breach]
    breached: int
    """How many breaches there are; `breaches` are the first thousand."""


class Verifier:
    """Takes the entries of one trail in its order, then says what it makes of them."""

    def __init__(self, keys: PublicKeys, witness: Iterable[Checkpoint] = ()) -> None:
        """`witness` has checkpoints that were kept apart: the trail must reach as far."""
        self._keys = keys
        self._witness: dict[str, Checkpoint] = {}
        self._links: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._parts: dict[str, _Part] = {}
        self._breaches: list[Breach] = []
        self._breached = 0
        self._events = 0
        self._repeated = 0
        self._withheld = 0
        for checkpoint in witness:
            if self._is_signed(checkpoint, checkpoint.seq):
                self._witness[checkpoint.writer] = checkpoint

    def take(self, entry: Entry) -> None:
        """The next entry."""
        self._events += 1
        is_true = self._check_alone(entry)
        part = self._parts.get(entry.writer)
        if part is None:
            if not is_true:
                return  # its number and its writer are as doubtful as the rest
            part = self._parts[entry.writer] = _Part(entry)
            self._check_first(entry)
        elif entry.seq <= part.last:
            self._take_again(part, entry)
            return
        elif is_true or entry.seq == part.last + 1:
            self._check_order(part, entry, is_true=is_true)
            self._prove(part)
            part.advance(entry, is_true=is_true)
        else:
            return
        self._remember(entry)
        self._check_witness(entry)
        self._check_checkpoint(part, entry)

    def foreign(self, message: str) -> None:
        """Something in the trail that is no entry."""
        self._events += 1
        self._add(Breach(kind="foreign", message=message))

    def report(self) -> Report:
        """What the trail is, now that it has ended."""
        for part in self._parts.values():
            self._prove(part)
            for low, high in part.missing:
                events = f"event {low} is" if low == high else f"the events {low} to {high} are"
                self._add(Breach(kind="missing", writer=part.writer, seq=low, message=f"{events} missing"))
            self._check_reaches(part.writer, part.last)
        for writer in self._witness.keys() - self._parts.keys():
            self._check_reaches(writer, 0)
        return Report(
            events=self._events,
            repeated=self._repeated,
            withheld=self._withheld,
            writers=[part.verified() for _, part in sorted(self._parts.items())],
            breaches=self._breaches,
            breached=self._breached,
        )

    # --- one entry -------------------------------------------------------------------------------

    def _check_alone(self, entry: Entry) -> bool:
        """Whether the entry's content is what its link says."""
        try:
            if _link(entry) == entry.link:
                return True
            stub = stub_in(entry.body)
            if stub is not None and (stub.writer, stub.seq, stub.id) == (entry.writer, entry.seq, entry.id):
                digest = digest_of(stub)
                if link_of_digest(entry.previous, *_name(entry), digest, stub.bytes) == entry.link:
                    self._withheld += 1
                    return True
        except (ValueError, OverflowError):
            pass  # what can't be linked was never linked
        self._found("changed", entry, "its content is not what its link says")
        return False

    def _check_first(self, entry: Entry) -> None:
        if entry.seq == 1 and entry.previous != first_link(entry.writer):
            self._found("changed", entry, "it is not linked to the beginning of its writer's chain")

    def _check_order(self, part: _Part, entry: Entry, *, is_true: bool) -> None:
        if entry.seq != part.last + 1:
            part.missing.append((part.last + 1, entry.seq - 1))
        elif entry.previous != part.link and is_true and part.is_true:
            self._found("changed", entry, f"it is not linked to the event before it, {part.last}")

    def _take_again(self, part: _Part, entry: Entry) -> None:
        """One that was passed: a double, or one that stands in the wrong place."""
        known = self._links.get((entry.writer, entry.seq))
        if part.fill(entry.seq):
            self._found("reordered", entry, "it comes after events that follow it")
            self._remember(entry)
        elif entry.seq < part.first:
            self._found("reordered", entry, f"it comes after event {part.first}, with which the trail began")
        else:
            goes_on = part.again == (entry.seq - 1, entry.previous)
            if known is not None:
                self._check_double(entry, same=known == entry.link)
                if goes_on:
                    part.unproven = None  # the link tells all of the stretch that leads to it
            else:
                self._repeated += 1
            if known is None and not goes_on:
                self._prove(part)
                part.unproven = entry
        part.again = (entry.seq, entry.link)

    def _prove(self, part: _Part) -> None:
        """A stretch that came again must have led to an event that is remembered."""
        if part.unproven is not None:
            self._found("doubled", part.unproven, "it is there twice, and nothing says that the content is the same")
            part.unproven = None

    def _check_double(self, entry: Entry, *, same: bool) -> None:
        if same:
            self._repeated += 1
        else:
            self._found("doubled", entry, "it is there twice, with different content")

    # --- checkpoints -----------------------------------------------------------------------------

    def _check_checkpoint(self, part: _Part, entry: Entry) -> None:
        try:
            checkpoint = checkpoint_in(entry.body)
        except (ValueError, UnicodeDecodeError):
            self._found("signature", entry, "it is no checkpoint that can be read")
            return
        if checkpoint is None:
            part.final = False
            return
        if (checkpoint.writer, checkpoint.seq, checkpoint.link) != (entry.writer, entry.seq - 1, entry.previous.hex()):
            self._found("signature", entry, "the checkpoint is about another chain than the one that it stands in")
        elif self._is_signed(checkpoint, entry.seq):
            part.signed = checkpoint.seq
            part.final = checkpoint.final

    def _is_signed(self, checkpoint: Checkpoint, seq: int) -> bool:
        if checkpoint.holds(self._keys):
            return True
        kind: Kind = "signature" if self._keys.knows(checkpoint.key) else "unknown_key"
        message = "the checkpoint's signature does not hold"
        if kind == "unknown_key":
            message = f"the checkpoint is signed by the key {checkpoint.key[:32]!r}, which is none of the trusted ones"
        self._add(Breach(kind=kind, writer=checkpoint.writer, seq=seq, id=checkpoint.id, message=message))
        return False

    def _check_witness(self, entry: Entry) -> None:
        witness = self._witness.get(entry.writer)
        if witness is not None and witness.seq == entry.seq and witness.link != entry.link.hex():
            self._found("changed", entry, "a checkpoint that was kept apart says another link")

    def _check_reaches(self, writer: str, last: int) -> None:
        witness = self._witness.get(writer)
        if witness is not None and witness.seq >= last:  # the checkpoint's own event comes after what it is about
            message = f"the trail ends at {last}, and a checkpoint that was kept apart is the event {witness.seq + 1}"
            self._add(Breach(kind="cut", writer=writer, seq=last + 1, message=message))

    # --- its small parts -------------------------------------------------------------------------

    def _remember(self, entry: Entry) -> None:
        self._links[entry.writer, entry.seq] = entry.link
        if len(self._links) > REMEMBERED:
            self._links.popitem(last=False)

    def _found(self, kind: Kind, entry: Entry, message: str) -> None:
        self._add(Breach(kind=kind, writer=entry.writer, seq=entry.seq, id=entry.id, message=message))

    def _add(self, breach: Breach) -> None:
        self._breached += 1
        if len(self._breaches) < MOST_BREACHES:
            self._breaches.append(breach)


class _Part:
    """One writer's part so far."""

    __slots__ = ("again", "final", "first", "is_true", "last", "link", "missing", "signed", "unproven", "writer")

    def __init__(self, entry: Entry) -> None:
        self.writer = entry.writer
        self.first = entry.seq
        self.missing: list[tuple[int, int]] = []
        self.again: tuple[int, bytes] | None = None
        """The newest one that came again, and its link."""
        self.unproven: Entry | None = None
        """Where a stretch began that came again, of which no event is remembered so far."""
        self.signed = 0
        self.final = False
        self.advance(entry, is_true=True)

    def advance(self, entry: Entry, *, is_true: bool) -> None:
        self.last = entry.seq
        self.link = entry.link
        self.is_true = is_true
        self.again = None

    def fill(self, seq: int) -> bool:
        """Takes one out of those that were missing; answers whether it was one."""
        for place, (low, high) in enumerate(self.missing):
            if low <= seq <= high:
                self.missing[place : place + 1] = [
                    each for each in ((low, seq - 1), (seq + 1, high)) if each[0] <= each[1]
                ]
                return True
        return False

    def verified(self) -> Verified:
        return Verified(writer=self.writer, first=self.first, last=self.last, signed=self.signed, final=self.final)


def _name(entry: Entry) -> tuple[str, int, str]:
    return entry.writer, entry.seq, entry.id


def _link(entry: Entry) -> bytes:
    return link_of_digest(entry.previous, *_name(entry), sha256(entry.body).digest(), len(entry.body))
