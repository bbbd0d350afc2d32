"""The few plain pages beside MCP: health, readiness, and the metadata of the protected resource."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

from starlette.types import Scope, Send

from headgate.errors import HeadgateError, SnapshotPending
from headgate.model.caller import SCOPES, network_of
from headgate.server import headers as rules
from headgate.server import wire
from headgate.server.answers import METADATA, send_json
from headgate.server.call import Rooms
from headgate.server.request import HttpSettings


class _Counted(NamedTuple):
    """How many entities can be read, take their first snapshot, or are not in the store at all.

    A pipeline whose entities are not named, and that has none yet, counts as one that is missing.
    """

    ready: int
    snapshotting: int
    missing: int

    @property
    def status(self) -> str:
        if self.snapshotting:
            return "snapshotting"
        return "ready" if self.ready and not self.missing else "no entities yet"


class Pages:
    """Answers GET and HEAD of these pages, to anyone who asks by a name of ours."""

    def __init__(self, rooms: Rooms, settings: HttpSettings, resource: str) -> None:
        self._rooms = rooms
        self._settings = settings
        self._resource = resource
        self._is_draining = False
        self._pages: dict[str, Callable[[Scope], Awaitable[tuple[int, Any]]]] = {
            "/healthz": self._health,
            "/readyz": self._readiness,
            METADATA: self._metadata,
            METADATA + resource: self._metadata,
        }

    def drain(self) -> None:
        """From now on it is not ready any more."""
        self._is_draining = True

    async def answer(self, scope: Scope, send: Send) -> None:
        """The page, or that there is none."""
        try:
            self._settings.reach.check(rules.single_valued(scope["headers"]))
        except HeadgateError as error:
            peer = (scope.get("client") or ("", 0))[0]
            self._rooms.refusals.count(error.code, "http", network_of(peer))
            await send_json(send, wire.http_refusal(error)[0], {"error": error.code, "message": error.message})
            return
        page = self._pages.get(scope["path"])
        if page is None:
            await send_json(send, 404, {"error": "not_found", "message": f"MCP is served at {self._resource}."})
        elif scope["method"] not in ("GET", "HEAD"):
            await send_json(send, 405, {"error": "method_not_allowed"}, [(b"allow", b"GET, HEAD")])
        else:
            await send_json(send, *await page(scope), head=scope["method"] == "HEAD")

    async def _health(self, _: Scope) -> tuple[int, Any]:
        return 200, {"status": "ok"}

    async def _readiness(self, _: Scope) -> tuple[int, Any]:
        """Ready when the store holds a whole generation of every entity that there should be.

        Entities are counted and not named: whoever asks here is a stranger.
        """
        found: dict[str, Any] = {}
        if self._settings.workers is not None:
            ready, wanted = self._settings.workers()
            found["workers"] = {"ready": ready, "of": wanted}
        if self._is_draining:
            return 503, {"status": "draining", **found}
        try:
            counted = await self._entities()
        except HeadgateError:
            return 503, {"status": "store unavailable", **found}
        status = counted.status
        return 200 if status == "ready" else 503, {"status": status, "entities": counted._asdict(), **found}

    async def _entities(self) -> _Counted:
        reader, pipelines = self._rooms.reader, self._rooms.pipelines
        there = await reader.entities()
        has_some = {entity.pipeline for entity in there.values()}
        missing = {name for info in pipelines for name in info.entities if name not in there}
        empty = [info.name for info in pipelines if not info.entities and info.name not in has_some]
        ready = pending = 0
        for entity in there:
            try:
                await reader.watermark(entity)
                ready += 1
            except SnapshotPending:
                pending += 1
        return _Counted(ready, pending, len(missing) + len(empty))

    async def _metadata(self, scope: Scope) -> tuple[int, Any]:
        """RFC 9728 §2: which resource this is, and who issues tokens for it."""
        headers = rules.single_valued(scope["headers"])
        base = rules.base_url(headers, scope.get("scheme", "http"), self._settings.public_url)
        document: dict[str, Any] = {
            "resource": base + self._resource,
            "resource_name": "Headgate",
            "bearer_methods_supported": ["header"],
            "scopes_supported": list(SCOPES),
        }
        if self._settings.authorization_servers:
            document["authorization_servers"] = list(self._settings.authorization_servers)
        return 200, document
