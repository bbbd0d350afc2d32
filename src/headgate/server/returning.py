"""Callers who come again: what was found of a request's headers holds for the next one that has the same.

An agent sends the same headers with each call. Their rules are looked at once, and whether the credential still holds,
what its caller may do now and what tools there are is asked at each call, of what this process knows by heart. Where
any of it must be asked of somebody else, or anything is in question, the request goes by the page as every other does.

Requests are told apart by a digest: nothing of a credential is kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from starlette.types import Scope

from headgate.access.identity import Credentials
from headgate.access.sight import Kept
from headgate.access.verified import Verified
from headgate.errors import HeadgateError
from headgate.model.caller import Caller
from headgate.server.call import Call, Rooms
from headgate.server.express import HotRequest, is_quick, mirrored_name
from headgate.server.message import Asked
from headgate.server.request import at_once

HEAD: Final = "headgate.head"
"""Where a socket leaves the digest of a request's head as it came: in the `scope`."""
_MOST: Final = 8_192
_VARYING: Final = frozenset({b"content-length", b"traceparent", b"tracestate"})
"""Headers that differ from call to call, and decide about nothing that is kept."""
_OF_THE_WAY: Final = frozenset({"expect", "transfer-encoding", "upgrade", "trailer", "te"})
"""Headers that say how this one request is sent."""


class Known(NamedTuple):
    """What was found of headers: they keep the door's rules."""

    headers: Mapping[str, str]
    """Without the credential, and what varies."""
    verified: Verified | None
    """Of a token or key; None where there is none, and `credentials` tell who asks."""
    credentials: Credentials | None
    name: str | None
    """The tool that they name, where they must."""
    version: str
    """Of the protocol."""


class _Named(NamedTuple):
    """A request's headers: the digest of those that stay the same, and the others."""

    digest: bytes
    varying: Mapping[str, str]


class Returning:
    """Who was here, for one set of rooms and settings. For one event loop."""

    def __init__(self, rooms: Rooms) -> None:
        self.rooms = rooms
        self._known = Kept(_MOST)
        self._heads = Kept(_MOST)
        """By the digests of heads as they come, but for what varies."""
        self.admitted = 0
        """How many calls it has admitted."""

    def admit(self, request: HotRequest) -> Call | None:
        """The call of the hot case, open and admitted as `call.admit` does it; None for every other request.

        Where it is None nothing has happened yet.
        """
        named = _named(request.scope)
        known: Known | None = self._known.get(named.digest) if named else None
        if named is None or known is None or (body := request.peek()) is None:
            return None
        headers = known.headers if len(named.varying) == 1 else {**known.headers, **named.varying}
        try:
            caller = self.caller(known)
            asked = request.recognised(body, headers) if caller is not None else None
            call = self._admitted(request, caller, asked) if caller is not None and asked is not None else None
        except HeadgateError:
            return None  # by the page, which records why
        if call is not None:
            request.take(call.id, headers, body, call.asked)
            self._note_head(request.scope, known)
        return call

    def _admitted(self, request: HotRequest, caller: Caller, asked: Asked) -> Call | None:
        rooms = self.rooms
        grant = rooms.policy.decide(caller)
        tool = at_once(rooms.toolbox.tool(asked.name, grant))
        if tool is None or not is_quick(tool) or not grant.allows(*tool.scopes) or rooms.toolbox.mirrors(tool):
            return None
        call = Call(request.door, request.peer, rooms)
        call.caller, call.asked, call.grant, call.tool = caller, asked, grant, tool
        call.admitted_us = call.elapsed_us()
        self.admitted += 1
        return call

    def caller(self, known: Known) -> Caller | None:
        """Who asks, if that stands without asking anybody."""
        identity = self.rooms.identity
        if known.verified is not None:
            return identity.still(known.verified)
        return None if known.credentials is None else at_once(identity.identify(known.credentials))

    def note(self, request: HotRequest, call: Call) -> None:
        """Remembers an admitted call of the hot case."""
        named = _named(request.scope)
        if named is None or not request.is_hot or call.credentials is None:
            return
        bearer = call.credentials.bearer
        verified = None if bearer is None else self.rooms.identity.verified(bearer)
        if bearer is not None and verified is None:
            return
        headers = {name: value for name, value in request.headers.items() if name != "authorization"}
        for name in named.varying:
            del headers[name]
        found = Known(
            headers,
            verified,
            None if verified else call.credentials,
            mirrored_name(headers),
            headers["mcp-protocol-version"],
        )
        _keep(self._known, named.digest, found)
        self._note_head(request.scope, found)

    # --- by the head as it comes ------------------------------------------------------------------

    @property
    def known_by(self) -> Callable[[bytes], Known | None]:
        """Tells what is known of a request by the digest of its head."""
        return self._heads.get

    def _note_head(self, scope: Scope, known: Known) -> None:
        """Remembers the head of a request that says nothing of how it is sent."""
        head: bytes | None = scope.get(HEAD)
        headers = known.headers
        is_plain = not _OF_THE_WAY.intersection(headers)
        stays = scope["http_version"] == "1.1" and headers.get("connection", "keep-alive").lower() == "keep-alive"
        if head is not None and is_plain and stays:
            _keep(self._heads, head, known)  # in the place of what was known before the credential was checked anew


def _keep(place: Kept, key: bytes, known: Known) -> None:
    place[key] = known
    if len(place) > _MOST:
        place.popitem(last=False)


def _named(scope: Scope) -> _Named | None:
    """None where the URL says more than the path, or headers that should stand alone come twice."""
    if scope.get("query_string"):
        return None
    same = [(scope.get("client") or ("", 0))[0].encode()]
    varying: dict[str, str] = {}
    for name, value in scope["headers"]:
        if name not in _VARYING:
            same += (name, value)  # neither can hold the line's end that parts them
        elif name in varying:
            return None
        else:
            varying[name.decode("latin-1")] = value.decode("latin-1")
    if "content-length" not in varying:
        return None
    return _Named(hashlib.sha256(b"\n".join(same)).digest(), varying)
