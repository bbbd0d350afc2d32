"""Whether a row fits its entity: the fields that the config declares are there, and of the declared types."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import msgspec

from headgate.errors import SchemaMismatch
from headgate.model.entity import Declared, Entity
from headgate.model.table import ColumnType

_TYPES: dict[ColumnType, Any] = {
    "integer": int,
    "number": float | str,  # NaN and the infinities have no JSON number
    "decimal": Decimal,
    "boolean": bool,
    "json": msgspec.Raw,
    "array": list[msgspec.Raw],
}


class Fitting:
    """Checks rows of one entity. What no config declares is taken as the source sends it."""

    def __init__(self, entity: Entity, declared: Declared) -> None:
        names = [*declared.fields, *(declared.lookups or ()), *(declared.sorted or ())]
        fields = [(name, self._type(entity, declared, name)) for name in dict.fromkeys(names)]
        struct = msgspec.defstruct("Row", fields, rename={name: name for name, _ in fields}, gc=False)
        self._decode = msgspec.json.Decoder(struct).decode
        self._entity = entity.name
        self.fits: Callable[[bytes], object] | None = self._decode if fields else None
        """Raises for a row that `check` must be asked about; None where no row needs a look."""

    @staticmethod
    def _type(entity: Entity, declared: Declared, name: str) -> Any:
        said = declared.fields.get(name)
        if said is None or said.type is None:
            return msgspec.Raw
        field = entity.field(name)
        kind = _TYPES.get(said.type, str)
        return kind if (field is not None and not field.nullable) or kind is msgspec.Raw else kind | None

    def check(self, row: bytes) -> None:
        """SchemaMismatch names the field and what is wrong with it; it never quotes a value."""
        try:
            self._decode(row)
        except msgspec.ValidationError as error:
            raise SchemaMismatch(
                f"The change does not fit entity {self._entity!r}: {error}. Mend the source or the entity's "
                "declared fields, then retry the change."
            ) from error
        except msgspec.DecodeError as error:
            raise SchemaMismatch(f"The change holds no JSON object for entity {self._entity!r}.") from error
