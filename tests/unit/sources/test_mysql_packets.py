"""What the replication library does not know: an event that a MySQL 9.7 sent, collations that a MariaDB 11.8 has."""

from __future__ import annotations

import pytest
from pymysqlreplication.row_event import find_charset

from headgate.sources.mysql.packets import tagged_gtid

_EVENT = (
    "0278000000023502aca103b502b503110222c5032d02f50304f103000000020404060a7461675f61080c0a140c7f408f4bea9161061"
    "0a5051283120b37"
)


def test_the_gtid_of_a_tagged_event() -> None:
    assert tagged_gtid(bytes.fromhex(_EVENT)) == "8d56e8ad-ed84-11f1-8bfd-02fc00000001:tag_a:1"


@pytest.mark.parametrize(
    ("number", "charset"),
    [(2048, "utf8mb3"), (2247, "utf8mb3"), (2304, "utf8mb4"), (2560, "ucs2"), (2759, "ucs2"), (2816, "utf16"),
     (3072, "utf32"), (3271, "utf32")],
)  # fmt: skip
def test_collations_of_newer_mariadbs_are_of_their_character_sets(number: int, charset: str) -> None:
    assert find_charset(str(number), dbms="mariadb")[2] == charset
