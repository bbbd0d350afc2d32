"""The contract's messages against what the code's own encoders write to a pipeline's topics."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from headgate.audit.contract import PipelineTopics, contract
from headgate.errors import RecordTooLarge
from headgate.flow.copying import Copies
from headgate.flow.heartbeat import control_topic, encode_heartbeat
from headgate.flow.stops import Stops
from headgate.flow.writing import LogWriting
from headgate.log.base import Appender, Record, Topic
from headgate.log.sqlite import open_log
from headgate.model.change import Change, Marker
from headgate.model.change import Sequence as SourceSequence
from headgate.model.envelope import encode_change, source_prefix
from headgate.model.pipeline import DeadLetter
from headgate.model.position import Partition
from headgate.model.table import Column, Table, topic_of
from headgate.sources.base import Batch, Head
from headgate.testing import MemoryState
from tests.unit.flow.test_copying import PLACE as PLACE_OF_LETTERS
from tests.unit.flow.test_copying import Rooms

PARTITIONS = 2
TABLE = Table(name="public.orders", columns=(Column(name="id", type="integer"),), key=("id",))
LETTER = DeadLetter(
    pipeline="shop", entity="order", topic="shop.public.orders", partition=3, offset=17, key=b"k", value=b"{",
    headers=(("of-others", b"x"),), code="schema_mismatch", message="It does not fit.", time_ms=5,
)  # fmt: skip


class Narrow:
    """A log that takes records without a value alone."""

    def __init__(self, appender: Any) -> None:
        self._appender: Appender = appender

    def append(self, topic: str, record: Record, partition: int | None = None) -> None:
        if record.value is not None:
            raise RecordTooLarge("too large")
        self._appender.append(topic, record, partition)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._appender, name)


def document() -> dict[str, Any]:
    return contract("1.2.3", [PipelineTopics(pipeline="shop", partitions=PARTITIONS, retention_ms=7)],
                    calls_retention_ms=30)  # fmt: skip


def of_message(name: str, part: str = "payload") -> jsonschema.Draft7Validator:
    """What a message's value is, or its key, or its headers."""
    whole = document()
    message = whole["components"]["messages"][name]
    schema = message["bindings"]["kafka"]["key"] if part == "key" else message[part]
    jsonschema.Draft7Validator.check_schema(schema)
    return jsonschema.Draft7Validator({**schema, "components": whole["components"]})


def check(name: str, record: Record) -> None:
    """The record is such a message, and no other."""
    value = None if record.value is None else json.loads(record.value)
    of_message(name).validate(value)
    for other in {"change", "tombstone", "mark", "heartbeat"} - {name}:
        assert not of_message(other).is_valid(value), other
    if record.key is not None:
        of_message(name, "key").validate(json.loads(record.key) if record.key.startswith(b"{") else record.key.decode())


PREFIX = source_prefix("postgres", "shop", "", "public.orders")
ROW, PLACE = b'{"id":1,"total":"7.50","note":null}', SourceSequence(7, 9)


@pytest.mark.parametrize("sequence", [None, PLACE, SourceSequence(7, 9, "0-1 binlog.000001")])
@pytest.mark.parametrize(("op", "before", "after"), [
    ("c", None, ROW), ("r", None, ROW), ("u", ROW, ROW), ("u", None, ROW), ("d", ROW, None), ("d", None, None),
])  # fmt: skip
def test_a_change_is_what_it_says(op: Any, before: bytes | None, after: bytes | None, sequence: Any) -> None:
    change = Change(
        op=op, table="public.orders", before=before, after=after, sequence=sequence, time_ms=5, snapshot=op == "r"
    )
    check("change", Record(b'{"id":1}', encode_change(change, PREFIX)))


def test_what_is_no_change_does_not_fit() -> None:
    whole = json.loads(encode_change(Change(op="u", table="public.orders", after=ROW), PREFIX))
    every: list[dict[str, Any]] = [
        {"op": "x"},
        {"after": None},
        {"op": "d"},
        {"ts_ms": "now"},
        {"source": {}},
        {"before": 7},
    ]
    for wrong in every:
        assert not of_message("change").is_valid({**whole, **wrong}), wrong


def test_what_capture_writes_is_what_it_says(tmp_path: Path) -> None:
    """Rows, tombstones, marks in each partition, and a heartbeat, as they stand on the log."""
    found: dict[str, list[Record]] = {"change": [], "tombstone": [], "mark": [], "heartbeat": []}
    for record in _captured(tmp_path):
        name = "mark" if b'"headgate"' in (record.key or b"") else "change"
        name = "tombstone" if record.value is None else "heartbeat" if record.key == b"heartbeat" else name
        found[name].append(record)
        check(name, record)
    assert {name: len(each) for name, each in found.items()} == {
        "change": 2, "tombstone": 1, "mark": 3 * PARTITIONS, "heartbeat": 1,
    }  # fmt: skip
    assert not of_message("mark", "key").is_valid({"id": 1})


def _captured(folder: Path) -> list[Record]:
    state = MemoryState()
    with closing(open_log(folder / "log.db", clock=lambda: 0)) as log:
        log.ensure([control_topic("shop")])
        writing = LogWriting("shop", "postgres", log, state, Stops(state, "shop"), PARTITIONS, 7)
        changes = [
            Change(op="m", table=TABLE.name, marker=Marker(phase="begin", generation=5), time_ms=5),
            Change(op="r", table=TABLE.name, key=b'{"id":1}', after=ROW, snapshot=True, time_ms=5),
            Change(op="m", table=TABLE.name, marker=Marker(phase="end", generation=5), sequence=PLACE, time_ms=5),
            Change(op="d", table=TABLE.name, key=b'{"id":1}', before=ROW, sequence=PLACE, time_ms=6),
            Change(op="t", table=TABLE.name, sequence=PLACE, time_ms=7),
        ]
        head = Head(sequence=PLACE, time_ms=8)
        writing.write(Batch(token=1, head=head, changes=changes, tables=[TABLE]), 8)
        writing.flush(60)
        writing.acknowledged(8)
        writing.beat(1_000_000)
        writing.flush(60)
        writing.close()
        topics = [topic_of("shop", TABLE.name), control_topic("shop").name]
        with closing(log.read(dict.fromkeys(log.end(topics)))) as reader:
            return [Record(each.key, each.value, each.headers) for each in reader.poll(100, 60)]


def test_a_heartbeat_is_what_it_says() -> None:
    beat = encode_heartbeat(PLACE, 5, {Partition("shop.public.orders", 3): 17}, {"shop.public.orders": "id"})
    check("heartbeat", beat)
    assert not of_message("heartbeat", "key").is_valid("other")
    assert not of_message("heartbeat").is_valid({**json.loads(beat.value or b""), "ends": {"shop.public.orders": 17}})


def test_a_dead_letter_has_the_headers_that_it_says(tmp_path: Path) -> None:
    """A copy with its value, and one for which that was too large."""
    with closing(open_log(tmp_path / "log.db", clock=lambda: 0)) as log:
        rooms: Any = Rooms(log)
        copies = Copies(rooms, None)  # type: ignore[arg-type]  # nothing is asked of a store
        log.ensure([Topic(name=PLACE_OF_LETTERS.topic)])
        for appender in (log.appender(), Narrow(log.appender())):
            copies._append_one(appender, LETTER)
            appender.flush(60)
            appender.close()
        written = rooms.copied()
    assert [record.value for record in written] == [LETTER.value, None]
    for record in written:
        headers = {name: value.decode() for name, value in record.headers}
        of_message("dead_letter", "headers").validate(headers)
        assert headers["of-others"] == "x"
        assert not of_message("dead_letter", "headers").is_valid({**headers, "headgate.code": 7})
        assert not of_message("dead_letter", "headers").is_valid({"of-others": "x"})
    assert headers["headgate.left-out"] == "value"
