"""How the lists of tools, prompts and resources look to a grant, so that a change of them can be told."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec

from headgate.model.caller import Grant
from headgate.server.push.wanted import List
from headgate.tools._prompts import offered
from headgate.tools._resources import ResourceInfo, TemplateInfo, resources, templates

if TYPE_CHECKING:
    from headgate.server.call import Rooms

_encode = msgspec.msgpack.Encoder(order="sorted").encode


class Lists:
    """The looks of one moment. Grants that are given alike share them."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self._known: dict[object, dict[List, bytes]] = {}

    async def of(self, grant: Grant) -> dict[List, bytes]:
        """A digest of each list. Unavailable when the store does not answer."""
        place = grant.fingerprint or (grant.policy_version, grant.scopes)
        if place not in self._known:
            self._known[place] = await self._looks(grant)
        return self._known[place]

    async def _looks(self, grant: Grant) -> dict[List, bytes]:
        rooms = self._rooms
        allowed = await rooms.toolbox.allowed(grant)
        prompts = [each.info for each in offered(rooms.offer.prompts, allowed)]
        forms: list[ResourceInfo | TemplateInfo] = [*resources(rooms.offer.shelves), *templates(rooms.offer.shelves)]
        tools = [(name, tool.description, rooms.toolbox.schema_digest(tool)) for name, tool in allowed.items()]
        return {
            "tools": _digest(tools),
            "prompts": _digest(prompts),
            "resources": _digest([each for each in forms if grant.allows(*each.scopes)]),
        }


def _digest(shown: object) -> bytes:
    return hashlib.blake2b(_encode(shown), digest_size=12).digest()
