"""The transactions that have been read, by their GTIDs: MariaDB's newest of each domain, MySQL's set."""

from __future__ import annotations

from pymysqlreplication.gtid import Gtid, GtidSet

from headgate.sources.mysql.position import Last


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
            self._set += Gtid(gtid)
            self._text = str(self._set)

    def text(self) -> str:
        """All of them."""
        return self._text


def domain_of(gtid: str) -> str:
    """The domain of a GTID of MariaDB."""
    return gtid.partition("-")[0]
