"""The transactions that have been read, by their GTIDs: MariaDB's newest of each domain, MySQL's set.

https://dev.mysql.com/doc/refman/9.7/en/replication-gtids-concepts.html
"""

from __future__ import annotations

import struct
from bisect import insort
from collections.abc import Iterator

from headgate.sources.mysql.position import Last


class GtidSet:
    """MySQL's set of transactions: intervals of each server's UUID, and of each of its tags."""

    def __init__(self, text: str) -> None:
        self._intervals: dict[tuple[str, str], list[tuple[int, int]]] = {}
        for origin, first, last in _intervals_of(text):
            self._insert(origin, first, last + 1)

    def add(self, gtid: str) -> None:
        """One more; one that it has already changes nothing."""
        for origin, first, last in _intervals_of(gtid):
            self._insert(origin, first, last + 1)

    def text(self) -> str:
        """As the server writes it: `UUID:1-7:9,UUID:tag:1`."""
        return ",".join(
            ":".join(filter(None, (*origin, *(_interval_text(*each) for each in intervals))))
            for origin, intervals in sorted(self._intervals.items())
        )

    def encoded(self) -> bytes:
        """As a replica sends it. Where one has a tag, all are told with theirs, be it empty (MySQL 8.3 and newer)."""
        has_tags = any(tag for _, tag in self._intervals)
        count = len(self._intervals)
        parts = [struct.pack("<Q", (1 << 56) + (count << 8) + 1 if has_tags else count)]
        for (uuid, tag), intervals in sorted(self._intervals.items()):
            name = bytes([len(tag) << 1]) + tag.encode() if has_tags else b""
            parts += [bytes.fromhex(uuid.replace("-", "")), name, struct.pack("<Q", len(intervals))]
            parts += [struct.pack("<QQ", *each) for each in intervals]
        return b"".join(parts)

    @property
    def encoded_length(self) -> int:
        """Of `encoded`, in bytes."""
        return len(self.encoded())

    def _insert(self, origin: tuple[str, str], begin: int, end: int) -> None:
        """Intervals are kept apart and in order; `end` is the first that is not in it."""
        apart: list[tuple[int, int]] = []
        for each in self._intervals.get(origin, []):
            if each[1] < begin or end < each[0]:
                apart.append(each)
            else:
                begin, end = min(begin, each[0]), max(end, each[1])
        insort(apart, (begin, end))
        self._intervals[origin] = apart


def _intervals_of(text: str) -> Iterator[tuple[tuple[str, str], int, int]]:
    """Server and tag, and the first and last number of each interval. A tag holds for what follows it."""
    for part in filter(None, "".join(text.split()).split(",")):
        uuid, *pieces = part.lower().split(":")
        tag = ""
        for piece in pieces:
            if piece[0].isdigit():
                first, _, last = piece.partition("-")
                yield (uuid, tag), int(first), int(last or first)
            else:
                tag = piece


def _interval_text(begin: int, end: int) -> str:
    return str(begin) if end == begin + 1 else f"{begin}-{end - 1}"


class Gtids:
    """As far as a stream has come."""

    def __init__(self, text: str, is_mariadb: bool, last: Last | None = None) -> None:
        self._domains = {domain_of(gtid): gtid for gtid in text.split(",") if gtid} if is_mariadb else {}
        self._set = None if is_mariadb else GtidSet(text)
        self._text = text
        self.last = last
        """MariaDB's newest one."""
        self.open: str | None = None
        """The transaction that has begun and has not been read whole."""
        self.time_s = 0
        """Of its first event that changes something."""

    def begin(self, gtid: str) -> None:
        """A transaction of this name begins."""
        self.open, self.time_s = gtid, 0

    def touch(self, time_s: int) -> None:
        """It changes something."""
        self.time_s = self.time_s or time_s

    def commit(self) -> None:
        """It has been read whole."""
        gtid, self.open = self.open, None
        if gtid is None:
            return
        if self._set is None:
            self.last = Last(gtid=gtid, time_s=self.time_s, before=self._text)
            self._domains[domain_of(gtid)] = gtid
            self._text = ",".join(self._domains[domain] for domain in sorted(self._domains))
        else:
            self._set.add(gtid)
            self._text = self._set.text()

    def text(self) -> str:
        """All of them."""
        return self._text


def domain_of(gtid: str) -> str:
    """The domain of a GTID of MariaDB."""
    return gtid.partition("-")[0]
