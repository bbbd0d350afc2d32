"""The store on Redis (6.2 or newer) or Valkey, for several processes and machines.

`open_writer(target: connections.redis.Config, entities) -> Writer` and `open_reader(target) -> Reader`. What
survives the server's own end is what its persistence kept: a position that was lost with its rows comes again
from the log. The server must never evict keys (`maxmemory-policy noeviction`).
"""

from __future__ import annotations

from headgate.stores.redis.reader import open_reader
from headgate.stores.redis.writer import open_writer

__all__ = ["open_reader", "open_writer"]
