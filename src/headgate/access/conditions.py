"""Conditions on rows, as a policy writes them: `tenant_id = claims.tenant`, `region in claims.regions`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from headgate.model.access import Allowed
from headgate.model.caller import Caller

How = Literal["=", "in"]

_FORM = re.compile(
    r'\s*(?:"(?P<quoted>[^"]+)"|(?P<field>[^\W\d][\w$-]*))\s*(?P<how>=|\bin\b)\s*(?P<value>.+?)\s*', re.S
)
_CLAIM = re.compile(r'claims(?:\.(?P<path>[\w$-]+(?:\.[\w$-]+)*)|\["(?P<name>[^"]+)"\])')
_SHAPE = (
    "must be such as  tenant_id = claims.tenant,  region in claims.regions,  owner = caller.subject,  "
    'status = "open"  or  status in ["open", "paid"]'
)


class Condition(msgspec.Struct, frozen=True, kw_only=True):
    """`field` equals, or is in, what `source` names: a claim, the caller's subject, or values that are written out."""

    field: str
    how: How
    source: Literal["claim", "subject", "values"]
    claim: str = ""
    values: tuple[Any, ...] = ()

    def allowed(self, caller: Caller) -> Allowed | None:
        """The values for this caller; None where it lacks the claim, so that nothing may be given by it."""
        if self.source == "values":
            return Allowed(self.field, self.values)
        if self.source == "subject":
            return Allowed(self.field, (caller.subject,))
        found = claim_of(caller.claims, self.claim)
        values = found if self.how == "in" and isinstance(found, list) else [found]
        kept = tuple(value for value in values if _is_plain(value))
        return Allowed(self.field, kept) if kept and len(kept) == len(values) else None


def parse_condition(text: str) -> Condition:
    """The condition in a text. ValueError says how one is written."""
    match = _FORM.fullmatch(text)
    if match is None:
        raise ValueError(_SHAPE)
    field, value = match["quoted"] or match["field"], match["value"]
    how: How = "in" if match["how"] == "in" else "="
    if value == "caller.subject" and how == "=":
        return Condition(field=field, how="=", source="subject")
    claim = _CLAIM.fullmatch(value)
    if claim is not None:
        return Condition(field=field, how=how, source="claim", claim=claim["path"] or claim["name"])
    return Condition(field=field, how=how, source="values", values=_literals(value, how))


def _literals(text: str, how: How) -> tuple[Any, ...]:
    try:
        value = msgspec.json.decode(text)
    except msgspec.DecodeError:
        raise ValueError(_SHAPE) from None
    values = value if how == "in" and isinstance(value, list) else [value]
    if not values or (how == "in") != isinstance(value, list) or not all(map(_is_plain, values)):
        raise ValueError(_SHAPE)
    return tuple(values)


def claim_of(claims: Mapping[str, Any], path: str) -> Any:
    """The claim of that whole name; else what the dotted path leads to; None if there is neither."""
    if path in claims:
        return claims[path]
    found: Any = claims
    for part in path.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return None
        found = found[part]
    return found


def _is_plain(value: Any) -> bool:
    """Null is no value: a row without a tenant is nobody's."""
    return isinstance(value, str | int | float)
