"""Resources: texts that explain, and rows under URIs of their own.

URIs: `docs://…` for the texts, `headgate://entity/{entity}/{key}` for rows, where the key is percent-encoded
and the parts of a composite key are joined by commas (DESIGN §4).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources as package_data
from typing import Any, Literal, Protocol
from urllib.parse import unquote

import msgspec

from headgate.access.view import DATA, View, narrow
from headgate.errors import UnknownEntity, UnknownResource
from headgate.model.position import Freshness, Watermark
from headgate.model.row import key_parts, key_text
from headgate.tools._answers import flaw_note, freshness_note, row_answer
from headgate.tools._arguments import shown
from headgate.tools._frames import inert

MARKDOWN = "text/markdown"
JSON = "application/json"

_ENTITY_PREFIX = "headgate://entity/"
_DOCUMENT_TTL_MS = 3_600_000


class ResourceInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A resource as it is listed (MCP's Resource)."""

    uri: str
    name: str
    title: str
    description: str
    mime_type: str
    scopes: frozenset[str]
    """All the scopes that reading it needs."""


class TemplateInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Resources of one form, as they are listed (MCP's ResourceTemplate, RFC 6570)."""

    uri_template: str
    name: str
    title: str
    description: str
    mime_type: str
    scopes: frozenset[str]
    names: Mapping[str, Literal["entity", "pipeline", "key"]] = {}
    """What its variables name, so that they can be completed."""


class ResourceContents(msgspec.Struct, frozen=True, kw_only=True):
    """What reading a resource answers. `freshness` and `watermarks` are those of the rows that were read."""

    uri: str
    mime_type: str
    text: str = ""
    blob: bytes | None = None
    """In place of the text, where it is none."""
    freshness: Freshness | None = None
    watermarks: Sequence[Watermark] = ()
    ttl_ms: int = 0
    """How long it may be taken for what it is now; what does not depend on the caller, by anyone."""


class Shelf(Protocol):
    """Resources of one kind: those that are listed, and the forms of those that are not."""

    @property
    def listed(self) -> Sequence[ResourceInfo]: ...
    @property
    def templates(self) -> Sequence[TemplateInfo]: ...
    def holds(self, uri: str) -> bool:
        """Whether a resource of that URI would be of this kind, be it there or not."""

    async def read(self, view: View, uri: str) -> ResourceContents:
        """What the resource holds now. UnknownResource when there is none such."""


def _document(name: str, title: str, description: str) -> ResourceInfo:
    return ResourceInfo(
        uri=f"docs://{name}", name=name, title=title, description=description, mime_type=MARKDOWN, scopes=frozenset()
    )


_DOCUMENTS = (
    _document("pipeline-types", "Pipeline types", "The kinds of sources, logs and stores, and how data flows through."),
    _document("troubleshooting", "Troubleshooting", "Each error code and state: what it means and what to do."),
)
_ROWS = TemplateInfo(
    uri_template=f"{_ENTITY_PREFIX}{{entity}}/{{key}}",
    name="entity",
    title="A live row",
    description="One row of an entity by its key, percent-encoded; the parts of a composite key joined by commas.",
    mime_type=JSON,
    scopes=frozenset({DATA}),
    names={"entity": "entity", "key": "key"},
)


class Documents:
    """The texts that explain. They come with the version that serves them, and are the same for every caller."""

    listed: Sequence[ResourceInfo] = _DOCUMENTS
    templates: Sequence[TemplateInfo] = ()

    def holds(self, uri: str) -> bool:
        """Whether it is one of the texts."""
        return any(document.uri == uri for document in _DOCUMENTS)

    async def read(self, view: View, uri: str) -> ResourceContents:
        """The text."""
        return ResourceContents(
            uri=uri, mime_type=MARKDOWN, text=_text_of(uri.removeprefix("docs://")), ttl_ms=_DOCUMENT_TTL_MS
        )


class LiveRows:
    """Rows under URIs of their own."""

    listed: Sequence[ResourceInfo] = ()
    templates: Sequence[TemplateInfo] = (_ROWS,)

    def holds(self, uri: str) -> bool:
        """Whether it has the form of a row's URI."""
        return uri.startswith(_ENTITY_PREFIX)

    async def read(self, view: View, uri: str) -> ResourceContents:
        """The row; an absent one is said to be absent."""
        return await _read_row(view, uri)


SHELVES: Sequence[Shelf] = (Documents(), LiveRows())


def resources(shelves: Sequence[Shelf] = SHELVES) -> Sequence[ResourceInfo]:
    """The resources that are listed, in the order of their URIs. Others are reached by the templates."""
    return sorted((each for shelf in shelves for each in shelf.listed), key=lambda each: each.uri)


def templates(shelves: Sequence[Shelf] = SHELVES) -> Sequence[TemplateInfo]:
    """The forms of all other resources."""
    return [each for shelf in shelves for each in shelf.templates]


def scopes_of(uri: str, shelves: Sequence[Shelf] = SHELVES) -> frozenset[str]:
    """The scopes that reading this URI needs; none for one that is no resource."""
    shelf = _shelf_of(uri, shelves)
    if shelf is None:
        return frozenset()
    named = [each.scopes for each in shelf.listed if each.uri == uri]
    return frozenset[str]().union(*(named or [each.scopes for each in shelf.templates]))


async def read_resource(view: View, uri: str, shelves: Sequence[Shelf] = SHELVES) -> ResourceContents:
    """What the resource holds now. UnknownResource when there is none such: an absent row is said to be absent."""
    shelf = _shelf_of(uri, shelves)
    if shelf is not None:
        return await shelf.read(view, uri)
    known = ", ".join([*(each.uri for each in resources(shelves)), *(each.uri_template for each in templates(shelves))])
    raise UnknownResource(f"There is no resource {shown(uri)}. Resources: {known}.", uri=uri)


def _shelf_of(uri: str, shelves: Sequence[Shelf]) -> Shelf | None:
    return next((shelf for shelf in shelves if shelf.holds(uri)), None)


def _text_of(name: str) -> str:
    return (package_data.files("headgate.tools") / "docs" / f"{name}.md").read_text(encoding="utf-8")


async def _read_row(view: View, uri: str) -> ResourceContents:
    name, _, key = uri.removeprefix(_ENTITY_PREFIX).partition("/")
    try:
        entity = await view.entity(unquote(name))
    except UnknownEntity as error:
        raise UnknownResource(error.message, uri=uri, **error.details) from error
    parts = key_parts(key)
    if not key or len(parts) != len(entity.key):
        said = f"{shown(uri)} names no row: a key of {entity.name!r} is {','.join(entity.key)}."
        raise UnknownResource(said, uri=uri)
    found = await view.get(entity.name, [key_text(parts)])
    if not found.rows:
        raise await _absent(view, entity.name, uri, found.watermark)
    row = found.rows[0]
    freshness = await view.freshness([narrow(found.watermark, {row.partition})])
    answer: dict[str, Any] = {"entity": entity.name, **row_answer(entity, row)}
    notes = [note for note in (freshness_note(freshness), flaw_note([answer])) if note]
    return ResourceContents(
        uri=uri,
        mime_type=JSON,
        text=inert(msgspec.json.encode({"notes": notes, **answer} if notes else answer).decode()),
        freshness=freshness,
        watermarks=[found.watermark],
    )


async def _absent(view: View, entity: str, uri: str, watermark: Watermark) -> UnknownResource:
    """That a row is absent is as fresh as the entity's stalest partition."""
    note = freshness_note(await view.freshness([watermark]))
    said = f"There is no {entity!r} row with key {shown(uri.rpartition('/')[2])}."
    return UnknownResource(f"{said} {note}" if note else said, uri=uri, entity=entity)
