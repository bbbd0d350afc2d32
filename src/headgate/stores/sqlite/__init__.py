"""The embedded store: one SQLite file in WAL mode.

`open_writer(target: Path, entities) -> Writer` and `open_reader(target: Path) -> Reader`. Any number of
processes may read while others write; writers take turns, one transaction for each `apply`. A transaction is
kept by the file as soon as it is committed, whatever becomes of the process; a power cut may take the newest
ones, rows and position together (`synchronous=NORMAL`), and they come again from the log.
"""

from __future__ import annotations

from headgate.stores.sqlite.reader import open_reader
from headgate.stores.sqlite.writer import open_writer

__all__ = ["open_reader", "open_writer"]
