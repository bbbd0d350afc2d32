"""MySQL's and MariaDB's GTIDs: which have been read, and whether another server has had them."""

from __future__ import annotations

import pytest

from headgate.sources.mysql.gtids import Gtids, GtidSet
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


_UUID = "8d56e8ad-ed84-11f1-8bfd-02fc00000001"
_OTHER = "19d69c1e-ae97-4b8c-a1ef-9e12ba966457"


@pytest.mark.parametrize(
    ("text", "added", "sum_of_both"),
    [
        ("", f"{_UUID}:7", f"{_UUID}:7"),
        (f"{_UUID}:1-3:5-9", f"{_UUID}:4", f"{_UUID}:1-9"),
        (f"{_UUID}:5-9", f"{_UUID}:3", f"{_UUID}:3:5-9"),
        (f"{_UUID}:1-3", f"{_UUID}:2", f"{_UUID}:1-3"),
        (f"{_UUID}:1-3", f"{_OTHER}:1", f"{_OTHER}:1,{_UUID}:1-3"),
        (f"{_UUID}:1-3", f"{_UUID}:billing:1", f"{_UUID}:1-3,{_UUID}:billing:1"),
        (f"{_UUID}:1-3:billing:1:3", f"{_UUID}:billing:2", f"{_UUID}:1-3,{_UUID}:billing:1-3"),
        (f"{_UUID.upper()}:1-3,\n{_OTHER}:1", f"{_UUID}:4", f"{_OTHER}:1,{_UUID}:1-4"),
    ],
)
def test_a_set_of_mysqls_grows_by_server_and_tag(text: str, added: str, sum_of_both: str) -> None:
    gtids = GtidSet(text)
    gtids.add(added)
    assert gtids.text() == sum_of_both
    assert GtidSet(sum_of_both).text() == sum_of_both


def test_a_set_is_sent_as_the_server_itself_writes_it() -> None:
    """The second is the event of previous GTIDs of a MySQL 9.7."""
    sent = GtidSet(f"{_UUID}:1-6").encoded()
    assert sent.hex() == (
        "01000000000000008d56e8aded8411f18bfd02fc00000001010000000000000001000000000000000700000000000000"
    )
    tagged = GtidSet(f"{_UUID}:1-1517:tag_a:1")
    assert tagged.encoded().hex() == (
        "01020000000000018d56e8aded8411f18bfd02fc000000010001000000000000000100000000000000ee050000000000008d56e8ad"
        "ed8411f18bfd02fc000000010a7461675f61010000000000000001000000000000000200000000000000"
    )
    assert tagged.encoded_length == len(tagged.encoded())


def test_mysqls_set_grows() -> None:
    uuid = "19d69c1e-ae97-4b8c-a1ef-9e12ba966457"
    gtids = Gtids(f"{uuid}:1-3", is_mariadb=False)
    gtids.begin(f"{uuid}:4")
    gtids.commit()
    assert gtids.text() == f"{uuid}:1-4" and gtids.last is None
