"""What policy gives one caller, its claims filled in: frozen values that a view is narrowed by."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Any, Literal

import msgspec

Kind = Literal["show", "generalise", "mask", "hash", "hide"]
KINDS: tuple[Kind, ...] = ("show", "generalise", "mask", "hash", "hide")
"""From the most permissive to the least."""
TIME_STEPS = ("hour", "day", "month", "year")
"""From the finest to the coarsest."""


class Treatment(msgspec.Struct, frozen=True, kw_only=True):
    """How a field's values are answered. `step` goes with generalise: a name of `TIME_STEPS`, or a number.

    `lookup` says that rows may be looked up by the exact value although it is not shown.
    """

    kind: Kind
    step: str | float = ""
    lookup: bool = False

    @property
    def rank(self) -> tuple[int, float]:
        """Less is more permissive."""
        step = float(TIME_STEPS.index(self.step)) if self.step in TIME_STEPS else self.step
        return KINDS.index(self.kind), step if isinstance(step, float | int) else 0.0

    @property
    def finds(self) -> bool:
        """Whether rows may be looked up by the field's exact value."""
        return self.kind == "show" or self.lookup


SHOW = Treatment(kind="show")
HIDE = Treatment(kind="hide")


class Allowed(msgspec.Struct, frozen=True):
    """A condition on rows: the field has one of these values."""

    field: str
    values: tuple[Any, ...]


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """What one rule gives of the entities that a pattern names."""

    entity: str
    """A name, or a pattern with `*`."""
    rows: tuple[Allowed, ...] = ()
    """Conditions that all hold; without any, all rows."""
    fields: dict[str, Treatment] = {}
    """By the field's name; `*` is for all that have none of their own."""
    classes: tuple[dict[str, Treatment], ...] = ()
    """By class: the first of these that knows a field's class decides."""


class Given(msgspec.Struct, frozen=True, kw_only=True):
    """What one rule gives: its tools, over its entities and pipelines and no others."""

    rule: str
    tools: tuple[str, ...]
    shares: tuple[Share, ...] = ()
    pipelines: tuple[str, ...] = ()
    approve: tuple[str, ...] = ()
    """Of its tools, those whose calls need another person's yes, as far as they change something."""

    def gives_tool(self, name: str) -> bool:
        """Whether one of the patterns fits the tool's name."""
        return any_fits(name, self.tools)

    def asks_for(self, name: str) -> bool:
        """Whether a call of that tool needs another person's yes, if it changes something."""
        return any_fits(name, self.approve) and self.gives_tool(name)


def any_fits(name: str, patterns: tuple[str, ...]) -> bool:
    """Whether one of the patterns fits the name: `*` stands for any characters, case counts."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)
