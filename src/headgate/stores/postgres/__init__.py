"""The store in PostgreSQL 14 or newer, for several processes and machines; and for whoever likes to read it by SQL.

`open_writer(target: connections.postgres.Config, entities) -> Writer` and `open_reader(target) -> Reader`. All lies
in one schema (`store_schema` of the connection), made on first use. A step is one transaction. It is committed
without waiting for the disk (`synchronous_commit = off`): a crash of the server may take the newest steps, rows and
position together, and they come again from the log. A claim waits for the disk: no fence is given out twice.
"""

from __future__ import annotations

from headgate.stores.postgres.reader import open_reader
from headgate.stores.postgres.writer import open_writer

__all__ = ["open_reader", "open_writer"]
