"""MySQL's binary JSON as the text that the server itself makes of it, character for character.

https://dev.mysql.com/doc/dev/mysql-server/latest/json__binary_8h.html. The replication library decodes it too, but
tells decimals, times and bytes as other values than a query does.
"""

from __future__ import annotations

from base64 import encodebytes
from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import partial
from struct import unpack_from
from typing import Final

from msgspec.json import encode

_SMALL_OBJECT, _LARGE_OBJECT, _SMALL_ARRAY, _LARGE_ARRAY, _LITERAL = range(5)
_OPAQUE: Final = 0x0F
_LITERALS: Final[Mapping[int, str]] = {0: "null", 1: "true", 2: "false"}
_DECIMAL, _TIMESTAMP, _DATE, _TIME, _DATETIME = 246, 7, 10, 11, 12
_DIGITS_OF_FIXED: Final = 15
"""The server writes numbers with more digits before the point, or zeros after it, with an exponent."""


def text_of(document: bytes) -> str:
    """The document as JSON. ValueError, IndexError or struct.error where it is none."""
    return _value(document[0], document, 1)


def _value(kind: int, data: bytes, at: int) -> str:
    found = _READERS.get(kind)
    if found is None:
        raise ValueError(f"JSON type {kind} is not known")
    return found(data, at)


def _container(data: bytes, at: int, *, is_object: bool, is_large: bool) -> str:
    """Offsets within it count from its own begin."""
    size, number = (4, "<I") if is_large else (2, "<H")
    (count,) = unpack_from(number, data, at)
    keys = at + 2 * size
    values = keys + count * (size + 2 if is_object else 0)
    written = []
    for index in range(count):
        value = _entry(data, at, values + index * (size + 1), is_large=is_large)
        if is_object:
            entry = keys + index * (size + 2)
            (begin,), (length,) = unpack_from(number, data, entry), unpack_from("<H", data, entry + size)
            key = data[at + begin : at + begin + length]
            value = f"{_quoted(key)}: {value}"
        written.append(value)
    return f"{{{', '.join(written)}}}" if is_object else f"[{', '.join(written)}]"


def _entry(data: bytes, container: int, at: int, *, is_large: bool) -> str:
    kind = data[at]
    if kind in _INLINE or (is_large and kind in _INLINE_IN_LARGE):
        return _value(kind, data, at + 1)
    (offset,) = unpack_from("<I" if is_large else "<H", data, at + 1)
    return _value(kind, data, container + offset)


def _integer(form: str) -> Callable[[bytes, int], str]:
    return lambda data, at: str(unpack_from(form, data, at)[0])


def _double(data: bytes, at: int) -> str:
    """The shortest digits that are the same double."""
    (number,) = unpack_from("<d", data, at)
    sign, digits, exponent = Decimal(repr(number)).normalize().as_tuple()
    assert isinstance(exponent, int), "a document has no infinity"
    point = len(digits) + exponent
    is_fixed = -_DIGITS_OF_FIXED < point <= _DIGITS_OF_FIXED or len(digits) > point > 0
    if number == 0 or is_fixed:
        text = format(Decimal(repr(number)).normalize(), "f")
        return text if "." in text else f"{text}.0"
    return _with_exponent("-" if sign else "", "".join(map(str, digits)), point - 1)


def _with_exponent(sign: str, digits: str, exponent: int) -> str:
    return f"{sign}{digits[0]}{'.' if digits[1:] else ''}{digits[1:]}e{exponent}"


def _string(data: bytes, at: int) -> str:
    length, begin = _length(data, at)
    return _quoted(data[begin : begin + length])


def _quoted(raw: bytes) -> str:
    return encode(raw.decode("utf-8", "backslashreplace")).decode()


def _length(data: bytes, at: int) -> tuple[int, int]:
    """Seven bits a byte, the lowest first; and where what it is of begins."""
    length = shift = 0
    while True:
        byte, at = data[at], at + 1
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return length, at


def _opaque(data: bytes, at: int) -> str:
    """A value of another type of SQL's."""
    kind = data[at]
    length, begin = _length(data, at + 1)
    raw = data[begin : begin + length]
    if kind == _DECIMAL:
        return _decimal(raw)
    if kind in (_TIME, _DATE, _DATETIME, _TIMESTAMP):
        (packed,) = unpack_from("<q", raw)
        return f'"{_time(packed) if kind == _TIME else _datetime(packed, is_date=kind == _DATE)}"'
    return _quoted(f"base64:type{kind}:{encodebytes(raw).decode().rstrip()}".encode())


def _time(packed: int) -> str:
    sign, packed = "-" if packed < 0 else "", abs(packed)
    rest = packed >> 24
    return f"{sign}{rest >> 12:02}:{rest >> 6 & 0x3F:02}:{rest & 0x3F:02}.{packed & 0xFFFFFF:06}"


def _datetime(packed: int, *, is_date: bool) -> str:
    rest = packed >> 24
    days, clock = rest >> 17, rest & 0x1FFFF
    day = f"{(days >> 5) // 13:04}-{(days >> 5) % 13:02}-{days & 0x1F:02}"
    time = f" {clock >> 12:02}:{clock >> 6 & 0x3F:02}:{clock & 0x3F:02}.{packed & 0xFFFFFF:06}"
    return day if is_date else day + time


def _decimal(raw: bytes) -> str:
    """Groups of nine digits in four bytes, the first and the last group in fewer; inverted where it is negative."""
    precision, scale = raw[0], raw[1]
    is_negative = not raw[2] & 0x80
    body = bytes([raw[2] ^ 0x80, *raw[3:]])
    body = bytes(byte ^ 0xFF for byte in body) if is_negative else body
    whole, after = divmod(precision - scale, 9), divmod(scale, 9)
    groups = [*([whole[1]] if whole[1] else []), *[9] * (whole[0] + after[0]), *([after[1]] if after[1] else [])]
    digits, at = "", 0
    for group in groups:
        size = _BYTES_OF_DIGITS[group]
        digits += f"{int.from_bytes(body[at : at + size], 'big'):0{group}d}"
        at += size
    front = digits[: precision - scale].lstrip("0") or "0"
    return f"{'-' if is_negative else ''}{front}{'.' if scale else ''}{digits[precision - scale :]}"


_BYTES_OF_DIGITS: Final = (0, 1, 1, 2, 2, 3, 3, 4, 4, 4)
_INLINE: Final = frozenset({_LITERAL, 0x05, 0x06})
_INLINE_IN_LARGE: Final = frozenset({0x07, 0x08})
_READERS: Final[Mapping[int, Callable[[bytes, int], str]]] = {
    _SMALL_OBJECT: partial(_container, is_object=True, is_large=False),
    _LARGE_OBJECT: partial(_container, is_object=True, is_large=True),
    _SMALL_ARRAY: partial(_container, is_object=False, is_large=False),
    _LARGE_ARRAY: partial(_container, is_object=False, is_large=True),
    _LITERAL: lambda data, at: _LITERALS[data[at]],
    0x05: _integer("<h"),
    0x06: _integer("<H"),
    0x07: _integer("<i"),
    0x08: _integer("<I"),
    0x09: _integer("<q"),
    0x0A: _integer("<Q"),
    0x0B: _double,
    0x0C: _string,
    _OPAQUE: _opaque,
}
