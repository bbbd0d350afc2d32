"""The tools there are now, and which of them a grant allows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

import msgspec

from headgate.access.sight import Kept, Lenses
from headgate.access.view import DATA
from headgate.audit.event import payload_of
from headgate.model.caller import Grant
from headgate.model.entity import Entity
from headgate.server.headers import are_mirrored
from headgate.server.listing import ToolLists
from headgate.stores.base import Prompt, Reader
from headgate.tools.base import Tool, discover

_ENTITY_TOOL = "lookup_"
_GRANTS = 4_096
_EDITIONS = 256
"""Of the tools over entities that are seen alike, by however many grants."""
_DIGESTS = 8_192
_encode = msgspec.msgpack.Encoder().encode


class Toolbox:
    """Makes the tools anew when the entities' definitions in the store change. For one event loop.

    Under a policy's document each grant has tools of its own, whose schemas know only what it sees; grants that
    see alike share them.
    """

    def __init__(
        self,
        reader: Reader,
        lenses: Lenses | None = None,
        offered: Callable[[Mapping[str, Entity]], Mapping[str, Tool]] = discover,
    ) -> None:
        self._reader = reader
        self._prompt = reader if isinstance(reader, Prompt) else None
        self._offered = offered
        self._lenses = lenses or Lenses(b"")
        self.lists = ToolLists()
        """How tools look on the wire."""
        self._entities: Mapping[str, Entity] | None = None
        self._tools: Mapping[str, Tool] = {}
        self._of_grants = Kept(_GRANTS)
        self._editions = Kept(_EDITIONS)
        self._digests = Kept(_DIGESTS)
        self._mirrors = Kept(_DIGESTS)

    @property
    def entities(self) -> Mapping[str, Entity]:
        """The entities as they were when tools were last asked for; none before."""
        return self._entities or {}

    async def tools(self, grant: Grant | None = None) -> Mapping[str, Tool]:
        """Every tool by name, in the order of names; of a grant, those that its policy gives, whatever their scopes.

        Unavailable when the store does not answer.
        """
        entities = await self._reader.entities()
        if entities is not self._entities:
            if self._entities is None or entities != self._entities:
                self._tools = self._offered(entities)
                self._of_grants.clear()
            self._entities = entities
        return self._tools_of(grant, entities)

    def _tools_of(self, grant: Grant | None, entities: Mapping[str, Entity]) -> Mapping[str, Tool]:
        if grant is None or grant.given is None:
            return self._tools
        place = id(grant.given)
        given, tools = self._of_grants.get(place, (None, {}))
        if given is not grant.given:
            self._of_grants.pop(place, None)
            given, tools = self._of_grants.take(place, lambda: (grant.given, self._given(grant, entities)))
        allowed: Mapping[str, Tool] = tools
        return allowed

    def _given(self, grant: Grant, entities: Mapping[str, Entity]) -> Mapping[str, Tool]:
        """Each tool over the entities that the rules for it give."""
        assert grant.given is not None, "only a policy's document gives tools"
        editions: dict[tuple[str, ...], Mapping[str, Tool]] = {}
        found: dict[str, Tool] = {}
        for name in self._tools:
            rules = tuple(each.rule for each in grant.given if each.gives_tool(name))
            if rules and rules not in editions:
                editions[rules] = self._over(self._lenses.sight(grant, name, entities).entities)
            if rules and name in editions[rules]:
                found[name] = editions[rules][name]
        return found

    def _over(self, seen: Mapping[str, Entity]) -> Mapping[str, Tool]:
        place = hashlib.sha256(_encode(list(seen.values()))).digest()
        tools: Mapping[str, Tool] = self._editions.take(place, lambda: self._offered(seen))
        return tools

    async def tool(self, name: str, grant: Grant | None = None) -> Tool | None:
        """The tool of that name, if it exists for this grant."""
        return (await self.tools(grant)).get(name)

    def tool_now(self, name: str, grant: Grant) -> Tool | None:
        """As `tool`; None too where the store would have to be asked what there is."""
        entities = self.entities_now()
        return None if entities is None else self._tools_of(grant, entities).get(name)

    def entities_now(self) -> Mapping[str, Entity] | None:
        """The entities that the tools are made of; None where the store would have to be asked."""
        entities = self._prompt.entities_now() if self._prompt else None
        return entities if entities is self._entities else None

    async def allowed(self, grant: Grant) -> Mapping[str, Tool]:
        """The tools that the grant lets its caller call."""
        return {name: tool for name, tool in (await self.tools(grant)).items() if grant.allows(*tool.scopes)}

    def schema_digest(self, tool: Tool) -> str:
        """The digest of the tool's input schema, by which a recorded call names what it was checked against."""
        _, digest = self._digests.take(id(tool), lambda: (tool, payload_of(tool.input_schema).sha256))
        return str(digest)

    def mirrors(self, tool: Tool) -> bool:
        """Whether any of its arguments are to stand in headers too."""
        _, mirrors = self._mirrors.take(id(tool), lambda: (tool, are_mirrored(tool.input_schema)))
        return bool(mirrors)

    async def scopes_of_tool(self, name: str, grant: Grant | None = None) -> frozenset[str]:
        """The scopes that a call of that name needs.

        Entities' names are data: without the scope for data, a lookup tool that exists and one that does not
        are refused in the same words. So is a tool that a policy does not give.
        """
        tool = await self.tool(name, grant)
        if tool is not None:
            return tool.scopes
        return frozenset({DATA}) if name.startswith(_ENTITY_TOOL) else frozenset()
