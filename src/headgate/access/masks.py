"""How a value looks that is not shown as it is: masked, hashed, or made coarser. Null stays null."""

from __future__ import annotations

import hmac
import math
import re
from collections.abc import Callable
from decimal import ROUND_FLOOR, Decimal, InvalidOperation
from typing import Any

import msgspec

from headgate.model.access import Treatment
from headgate.model.entity import Field
from headgate.model.row import index_text

MASKED = "***"
"""What stands for a value of which nothing can be shown."""

Treat = Callable[[Any], Any]

_LENGTHS = {"year": 4, "month": 7, "day": 10, "hour": 13}
_TIME = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d.*)?", re.S)
_IP = re.compile(r"\d{1,3}(\.\d{1,3}){3}")
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+")
_NUMBER_LIKE = re.compile(r"\+?[\d ()./-]{7,}")
_IBAN = re.compile(r"[A-Za-z]{2}\d{2}[A-Za-z0-9 ]{8,}")
_LAST_FOUR = ("personal.phone", "personal.card", "personal.iban")
_SHORTEST_TAIL = 8
"""Of fewer letters and digits the last four would say too much."""
_SHORTEST_NAME = 4
_TEXTS = frozenset({"string", "uuid", "integer", "number", "decimal"})
_HASH_LABEL = b"headgate field 1\0"
_decode = msgspec.json.Decoder(float_hook=Decimal).decode


def treat(treatment: Treatment, field: Field, key: bytes) -> Treat:
    """What a treatment other than show and hide makes of a value of that field. Deterministic."""
    if treatment.kind == "mask":
        return _last_four if field.classification in _LAST_FOUR else _mask_of(field)
    if treatment.kind == "hash":
        return lambda value: hashed(value, key)
    if isinstance(treatment.step, str):
        length = _LENGTHS[treatment.step]
        return lambda value: _shortened(value, length)
    step = Decimal(repr(treatment.step)).normalize()
    return lambda value: _floored(value, step)


def of_json(treat: Treat) -> Callable[[Any], Any]:
    """The same for a value that is still JSON. What is no JSON that we read is masked whole."""

    def apply(raw: Any) -> Any:
        try:
            return treat(_decode(raw))
        except msgspec.DecodeError:  # an integer of thousands of digits
            return MASKED

    return apply


# --- mask -------------------------------------------------------------------------------------------


def _mask_of(field: Field) -> Treat:
    return masked if field.type in _TEXTS else lambda value: None if value is None else MASKED


def masked(value: Any) -> str | None:
    """`a***@example.com`; of phone numbers, cards and IBANs the last four; else the first letter."""
    if value is None:
        return None
    text = value if isinstance(value, str) else _digits(value)
    if _EMAIL.fullmatch(text):
        local, _, domain = text.rpartition("@")
        return f"{local[:1] if len(local) > 1 else ''}{MASKED}@{domain}"
    if _TIME.fullmatch(text) or _IP.fullmatch(text):
        return MASKED
    if _NUMBER_LIKE.fullmatch(text) or _IBAN.fullmatch(text):
        return _last_four(text)
    return text[0] + MASKED if len(text) >= _SHORTEST_NAME and text[0].isalpha() else MASKED


def _last_four(value: Any) -> str | None:
    if value is None:
        return None
    signs = [sign for sign in (value if isinstance(value, str) else _digits(value)) if sign.isalnum()]
    return MASKED + "".join(signs[-4:]) if len(signs) >= _SHORTEST_TAIL else MASKED


def _digits(value: Any) -> str:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else ""


# --- hash -------------------------------------------------------------------------------------------


def hashed(value: Any, key: bytes) -> str | None:
    """HMAC-SHA256 of the value: equal values have equal hashes, whatever field and row they stand in."""
    if value is None:
        return None
    return hmac.digest(key, _HASH_LABEL + index_text(value).encode("utf-8", "surrogatepass"), "sha256").hex()


# --- generalise -------------------------------------------------------------------------------------


def _shortened(value: Any, length: int) -> str | None:
    """An ISO 8601 text to its year, month, day or hour; masked where it is none."""
    if value is None:
        return None
    return value[:length] if isinstance(value, str) and _TIME.fullmatch(value) else MASKED


def _floored(value: Any, step: Decimal) -> Any:
    """The largest multiple of the step that is not above. Text stays text, whole numbers stay whole."""
    if value is None:
        return None
    try:
        number = None if isinstance(value, bool) else Decimal(value)
        if number is None or not number.is_finite():
            return MASKED
        floor = (number / step).to_integral_value(ROUND_FLOOR) * step
    except (InvalidOperation, TypeError, ValueError):
        return MASKED
    if isinstance(value, str):
        return f"{floor:f}"
    whole = int(floor) if floor == floor.to_integral_value() else None
    return whole if whole is not None else _double(floor)


def _double(value: Decimal) -> float | str:
    number = float(value)
    return number if math.isfinite(number) else str(value)
