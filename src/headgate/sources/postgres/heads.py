"""How far the stream must have come to cover the source as it was at a moment of the source's own clock.

A keepalive's clock says when it was sent, and nothing of how far the stream lags. So the server is asked on
another connection for its clock and the end of its log; once the stream has passed that end, everything
that was committed by that time has been read.
"""

from __future__ import annotations

from collections import deque
from time import monotonic
from typing import NamedTuple

from psycopg import sql
from psycopg.pq.abc import PGresult

from headgate.connections.postgres import Connection
from headgate.errors import PublicationMissing
from headgate.model.change import Sequence
from headgate.sources._lost import READ_AGAIN
from headgate.sources.base import Head
from headgate.sources.postgres.lsn import parse_lsn
from headgate.sources.postgres.stream import finish_results, result_of

_MOST_SAMPLES = 256
CLOCK = "floor(extract(epoch from clock_timestamp()) * 1000)::int8"
"""The server's clock in milliseconds, as SQL."""
_UNSYNCED_MS = 3_000
"""Asynchronous commits are flushed within three times `wal_writer_delay`, which is seldom changed from 200 ms."""

PUBLICATION_GONE = (
    "the publication {publication} is gone, so that the source sends nothing: run `headgate detach` and start again, "
    "or " + READ_AGAIN
)


class _Sample(NamedTuple):
    time_ms: int
    end: int
    """Every commit that anyone saw by then has its record before this LSN."""


class Heads:
    """Asks for the head now and then, without waiting for the answers. One thread uses it."""

    def __init__(self, connection: Connection, publication: str, server: str, interval_s: float) -> None:
        self._pgconn = connection.pgconn
        self._server = server
        self._publication = publication
        self._interval_s = interval_s
        self._query = _QUERY % sql.Literal(publication).as_bytes(connection)
        self._samples: deque[_Sample] = deque()
        self._asked = False
        self.due_at = monotonic()
        """When `ask` should be called next."""

    @property
    def waited_for(self) -> int:
        """The LSN that the stream must pass for the oldest sample; 0 when there is none."""
        return self._samples[0].end if self._samples else 0

    def ask(self) -> None:
        """Sends the question, unless the last one is still unanswered."""
        self.due_at = monotonic() + self._interval_s
        if not self._asked:
            self._pgconn.send_query(self._query)
            self._asked = True

    def listen(self) -> None:
        """Takes an answer, if one has come. PublicationMissing: it says that the publication is gone."""
        self._pgconn.consume_input()
        if self._asked and not self._pgconn.is_busy():
            self.settle()

    def settle(self) -> None:
        """Waits for the answer to what was asked, so that the connection is free for other statements."""
        if not self._asked:
            return
        result = result_of(self._pgconn, self._server)
        time_ms, inserted, flushed, published = (_text(result, column) for column in range(4))
        finish_results(self._pgconn)
        self._asked = False
        if published != "t":
            raise PublicationMissing(PUBLICATION_GONE.format(publication=self._publication))
        self._remember(_Sample(int(time_ms), parse_lsn(inserted)), parse_lsn(flushed))

    def passed(self, position: int) -> Head | None:
        """The newest head that a stream covers which has come to `position`."""
        newest = None
        while self._samples and self._samples[0].end <= position:
            newest = self._samples.popleft()
        return None if newest is None else Head(Sequence(newest.end, 0), newest.time_ms)

    def _remember(self, sample: _Sample, flushed: int) -> None:
        """Keeps a sample. An old one need not wait for what was never flushed since: no commit is in it.

        That is what an open transaction wrote, or a page's header that the insert position has stepped over.
        """
        self._samples = deque(
            old._replace(end=min(old.end, flushed)) if sample.time_ms - old.time_ms >= _UNSYNCED_MS else old
            for old in self._samples
        )
        self._samples.append(sample)
        if len(self._samples) > _MOST_SAMPLES:
            self._samples = deque(list(self._samples)[::2])


def _text(result: PGresult, column: int) -> str:
    value = result.get_value(0, column)
    assert value is not None  # no column of the query can be null
    return value.decode()


# The clock is read before the log's end, so that nothing committed by then can lie behind it.
_QUERY = (
    b"select "
    + CLOCK.encode()
    + b""", pg_current_wal_insert_lsn(),
           pg_current_wal_flush_lsn(), exists(select from pg_publication where pubname = %b)
"""
)
