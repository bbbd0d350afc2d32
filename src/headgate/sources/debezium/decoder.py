"""Records of one table's topic as changes: JSON with and without schemas, and Avro, decided record by record."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from headgate.errors import ChangeRejected, Undecodable
from headgate.model.change import CLOSER, PASSED_OVER, Change, RowChange
from headgate.model.depth import check_depth
from headgate.model.table import ColumnType, Table
from headgate.sources._wire.rows import RowForm, may_leave_out, table_of
from headgate.sources._wire.samples import grown
from headgate.sources._wire.shape import Shape, of_connect
from headgate.sources.debezium.envelope import OPS, Envelope, Origin, is_of_no_row, no_envelope, sequence_of
from headgate.sources.debezium.unread import Modes, doubt_of
from headgate.sources.debezium.unsaid import Unsaid

if TYPE_CHECKING:
    from headgate.sources._wire.avro import Avro

_MOST_FORMS: Final = 1_000
_DOCUMENT: Final = "io.debezium.data.Json"
_MALFORMED: Final = (msgspec.DecodeError, msgspec.ValidationError, UnicodeError, ValueError, KeyError, RecursionError)

_decode_envelope = msgspec.json.Decoder(Envelope).decode
_decode_any = msgspec.json.Decoder(dict[str, Any]).decode


class _Framed(msgspec.Struct, gc=False, forbid_unknown_fields=True):
    schema: msgspec.Raw
    payload: msgspec.Raw


_decode_framed = msgspec.json.Decoder(_Framed).decode
_PLAIN: Final = RowForm(None, binary=False)


class _Parts(NamedTuple):
    """What one record says, its rows not yet decoded."""

    op: str
    source: Origin
    after: Any
    form: RowForm


class DebeziumDecoder:
    """Decodes one table's records. One thread uses it."""

    def __init__(self, table: str, avro: Avro | None, types: Mapping[str, ColumnType], decimals: str | None) -> None:
        """`types` are what the config says of the table's fields."""
        self._table = table
        self._avro = avro
        self._unsaid = Unsaid(types, decimals)
        self._modes = Modes(decimals=decimals == "precise", times=True)
        self._documents = frozenset(name for name, said in types.items() if said == "json")
        self._keys_are_plain = not self._unsaid.reads
        self._forms: dict[bytes | int, RowForm] = {}
        self._form = _PLAIN
        self._sample: bytes | None = None
        self._key_columns: tuple[str, ...] | None = None
        self.has_news = False
        """Whether a schema has come that was not known before. Whoever has taken note of it says so here."""

    def change(self, key: bytes | None, value: bytes | None) -> Change | None:
        """See `Decoder`."""
        if value is None:
            return None
        try:
            parts = self._parts(value)
            if parts is None or parts.op == "m":
                return None
            return self._change(parts, key, value)
        except _MALFORMED as error:
            raise no_envelope() from error

    def rows(self, values: Iterable[bytes | None]) -> list[RowChange]:
        """See `Decoder`."""
        found: list[RowChange] = []
        for value in values:
            try:
                found.append(self._row_change(value))
            except (*_MALFORMED, ChangeRejected):
                found.append(CLOSER)
        return found

    def key(self, key: bytes | None, value: bytes | None) -> bytes:
        """See `Decoder`."""
        if key is None:
            raise Undecodable("The record has no key: give the table a primary key, or set message.key.columns.")
        try:
            return self._key(key)
        except _MALFORMED as error:
            raise Undecodable("The record's key is no object with the columns of the table's key.") from error

    def keys(self, keys: Sequence[bytes | None], values: Sequence[bytes | None]) -> list[bytes | None]:
        """See `Decoder`."""
        if self._keys_are_plain and not any(key is None or key[:1] == b"\x00" or key[2:8] == b"schema" for key in keys):
            return list(keys)
        return [self._key_if_any(key, value) for key, value in zip(keys, values, strict=True)]

    def _key_if_any(self, key: bytes | None, value: bytes | None) -> bytes | None:
        try:
            return self.key(key, value)
        except ChangeRejected:
            return None

    def learnt(self, known: Table) -> Table:
        """The table by the record that was decoded last; without a schema, with what its row adds to what is known."""
        key = known.key if self._key_columns is None else self._key_columns
        if self._form.shape is not None and self._form.shape.kind == "struct":
            return table_of(known.name, self._form.shape, key)
        sample, self._sample = self._sample, None
        keyed = msgspec.structs.replace(known, key=key)
        return keyed if sample is None else grown(keyed, sample, lambda value: doubt_of(value, self._modes))

    # --- one record ------------------------------------------------------------------------------

    def _parts(self, value: bytes) -> _Parts | None:
        """None for what Debezium writes beside changes."""
        if value[:1] == b"\x00":
            return self._avro_parts(value)
        check_depth(value)
        payload, form = value, _PLAIN
        if value.startswith(b'{"schema":'):
            framed = _decode_framed(value)
            payload, form = bytes(framed.payload), self._form_of(bytes(framed.schema))
        envelope = _decode_envelope(payload)
        if envelope.op not in OPS or envelope.source is None:
            _check_beside(_decode_any(payload))
            return None
        value.decode()  # rows are passed on as they are, so that nothing later looks at their bytes
        return _Parts(envelope.op, envelope.source, bytes(envelope.after), form)

    def _avro_parts(self, value: bytes) -> _Parts | None:
        record = self._of_avro(value)
        fields = record.value
        if not isinstance(fields, dict):
            raise no_envelope()
        if fields.get("op") not in OPS or not isinstance(fields.get("source"), dict):
            _check_beside(fields)
            return None
        form = self._forms.get(record.schema)
        if form is None:
            form = self._keep(record.schema, self._row_form(record.shape, binary=True))
        return _Parts(fields["op"], msgspec.convert(fields["source"], Origin), fields.get("after"), form)

    def _change(self, parts: _Parts, key: bytes | None, value: bytes) -> Change:
        after, partial = self._after(parts, value)
        source = parts.source
        return Change(
            op=parts.op,  # type: ignore[arg-type]  # it is one of OPS
            table=self._table,
            key=key,
            after=after,
            sequence=sequence_of(source),
            time_ms=source.ts_ms or 0,
            snapshot=source.is_snapshot,
            begins_anew=source.begins_anew,
            partial=partial,
        )

    def _row_change(self, value: bytes | None) -> RowChange:
        """What `change` says, where it is about a row and no more."""
        parts = None if value is None else self._parts(value)
        if parts is None or parts.op == "m":
            return PASSED_OVER
        assert value is not None  # it has parts
        if parts.op == "t" or parts.source.begins_anew:
            return CLOSER
        after, partial = self._after(parts, value)
        if partial or (after is None) != (parts.op == "d"):
            return CLOSER
        return after, None if parts.source.is_snapshot else sequence_of(parts.source)

    def _after(self, parts: _Parts, value: bytes) -> tuple[bytes | None, bool]:
        """The row, and whether columns are left out of it."""
        row = parts.after
        if parts.op in "dt" or row is None or row == b"null":
            return None, False
        left_out = may_leave_out(value)
        if isinstance(row, dict):
            after = parts.form.of_values(row, has_left_out=left_out)
        elif row.startswith(b"{"):
            after = parts.form.of_json(row, has_left_out=left_out)
        else:
            raise no_envelope()
        self._form = parts.form
        if parts.form is _PLAIN:
            after = self._unsaid.row(after)
            self._sample = after
        return after, left_out and b'"__debezium_unavailable_value"' in after

    # --- keys ------------------------------------------------------------------------------------

    def _key(self, key: bytes) -> bytes:
        if key[:1] == b"\x00":
            record = self._of_avro(key)
            form = self._forms.get(-record.schema) or self._keep(-record.schema, RowForm(record.shape, binary=True))
            return form.of_values(record.value, has_left_out=False)
        if key.startswith(b'{"schema":'):
            framed = _decode_framed(key)
            schema = bytes(framed.schema)
            known = self._forms.get(schema)
            form = known or self._keep(schema, RowForm(of_connect(_decode_any(schema)), binary=False))
            return form.of_json(bytes(framed.payload), has_left_out=False)
        return self._unsaid.row(key)

    @property
    def has_rows(self) -> bool:
        """Whether rows without a schema have come since `learnt` was asked."""
        return self._sample is not None and self._form is _PLAIN

    def learn_key(self, key: bytes) -> None:
        """Takes the table's key from a record's, which has its columns in their order. Undecodable when it has none."""
        fields = _decode_any(self.key(key, None))
        self._key_columns = tuple(fields)

    # --- schemas ---------------------------------------------------------------------------------

    def _form_of(self, schema: bytes) -> RowForm:
        known = self._forms.get(schema)
        if known is not None:
            return known
        return self._keep(schema, self._row_form(of_connect(_decode_any(schema)), binary=False))

    def _row_form(self, envelope: Shape, *, binary: bool) -> RowForm:
        shape = envelope.field("after")
        return RowForm(None if shape is None else _with_documents(shape, self._documents), binary=binary)

    def _keep(self, name: bytes | int, form: RowForm) -> RowForm:
        if len(self._forms) >= _MOST_FORMS:
            self._forms.clear()
        self._forms[name] = form
        self.has_news = True
        return form

    def _of_avro(self, data: bytes) -> Any:
        if self._avro is None:
            raise Undecodable("The record is Avro: name the schema registry in the source's `registry`.")
        return self._avro.read(data)


def _with_documents(row: Shape, names: Set[str]) -> Shape:
    """Text that the config declares to be documents: MariaDB's JSON is text to its connector."""

    def said(name: str, shape: Shape) -> Shape:
        is_text = shape.kind == "string" and not shape.name
        return msgspec.structs.replace(shape, name=_DOCUMENT) if is_text and name in names else shape

    return msgspec.structs.replace(row, fields=tuple((name, said(name, each)) for name, each in row.fields))


def _check_beside(fields: dict[str, Any]) -> None:
    """That a record is one of those that Debezium writes beside changes."""
    if not is_of_no_row(fields):
        raise no_envelope()
