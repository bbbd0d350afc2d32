"""Where an entity stands, for tools that also speak of those that have no whole snapshot yet."""

from __future__ import annotations

from headgate.access.view import View, pending_watermark
from headgate.errors import SnapshotPending
from headgate.model.position import Watermark


async def standing(view: View, entity: str) -> Watermark:
    """The entity's watermark; one of generation 0 while its first snapshot is being taken."""
    try:
        return await view.watermark(entity)
    except SnapshotPending:
        return pending_watermark(entity)
