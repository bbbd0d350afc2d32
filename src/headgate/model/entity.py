"""An entity: the read model that agents see of one table."""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec

from headgate.model.table import ColumnType


class Field(msgspec.Struct, frozen=True, kw_only=True):
    """One field. `classification` is a dotted class such as `personal.email`, or empty."""

    name: str
    type: ColumnType
    nullable: bool = True
    classification: str = ""
    description: str = ""


class Relation(msgspec.Struct, frozen=True, kw_only=True):
    """How rows of one entity lead to rows of another: `field` here equals `target_field` there.

    `many` says whether several rows of the target may match. `target_field` is the target's single key
    field or one of its lookups. The rows come by their key or, with `order_by`, a field of the target, the
    largest and so the newest first; at most `limit` of them.
    """

    name: str
    entity: str
    field: str
    target_field: str
    many: bool
    order_by: str | None = None
    limit: int = 20
    target_is_key: bool = False
    """Whether `target_field` is the target's whole key."""
    target_type: ColumnType = "string"
    """The target field's type: by it a value here is spelled as the target's index spells it."""


class Group(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """An index for relations that lead here: the rows of one value of `field`, in the order of `order_by`.

    Without `order_by` in that of their keys.
    """

    field: str
    order_by: str | None = None


class Lead(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """What a row keeps for relations that lead away: the key or index value that `field` leads to there.

    `form` is `key`, or the type of the target's field.
    """

    field: str
    form: Literal["key"] | ColumnType


class Entity(msgspec.Struct, frozen=True, kw_only=True):
    """A read model of one table: `pipeline` and `table` say where its rows come from."""

    name: str
    pipeline: str
    table: str
    key: tuple[str, ...]
    fields: tuple[Field, ...]
    lookups: tuple[str, ...] = ()
    """Fields with an equality index."""
    sorted: tuple[str, ...] = ()
    """Fields with an order index: they take ranges and order, and equality too."""
    relations: tuple[Relation, ...] = ()
    groups: tuple[Group, ...] = ()
    """The indexes that ordered relations of others ask for."""
    description: str = ""
    partitions: int = 1

    def field(self, name: str) -> Field | None:
        """The field of that name, if there is one."""
        return next((field for field in self.fields if field.name == name), None)

    def _type_of(self, name: str) -> str:
        field = self.field(name)
        return field.type if field else ""

    def relation(self, name: str) -> Relation | None:
        """The relation of that name, if there is one."""
        return next((relation for relation in self.relations if relation.name == name), None)

    @property
    def leads(self) -> tuple[Lead, ...]:
        """What the relations need to be kept with each row, each once, sorted."""
        return tuple(sorted({lead_of(relation) for relation in self.relations}))

    @property
    def build(self) -> str:
        """Names the physical form of the rows: another key, index, index type or partition count is another build.

        Two definitions with the same build can share stored rows; a new build is filled from the log
        beside the old one.
        """
        indexes = [(name, self._type_of(name)) for name in (*self.lookups, "", *self.sorted)]
        groups = [
            (group.field, self._type_of(group.field), group.order_by, self._type_of(group.order_by or ""))
            for group in sorted(self.groups, key=lambda group: (group.field, group.order_by or ""))
        ]
        leads = [(lead.field, self._type_of(lead.field), lead.form) for lead in self.leads]
        form = msgspec.json.encode([self.pipeline, self.table, self.key, indexes, self.partitions, groups, leads])
        return hashlib.sha256(form).hexdigest()[:8]


def lead_of(relation: Relation) -> Lead:
    """What a row must keep so that the relation can be followed where the rows are."""
    return Lead(field=relation.field, form="key" if relation.target_is_key else relation.target_type)


class DeclaredField(msgspec.Struct, frozen=True, kw_only=True):
    """What a config says of one field; None leaves it to the source's schema."""

    type: ColumnType | None = None
    classification: str = ""
    description: str = ""


class DeclaredRelation(msgspec.Struct, frozen=True, kw_only=True):
    """What a config says of one relation."""

    entity: str
    field: str
    target_field: str
    many: bool = False
    order_by: str | None = None
    limit: int = 20


class Declared(msgspec.Struct, frozen=True, kw_only=True):
    """An entity as a config declares it. What is None is derived from the source's schema."""

    name: str
    pipeline: str
    table: str
    key: tuple[str, ...] | None = None
    lookups: tuple[str, ...] | None = None
    sorted: tuple[str, ...] | None = None
    fields: dict[str, DeclaredField] = {}
    relations: dict[str, DeclaredRelation] | None = None
    description: str = ""
