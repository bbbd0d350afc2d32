"""What a server offers: its tools, resources and prompts. Another offer is another server on the same page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from headgate.model.entity import Entity
from headgate.tools._prompts import PROMPTS, Prompt
from headgate.tools._resources import SHELVES, Shelf
from headgate.tools.base import Tool, discover


@dataclass(frozen=True, kw_only=True)
class Offer:
    """All that there is; a grant decides what of it exists for its caller."""

    tools: Callable[[Mapping[str, Entity]], Mapping[str, Tool]] = discover
    """Every tool by name, in the order of names, over these entities."""
    shelves: Sequence[Shelf] = SHELVES
    prompts: Sequence[Prompt] = PROMPTS
    """In the order of their names."""


OFFER = Offer()
