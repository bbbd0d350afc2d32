"""Rows of one table as JSON: values in the server's text form in, the bytes of an object out.

This is the hot path of capture. Most rows look like the ones before them: for these, one regular expression
takes a message apart and one template, filled in by one C call, puts the object together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from headgate.model.change import UNAVAILABLE
from headgate.sources.postgres.pattern import Found, Pattern
from headgate.sources.postgres.values import Form

Values = list[bytes | None]
"""One per column, in the relation's order. None: null, or left out by the source."""

_UNAVAILABLE = b'"%b"' % UNAVAILABLE.encode()
_MOST_PATTERNS = 3
_LEAST_SHARE = 0.1  # of the rows, for a pattern to be worth a try at every row
_ELECT_EVERY = 4_096  # rows that no pattern knew: a pattern is made far seldomer than it is used


class RowShape:
    """How one table's rows become JSON, as long as its columns stay as they are."""

    def __init__(self, table: str, columns: Sequence[tuple[str, Form]], key: Sequence[str]) -> None:
        self.table = table
        self.names = tuple(name for name, _ in columns)
        self.key = tuple(key)
        self.key_indexes = tuple(self.names.index(name) for name in key)
        self.bits = tuple(1 << index for index in range(len(columns)))
        self.width = len(columns)
        self._forms = tuple(form for _, form in columns)
        self._converts = tuple((index, form.convert) for index, (_, form) in enumerate(columns) if form.convert)
        self._templates: dict[tuple[int, int], bytes] = {}
        self._whole = self._template(0, 0)
        self._key_template = self._object(self.key_indexes, 0, 0)
        self._only_key = self.key_indexes[0] if len(self.key_indexes) == 1 else None
        self.patterns: list[Pattern] = []
        """What `read` knows, the most frequent first."""
        self._misses: Counter[tuple[int, int]] = Counter()
        self._elect_after = 1

    def read(self, data: bytes, at: int) -> Found | None:
        """The row that fills `data` from its width at `at` on, if it looks like many before it."""
        for pattern in self.patterns:
            found = pattern.read(data, at)
            if found is not None:
                return found
        return None

    def seen(self, nulls: int, missing: int) -> None:
        """A row came that `read` did not know. Now and then, the most frequent kinds become what it knows."""
        self._misses[nulls, missing] += 1
        if self._misses.total() >= self._elect_after:
            self._elect_after = min(self._elect_after * 4, _ELECT_EVERY)
            self._elect()

    def _elect(self) -> None:
        known = {(pattern.nulls, pattern.missing): pattern for pattern in self.patterns}
        worth = self._misses + Counter({kind: pattern.hits for kind, pattern in known.items()})
        least = worth.total() * _LEAST_SHARE
        kinds = [kind for kind, count in worth.most_common(_MOST_PATTERNS) if count >= least]
        self.patterns = [known.get(kind) or self._pattern(*kind) for kind in kinds]
        for pattern in self.patterns:
            pattern.hits = 0
        self._misses.clear()

    def _pattern(self, nulls: int, missing: int) -> Pattern:
        return Pattern(self.names, self._forms, self.key_indexes, nulls, missing)

    def row(self, values: Values, nulls: int, missing: int) -> bytes:
        """The row's JSON. Bits of `nulls` and `missing` name the columns that are null or left out.

        Converts `values` in place: afterwards `key_of` takes them.
        """
        if not nulls | missing:
            for index, convert in self._converts:
                values[index] = convert(values[index])  # type: ignore[arg-type]  # no nulls here
            return self._whole % tuple(values)
        for index, convert in self._converts:
            value = values[index]
            if value is not None:
                values[index] = convert(value)
        template = self._templates.get((nulls, missing)) or self._template(nulls, missing)
        return template % tuple([value for value in values if value is not None])

    def key_of(self, converted: Values) -> bytes:
        """The key's JSON, of values that `row` has converted."""
        if self._only_key is not None:
            return self._key_template % converted[self._only_key]
        return self._key_template % tuple([converted[index] for index in self.key_indexes])

    def convert(self, values: Values) -> None:
        """Converts values in place, as `row` does, where only the key is wanted."""
        for index, convert in self._converts:
            value = values[index]
            if value is not None:
                values[index] = convert(value)

    def _template(self, nulls: int, missing: int) -> bytes:
        template = self._object(range(self.width), nulls, missing)
        self._templates[nulls, missing] = template
        return template

    def _object(self, indexes: Iterable[int], nulls: int, missing: int) -> bytes:
        return b"{%b}" % b",".join([self._member(index, nulls, missing) for index in indexes])

    def _member(self, index: int, nulls: int, missing: int) -> bytes:
        name = msgspec.json.encode(self.names[index]).replace(b"%", b"%%")
        if missing & self.bits[index]:
            return name + b":" + _UNAVAILABLE
        if nulls & self.bits[index]:
            return name + b":null"
        return name + (b':"%b"' if self._forms[index].quoted else b":%b")
