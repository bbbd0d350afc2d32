"""A view: a store narrowed by a grant. It is the only thing that a tool reads from."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Awaitable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar

import anyio.to_thread
import msgspec

from headgate.access.approval import Approvals
from headgate.access.connectors import Connectors, ConnectorStatus
from headgate.access.control import Control
from headgate.access.deadline import Deadline, ReadingTime
from headgate.access.desk import Desk
from headgate.access.lens import Lens
from headgate.access.policy import require
from headgate.access.sight import Lenses, Sight
from headgate.access.status import LiveReports, PipelineStatus, snapshot_progress, status_of
from headgate.access.watching import Watching
from headgate.access.window import NarrowWindow, WholeWindow, Window
from headgate.errors import SnapshotPending, Unavailable, UnknownEntity, UnknownPipeline
from headgate.model.access import any_fits
from headgate.model.caller import Grant
from headgate.model.entity import Entity
from headgate.model.pipeline import UNRECORDED, DeadLetter, PipelineInfo
from headgate.model.position import Freshness, FreshnessState, Watermark, judge
from headgate.model.question import Question
from headgate.state.base import State
from headgate.stores.base import Count, Joined, JoinQuery, Query, Reader, Rows
from headgate.telemetry import Clock

DATA: Final = "data:read"
PIPELINES: Final = "pipelines:read"
CONTROL: Final = "pipelines:write"

_DEFAULT_BOUND_MS = 30_000
_MOST_LETTERS = 1_000
"""Dead letters that are looked through for those of entities that a caller sees whole."""
_WORST_FRESHNESS: Sequence[FreshnessState] = ("fresh", "stale", "snapshotting", "stopped", "unknown")

_T = TypeVar("_T")


def narrow(watermark: Watermark, partitions: Collection[int]) -> Watermark:
    """The same watermark for these partitions alone: what a row known by its key can have come from."""
    kept = {number: progress for number, progress in watermark.partitions.items() if number in partitions}
    return watermark if len(kept) == len(watermark.partitions) else msgspec.structs.replace(watermark, partitions=kept)


def pending_watermark(entity: str) -> Watermark:
    """The watermark of an entity that has no whole snapshot yet: its freshness is `snapshotting`."""
    return Watermark(entity=entity, generation=0, partitions={})


class View:
    """A store as one grant sees it by one tool: nothing else of it exists.

    Any number of reads run at once; a cancelled one leaves nothing behind. Errors are the Reader's:
    UnknownEntity, SnapshotPending (with the progress, where it is known), NotIndexed, InvalidArguments,
    Unavailable. A grant without `data:read` sees no entity, one without `pipelines:read` no pipeline.
    """

    def __init__(
        self,
        reader: Reader,
        state: State,
        pipelines: Sequence[PipelineInfo],
        grant: Grant,
        clock: Clock,
        lenses: Lenses | None = None,
        tool: str = "",
        connectors: Connectors | None = None,
        watching: Watching | None = None,
        reading: ReadingTime | None = None,
        approvals: Approvals | None = None,
    ) -> None:
        self.grant = grant
        self.watching = watching or Watching(reader, None)
        """By what callers wait for changes."""
        self.reading = reading or ReadingTime()
        """How long each call may read: as for an answer, where it gives no deadline of its own."""
        self._approvals = approvals
        self._tool = tool
        self._lenses = lenses or Lenses(b"")
        self._reader = reader
        self._pipelines = {info.name: info for info in sorted(pipelines, key=lambda info: info.name)}
        self._clock = clock
        self._state = state
        self._reports = LiveReports(state, clock)
        self._connectors = connectors
        self._standings = _Standings()
        self._windows_of: Mapping[str, Entity] | None = None
        self._windows: dict[str, Window] = {}
        """Of the entities as they were then."""

    def with_grant(self, grant: Grant, tool: str = "") -> View:
        """The same store under another grant, for that tool: a policy's rules give some tools more than others.

        Both share what they know of running processes for a second.
        """
        other = View.__new__(View)
        other.__dict__.update(self.__dict__)
        other.grant = grant
        other._windows_of, other._windows = None, {}
        other._tool = tool
        return other

    def now_ms(self) -> int:
        """Now, in milliseconds since the epoch."""
        return self._clock()

    # --- entities ---------------------------------------------------------------------------------

    async def entities(self) -> Mapping[str, Entity]:
        """The entities that the grant may read, as it sees them, sorted by name."""
        if not self.grant.allows(DATA):
            return {}
        known = await self._reader.entities()
        return known if self.grant.given is None else self._sight(known).entities

    async def entity(self, name: str) -> Entity:
        """One entity, as the grant sees it. UnknownEntity names the ones there are for this grant."""
        return (await self._window(name)).entity

    async def get(self, entity: str, keys: Sequence[str]) -> Rows:
        """The rows of these key texts that exist, in the order of `keys`."""
        window = await self._window(entity)
        return await self._read(window.entity, window.get(keys))

    def is_of(self, entities: Mapping[str, Entity]) -> bool:
        """Whether what it knows of them is of these definitions."""
        return self._windows_of is entities

    def question(self, entity: str, key: str) -> tuple[Entity, Question[Rows | None]] | None:
        """The entity, and as `get` of one key. None, and rows that are None, where only `get` can tell.

        For a view that `is_of` the entities that there are now.
        """
        window = self._windows.get(entity)
        if window is None or not self._may_judge_now(window.entity):
            return None
        asked = window.question(key)
        return None if asked is None else (window.entity, asked)

    async def lookup(self, entity: str, field: str, values: Sequence[Any], limit: int) -> Rows:
        """At most `limit` rows whose lookup field equals any of the values, in key order."""
        window = await self._window(entity)
        return await self._read(window.entity, window.lookup(field, values, limit, self.reading.answer()))

    async def find(self, entity: str, query: Query, deadline: Deadline | None = None) -> Rows:
        """One page of matching rows, or what was found of it when the time was over."""
        window = await self._window(entity)
        return await self._read(window.entity, window.find(query, deadline or self.reading.answer()))

    async def joined(self, entity: str, query: JoinQuery) -> Joined:
        """Rows with what they lead to, all of one snapshot where one rule decides about them."""
        window = await self._window(entity)
        return await self._read(window.entity, window.joined(query, self.reading.answer()))

    async def count(self, entity: str, most: int = 10_000, deadline: Deadline | None = None) -> Count:
        """How many rows there are for this grant; of a part of them exact up to `most`, as far as the time goes."""
        window = await self._window(entity)
        return await self._read(window.entity, window.count(most, deadline or self.reading.answer()))

    async def watermark(self, entity: str) -> Watermark:
        """Where the entity stands now."""
        return await self._read(await self.entity(entity), self._reader.watermark(entity))

    async def lens(self, entity: str) -> Lens | None:
        """How the grant sees rows of the entity; None: as they are stored. UnknownEntity when there is none such."""
        known = await self._reader.entities() if self.grant.allows(DATA) else {}
        if self.grant.given is None and entity in known:
            return None
        lens = None if self.grant.given is None or not known else self._sight(known).lens(entity)
        if lens is None:
            raise UnknownEntity(entity, list(await self.entities()))
        return lens

    async def keep(self, value: bytes, ttl_ms: int) -> str:
        """Keeps something small for this caller's next call, at whichever process. Answers the name it is kept under.

        Unavailable when the state does not answer.
        """
        name = secrets.token_urlsafe(12)
        await anyio.to_thread.run_sync(partial(self._state.put, self._place_of(name), value, ttl_ms=ttl_ms))
        return name

    async def kept(self, name: str) -> bytes | None:
        """What this caller has kept under the name; None when there is none such, or its time is over."""
        found = await anyio.to_thread.run_sync(self._state.get, self._place_of(name))
        return found.value if found else None

    def _place_of(self, name: str) -> str:
        owner = msgspec.json.encode([*self.grant.caller.who, name])
        return f"kept/{hashlib.sha256(owner).hexdigest()}"

    async def _window(self, name: str) -> Window:
        """The one way to an entity's rows."""
        if self.grant.allows(DATA):
            known = await self._reader.entities()
            if known is not self._windows_of:
                self._windows_of, self._windows = known, {}
            window = self._windows.get(name) or self._make_window(name, known)
            if window is not None:
                return window
        raise UnknownEntity(name, list(await self.entities()))

    def _make_window(self, name: str, known: Mapping[str, Entity]) -> Window | None:
        """None where the grant sees no such entity."""
        window: Window
        if self.grant.given is None:
            if name not in known:
                return None
            window = WholeWindow(self._reader, known[name])
        elif (sight := self._sight(known)).entity(name) is not None:
            window = NarrowWindow(self._reader, sight, name, self.grant.fingerprint, self._lenses.key)
        else:
            return None
        self._windows[name] = window
        return window

    def _sight(self, known: Mapping[str, Entity]) -> Sight:
        return self._lenses.sight(self.grant, self._tool, known)

    async def _read(self, entity: Entity, answer: Awaitable[_T]) -> _T:
        try:
            return await answer
        except SnapshotPending as error:  # of the entity, or of one that its rows lead to
            pending = await self.entity(str(error.details.get("entity", entity.name)))
            raise await self._pending(pending) from error

    async def _pending(self, entity: Entity) -> SnapshotPending:
        """Why there is no whole answer yet: under way, with its progress, or not even begun."""
        status = await self._status_if_known(entity.pipeline)
        name = f"{entity.name!r} has no whole snapshot yet"
        if status is None or status.state == "running":
            return SnapshotPending(f"{name}: it is being taken. Ask again in a few seconds.", entity=entity.name)
        if status.state != "snapshotting":
            return SnapshotPending(
                f"{name}, and its pipeline {entity.pipeline!r} is not running (status: {status.state}). "
                "Its operator must start it or mend it first: get_pipeline_errors says what is wrong.",
                entity=entity.name, pipeline=entity.pipeline, status=status.state,
            )  # fmt: skip
        done, total = snapshot_progress(status)
        of = "" if total is None else f" of about {total}"
        return SnapshotPending(
            f"{name}: its pipeline {entity.pipeline!r} has read {done}{of} rows so far. Ask again in a few seconds.",
            entity=entity.name, pipeline=entity.pipeline, snapshot_done=done, snapshot_total=total,
        )  # fmt: skip

    # --- freshness --------------------------------------------------------------------------------

    async def freshness(self, watermarks: Sequence[Watermark]) -> Freshness:
        """How far behind the source an answer may be that was read at these positions: as its stalest partition.

        `fresh` and `stale` are judged by the pipeline's bound, `unknown` is a partition that no heartbeat has
        ever covered, or whose time has not come yet by our clock. A stale answer is `stopped` where the pipeline does
        not run, and `snapshotting` where its rows are being read anew. `as_of_ms` and `staleness_ms` are given
        wherever they are known. Of several entities the worst state counts, with its bound.
        """
        known = await self._reader.entities() if watermarks else {}
        judged = [await self._judge(mark, known.get(mark.entity)) for mark in watermarks] or [_UNJUDGED]
        return self._told(judged, watermarks)

    def freshness_now(self, mark: Watermark, entity: Entity, partition: int | None) -> Freshness | None:
        """As `freshness` of one watermark, or of that partition of it; None where somebody would have to be asked."""
        as_of_ms, position = self._standings.of(mark, partition)
        info = self._pipelines.get(entity.pipeline)
        bound_ms = info.bound_ms if info else _DEFAULT_BOUND_MS
        state, staleness_ms = judge(as_of_ms, self._clock(), bound_ms)
        if state == "stale":
            self._standings.stale.add(entity.name)
        if state == "stale" or mark.generation == 0 or (info is not None and info.connector):
            return None
        return Freshness(
            state=state, as_of_ms=as_of_ms or None, staleness_ms=staleness_ms, position=position, bound_ms=bound_ms
        )

    def _may_judge_now(self, entity: Entity) -> bool:
        """Whether `freshness_now` is likely to tell: not while the entity's answers are stale."""
        info = self._pipelines.get(entity.pipeline)
        if info is None or info.connector:
            return info is None
        if entity.name not in self._standings.stale:
            return True
        state, _ = judge(self._standings.as_of_ms.get(entity.name, 0), self._clock(), info.bound_ms)
        if state != "stale":
            self._standings.stale.discard(entity.name)
        return state != "stale"

    def _told(self, judged: Sequence[_Judged], watermarks: Sequence[Watermark]) -> Freshness:
        worst = judged[0] if len(judged) == 1 else max(judged, key=_Judged.rank)
        as_of_ms = min([each.as_of_ms for each in judged])
        _, staleness_ms = judge(as_of_ms, self._clock(), worst.bound_ms)
        return Freshness(
            state=worst.state,
            as_of_ms=as_of_ms or None,
            staleness_ms=staleness_ms,
            position=_position(watermarks),
            bound_ms=worst.bound_ms,
        )

    async def _judge(self, mark: Watermark, entity: Entity | None) -> _Judged:
        info = self._pipelines.get(entity.pipeline) if entity else None
        bound_ms = info.bound_ms if info else _DEFAULT_BOUND_MS
        if mark.generation == 0:
            return _Judged("snapshotting", 0, bound_ms)
        as_of_ms = self._standings.as_of_ms[mark.entity] = mark.as_of_ms
        state, _ = judge(as_of_ms, self._clock(), bound_ms)
        if state == "stale":
            state = await self._why_stale(mark, entity)
        if info is not None and info.connector and state in ("fresh", "stale"):
            state = self._at_worst(info.connector, state)
        return _Judged(state, as_of_ms, bound_ms)

    def _at_worst(self, connector: str, state: FreshnessState) -> FreshnessState:
        """A connector that does not run makes it worse; one that says it runs makes nothing better."""
        status = self._connectors.glance(connector) if self._connectors else None
        return state if status is None or status.state == "running" else "stopped"

    async def _why_stale(self, mark: Watermark, entity: Entity | None) -> FreshnessState:
        status = await self._status_if_known(entity.pipeline) if entity else None
        if entity is not None and status is not None and status.stands_still(entity.name):
            return "stopped"
        if any(progress.generation > mark.generation for progress in mark.partitions.values()):
            return "snapshotting"
        return "stale" if status is None or status.state in ("running", "snapshotting") else "stopped"

    # --- pipelines --------------------------------------------------------------------------------

    async def pipelines(self) -> Sequence[PipelineStatus]:
        """Every pipeline with its status, Kafka Connect's connectors among them, sorted by name.

        Unavailable when the state does not answer.
        """
        if not self.grant.allows(PIPELINES):
            return ()
        reports = await self._reports.read()
        mine = [self._pipelines[name] for name in self._pipeline_names()]
        own = [status_of(await self._described(info), reports) for info in mine]
        return sorted([*own, *await self._connector_statuses()], key=lambda status: status.info.name)

    async def unrecorded(self) -> int:
        """How many calls were answered within a week without a record, for a full disk. Unavailable as `pipelines`."""
        if not self.grant.allows(PIPELINES):
            return 0
        return sum(
            int(entry.value) for entry in (await anyio.to_thread.run_sync(self._state.scan, UNRECORDED)).values()
        )

    async def pipeline(self, name: str) -> PipelineStatus:
        """One pipeline. UnknownPipeline names the ones there are for this grant."""
        if (connector := await self.connector(name)) is not None:
            return connector
        self._require_pipeline(name)
        return status_of(await self._described(self._pipelines[name]), await self._reports.read())

    async def connector(self, name: str) -> ConnectorStatus | None:
        """The connector of that name, or None: then the name is one of our own, or of nothing."""
        if self._connectors is None or not self._gives_pipeline(name):
            return None
        return await self._connectors.find(name)

    def connect_control(self) -> Connectors:
        """What may be asked of connectors. Forbidden without `pipelines:write`."""
        require(self.grant, (CONTROL,))
        assert self._connectors is not None, "a connector was found first"
        return self._connectors

    async def _connector_statuses(self) -> list[PipelineStatus]:
        every = await self._connectors.statuses() if self._connectors else ()
        return [status for status in every if self._gives_pipeline(status.info.name)]

    async def _described(self, info: PipelineInfo) -> PipelineInfo:
        """With the entities and tables that were derived, where the config declares none; and only with those seen."""
        if info.entities and self.grant.given is None:
            return info
        mine = await self._entities_of(info.name)
        names, tables = tuple(sorted(mine)), tuple(sorted({each.table for each in mine.values()}))
        return msgspec.structs.replace(info, entities=names, tables=tables)

    async def _entities_of(self, pipeline: str) -> Mapping[str, Entity]:
        """A pipeline's entities as far as the rules for this tool give them. To see their names needs no data scope."""
        known = await self._reader.entities()
        seen = known if self.grant.given is None else self._sight(known).entities
        return {name: entity for name, entity in seen.items() if entity.pipeline == pipeline}

    async def pipeline_watermarks(self, name: str) -> Sequence[Watermark]:
        """Where each entity of a pipeline stands, sorted by name; one without a snapshot has generation 0."""
        if await self.connector(name) is not None:
            return ()
        self._require_pipeline(name)
        return [await self._watermark_or_pending(each) for each in sorted(await self._entities_of(name))]

    async def dead_letters(self, pipeline: str, limit: int) -> tuple[Sequence[DeadLetter], int]:
        """The newest dead letters of a pipeline, and how many there are in all.

        Under a policy's document those of entities all rows of which are seen: a letter tells a row's key.
        """
        if await self.connector(pipeline) is not None:
            return (), 0
        self._require_pipeline(pipeline)
        if self.grant.given is None:
            return await self._reader.dead_letters(pipeline, limit)
        sight = self._sight(await self._reader.entities())
        found, _ = await self._reader.dead_letters(pipeline, _MOST_LETTERS)
        seen = [letter for letter in found if (lens := sight.lens(letter.entity)) and lens.has_all_rows]
        return seen[:limit], len(seen)

    def control(self, name: str) -> Control:
        """What may be asked of a pipeline. UnknownPipeline as ever; Forbidden without `pipelines:write`."""
        self._require_pipeline(name)
        require(self.grant, (CONTROL,))
        return Control(self._state, name, self._clock)

    def desk(self) -> Desk:
        """What waits for a person's yes. Forbidden without `approvals:decide`."""
        return Desk(self._approvals, self.grant)

    async def _watermark_or_pending(self, entity: str) -> Watermark:
        try:
            return await self._reader.watermark(entity)
        except SnapshotPending:
            return pending_watermark(entity)

    def _pipeline_names(self) -> list[str]:
        return [name for name in self._pipelines if self._gives_pipeline(name)]

    def _gives_pipeline(self, name: str) -> bool:
        if not self.grant.allows(PIPELINES):
            return False
        if self.grant.given is None:
            return True
        return any(each.gives_tool(self._tool) and any_fits(name, each.pipelines) for each in self.grant.given)

    def _require_pipeline(self, name: str) -> None:
        known = self._pipeline_names()
        if name not in known:
            raise UnknownPipeline(name, known)

    async def _status_if_known(self, pipeline: str) -> PipelineStatus | None:
        """The status for a reason in words: a state that does not answer must not spoil the rows."""
        info = self._pipelines.get(pipeline)
        if info is None:
            return None
        try:
            return status_of(info, await self._reports.read())
        except Unavailable:
            return None


class _Standings:
    """What a watermark says of an answer's age, for each entity's newest one: many answers are read at the same."""

    def __init__(self) -> None:
        self.as_of_ms: dict[str, int] = {}
        """By entity: of the answer that was judged last."""
        self.stale: set[str] = set()
        """Entities whose last answer was stale, as `freshness_now` found."""
        self._newest: dict[str, Watermark] = {}
        self._found: dict[str, dict[int | None, tuple[int, dict[str, dict[str, int]]]]] = {}

    def of(self, mark: Watermark, partition: int | None) -> tuple[int, dict[str, dict[str, int]]]:
        """The time as of which it is, and its position: of all partitions, or of one."""
        if self._newest.get(mark.entity) is not mark:
            self._newest[mark.entity], self._found[mark.entity] = mark, {}
        found = self._found[mark.entity].get(partition)
        if found is None:
            own = mark if partition is None else narrow(mark, {partition})
            found = self._found[mark.entity][partition] = own.as_of_ms, _position((own,))
        self.as_of_ms[mark.entity] = found[0]
        return found


class _Judged(NamedTuple):
    state: FreshnessState
    as_of_ms: int
    bound_ms: int

    def rank(self) -> tuple[int, int]:
        return _WORST_FRESHNESS.index(self.state), -self.as_of_ms


_UNJUDGED: Final = _Judged("unknown", 0, _DEFAULT_BOUND_MS)
"""What was read from nowhere."""


def _position(watermarks: Iterable[Watermark]) -> dict[str, dict[str, int]]:
    """entity → partition → offset: of several reads of one partition the earliest."""
    position: dict[str, dict[str, int]] = {}
    for mark in sorted(watermarks, key=lambda mark: mark.entity):
        offsets = position.setdefault(mark.entity, {})
        for number, progress in sorted(mark.partitions.items()):
            offsets[str(number)] = min(progress.offset, offsets.get(str(number), progress.offset))
    return position
