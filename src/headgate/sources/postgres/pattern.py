"""Rows that look alike: one regular expression takes such a row apart, one template puts its JSON together.

A column of a message is `n` (null), `u` (left out), or `t`, four bytes of length, and text without zero bytes:
https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html#PROTOCOL-LOGICALREP-MESSAGE-FORMATS-TUPLEDATA
Two zero bytes after a `t` are then the length of a text shorter than 64 KiB and nothing else, so that the
expression can't slip from one text into the next. A text before a null could swallow the `n`: there the
length is compared. As many columns must match as there are, so that this holds for all of them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

import msgspec

from headgate.model.change import UNAVAILABLE
from headgate.sources.postgres.values import Cut, Form

_MARK = rb"t\0\0.."
_ANY = rb"([^\0]*)"


Found = tuple[bytes, bytes, bool]
"""The row's JSON, its key's, and whether columns are left out of it."""


class Pattern:
    """How rows of one table are read in which the same columns are null, and the same left out."""

    def __init__(
        self, names: Sequence[str], forms: Sequence[Form], key: Sequence[int], nulls: int, missing: int
    ) -> None:
        self.hits = 0
        """Rows read since someone set this to 0."""
        self.nulls = nulls
        self.missing = missing
        self.partial = missing != 0
        cuts = [_cut(form) for form in forms]
        places = [None if (nulls | missing) >> index & 1 else cut for index, cut in enumerate(cuts)]
        self._groups = _groups(places)
        width = re.escape(len(places).to_bytes(2, "big"))
        self._match = re.compile(width + b"".join(self._expressions(places)), re.DOTALL).fullmatch
        self._checks = tuple(self._open_ends(places))
        self._converts = tuple(
            (self._groups[index].start, form.convert)
            for index, form in enumerate(forms)
            if places[index] is not None and form.cut is None and form.convert is not None
        )
        members = [b"%b:%b" % (_name(name), self._member(index, places)) for index, name in enumerate(names)]
        self._row = b"{%b}" % b",".join(members)
        self._key = b"{%b}" % b",".join([members[index] for index in key])
        groups = tuple(group for index in key for group in self._groups[index])
        self._first = groups[0]
        self._more = groups if len(groups) > 1 else None

    def read(self, data: bytes, at: int) -> Found | None:
        """The row that fills `data` from its width at `at` on; None if it does not look like this."""
        found = self._match(data, at)
        if found is None:
            return None
        for first, last in self._checks:
            start = found.start(first)
            if found.end(last) - start != data[start - 2] << 8 | data[start - 1]:
                return None
        self.hits += 1
        values: list[bytes] = [*found.groups()]
        for group, convert in self._converts:
            values[group] = convert(values[group])
        parts = values[self._first] if self._more is None else tuple([values[group] for group in self._more])
        return self._row % (*values,), self._key % parts, self.partial

    def _expressions(self, places: Sequence[Cut | None]) -> list[bytes]:
        return [
            _MARK + cut.pattern if cut is not None else b"u" if self.missing >> index & 1 else b"n"
            for index, cut in enumerate(places)
        ]

    def _open_ends(self, places: Sequence[Cut | None]) -> list[tuple[int, int]]:
        """The groups of each text whose end only its length tells, by the numbers that a match gives them."""
        return [
            (self._groups[index].start + 1, self._groups[index].stop)
            for index, (cut, after) in enumerate(pairwise(places))
            if cut is not None and after is None and not cut.closed
        ]

    def _member(self, index: int, places: Sequence[Cut | None]) -> bytes:
        cut = places[index]
        if cut is not None:
            return cut.template
        return b'"%b"' % UNAVAILABLE.encode() if self.missing >> index & 1 else b"null"


def _cut(form: Form) -> Cut:
    return form.cut or Cut(_ANY, b'"%b"' if form.quoted else b"%b", False)


def _groups(places: Sequence[Cut | None]) -> list[range]:
    """Per column, its groups' places in a match."""
    found, next_group = [], 0
    for cut in places:
        count = 0 if cut is None else cut.pattern.count(b"(")
        found.append(range(next_group, next_group + count))
        next_group += count
    return found


def _name(name: str) -> bytes:
    return msgspec.json.encode(name).replace(b"%", b"%%")
