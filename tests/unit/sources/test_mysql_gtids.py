"""MySQL's and MariaDB's GTIDs: which have been read, and whether another server has had them."""

from __future__ import annotations

import pytest

from headgate.sources.mysql.gtids import Gtids
from headgate.sources.mysql.position import Last
from headgate.sources.mysql.server import state_holds


@pytest.mark.parametrize(
    ("state", "gtids", "holds"),
    [
        ("0-7-12", "0-7-12", True),
        ("0-7-13,0-8-20", "0-7-12", True),
        ("0-7-11,0-8-20", "0-7-12", False),
        ("0-8-20", "0-7-12", False),
        ("1-7-12", "0-7-12", False),
        ("0-7-12,1-7-3", "0-7-12,1-7-4", False),
        ("", "0-7-12", False),
        ("0-7-12, 1-7-4", "0-7-12,1-7-4", True),
    ],
)
def test_a_server_holds_what_the_same_server_has_counted_so_far_in_the_same_domain(
    state: str, gtids: str, holds: bool
) -> None:
    assert state_holds(state, gtids) is holds


def test_mariadbs_newest_of_each_domain_and_what_was_before_the_last_one() -> None:
    gtids = Gtids("0-7-12,3-7-1", is_mariadb=True)
    gtids.begin("0-7-13")
    gtids.touch(100)
    gtids.touch(101)
    assert gtids.text() == "0-7-12,3-7-1"
    gtids.commit()
    assert gtids.text() == "0-7-13,3-7-1"
    assert gtids.last == Last(gtid="0-7-13", time_s=100, before="0-7-12,3-7-1")
    gtids.commit()  # what ends without having begun
    assert gtids.text() == "0-7-13,3-7-1"


def test_mysqls_set_grows() -> None:
    uuid = "19d69c1e-ae97-4b8c-a1ef-9e12ba966457"
    gtids = Gtids(f"{uuid}:1-3", is_mariadb=False)
    gtids.begin(f"{uuid}:4")
    gtids.commit()
    assert gtids.text() == f"{uuid}:1-4" and gtids.last is None
