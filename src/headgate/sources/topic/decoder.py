"""Records of any topic as changes of rows: the value is the row, or one of the newest that its key's row holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from headgate.errors import ChangeRejected, Undecodable
from headgate.model.change import CLOSER, PASSED_OVER, Change, RowChange
from headgate.model.depth import check_depth
from headgate.model.table import Column, Table
from headgate.sources._wire.rows import RowForm, table_of
from headgate.sources._wire.samples import grown

if TYPE_CHECKING:
    from headgate.sources._wire.avro import Avro

_MOST_FORMS: Final = 1_000
_PLAIN: Final = RowForm(None, binary=False)
_NULL: Final = msgspec.Raw(b"null")
_MALFORMED: Final = (msgspec.DecodeError, UnicodeError, ValueError, RecursionError)
_encode = msgspec.json.encode
_decode = msgspec.json.decode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class TopicDecoder:
    """Decodes one topic's records. One thread uses it."""

    def __init__(self, table: str, key: tuple[str, ...], latest: int, avro: Avro | None) -> None:
        """`latest`: how many records a row holds; 0 where a record is a row. Without `avro`, values are JSON."""
        self._table = table
        self._key = key
        self._latest = latest
        self._avro = avro
        self._forms: dict[int, RowForm] = {}
        self._form = _PLAIN
        self._sample: bytes | None = None
        self.has_news = False
        """See `Learning`."""

    def change(self, key: bytes | None, value: bytes | None) -> Change | None:
        """See `Decoder`."""
        if value is None:
            return Change(op="d", table=self._table)
        row = self._row(value)
        fields = self._named(_decode_fields(row), key)
        if any(name not in _decode_fields(row) for name in self._key):
            row = _encode({**fields, **_decode_fields(row)})
        if self._latest:
            return Change(op="u", table=self._table, key=_encode(fields), after=row, latest=self._latest)
        return Change(op="u", table=self._table, key=_encode(fields), after=row)

    def rows(self, values: Sequence[bytes | None]) -> list[RowChange]:
        """See `Decoder`. What takes its key from the record's has to be looked at as a whole."""
        return [self._row_change(value) for value in values]

    def key(self, key: bytes | None, value: bytes | None) -> bytes:
        """See `Decoder`. Also of a record whose value can't be read, where the record's key tells."""
        try:
            fields = {} if value is None else _decode_fields(self._row(value))
        except ChangeRejected:
            fields = {}
        return _encode(self._named(fields, key))

    def keys(self, keys: Sequence[bytes | None], values: Sequence[bytes | None]) -> list[bytes | None]:
        """See `Decoder`."""
        return [self._key_if_any(key, value) for key, value in zip(keys, values, strict=True)]

    # --- what its table is -----------------------------------------------------------------------

    @property
    def has_rows(self) -> bool:
        """See `Learning`."""
        return self._sample is not None and self._form is _PLAIN

    def learn_key(self, key: bytes) -> None:
        """See `Learning`: the config has named it."""

    def learnt(self, known: Table) -> Table:
        """See `Learning`."""
        sample, self._sample = self._sample, None
        if self._form.shape is not None and self._form.shape.kind == "struct":
            found = table_of(known.name, self._form.shape, self._key)
        else:
            found = known if sample is None else grown(known, sample)
        return _gathered(found, self._key) if self._latest else found

    # --- one record ------------------------------------------------------------------------------

    def _row_change(self, value: bytes | None) -> RowChange:
        if self._latest or value is None:
            return CLOSER if self._latest or value is None else PASSED_OVER
        try:
            row = self._row(value)
            fields = _decode_fields(row)
        except (ChangeRejected, *_MALFORMED):
            return CLOSER
        return (row, None) if all(name in fields for name in self._key) else CLOSER

    def _row(self, value: bytes) -> bytes:
        """The value as a JSON object."""
        if self._avro is not None:
            return self._of_avro(value, self._avro)
        try:
            check_depth(value)
            _decode_fields(value)
            value.decode()  # rows are passed on as they are, so that nothing later looks at their bytes
        except _MALFORMED as error:
            raise Undecodable(
                "The record's value is no JSON object: look at what else writes to this topic."
            ) from error
        self._form, self._sample = _PLAIN, value
        return value

    def _of_avro(self, value: bytes, avro: Avro) -> bytes:
        record = avro.read(value)
        if not isinstance(record.value, dict):
            raise Undecodable("The record's value is no Avro record with fields.")
        form = self._forms.get(record.schema)
        if form is None:
            if len(self._forms) >= _MOST_FORMS:
                self._forms.clear()
            form = self._forms[record.schema] = RowForm(record.shape, binary=True)
            self.has_news = True
        self._form = form
        return form.of_values(record.value, has_left_out=False)

    # --- keys ------------------------------------------------------------------------------------

    def _named(self, fields: dict[str, msgspec.Raw], key: bytes | None) -> dict[str, Any]:
        """The key's fields: of the value, or else of the record's key. Undecodable when they are nowhere, or null."""
        found = self._found(fields, key)
        if any(value is None or value == _NULL for value in found.values()):
            raise Undecodable(f"A field of the record's key is null: one of {', '.join(self._key)}.")
        return found

    def _found(self, fields: dict[str, msgspec.Raw], key: bytes | None) -> dict[str, Any]:
        if all(name in fields for name in self._key):
            return {name: fields[name] for name in self._key}
        given = self._of_key(key)
        if isinstance(given, dict) and all(name in given for name in self._key):
            return {name: given[name] for name in self._key}
        if len(self._key) == 1 and isinstance(given, (str, int)):
            return {self._key[0]: given}
        raise Undecodable(f"Neither the record's value nor its key holds {', '.join(self._key)}.")

    def _of_key(self, key: bytes | None) -> Any:
        """The record's key: Avro, JSON, or plain text."""
        if key is None:
            return None
        if key[:1] == b"\x00" and self._avro is not None:
            return self._avro.read(key).value
        try:
            check_depth(key)
            return _decode(key)
        except _MALFORMED:
            return key.decode("utf-8", "replace")

    def _key_if_any(self, key: bytes | None, value: bytes | None) -> bytes | None:
        try:
            return self.key(key, value)
        except ChangeRejected:
            return None


def _gathered(known: Table, key: tuple[str, ...]) -> Table:
    """The table whose rows hold the newest records of a key."""
    columns = [column for column in known.columns if column.name in key]
    columns += [Column(name=name, type="string", native="key") for name in key if known.column(name) is None]
    columns.append(Column(name="count", type="integer", native="count of records", nullable=False))
    columns.append(Column(name="latest", type="array", native="records, the newest first", nullable=False))
    return msgspec.structs.replace(known, columns=tuple(columns), key=key)
