"""Values of MySQL and MariaDB, turned into JSON: the same from a snapshot's text and from the binary log.

https://dev.mysql.com/doc/refman/8.4/en/data-types.html. Dates that no calendar has are null (`0000-00-00`,
`2026-02-31`).
"""

from __future__ import annotations

import struct
from binascii import b2a_base64
from collections.abc import Callable, Mapping
from datetime import date, datetime, timedelta
from decimal import Decimal
from socket import AF_INET, AF_INET6, AddressFamily, inet_ntop, inet_pton
from typing import Any, Final, NamedTuple, TypeAlias
from uuid import UUID

import msgspec

from headgate.model.table import ColumnType

Convert: TypeAlias = Callable[[Any], bytes]
"""A value that is not null, as JSON."""

_encode = msgspec.json.encode
_NULL: Final = b"null"


class Form(NamedTuple):
    """How values of one column become JSON."""

    type: ColumnType
    from_text: Convert
    """Of the text (or bytes) that a query gives."""
    from_binlog: Convert
    """Of the object that the replication library gives."""
    select: str = "{name}"
    """How a snapshot asks for the column; `{name}` is its quoted name."""


def _integer(value: Any) -> bytes:
    """ZEROFILL and the year 0 come with zeros in front, as no number of JSON has them."""
    return str(int(value)).encode()


def _year(value: int) -> bytes:
    """The binary log counts from 1900, which itself is no year: it stands for 0."""
    return _integer(value if value > 1900 else 0)


def _decimal_text(value: Any) -> bytes:
    """Without the zeros that ZEROFILL puts in front."""
    text = _as_str(value)
    if text.startswith("0"):
        front, point, after = text.partition(".")
        text = (front.lstrip("0") or "0") + point + after
    return b'"%b"' % text.encode()


def _decimal(value: Decimal) -> bytes:
    return b'"%b"' % format(value, "f").encode()


def _double(value: Any) -> bytes:
    return _encode(float(value))


def _float(value: Any) -> bytes:
    """The shortest decimal that is the same 32-bit number."""
    number = float(value)
    for digits in range(6, 10):
        short = float(f"{number:.{digits}g}")
        if struct.pack("<f", short) == struct.pack("<f", number):
            return _encode(short)
    return _encode(number)


def _text(value: Any) -> bytes:
    """Bytes that are none of the column's character set are kept as `\\xNN`."""
    return _encode(value if isinstance(value, str) else bytes(value).decode("utf-8", "backslashreplace"))


def _bytes(value: Any) -> bytes:
    raw = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogateescape")
    return b'"%b"' % b2a_base64(raw, newline=False)


def _padded(length: int) -> Convert:
    """BINARY(n): the binary log leaves out the zero bytes at the end."""
    return lambda value: _bytes((value if isinstance(value, bytes) else str(value).encode()).ljust(length, b"\0"))


def _uuid_text(value: Any) -> bytes:
    return _encode(str(UUID(_as_str(value))))


def _uuid(value: Any) -> bytes:
    return _encode(str(UUID(bytes=_as_bytes(value).ljust(16, b"\0"))))


def _address_text(family: AddressFamily) -> Convert:
    """Written anew, so that it is the same text as of the binary log's bytes."""
    return lambda value: _encode(inet_ntop(family, inet_pton(family, _as_str(value))))


def _address(family: AddressFamily, length: int) -> Convert:
    """The binary log leaves out the zero bytes at the end."""
    return lambda value: _encode(inet_ntop(family, _as_bytes(value).ljust(length, b"\0")))


def _date_text(value: Any) -> bytes:
    text = _as_str(value)
    return _encode(text) if _is_date(text) else _NULL


def _is_date(text: str) -> bool:
    """Whether a calendar has it; sessions may allow `0000-00-00`, `2026-11-00` and `2026-02-31`."""
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _date(value: date) -> bytes:
    return _encode(value.isoformat())


def _instant_text(suffix: str) -> Convert:
    def convert(value: Any) -> bytes:
        text = _as_str(value)
        if not _is_date(text[:10]):
            return _NULL
        return _encode(_without_zeros(text.replace(" ", "T", 1)) + suffix)

    return convert


def _instant(suffix: str) -> Convert:
    return lambda value: _encode(_without_zeros(value.isoformat()) + suffix) if isinstance(value, datetime) else _NULL


def _timestamp(value: Any) -> bytes:
    """A zero date is the second 0 in the binary log, which itself is none that a TIMESTAMP can hold."""
    return _NULL if value == _EPOCH else _utc(value)


def _time_text(value: Any) -> bytes:
    return _encode(_without_zeros(_as_str(value)))


def _time(value: timedelta) -> bytes:
    """`[-]HH:MM:SS[.f]`, up to 838 hours (https://dev.mysql.com/doc/refman/8.4/en/time.html)."""
    sign = "-" if value < timedelta(0) else ""
    seconds, micros = divmod(abs(value) // timedelta(microseconds=1), 1_000_000)
    text = f"{sign}{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    return _encode(_without_zeros(f"{text}.{micros:06d}" if micros else text))


def _bits_text(width: int) -> Convert:
    return lambda value: _encode(format(int.from_bytes(_as_bytes(value), "big"), f"0{width}b"))


def _bit_text(value: Any) -> bytes:
    return b"true" if int.from_bytes(_as_bytes(value), "big") else b"false"


def _bit(value: Any) -> bytes:
    return b"true" if "1" in str(value) else b"false"


def _json_text(value: Any) -> bytes:
    """The document itself, as the server writes it; as text where it is none that a decoder of Unicode takes."""
    raw = _as_str(value).encode("utf-8", "surrogatepass")
    try:
        msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return _text(value)
    return raw


def _vector(value: Any) -> bytes:
    """Numbers of 32 bits."""
    return b"[" + b",".join(_float(each) for (each,) in struct.iter_unpack("<f", value)) + b"]"


def _set(members: tuple[str, ...]) -> Convert:
    order = {member: place for place, member in enumerate(members)}
    return lambda value: _encode(",".join(sorted(value or (), key=lambda member: order.get(member, len(order)))))


def _as_str(value: Any) -> str:
    return value if isinstance(value, str) else bytes(value).decode("utf-8", "backslashreplace")


def _as_bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode("latin-1")


def _without_zeros(text: str) -> str:
    """Without the zeros at the end of a fraction of a second: 00.120000 is 00.12, and 00.000000 is 00."""
    return text.rstrip("0").rstrip(".") if "." in text else text


_EPOCH: Final = datetime(1970, 1, 1)
_utc: Final = _instant("Z")
_TEXT: Final = Form("string", _text, _text)
_BASE64: Final = Form("bytes", _bytes, _bytes)
_INTEGER: Final = Form("integer", _integer, _integer)
_FORMS: Final[Mapping[str, Form]] = {
    **dict.fromkeys(("tinyint", "smallint", "mediumint", "int", "bigint"), _INTEGER),
    "year": Form("integer", _integer, _year),
    **dict.fromkeys(("char", "varchar", "tinytext", "text", "mediumtext", "longtext", "enum"), _TEXT),
    **dict.fromkeys(("varbinary", "tinyblob", "blob", "mediumblob", "longblob"), _BASE64),
    **dict.fromkeys(
        ("geometry", "point", "linestring", "polygon", "multipoint", "multilinestring", "multipolygon",
         "geometrycollection", "geomcollection"),
        _BASE64,
    ),
    "decimal": Form("decimal", _decimal_text, _decimal),
    # As text a 32-bit number is rounded to six digits, which the binary log's is not.
    "float": Form("number", _float, _float, "({name} + 0e0)"),
    "double": Form("number", _double, _double),
    "date": Form("date", _date_text, _date),
    "datetime": Form("timestamp", _instant_text(""), _instant("")),
    "timestamp": Form("timestamp", _instant_text("Z"), _timestamp),
    "time": Form("time", _time_text, _time),
    "json": Form("json", _json_text, _json_text),
    "uuid": Form("uuid", _uuid_text, _uuid),
    "inet4": Form("string", _address_text(AF_INET), _address(AF_INET, 4)),
    "inet6": Form("string", _address_text(AF_INET6), _address(AF_INET6, 16)),
}  # fmt: skip


_VECTOR: Final = Form("array", _vector, _vector, "cast({name} as binary)")  # else the driver takes it for text


def form_of(data_type: str, column_type: str, *, is_json: bool, is_mariadb: bool) -> Form | None:
    """The form of a column, or None for a type that is not read from a binary log (MariaDB's `vector`)."""
    if is_json:
        return _FORMS["json"]
    if data_type == "vector" and not is_mariadb:
        return _VECTOR
    if data_type == "bit":
        width = _width(column_type)
        return Form("boolean", _bit_text, _bit) if width == 1 else Form("string", _bits_text(width), _text)
    if data_type == "binary":
        return Form("bytes", _bytes, _padded(_width(column_type)))
    if data_type == "set":
        return Form("string", _text, _set(_members(column_type)))
    return _FORMS.get(data_type)


def _width(column_type: str) -> int:
    _, _, rest = column_type.partition("(")
    digits = rest.partition(")")[0]
    return int(digits) if digits.isdigit() else 1


def _members(column_type: str) -> tuple[str, ...]:
    """The members of `set('a','b''c')`; a comma can't be in one."""
    inner = column_type[column_type.index("(") + 1 : column_type.rindex(")")]
    return tuple(member[1:-1].replace("''", "'") for member in inner.split(","))
