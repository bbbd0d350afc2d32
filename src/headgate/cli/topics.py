"""Which topics a config has on a Kafka connection, and how each of them must keep its records."""

from __future__ import annotations

from collections.abc import Iterator

from headgate.app import App
from headgate.audit.publisher import CALLS_TOPIC
from headgate.config import Pipeline
from headgate.errors import HeadgateError
from headgate.flow.heartbeat import control_topic
from headgate.flow.schemas import announced
from headgate.model.keeping import Keeping
from headgate.model.pipeline import dead_letter_topic
from headgate.model.table import topic_of
from headgate.sources.base import Feed

_DAY_MS = 86_400_000
_REPLAYED = "Headgate replays"


def topics_on(app: App, connection: str) -> dict[str, Keeping]:
    """By name. A pipeline that can't be asked for its topics has findings of its own, and is passed over."""
    kept: dict[str, Keeping] = {}
    if app.events_log == connection:
        retention_ms = round(app.config.audit.retention_days * _DAY_MS)
        kept[CALLS_TOPIC.name] = _history(retention_ms, "the record of calls is to be kept")
    for pipeline in app.config.pipelines.values():
        if pipeline.log == connection:
            kept |= dict(_of_pipeline(app, pipeline))
    return kept


def _of_pipeline(app: App, pipeline: Pipeline) -> Iterator[tuple[str, Keeping]]:
    retention_ms = app.retention_ms(pipeline)
    yield dead_letter_topic(pipeline.name), _history(retention_ms, "dead letters are to be kept")
    try:
        feed = app.feed(pipeline)
    except HeadgateError:
        return
    yield from _captured(app, pipeline, retention_ms) if feed is None else _fed(feed, pipeline, retention_ms)


def _captured(app: App, pipeline: Pipeline, retention_ms: int) -> Iterator[tuple[str, Keeping]]:
    yield _beats(control_topic(pipeline.name).name, pipeline, is_ours=True)
    for table in {entity.table for entity in pipeline.entities} | _known(app, pipeline):
        yield topic_of(pipeline.name, table), Keeping(holds="rows", retention_ms=retention_ms, because=_REPLAYED)


def _known(app: App, pipeline: Pipeline) -> set[str]:
    """A state that does not answer has a finding of its own."""
    try:
        return set(announced(app.state, pipeline.name))
    except HeadgateError:
        return set()


def _fed(feed: Feed, pipeline: Pipeline, retention_ms: int) -> Iterator[tuple[str, Keeping]]:
    pulse = feed.pulse()
    if pulse is not None and pulse.topic is not None:
        yield _beats(pulse.topic, pipeline, is_ours=False)
    histories = feed.histories()
    for table, topic in feed.topics().items():
        if table in histories:
            yield topic, _history(retention_ms, _REPLAYED, is_ours=False)
        else:
            yield topic, Keeping(holds="rows", retention_ms=retention_ms, because=_REPLAYED, is_ours=False)


def _history(retention_ms: int, because: str, *, is_ours: bool = True) -> Keeping:
    return Keeping(holds="history", retention_ms=retention_ms, because=because, is_ours=is_ours)


def _beats(topic: str, pipeline: Pipeline, *, is_ours: bool) -> tuple[str, Keeping]:
    """A process that starts looks for the newest among them."""
    retention_ms = control_topic(pipeline.name).retention_ms
    return topic, Keeping(
        holds="beats", retention_ms=retention_ms, because="heartbeats are looked for in", is_ours=is_ours
    )
