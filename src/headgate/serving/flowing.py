"""What the halves of a pipeline run with, made of the rooms of this process."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Protocol

from headgate import plugins
from headgate.audit.journal import Journal
from headgate.config import Pipeline
from headgate.flow.status import Reporter
from headgate.log.base import Log
from headgate.model.entity import Entity
from headgate.model.pipeline import Half
from headgate.serving import halves
from headgate.serving.halves import Opened
from headgate.sources.base import Feed, Source
from headgate.state.base import State
from headgate.stores.base import Writer
from headgate.subscriptions._telling import Teller
from headgate.telemetry import Clock

if TYPE_CHECKING:
    from headgate.flow.capture import Capturing
    from headgate.flow.materializing import Materializing


class Works(Protocol):
    """The rooms that a process's halves run with, and what it says of them."""

    clock: Clock
    jitter: random.Random
    process: str
    reporters: list[Reporter]
    """Of the halves that run here now."""

    @property
    def state(self) -> State: ...
    @property
    def journal(self) -> Journal: ...
    def log(self, connection: str | None) -> Log: ...
    def source(self, pipeline: Pipeline) -> Source: ...
    def feed(self, pipeline: Pipeline) -> Feed | None: ...
    def forget_feed(self, pipeline: str) -> None: ...
    def writer(self, pipeline: Pipeline, entities: Sequence[Entity]) -> Writer: ...
    def teller(self, pipeline: Pipeline) -> Teller: ...
    def retention_ms(self, pipeline: Pipeline) -> int: ...


def halves_of(works: Works, opened: Opened, wanted: Sequence[Half]) -> Iterator[halves.Half]:
    """The wanted halves of a pipeline, not yet started. Where others fill the topics, nothing is captured."""
    # Imported here, so that who only answers starts without them; a client of stdio waits for its server.
    from headgate.flow.capture import run_capture
    from headgate.flow.materialize import run_materialize

    pipeline, stop, stack = opened.pipeline, opened.stop, opened.stack
    stack.callback(works.forget_feed, pipeline.name)
    if "capture" in wanted and works.feed(pipeline) is None:
        capturing = _capturing(works, pipeline, stack)
        yield f"capture-{pipeline.name}", lambda: run_capture(capturing, stop)
    if "materialize" in wanted:
        materializing = _materializing(works, pipeline, stack)
        yield f"materialize-{pipeline.name}", lambda: run_materialize(materializing, stop)


def _capturing(works: Works, pipeline: Pipeline, stack: ExitStack) -> Capturing:
    from headgate.flow.capture import Capturing

    return Capturing(
        pipeline=pipeline.name,
        connector=plugins.load("sources", pipeline.source.kind).CONNECTOR,
        source=works.source(pipeline),
        log=works.log(pipeline.log),
        state=works.state,
        partitions=pipeline.settings.partitions if pipeline.log else 1,
        retention_ms=works.retention_ms(pipeline),
        reporter=_reporter(works, pipeline, "capture", stack),
        clock=works.clock,
        jitter=works.jitter,
    )


def _materializing(works: Works, pipeline: Pipeline, stack: ExitStack) -> Materializing:
    from headgate.flow.materializing import Materializing

    source = plugins.load("sources", pipeline.source.kind)
    teller = stack.enter_context(closing(works.teller(pipeline)))
    return Materializing(
        pipeline=pipeline.name,
        declared=pipeline.entities,
        decode=getattr(source, "decode", None),
        decode_rows=getattr(source, "decode_rows", None),
        log=works.log(pipeline.log),
        open_writer=lambda entities: works.writer(pipeline, entities),
        state=works.state,
        reporter=_reporter(works, pipeline, "materialize", stack),
        clock=works.clock,
        jitter=works.jitter,
        on_error=pipeline.settings.on_error,
        retention_ms=works.retention_ms(pipeline),
        feed=works.feed(pipeline),
        tell=teller.tell,
        record=works.journal.catalog,
    )


def _reporter(works: Works, pipeline: Pipeline, half: Half, stack: ExitStack) -> Reporter:
    reporter = Reporter(works.state, pipeline.name, half, works.process, works.clock)
    works.reporters.append(reporter)
    stack.callback(works.reporters.remove, reporter)
    return reporter
