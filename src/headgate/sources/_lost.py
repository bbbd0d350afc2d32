"""What mends a source that has lost changes: every table read again, in whatever order that is asked for."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

READ_AGAIN: Final = (
    "ask for a re-snapshot of every table of the pipeline, at once or one after the other: they are read once all are "
    "asked for"
)
"""What to do, as the end of a sentence. A request stands until its table is read."""
_MOST_NAMED = 12


def unasked(tables: Collection[str]) -> str:
    """What follows `READ_AGAIN` where it is known which tables nobody has asked for so far."""
    names = sorted(tables)
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return f" (not yet: {', '.join(names[:_MOST_NAMED])}{more})" if names else ""
