"""Kafka Connect's connectors, as pipelines beside our own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from headgate.access.status import HalfStatus, PipelineStatus
from headgate.errors import ConnectorFailed, HeadgateError, InvalidArguments, StoreError, Unavailable
from headgate.model.pipeline import Fault, PipelineInfo, PipelineState
from headgate.model.position import Partition
from headgate.telemetry import Clock, logger

if TYPE_CHECKING:
    from headgate.connections.connect import ConnectCluster, Connector

Ends: TypeAlias = Callable[[Sequence[str]], Mapping[Partition, int]]
"""Topics → the end of each of their partitions. Blocks."""

SEPARATOR: Final = "/"
_AGE_MS: Final = 1_000
_STATES: Final[Mapping[str, PipelineState]] = {
    "RUNNING": "running", "RESTARTING": "running", "PAUSED": "paused", "FAILED": "error",
    "STOPPED": "stopped", "UNASSIGNED": "stopped", "DESTROYED": "stopped",
}  # fmt: skip
_RANK: Final[Sequence[PipelineState]] = ("error", "paused", "stopped", "running")
_log = logger("access.connectors")


class ConnectorStatus(PipelineStatus, frozen=True, kw_only=True):
    """A connector as a pipeline: of a source connector `capture` tells, of a sink `materialize`."""

    connector: Connector


class Connectors:
    """The connectors of every `connect` connection, asked for at most once a second. For one event loop."""

    def __init__(self, clusters: Mapping[str, ConnectCluster], clock: Clock, ends: Ends | None = None) -> None:
        """`ends`, where a Kafka is known: by it, how far sinks lag behind."""
        self._clusters = clusters
        self._clock = clock
        self._ends = ends
        self._read_ms: dict[str, int] = {}
        self._known: dict[str, Sequence[PipelineStatus]] = {}
        self._reading: dict[str, asyncio.Task[Sequence[PipelineStatus]]] = {}

    async def statuses(self) -> Sequence[PipelineStatus]:
        """Every connector, sorted by name. A cluster that does not answer is one entry, in error."""
        found = await asyncio.gather(*(self._of_cluster(name) for name in sorted(self._clusters)))
        return [status for statuses in found for status in statuses]

    async def find(self, pipeline: str) -> ConnectorStatus | None:
        """The connector of that pipeline's name, if there is one."""
        connection, _, _ = pipeline.partition(SEPARATOR)
        if connection not in self._clusters:
            return None
        return _named(await self._of_cluster(connection), pipeline)

    def glance(self, pipeline: str) -> ConnectorStatus | None:
        """As it was when it was last asked for, which is begun again where that is a second ago. Never waits."""
        connection, _, _ = pipeline.partition(SEPARATOR)
        if connection in self._clusters and not self._is_fresh(connection):
            self._begin_reading(connection)
        return _named(self._known.get(connection, ()), pipeline)

    async def pause(self, pipeline: str) -> None:
        """Asks it to pause. InvalidArguments when the name is none of a connector."""
        cluster, name = self._place(pipeline)
        await cluster.pause(name)

    async def resume(self, pipeline: str) -> None:
        """Asks it to go on."""
        cluster, name = self._place(pipeline)
        await cluster.resume(name)

    async def restart(self, pipeline: str) -> None:
        """Restarts it with all its tasks."""
        cluster, name = self._place(pipeline)
        await cluster.restart(name)

    async def close(self) -> None:
        """Lets go of connections. Never raises."""
        for cluster in self._clusters.values():
            await cluster.close()

    def _place(self, pipeline: str) -> tuple[ConnectCluster, str]:
        connection, _, name = pipeline.partition(SEPARATOR)
        if connection not in self._clusters or not name:
            raise InvalidArguments("This is no connector's name.", fields={"pipeline_id": "is not known"})
        self._read_ms.pop(connection, None)
        return self._clusters[connection], name

    async def _of_cluster(self, connection: str) -> Sequence[PipelineStatus]:
        """One reading at a time, however many ask; a cancelled asker does not stop it for the others."""
        if self._is_fresh(connection):
            return self._known[connection]
        return await asyncio.shield(self._begin_reading(connection))

    def _is_fresh(self, connection: str) -> bool:
        return 0 <= self._clock() - self._read_ms.get(connection, -_AGE_MS) < _AGE_MS

    def _begin_reading(self, connection: str) -> asyncio.Task[Sequence[PipelineStatus]]:
        if connection not in self._reading:
            self._reading[connection] = asyncio.ensure_future(self._read(connection))
        return self._reading[connection]

    async def _read(self, connection: str) -> Sequence[PipelineStatus]:
        try:
            connectors = await self._clusters[connection].connectors()
            lags = await asyncio.gather(*(self._lag(connection, each) for each in connectors))
            self._known[connection] = [
                _status(connection, each, lag, self._clock()) for each, lag in zip(connectors, lags, strict=True)
            ]
        except (Unavailable, StoreError) as error:
            self._known[connection] = [_unreachable(connection, error, self._clock())]
        finally:
            self._reading.pop(connection, None)
        self._read_ms[connection] = self._clock()
        return self._known[connection]

    async def _lag(self, connection: str, connector: Connector) -> int | None:
        """How many records lie between a sink and the ends of its topics. None where nobody can tell."""
        if connector.kind != "sink" or self._ends is None:
            return None
        try:
            offsets = await self._clusters[connection].offsets(connector.name)
            at = dict(place for each in offsets if (place := _kafka_place(*each)) is not None)
            ends = await asyncio.to_thread(self._ends, sorted({partition.topic for partition in at}))
        except HeadgateError as error:
            _log.debug("the lag of a connector is not known: %s", error.message)
            return None
        return sum(max(0, ends[partition] - offset) for partition, offset in at.items() if partition in ends)


def _named(statuses: Sequence[PipelineStatus], pipeline: str) -> ConnectorStatus | None:
    connectors = (status for status in statuses if isinstance(status, ConnectorStatus))
    return next((status for status in connectors if status.info.name == pipeline), None)


def _kafka_place(partition: Mapping[str, Any], offset: Mapping[str, Any]) -> tuple[Partition, int] | None:
    topic, number, at = partition.get("kafka_topic"), partition.get("kafka_partition"), offset.get("kafka_offset")
    if isinstance(topic, str) and isinstance(number, int) and isinstance(at, int):
        return Partition(topic, number), at
    return None


def _status(connection: str, connector: Connector, lag: int | None, now_ms: int) -> ConnectorStatus:
    states = [_STATES.get(each, "stopped") for each in (connector.state, *(task.state for task in connector.tasks))]
    state = next(state for state in _RANK if state in states)
    half = HalfStatus(
        state=state, processes=len(connector.tasks), lag_records=lag, faults=tuple(_faults(connector, now_ms))
    )
    is_sink = connector.kind == "sink"
    return ConnectorStatus(
        info=_info(connection, connector),
        state=state,
        capture=HalfStatus() if is_sink else half,
        materialize=half if is_sink else HalfStatus(),
        connector=connector,
    )


def _info(connection: str, connector: Connector) -> PipelineInfo:
    is_sink = connector.kind == "sink"
    return PipelineInfo(
        name=f"{connection}{SEPARATOR}{connector.name}",
        source_kind="kafka" if is_sink else "connector",
        source=connector.config.get("topics", connector.config.get("topics.regex", ""))
        if is_sink
        else connector.plugin,
        log_kind="kafka",
        store_kind=connector.plugin if is_sink else "kafka",
        tables=(),
        entities=(),
    )


def _faults(connector: Connector, now_ms: int) -> list[Fault]:
    """What has failed; since when, Kafka Connect does not say."""
    failed = [f"task {task.id}" for task in connector.tasks if task.state == "FAILED"]
    if connector.state == "FAILED":
        failed.insert(0, "the connector")
    return [
        Fault(
            code=ConnectorFailed.code,
            message=f"{each} of {connector.name} has failed: get_pipeline_detail shows its trace. Mend the cause, "
            "then restart_pipeline.",
            since_ms=now_ms,
        )
        for each in failed
    ]


def _unreachable(connection: str, error: HeadgateError, now_ms: int) -> PipelineStatus:
    info = PipelineInfo(
        name=connection,
        source_kind="connector",
        source="",
        log_kind="kafka",
        store_kind="kafka",
        tables=(),
        entities=(),
    )
    fault = Fault(code=error.code, message=error.message, since_ms=now_ms)
    return PipelineStatus(
        info=info, state="error", capture=HalfStatus(state="error", faults=(fault,)), materialize=HalfStatus()
    )
