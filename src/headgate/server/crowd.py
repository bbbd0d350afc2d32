"""The sockets that are open to a door: bounded in number, and in how long each may take.

A client that says nothing, or says it slowly, costs a socket and some memory. It is closed in its time, and sooner
when another one needs the room: what is waited for longest goes first, and a whole request under way never.
"""

from __future__ import annotations

import resource
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from headgate.model.caller import network_of

_OTHER_FILES = 256
"""What a process needs beside its clients' sockets."""


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What a client may take of time and room."""

    header_s: float = 10.0
    """From the first byte of a request, or from the connection's opening, to the end of the header."""
    body_s: float = 30.0
    idle_s: float = 75.0
    """Between an answer and the next request. Longer than proxies keep theirs, so that they close first."""
    send_s: float = 60.0
    """How long a client may not read while there is more to send."""
    grace_s: float = 5.0
    """How long calls under way may take once a stop was asked for."""
    header_bytes: int = 64 * 1024
    body_bytes: int = 4 * 1024 * 1024
    connections: int = 10_000
    """Of one process; fewer where the system gives it fewer files."""


class Member(Protocol):
    """One client's socket."""

    @property
    def peer(self) -> str:
        """The address that it comes from."""

    def time_out(self) -> None:
        """Its request did not come in time: it is told so, if it has begun one, and closed."""

    def abort(self) -> None:
        """Closes at once."""


@dataclass
class Crowd:
    """Who is there, and since when each is waited for. For one event loop; all steps are O(1)."""

    bounds: Bounds
    """May be replaced at any time."""
    refused: Callable[[str, str, str], None]
    """Counts one refusal: its reason, the door, the network."""
    now_s: Callable[[], float]
    left: Callable[[], None] = lambda: None
    """Called for each that has left."""
    most: int = field(init=False)
    count: int = 0
    _coming: dict[Member, float] = field(default_factory=dict)
    """Whose header is not whole yet, and since when; the oldest first."""
    _idle: dict[Member, float] = field(default_factory=dict)
    _sending: dict[Member, float] = field(default_factory=dict)
    """Whose body is not whole yet. Whoever reads it bounds its time."""
    _stalled: dict[Member, float] = field(default_factory=dict)
    """Who does not read what is sent."""

    def __post_init__(self) -> None:
        self.most = min(self.bounds.connections, files_at_most() - _OTHER_FILES)

    def adopt(self, bounds: Bounds) -> None:
        """From now on these hold, for those too that are there."""
        self.bounds = bounds
        self.most = min(bounds.connections, files_at_most() - _OTHER_FILES)

    # --- what a socket tells ---

    def enter(self, member: Member) -> bool:
        """One more; False when there is no room, as all others have a whole request under way."""
        if self.count >= self.most and not self._make_room():
            self.refuse("too_many_connections", member)
            return False
        self.count += 1
        self._coming[member] = self.now_s()
        return True

    def leave(self, member: Member) -> None:
        """It is closed."""
        self.count -= 1
        for place in (self._coming, self._idle, self._sending, self._stalled):
            place.pop(member, None)
        self.left()

    def comes(self, member: Member) -> None:
        """A part of a header has come. Its time counts from the first one."""
        if member not in self._coming:
            self._idle.pop(member, None)
            self._sending.pop(member, None)
            self._coming[member] = self.now_s()

    def works(self, member: Member) -> None:
        """Its request is whole, or its header is."""
        self._coming.pop(member, None)
        self._idle.pop(member, None)
        self._sending.pop(member, None)

    def sends(self, member: Member) -> None:
        """A part of a body has come."""
        self._sending.setdefault(member, self.now_s())

    def rests(self, member: Member) -> None:
        """Its request is answered."""
        self._sending.pop(member, None)
        self._idle[member] = self.now_s()

    def stalls(self, member: Member) -> None:
        """It does not read."""
        self._stalled.setdefault(member, self.now_s())

    def reads(self, member: Member) -> None:
        """It has read."""
        self._stalled.pop(member, None)

    def refuse(self, reason: str, member: Member) -> None:
        """Counts a refusal."""
        self.refused(reason, "http", network_of(member.peer))

    # --- what time does ---

    def sweep(self) -> None:
        """Closes those whose time is over. To be called every second or so."""
        now = self.now_s()
        for member in _over(self._coming, now - self.bounds.header_s):
            member.time_out()
        for member in _over(self._idle, now - self.bounds.idle_s):
            member.abort()
        for member in _over(self._stalled, now - self.bounds.send_s):
            member.abort()

    def _make_room(self) -> bool:
        """Closes who was waited for longest, if anyone is."""
        for place in (self._coming, self._idle, self._sending):
            for member in place:
                del place[member]
                member.abort()
                return True
        return False


def _over(place: dict[Member, float], before_s: float) -> list[Member]:
    """Takes out those who are there since before that time; they stand in its order."""
    found = []
    for member, since in place.items():
        if since > before_s:
            break
        found.append(member)
    for member in found:
        del place[member]
    return found


def files_at_most() -> int:
    """How many files this process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 30 if soft == resource.RLIM_INFINITY else soft


def raise_files() -> int:
    """Lets this process have as many open files as the system lets it, and answers how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return files_at_most()
