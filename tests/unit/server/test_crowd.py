"""Who may stay at a door, and for how long: by a clock of the test's own."""

from __future__ import annotations

from headgate.server.crowd import Bounds, Crowd


class Client:
    """A client's socket, which notes what becomes of it."""

    peer = "192.0.2.7"

    def __init__(self) -> None:
        self.fate = ""

    def time_out(self) -> None:
        self.fate = "timed out"

    def abort(self) -> None:
        self.fate = "aborted"


class Site:
    """A crowd, its clock, and the refusals that it counted."""

    def __init__(self, **bounds: float) -> None:
        self.now_s = 100.0
        self.refused: list[tuple[str, str, str]] = []
        self.crowd = Crowd(Bounds(**bounds), lambda *said: self.refused.append(said), lambda: self.now_s)  # type: ignore[arg-type]

    def entered(self) -> Client:
        client = Client()
        assert self.crowd.enter(client)
        return client

    def after(self, seconds: float) -> None:
        self.now_s += seconds
        self.crowd.sweep()


def test_a_header_has_its_time_from_the_opening_or_its_first_byte() -> None:
    site = Site(header_s=10)
    silent, early = site.entered(), site.entered()
    site.after(9)
    late = site.entered()
    site.crowd.works(early)
    site.crowd.rests(early)
    site.crowd.comes(early)
    site.after(1)
    assert (silent.fate, early.fate, late.fate) == ("timed out", "", "")
    site.crowd.comes(early)  # another byte wins no time
    site.after(8)
    assert (early.fate, late.fate) == ("", "")
    site.after(1)
    assert (early.fate, late.fate) == ("timed out", "timed out")


def test_a_request_under_way_has_no_time_here() -> None:
    site = Site()
    client = site.entered()
    site.crowd.works(client)
    site.after(10_000)
    assert client.fate == ""


def test_between_requests_a_client_may_rest() -> None:
    site = Site(idle_s=75)
    client = site.entered()
    site.crowd.works(client)
    site.crowd.rests(client)
    site.after(74)
    assert client.fate == ""
    site.after(1)
    assert client.fate == "aborted"


def test_who_does_not_read_is_let_go() -> None:
    site = Site(send_s=60)
    stuck, slow = site.entered(), site.entered()
    for client in (stuck, slow):
        site.crowd.works(client)
        site.crowd.stalls(client)
    site.after(59)
    site.crowd.reads(slow)
    site.crowd.stalls(slow)
    site.after(1)
    assert (stuck.fate, slow.fate) == ("aborted", "")


def test_room_is_made_by_whoever_was_waited_for_longest() -> None:
    site = Site(connections=3)
    resting, silent, sending = site.entered(), site.entered(), site.entered()
    site.crowd.works(resting)
    site.crowd.rests(resting)
    site.crowd.works(sending)
    site.crowd.sends(sending)
    for gone in (silent, resting, sending):
        newcomer = Client()
        assert site.crowd.enter(newcomer)
        assert gone.fate == "aborted"
        site.crowd.leave(gone)
        site.crowd.works(newcomer)
    assert not site.crowd.enter(Client())
    assert site.refused == [("too_many_connections", "http", "192.0.2.0/24")]


def test_bounds_change_for_those_who_are_there() -> None:
    site = Site(header_s=10, connections=5)
    client = site.entered()
    site.crowd.adopt(Bounds(header_s=2, connections=1))
    site.after(2)
    assert client.fate == "timed out"
    assert site.crowd.most == 1
