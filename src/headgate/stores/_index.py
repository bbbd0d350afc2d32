"""What the indexes of an entity hold: one value per field and row, in a form that bytes can compare."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from functools import partial
from typing import Any, NamedTuple

import msgspec

from headgate.errors import NotIndexed, StoreError
from headgate.model.entity import Entity, Group, Lead
from headgate.model.row import index_text, key_text, sort_key
from headgate.model.table import ColumnType

_NUMERIC: frozenset[ColumnType] = frozenset({"integer", "number", "decimal"})
_AS_TEXT: frozenset[ColumnType] = frozenset({"string", "date", "time", "timestamp", "duration", "bytes", "uuid"})
_TRUE = frozenset({"true", "t", "1"})
_FALSE = frozenset({"false", "f", "0"})
_LONGEST_TEXT = 200
_LONGEST_VALUE = 1_000
_NOT_IN_UTF8 = b"\xff"
_LEAD = "\x1d"


class Entry(NamedTuple):
    """One row's place in one index."""

    field: str
    """The index's name: of a field, a group or a lead."""
    value: bytes
    """Holds no zero byte."""
    key: str


class Indexes:
    """The indexes of one entity. A field that is both a lookup and sorted has the order index alone.

    A group's value is the field's, as a lookup's, then 255 and the order field's. A lead is no index to search:
    it is found by the row's key, and its value is where the row leads to (empty: nowhere).
    """

    def __init__(self, entity: Entity) -> None:
        self.ordered = tuple(dict.fromkeys(entity.sorted))
        self.equal = tuple(name for name in dict.fromkeys(entity.lookups) if name not in self.ordered)
        self.groups = {group_name(group): group for group in sorted(entity.groups, key=group_name)}
        self.leads = {lead_name(lead): lead for lead in entity.leads if own_prefix(entity, lead) is None}
        self._fields = self.ordered + self.equal
        self.names = (*self._fields, *self.groups, *self.leads)
        self._entity = entity.name
        self._types = {field.name: field.type for field in entity.fields}
        self._values = {name: self._valuer(name) for name in self.names}
        self._pick = _picker(tuple(self._source(name) for name in self.names))

    def require(self, fields: tuple[str, ...], *, ordered: bool = False) -> None:
        """NotIndexed names the fields that have the index that is asked for, if any of `fields` has not."""
        having = self.ordered if ordered else self._fields
        missing = [field for field in fields if field not in having]
        if not missing:
            return
        use = "take ranges and order" if ordered else "can be filtered by"
        raise NotIndexed(
            f"{', '.join(missing)} of {self._entity} has no index for this. "
            f"Fields that {use}: {', '.join(sorted(having)) or 'none'}.",
            missing=missing,
            indexed=sorted(having),
        )

    def pick(self, json: bytes) -> tuple[Any, ...]:
        """What a row's JSON has for each of `names`; a pair of values for a group. StoreError: no JSON object."""
        try:
            return self._pick(json)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StoreError("a row holds no JSON object: sync must not write such rows") from error

    def value(self, name: str, given: Any) -> bytes:
        """What that index holds for what was picked of a row, or for an agent's spelling of a field's value."""
        return self._values[name](given)

    def entries(self, key: str, values: tuple[Any, ...]) -> list[Entry]:
        """The places of a row with these `pick`ed values."""
        return [Entry(field, self.value(field, given), key) for field, given in zip(self.names, values, strict=True)]

    def value_of(self, name: str, json: bytes) -> bytes:
        """What that index holds for a row."""
        return self.value(name, self.pick(json)[self.names.index(name)])

    def group_of(self, field: str, order_by: str | None) -> str | None:
        """The name of the index that has the rows of one value of `field` in that order, if there is one."""
        name = group_name(Group(field=field, order_by=order_by))
        return name if name in self.groups else None

    def _source(self, name: str) -> tuple[str, str | None]:
        """The field that an index is made of; of a group also that of its order."""
        if (group := self.groups.get(name)) is not None:
            return group.field, group.order_by or ""
        lead = self.leads.get(name)
        return (lead.field if lead else name), None

    def _valuer(self, name: str) -> Callable[[Any], bytes]:
        if (group := self.groups.get(name)) is not None:
            return partial(_group_value, self._type(group.field), self._type(group.order_by or ""))
        if (lead := self.leads.get(name)) is not None:
            return partial(lead_value, lead)
        return partial(_ordered_value if name in self.ordered else _equal_value, self._type(name))

    def _type(self, field: str) -> ColumnType:
        return self._types.get(field, "string")


def group_name(group: Group) -> str:
    """The name of a group among an entity's indexes, which no field's is likely to be."""
    return f"\x1e{group.field}\x1f{group.order_by or ''}"


def lead_name(lead: Lead) -> str:
    """The name of a lead among an entity's indexes."""
    return f"{_LEAD}{lead.field}\x1f{lead.form}"


def is_lead(name: str) -> bool:
    """Whether an index of that name is a lead."""
    return name.startswith(_LEAD)


def group_bounds(value: bytes) -> tuple[bytes, bytes]:
    """The interval in which one group's values lie. `value`: the field's, as a lookup's."""
    return value + _NOT_IN_UTF8 + b"\x00", value + _NOT_IN_UTF8 * 2 + b"\x00"


def split_group(value: bytes) -> tuple[bytes, bytes]:
    """A group's value as the field's and the order's."""
    field, _, order = value.partition(_NOT_IN_UTF8)
    return field, order


def own_prefix(entity: Entity, lead: Lead) -> str | None:
    """What stands before a row's own key text in the lead's value, where that is all there is to it; else None.

    Such leads, as those of whole numbers that are keys, need not be kept.
    """
    if entity.key != (lead.field,):
        return None
    if lead.form == "key":
        return ""
    field = entity.field(lead.field)
    return "d" if lead.form == "integer" and field is not None and field.type == "integer" else None


def lead_value(lead: Lead, given: Any) -> bytes:
    """The key or the index value that a row's value leads to; empty for a null."""
    if given is None:
        return b""
    if lead.form == "key":
        return _key_of(given)
    return _equal_value(lead.form, given)


def _key_of(given: Any) -> bytes:
    """Text that is no whole Unicode can be no key."""
    try:
        return key_text([given]).encode()
    except UnicodeEncodeError:
        return b""


def normalise(kind: ColumnType, value: Any) -> Any:
    """A value in the one spelling of its field's type. What does not fit the type stays as it is."""
    if value is None:
        return None
    if kind in _NUMERIC:
        return _number(value)
    if kind == "boolean":
        return _boolean(value)
    if kind in _AS_TEXT:
        return _spelled(kind, value if isinstance(value, str) else _text(value))
    return value


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        return int(value)
    if not isinstance(value, str) or not value.isascii() or "_" in value:
        return value
    try:
        return Decimal(value)
    except InvalidOperation:
        return value


def _boolean(value: Any) -> Any:
    text = str(value).lower()
    if text in _TRUE:
        return True
    return False if text in _FALSE else value


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _spelled(kind: ColumnType, text: str) -> str:
    """Times in UTC lose their zone, so that a fraction of a second orders after none; dates part from times by `T`."""
    if kind == "uuid":
        return text.lower()
    if kind in ("time", "timestamp"):
        text = text.removesuffix("Z").removesuffix("+00:00")
    if kind == "timestamp" and text[10:11] == " ":
        text = f"{text[:10]}T{text[11:]}"
    return text


def _group_value(kind: ColumnType, order_kind: ColumnType, given: tuple[Any, Any]) -> bytes:
    return _equal_value(kind, given[0]) + _NOT_IN_UTF8 + _ordered_value(order_kind, given[1])


def _ordered_value(kind: ColumnType, given: Any) -> bytes:
    """Values that agree in their first 1,000 bytes stand beside each other, and no more is said of their order."""
    normal = normalise(kind, given)
    value = sort_key(normal, numeric=isinstance(normal, (int, float, Decimal)))
    return value if len(value) <= _LONGEST_VALUE else value[:_LONGEST_VALUE] + _digest(value)


def _equal_value(kind: ColumnType, given: Any) -> bytes:
    """Long texts are held by their digest; whoever reads compares the same digest."""
    text = index_text(normalise(kind, given))
    if len(text) > _LONGEST_TEXT:
        return b"h" + _digest(text.encode("utf-8", "surrogatepass"))
    return sort_key(text, numeric=False)[1:]


def _digest(value: bytes) -> bytes:
    return hashlib.sha256(value).hexdigest().encode()


def _picker(sources: tuple[tuple[str, str | None], ...]) -> Callable[[bytes], tuple[Any, ...]]:
    """Decodes these members of a JSON object alone; a missing one is None. A source of two fields gives a pair."""
    fields = list(dict.fromkeys(name for source in sources for name in source if name))
    places = {f"f{place}": name for place, name in enumerate(fields)}
    form = msgspec.defstruct("Indexed", [(place, Any, None) for place in places], rename=places, gc=False)
    decode = msgspec.json.Decoder(form, float_hook=Decimal).decode
    to_tuple = msgspec.structs.astuple
    if [(name, None) for name in fields] == list(sources):
        return lambda json: to_tuple(decode(json))
    at: dict[str | None, int] = {name: place for place, name in enumerate(fields)}
    wanted = [(at[field], None if order is None else at.get(order, -1)) for field, order in sources]

    def pick(json: bytes) -> tuple[Any, ...]:
        found = (*to_tuple(decode(json)), None)
        return tuple(found[place] if order is None else (found[place], found[order]) for place, order in wanted)

    return pick
