"""`scan`: all rows that match, gone through page by page, and told as they are read to a client that listens."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from pydantic import Field

from headgate.access.view import DATA, View
from headgate.model.entity import Entity
from headgate.model.position import Watermark
from headgate.stores.base import Query, Rows
from headgate.tools import _schemas as schemas
from headgate.tools._answers import flaw_note, framed, freshness_note, lines, row_answer, truncated
from headgate.tools._stream import BATCH_SIZE, MAX_LATENCY_MS, Pace, Stream, StreamingTool
from headgate.tools.base import Result, Tool
from headgate.tools.find import MAX_ROWS, FindArguments, query_of

MAX_SCANNED = 10_000_000
DEFAULT_SCANNED = 100_000
MAX_ANSWER_BYTES = 1 << 20
"""Of rows in the result, whose text shows the first few of them alone."""

_PAGE_BYTES = 256 * 1024
_SHOWN = 20
_OUTPUT = schemas.output(
    {
        "entity": schemas.TEXT,
        "rows": schemas.a_list(schemas.ROW, "The first rows that match, as many as an answer holds."),
        "scanned": {**schemas.WHOLE, "description": "How many rows were read."},
    },
    {
        "truncated": schemas.TRUNCATED,
        "told": schemas.an_object(
            {
                "rows": {**schemas.WHOLE, "description": "How many rows went out as notices while they were read."},
                "cursor": {
                    "type": ["string", "null"],
                    "description": "Where to go on after them; null after the last.",
                },
                "sha256": {**schemas.TEXT, "description": "Of what was told, so that the record's digest covers it."},
            },
            {"reason": {**schemas.one_of(["rows", "time"]), "description": "What ended it before the last row."}},
            description="Present when the client listened to notices.",
        ),
    },
)


class ScanArguments(FindArguments):
    """Which rows, how many at most, and how they are told."""

    limit: int = Field(
        default=DEFAULT_SCANNED, ge=1, le=MAX_SCANNED, description="How many rows are read at most; the answer's own "
        "bound on bytes holds besides.",
    )  # fmt: skip
    tell: bool = Field(
        default=False, description="Tell each row while it is read, by notices of level info, to a client that takes "
        "them: all rows reach it, whatever the answer holds.",
    )  # fmt: skip
    batch_size: int = Field(default=BATCH_SIZE, ge=1, le=10_000, description="How many rows are told at a time.")
    max_latency_ms: int = Field(
        default=MAX_LATENCY_MS, ge=1, le=60_000, description="After that long a batch is told although it is not full."
    )


def tools(entities: Mapping[str, Entity]) -> Sequence[Tool]:
    """The one tool of this family."""
    return [
        StreamingTool(
            name="scan",
            title="Go through many rows",
            description=(
                "Reads all live rows of an entity that match, page by page, and answers the first of them up to "
                f"{MAX_ANSWER_BYTES >> 20} MiB, with a cursor that leads on; progress says how many were read. With "
                "`tell` a client that takes notices gets every row, in batches. Rows that change meanwhile may be "
                "seen as before or after. For a page of rows use find, which is one snapshot."
            ),
            scopes=frozenset({DATA}),
            arguments=ScanArguments,
            output_schema=_OUTPUT,
            task="optional",
            stream=_scan,
            pace=lambda given: Pace(given.batch_size, given.max_latency_ms, given.tell),
        )
    ]


async def _scan(view: View, given: ScanArguments, is_heard: bool) -> Stream:
    entity = await view.entity(given.entity)
    deadline = view.reading.scan()
    scan = _Scan(query_of(entity, given), is_heard)
    while scan.goes_on:
        found = await view.find(entity.name, scan.page(), deadline)
        rows = [row_answer(entity, row) for row in found.rows]
        scan.take(found, rows)
        yield rows
        if scan.goes_on and deadline.is_over:
            scan.stop()
    yield await _result(view, entity, scan)


class _Scan:
    """How far it is, and the rows that the answer holds."""

    def __init__(self, query: Query, is_heard: bool) -> None:
        self._query = query
        self._left_bytes = MAX_ANSWER_BYTES
        self._is_full = False
        self.is_heard = is_heard
        self.rows: list[dict[str, Any]] = []
        self.scanned = 0
        self.first: Watermark | None = None
        """Where the entity stood when the first page was read: no later one shows less."""
        self.cut: Rows | None = None
        """The last page that the answer holds, where more rows match."""
        self.cursor = query.after
        self.goes_on = True
        self.is_late = False
        """Whether its time was over before all was read."""
        self.digest = hashlib.sha256()
        """Of what is told."""

    @property
    def reason(self) -> str:
        """What bounded the answer, where it is bounded: the limit that was asked for, its bytes, or its time."""
        if len(self.rows) >= self._query.limit:
            return "rows"
        return "time" if self.is_late and not self._is_full else "bytes"

    @property
    def told(self) -> dict[str, Any]:
        """What was told, and where and why it ended before the last row."""
        ended = {"reason": "time" if self.is_late else "rows"} if self.cursor is not None else {}
        return {"rows": self.scanned, "cursor": self.cursor, "sha256": self.digest.hexdigest(), **ended}

    def page(self) -> Query:
        """The next page to read."""
        limit = min(MAX_ROWS, self._query.limit - self.scanned)
        return msgspec.structs.replace(self._query, limit=limit, max_bytes=_PAGE_BYTES, after=self.cursor)

    def take(self, found: Rows, rows: Sequence[dict[str, Any]]) -> None:
        """Takes note of a page: pages are in the answer whole, from the first on, as long as they fit."""
        self.first = self.first or found.watermark
        size = sum(len(row.json) for row in found.rows)
        self._is_full = self._is_full or (bool(self.rows) and size > self._left_bytes)
        if not self._is_full:
            self.rows += rows
            self._left_bytes -= size
            self.cut = found if found.cursor is not None else None
        if self.is_heard:
            self.digest.update(msgspec.json.encode(rows))
        self.cursor = found.cursor
        self.scanned += len(rows)
        has_more = found.cursor is not None and self.scanned < self._query.limit
        has_room = not self._is_full and self._left_bytes >= _PAGE_BYTES
        self.goes_on = has_more and (self.is_heard or has_room)

    def stop(self) -> None:
        """Ends it where it is: its time is over."""
        self.goes_on, self.is_late = False, True


async def _result(view: View, entity: Entity, scan: _Scan) -> Result:
    assert scan.first is not None, "at least one page was read"
    structured: dict[str, Any] = {"entity": entity.name, "rows": scan.rows, "scanned": scan.scanned}
    if scan.cut is not None:
        structured["truncated"] = truncated(scan.reason, len(scan.rows), scan.cut.cursor)
    if scan.is_heard:
        structured["told"] = scan.told
    freshness = await view.freshness([scan.first])
    text = lines(freshness_note(freshness), *_text(entity, scan))
    return Result(structured=structured, text=text, freshness=freshness, watermarks=[scan.first])


def _text(entity: Entity, scan: _Scan) -> Sequence[str]:
    if not scan.scanned:
        return [f"No {entity.name!r} row matches{' so far' if scan.cut else ''}.", _going_on(scan)]
    held = "all of them are" if len(scan.rows) == scan.scanned else f"the first {len(scan.rows)} are"
    return [
        f"{scan.scanned} rows of {entity.name!r} were read; {held} in the structured answer, the first "
        f"{min(_SHOWN, len(scan.rows))} below.",
        _going_on(scan),
        _told_on(scan),
        flaw_note(scan.rows),
        framed([row["values"] for row in scan.rows[:_SHOWN]]),
    ]


def _going_on(scan: _Scan) -> str:
    if scan.cut is None:
        return ""
    late = "The time of a scan is over. " if scan.is_late else ""
    more = "More rows may match" if scan.is_late or scan.cut.cut == "time" else "More rows match"
    cursor = _quoted(scan.cut.cursor)
    return f"{late}{more}: call scan or find again with the same conditions and cursor {cursor} to go on."


def _told_on(scan: _Scan) -> str:
    """Where to go on behind what was told, where the answer holds less."""
    if not scan.is_heard or scan.cursor is None or scan.cut is None or scan.cursor == scan.cut.cursor:
        return ""
    return f"Behind the last row that was told, cursor {_quoted(scan.cursor)} leads on."


def _quoted(cursor: str | None) -> str:
    return msgspec.json.encode(cursor).decode()
