"""How a topic must keep its records, for what is read from it."""

from __future__ import annotations

from typing import Literal

import msgspec


class Keeping(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of one topic's settings."""

    holds: Literal["rows", "history", "beats"]
    """`rows`: the last record of each key counts for ever; `history`: every record counts; `beats`: the newest do."""
    retention_ms: int
    """For how long every record must be there."""
    because: str
    """Whose time that is: what follows "shorter than the 1000 ms that"."""
    is_ours: bool = True
    """Whether Headgate writes it; others do otherwise."""
