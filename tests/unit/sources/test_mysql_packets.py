"""Events of MySQL's that the replication library does not know, as a MySQL 9.7 sent them."""

from __future__ import annotations

from headgate.sources.mysql.packets import tagged_gtid

_EVENT = (
    "0278000000023502aca103b502b503110222c5032d02f50304f103000000020404060a7461675f61080c0a140c7f408f4bea9161061"
    "0a5051283120b37"
)


def test_the_gtid_of_a_tagged_event() -> None:
    assert tagged_gtid(bytes.fromhex(_EVENT)) == "8d56e8ad-ed84-11f1-8bfd-02fc00000001:tag_a:1"
