"""What readers are told of a pipeline that others may run: its config, without what fills it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from headgate.access.connectors import Connectors
from headgate.config import Kind, Pipeline
from headgate.log.base import Log
from headgate.model.entity import Entity
from headgate.model.pipeline import PipelineInfo
from headgate.telemetry import Clock


def info_of(pipeline: Pipeline, source: str, kind: Callable[[str | None], str], *, captured: bool) -> PipelineInfo:
    """What the config says of it. `kind` tells a connection's; `captured` is false where others fill its topics."""
    return PipelineInfo(
        name=pipeline.name,
        source_kind=pipeline.source.kind,
        source=source,
        log_kind=kind(pipeline.log),
        store_kind=kind(pipeline.store),
        tables=tuple(sorted({entity.table for entity in pipeline.entities})),
        entities=tuple(entity.name for entity in pipeline.entities),
        bound_ms=round(pipeline.settings.freshness_bound_s * 1000),
        captured=captured,
        connector=pipeline.connector,
    )


def naming(pipelines: Mapping[str, Pipeline]) -> Callable[[Entity], bool]:
    """Tells whether an entity is one of these pipelines': all of one that declares none, else those it declares."""
    declared = {name: {each.name for each in pipeline.entities} for name, pipeline in pipelines.items()}

    def is_named(entity: Entity) -> bool:
        names = declared.get(entity.pipeline)
        return names is not None and (not names or entity.name in names)

    return is_named


def connectors_of(connections: Mapping[str, Kind], clock: Clock, log: Callable[[str | None], Log]) -> Connectors | None:
    """Kafka Connect's connectors; None where no connection to one is named. `log` opens the one on a connection."""
    named = {name: each.settings for name, each in connections.items() if each.kind == "connect"}
    if not named:
        return None
    from headgate.connections.connect import ConnectCluster

    kafka = next((name for name, each in connections.items() if each.kind == "kafka"), None)
    ends = (lambda topics: log(kafka).end(topics)) if kafka else None
    return Connectors({name: ConnectCluster(settings) for name, settings in named.items()}, clock, ends)
