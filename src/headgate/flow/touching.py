"""Which rows readers see otherwise since they were last told: gathered step by step, told in few words."""

from __future__ import annotations

from headgate.model.position import Progress
from headgate.stores.base import Write
from headgate.subscriptions.base import MOST_KEYS, Tell


class Touching:
    """Gathers what the steps of one run change for readers. One thread uses it."""

    def __init__(self, tell: Tell | None = None) -> None:
        self._tell = tell
        self._touched: dict[str, set[str] | None] = {}

    def wrote(self, write: Write, before: Progress) -> None:
        """A step has written this to a generation that readers see."""
        keys = self._touched.setdefault(write.entity, set())
        if keys is None:
            return
        count = len(write.puts) + len(write.deletes) + len(write.flaws)
        if len(keys) + count > MOST_KEYS or write.progress.epoch != before.epoch:  # a truncate names no keys
            self._touched[write.entity] = None
            return
        keys.update(write.puts, write.deletes, write.flaws)

    def entity(self, name: str) -> None:
        """Any row of the entity may be another one."""
        self._touched[name] = None

    def tell(self) -> None:
        """Tells what was gathered. Returns at once."""
        touched = {name: keys for name, keys in self._touched.items() if keys is None or keys}
        self._touched.clear()
        if touched and self._tell is not None:
            self._tell(touched)
