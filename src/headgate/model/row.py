"""A row as a store keeps it, its key as text, and an order of values that bytes can follow."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import Any
from urllib.parse import quote, unquote

import msgspec

_SAFE = re.compile(r"[A-Za-z0-9_.~-]*").fullmatch
"""Text that percent-encoding leaves as it is."""
_decode_key = msgspec.json.Decoder(dict[str, Any], float_hook=Decimal).decode


class Row(msgspec.Struct, frozen=True, gc=False):
    """One stored row. `flaw` is the code of a dead letter that makes this row not to be trusted."""

    key: str
    partition: int
    epoch: int
    json: bytes
    flaw: str = ""


def key_text(values: Sequence[Any]) -> str:
    """The key as it stands in a resource's URI: percent-encoded parts joined by commas (DESIGN §4)."""
    return ",".join(map(_quoted, values))


def key_of_record(key: bytes, columns: Sequence[str]) -> str:
    """The key text of a log record's JSON key. KeyError if it lacks a column."""
    decoded = _decode_key(key)
    return key_text([decoded[column] for column in columns])


def keys_of_records(keys: Sequence[bytes | None], columns: Sequence[str]) -> list[str | None]:
    """The key texts of many records' keys; None for one that `key_of_record` must be asked about.

    Keys of one column that are all whole numbers, or all plain text, are read at one go: they are
    `{"<column>":<value>}` and nothing else, one to a line, so that no key can pass for a part of another.
    """
    if len(columns) == 1 and keys and None not in keys:
        lines = b"\n".join(keys).decode("utf-8", "replace")  # type: ignore[arg-type]  # there is no None
        for quotes, are_plain in (("", _are_whole_numbers), ('"', _are_safe_texts)):
            start, end = f'{{"{columns[0]}":{quotes}', f"{quotes}}}"
            parts: list[str | None] = list(lines[len(start) : -len(end)].split(f"{end}\n{start}"))
            is_framed = lines.startswith(start) and lines.endswith(end) and len(lines) >= len(start + end)
            if is_framed and len(parts) == len(keys) and are_plain(parts):
                return parts
    return [_key_if_any(key, columns) for key in keys]


def _are_whole_numbers(parts: Sequence[Any]) -> bool:
    digits = "".join(parts)
    if not (digits.isascii() and digits.isdigit()) or "" in parts:
        return False
    lines = "\n" + "\n".join(parts)
    return "\n0" not in lines or not any(part[0] == "0" and part != "0" for part in parts)


def _are_safe_texts(parts: Sequence[Any]) -> bool:
    return _SAFE("".join(parts)) is not None


def _key_if_any(key: bytes | None, columns: Sequence[str]) -> str | None:
    if key is None:
        return None
    try:
        return key_of_record(key, columns)
    except (msgspec.DecodeError, UnicodeError, KeyError, TypeError, ValueError, RecursionError):
        return None


def key_parts(text: str) -> tuple[str, ...]:
    """The parts of a key text, decoded. The inverse of `key_text` up to the values' types."""
    return tuple(unquote(part) for part in text.split(","))


def _quoted(value: Any) -> str:
    if type(value) is int:  # as keys mostly are
        return str(value)
    text = _part(value)
    return text if _SAFE(text) else quote(text, safe="")


def _part(value: Any) -> str:
    if value is True:
        return "true"
    if value is False:
        return "false"
    return str(value)


def encode_row(row: Row) -> bytes:
    """`<partition>.<epoch>.<flaw>|<json>`: one packed value, the JSON raw as the envelope carried it."""
    return b"%d.%d.%s|%s" % (row.partition, row.epoch, row.flaw.encode(), row.json)


def decode_row(key: str, packed: bytes) -> Row:
    """The inverse of `encode_row`."""
    stamp, _, json = packed.partition(b"|")
    partition, epoch, flaw = stamp.split(b".", 2)
    return Row(key, int(partition), int(epoch), json, flaw.decode())


def index_text(value: Any) -> str:
    """A value as equality indexes hold it: the same text for the same value whatever its JSON spelling."""
    if isinstance(value, str):
        return "s" + value
    if value is None:
        return "n"
    if isinstance(value, bool):
        return "b1" if value else "b0"
    if isinstance(value, (int, float, Decimal)):
        return "d" + _number_text(value)
    return "j" + _encode_sorted(value).decode()


def sort_key(value: Any, *, numeric: bool) -> bytes:
    """Bytes that order as the values do. Nulls come first; `numeric` also orders numbers kept as text.

    They never hold a zero byte, so that a store may append one and a key. Numbers: a sign byte, a biased
    exponent of six digits, then the digits; both complemented and closed by `~` when negative, so that the
    order of bytes is the order of exact decimals (below 10 to the 499,999th, which no source's type reaches).
    """
    if value is None:
        return b"0"
    if isinstance(value, bool):
        return b"1" if value else b"0b"
    if numeric:
        try:
            return _number_key(_decimal(value))
        except InvalidOperation:
            return b"9" + _without_zero_bytes(str(value))
    return b"5" + _without_zero_bytes(value if isinstance(value, str) else str(value))


_encode_sorted = msgspec.json.Encoder(order="sorted", decimal_format="number").encode
_COMPLEMENT = str.maketrans("0123456789", "9876543210")
_PLAIN_DIGITS = 40
_BIAS = 500_000


def _decimal(value: Any) -> Decimal:
    return Decimal(value) if isinstance(value, (int, Decimal)) else Decimal(str(value))


def _number_text(value: int | float | Decimal) -> str:
    """Whole numbers of up to 40 digits plain, others as `<digits>e<exponent>`: short for any exponent."""
    if isinstance(value, int) and -(10**_PLAIN_DIGITS) < value < 10**_PLAIN_DIGITS:
        return str(value)
    number = _decimal(value)
    if not number.is_finite():
        return str(number)
    sign, digits, exponent = _exact(number)
    if exponent >= 0 and len(digits) + exponent <= _PLAIN_DIGITS:
        return sign + digits + "0" * exponent
    return f"{sign}{digits}e{exponent}"


def _exact(number: Decimal) -> tuple[str, str, int]:
    """Sign, digits without trailing zeros, and exponent. `Decimal.normalize` would round to 28 digits."""
    if number == 0:
        return "", "0", 0
    sign, figures, exponent = number.as_tuple()
    digits = "".join(map(str, figures))
    stripped = digits.rstrip("0")
    return "-" if sign else "", stripped, int(exponent) + len(digits) - len(stripped)


def _number_key(number: Decimal) -> bytes:
    if number.is_nan():
        return b"7"
    if number.is_infinite():
        return b"6" if number > 0 else b"2"
    if number == 0:
        return b"4"
    sign, digits, _ = _exact(number)
    magnitude = min(max(number.adjusted() + _BIAS, 0), 999_999)
    text = f"{magnitude:06d}{digits}"
    if not sign:
        return b"5" + text.encode()
    return b"3" + text.translate(_COMPLEMENT).encode() + b"~"


def _without_zero_bytes(text: str) -> bytes:
    """UTF-8, whose bytes order as code points do, with 0 and 1 spelled as 1 1 and 1 2: the order stays."""
    data = text.encode("utf-8", "surrogatepass")
    if b"\x00" in data or b"\x01" in data:
        data = data.replace(b"\x01", b"\x01\x02").replace(b"\x00", b"\x01\x01")
    return data
