"""Values as PostgreSQL's output functions write them, turned into JSON without loss.

The session must print as `SESSION` says. What JSON can't hold stays text: numeric, infinity, NaN, dates
before Christ, and every type that is not known here.
https://www.postgresql.org/docs/current/datatype.html
"""

from __future__ import annotations

import re
from binascii import b2a_base64, unhexlify
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeAlias

import msgspec

from headgate.connections.postgres import Connection
from headgate.model.depth import DEEPEST_IN_ROW, check_depth
from headgate.model.table import ColumnType

Convert: TypeAlias = Callable[[bytes], bytes]
"""A value's text as JSON."""

SESSION = {
    "DateStyle": "ISO",
    "IntervalStyle": "iso_8601",
    "TimeZone": "UTC",
    "extra_float_digits": "1",  # shortest text that reads back as the same number
    "bytea_output": "hex",
    "search_path": "pg_catalog",  # names of tables, where a value holds one, are then always qualified
    "row_security": "off",  # a policy that hides rows from us is an error, never a smaller snapshot
    "statement_timeout": "0",
    "lock_timeout": "10s",  # an owner's ALTER TABLE under way is waited for, and then tried again
    "idle_in_transaction_session_timeout": "0",
    "tcp_keepalives_idle": "10",  # when we vanish without a word, our lock is free half a minute later
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}
"""Settings of every session whose values come here: the same text in the snapshot and in the stream."""


class Cut(NamedTuple):
    """A conversion that only cuts the text into parts: done by the expression that reads the row (`rows`)."""

    pattern: bytes
    """Matches what it can cut, with a group a part; it may not match a zero byte."""
    template: bytes
    closed: bool
    """Whether it matches no text that another matching text begins with."""


class Form(NamedTuple):
    """How values of one type become JSON. `quoted`: the text stands between quotes and needs no escape."""

    type: ColumnType
    quoted: bool
    convert: Convert | None = None
    cut: Cut | None = None
    """The same as `convert`, for the values that it matches."""

    def json(self, value: bytes) -> bytes:
        """One value as JSON."""
        converted = value if self.convert is None else self.convert(value)
        return b'"%b"' % converted if self.quoted else converted


_encode = msgspec.json.encode


def text_json(value: bytes) -> bytes:
    """Text as a JSON string. Bytes that are no UTF-8 (a database in SQL_ASCII) are kept as `\\xNN`."""
    try:
        return _encode(value.decode())
    except UnicodeDecodeError:
        return _encode(str(value, "utf-8", "backslashreplace"))


def _boolean(value: bytes) -> bytes:
    return b"true" if value == b"t" else b"false"


def _float(value: bytes) -> bytes:
    return b'"%b"' % value if value[-1:] in b"Ny" else value  # NaN, Infinity, -Infinity


def _bytes(value: bytes) -> bytes:
    return b2a_base64(unhexlify(value[2:]), newline=False)


def _timestamp(value: bytes) -> bytes:
    return value if value.endswith((b"y", b"BC")) else value.replace(b" ", b"T", 1)


def _timestamptz(value: bytes) -> bytes:
    return value[:-3].replace(b" ", b"T", 1) + b"Z" if value.endswith(b"+00") else value


def _json(value: bytes) -> bytes:
    """The document itself; as text where it nests deeper than a row may, or holds an escape that no decoder of Unicode
    takes (type json may).
    """
    try:
        check_depth(value, DEEPEST_IN_ROW)
        if b"\\u" in value:
            msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return text_json(value)
    return value


TEXT = Form("string", False, text_json)
INTEGER = Form("integer", False)
_PLAIN = Form("string", True)

_BUILT_IN: dict[int, Form] = {
    16: Form("boolean", False, _boolean),
    17: Form("bytes", True, _bytes),
    20: INTEGER,
    21: INTEGER,
    23: INTEGER,
    26: INTEGER,  # oid
    700: Form("number", False, _float),
    701: Form("number", False, _float),
    1700: Form("decimal", True),
    1082: Form("date", True),
    1083: Form("time", True),
    1266: Form("time", True),  # timetz
    1114: Form("timestamp", True, _timestamp, Cut(rb"([^\0 ]{10}) ([^\0 ]*)", b'"%bT%b"', False)),
    1184: Form("timestamp", True, _timestamptz, Cut(rb"([^\0 ]{10}) ([^\0 +]*)\+00", b'"%bT%bZ"', True)),
    1186: Form("duration", True),
    2950: Form("uuid", True),
    114: Form("json", False, _json),
    3802: Form("json", False, _json),  # jsonb
    650: _PLAIN,  # cidr
    869: _PLAIN,  # inet
    829: _PLAIN,  # macaddr
    774: _PLAIN,  # macaddr8
    1560: _PLAIN,  # bit
    1562: _PLAIN,  # varbit
    22: TEXT,  # int2vector: no array in its text
    30: TEXT,  # oidvector
}
"""By the OID of pg_type, which is fixed for built-in types."""


def array_form(element: Form, delimiter: bytes = b",") -> Form:
    """How arrays of a type become JSON arrays, nested as their dimensions are; lower bounds are left out."""
    if element is INTEGER:
        return Form("array", False, _integers)
    tokens = re.compile(rb'[{}]|"((?:[^"\\]|\\.)*)"|([^{}"%b]+)' % re.escape(delimiter), re.DOTALL)
    return Form("array", False, lambda value: _array(_without_bounds(value), tokens, element))


def _without_bounds(value: bytes) -> bytes:
    return value[value.index(b"=") + 1 :] if value.startswith(b"[") else value


def _integers(value: bytes) -> bytes:
    return (
        _without_bounds(value).replace(b"{", b"[").replace(b"}", b"]").replace(b"NULL", b"null")
    )  # numbers are JSON already


def _array(value: bytes, tokens: re.Pattern[bytes], element: Form) -> bytes:
    return b"".join(_separated(_pieces(value, tokens, element)))


def _pieces(value: bytes, tokens: re.Pattern[bytes], element: Form) -> Iterable[bytes]:
    """https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO"""
    for token in tokens.finditer(value):
        quoted, plain = token.groups()
        if quoted is not None:
            yield element.json(_ESCAPED.sub(rb"\1", quoted))
        elif plain is not None:
            yield b"null" if plain == b"NULL" else element.json(plain)
        else:
            yield b"[" if token.group() == b"{" else b"]"


def _separated(pieces: Iterable[bytes]) -> Iterable[bytes]:
    before = b"["
    for piece in pieces:
        if before != b"[" and piece != b"]":
            yield b","
        yield piece
        before = piece


_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)


class _Type(NamedTuple):
    oid: int
    kind: str
    base: int
    element: int
    delimiter: str


_CATALOG = """
    with recursive needed as (
        select t.oid, t.typtype, t.typbasetype, t.typelem, t.typcategory, t.typlen from pg_catalog.pg_type t
        where t.oid = any(%s)
        union
        select t.oid, t.typtype, t.typbasetype, t.typelem, t.typcategory, t.typlen
        from pg_catalog.pg_type t join needed n on t.oid in (n.typbasetype, n.typelem)
    )
    select n.oid::int8, n.typtype::text, n.typbasetype::int8,
           case when n.typcategory = 'A' and n.typlen = -1 then n.typelem::int8 else 0 end,
           coalesce(e.typdelim::text, ',')
    from needed n left join pg_catalog.pg_type e on e.oid = n.typelem
"""


class Types:
    """The forms of types, the database's own ones read from its catalog once each."""

    def __init__(self) -> None:
        self._forms = dict(_BUILT_IN)

    def learn(self, connection: Connection, oids: Iterable[int]) -> None:
        """Makes the forms of these types known. A type that is gone from the catalog is text."""
        unknown = sorted(set(oids) - self._forms.keys())
        if not unknown:
            return
        found = {row[0]: _Type(*row) for row in connection.execute(_CATALOG, [unknown])}
        for oid in unknown:
            self._forms[oid] = self._form(oid, found)

    def form(self, oid: int) -> Form:
        """The form of a type that has been learnt; text if it has not."""
        return self._forms.get(oid, TEXT)

    def _form(self, oid: int, found: dict[int, _Type]) -> Form:
        known = self._forms.get(oid)
        described = found.get(oid)
        if known is not None or described is None:
            return known or TEXT
        if described.kind == "d":
            return self._form(described.base, found)
        if described.element:
            return array_form(self._form(described.element, found), described.delimiter.encode())
        return TEXT
