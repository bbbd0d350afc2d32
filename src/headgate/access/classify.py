"""Proposes classes for fields by their names and by values: what looks like personal data, or a secret."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from headgate.access.treatments import NO_CLASS
from headgate.model.entity import Entity, Field
from headgate.model.row import Row

_PERSONAL: tuple[tuple[str, str], ...] = (
    ("personal.email", r"e_?mail"),
    ("personal.phone", r"phone|mobile|msisdn|^tel(ephone)?$"),
    ("personal.card", r"card_?(number|no|pan)|^pan$"),
    ("personal.iban", r"iban|bank_?account|account_?number"),
    ("personal.ip", r"(^|_)ip(_?addr(ess)?)?$"),
    ("personal.birth", r"birth|^dob$"),
    ("personal.id", r"ssn|passport|national_?id|tax_?(id|number)|social_?security"),
    ("personal.address", r"street|address|post_?code|zip(_?code)?$"),
    ("personal.name", r"^(full_?|first_?|last_?|middle_?|given_?|sur|family_?|nick_?|user_?)name$"),
    ("secret", r"password|passwd|secret|token|api_?key|(^|_)hash$|salt"),
)
_PEOPLE = re.compile(r"customer|user|person|people|contact|employee|patient|member|client|author|guest|student")

_FEWEST = 3
"""Values that must be there before they say anything."""
_SHARE = 0.8
"""Of the values, how many must look alike: the others are typing mistakes."""
_LONGEST = 320

_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s.]+")
_PHONE = re.compile(r"(\+\d|\(?0)[\d ()./-]{5,}\d")
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_IBAN = re.compile(r"[A-Z]{2}\d{2}[A-Z0-9]{11,30}")
_CARD = re.compile(r"[2-6]\d{12,18}")
_PERSON = re.compile(r"[^\W\d_a-z][\w'’.-]*( [\w'’.-]+){1,3}")
_NAMES = re.compile(r"name|person|contact|author|holder|recipient|owner")


class Proposal(msgspec.Struct, frozen=True, kw_only=True):
    """What class a field should have, and why. `NO_CLASS` where nothing looks like personal data."""

    entity: str
    field: str
    current: str
    """The class that it has; empty for none."""
    proposed: str
    why: str

    @property
    def is_news(self) -> bool:
        """Whether nobody has said anything of the field so far."""
        return not self.current


def propose(entity: Entity, rows: Sequence[Row]) -> list[Proposal]:
    """A proposal for each field, in their order; `rows` are a sample. What a config says already stays."""
    samples = _samples(rows)
    return [_propose(entity, field, samples.get(field.name, [])) for field in entity.fields]


def by_name(table: str, column: str) -> str:
    """The class that a column's name suggests, or nothing. A `name` is personal in a table of people."""
    lowered = column.lower()
    for classification, pattern in _PERSONAL:
        if re.search(pattern, lowered):
            return classification
    return "personal.name" if lowered == "name" and _PEOPLE.search(table.lower()) else ""


def by_values(column: str, values: Iterable[Any]) -> tuple[str, str]:
    """The class that values suggest, and why; two empty texts for none."""
    texts = [str(value)[:_LONGEST] for value in values if isinstance(value, str | int) and not isinstance(value, bool)]
    texts = [text for text in texts if text.strip()]
    if len(texts) < _FEWEST:
        return "", ""
    for name, words, looks in _LOOKS:
        count = sum(map(looks, texts))
        if count >= _SHARE * len(texts) and (name != "personal.name" or _NAMES.search(column.lower())):
            return name, f"{count} of {len(texts)} values look like {words}"
    return "", ""


def _propose(entity: Entity, field: Field, values: Sequence[Any]) -> Proposal:
    if field.classification:
        proposed, why = field.classification, "as the config says"
    else:
        found, why = by_values(field.name, values)
        proposed = found or by_name(entity.table, field.name)
        why = why or ("by its name" if proposed else "nothing in name or values suggests a class")
    return Proposal(
        entity=entity.name, field=field.name, current=field.classification, proposed=proposed or NO_CLASS, why=why
    )


def _samples(rows: Sequence[Row]) -> Mapping[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for row in rows:
        try:
            values = msgspec.json.decode(row.json)
        except msgspec.DecodeError:
            continue  # what can't be read suggests nothing
        for name, value in values.items():
            found.setdefault(name, []).append(value)
    return found


# --- what values look like --------------------------------------------------------------------------


def is_iban(text: str) -> bool:
    """By its form and the checksum of ISO 13616 (the number modulo 97 is 1)."""
    packed = text.replace(" ", "").upper()
    if not _IBAN.fullmatch(packed):
        return False
    digits = "".join(str(int(sign, 36)) for sign in packed[4:] + packed[:4])
    return int(digits) % 97 == 1


def is_card(text: str) -> bool:
    """By its length and Luhn's checksum (ISO/IEC 7812-1, annex B)."""
    packed = text.replace(" ", "").replace("-", "")
    if not _CARD.fullmatch(packed):
        return False
    doubled = [int(sign) * (1 + place % 2) for place, sign in enumerate(reversed(packed))]
    return sum(number - 9 if number > 9 else number for number in doubled) % 10 == 0


def is_ip(text: str) -> bool:
    """An IPv4 or IPv6 address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return "." in text or ":" in text


def is_phone(text: str) -> bool:
    """With a leading plus, zero or bracket, seven digits at least; a date is none."""
    return bool(_PHONE.fullmatch(text)) and not _DATE.match(text) and sum(sign.isdigit() for sign in text) >= 7


_LOOKS: tuple[tuple[str, str, Callable[[str], bool]], ...] = (
    ("personal.email", "e-mail addresses", lambda text: bool(_EMAIL.fullmatch(text))),
    ("personal.iban", "IBANs", is_iban),
    ("personal.card", "card numbers", is_card),
    ("personal.ip", "IP addresses", is_ip),
    ("personal.phone", "phone numbers", is_phone),
    ("personal.name", "names of persons", lambda text: bool(_PERSON.fullmatch(text))),
)
