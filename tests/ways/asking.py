"""A client that asks without a pause, and whether each answer that it got left its event."""

from __future__ import annotations

import itertools
import json
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from headgate.audit.event import NotACallEvent, decode_cloudevent
from headgate.audit.outbox_file import writers
from headgate.audit.publisher import CALLS_TOPIC, SEQ_HEADER, WRITER_HEADER
from headgate.log.base import Log, Logged
from tests.ways.deployment import reader_of, until

VERSION = "2026-07-28"
REQUEST_ID = "headgate/request_id"
_META = {"io.modelcontextprotocol/protocolVersion": VERSION, "io.modelcontextprotocol/clientCapabilities": {}}
_PAUSE_S = 0.005


class Answer(NamedTuple):
    """What the server said to one call."""

    arguments: Mapping[str, Any]
    result: dict[str, Any] | None
    """None where it was a JSON-RPC error."""
    request_id: str
    """Empty where it named none."""
    code: str = ""
    """Of a JSON-RPC error."""


def ask(client: httpx.Client, url: str, tool: str, arguments: Mapping[str, Any]) -> Answer:
    """One call as a client of 2026-07-28 makes it, on the wire. TransportError while nobody is there."""
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call",
            "params": {"name": tool, "arguments": arguments, "_meta": _META}}  # fmt: skip
    headers = {"Accept": "application/json, text/event-stream", "MCP-Protocol-Version": VERSION,
               "Mcp-Method": "tools/call", "Mcp-Name": tool}  # fmt: skip
    message = message_of(client.post(url, json=body, headers=headers))
    result = message.get("result")
    if result is not None:
        return Answer(arguments, result, result["_meta"][REQUEST_ID])
    data = message["error"]["data"]
    return Answer(arguments, None, data.get("request_id", ""), data.get("code", ""))


def message_of(response: httpx.Response) -> dict[str, Any]:
    """The JSON-RPC message of an answer, plain or as an event stream."""
    text = response.text
    if "text/event-stream" in response.headers.get("content-type", ""):
        text = next(line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: "))
    found: dict[str, Any] = json.loads(text)
    return found


class Asking:
    """Calls one tool without a pause for the length of a block, whatever becomes of the server."""

    def __init__(self, url: str, tool: str, arguments: Callable[[int], Mapping[str, Any]]) -> None:
        self.answers: list[Answer] = []
        self._url = url
        self._tool = tool
        self._arguments = arguments
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="asking", daemon=True)
        self._failure: Exception | None = None

    def __enter__(self) -> Asking:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    @property
    def request_ids(self) -> list[str]:
        """Of every answer that named one, errors included."""
        return [answer.request_id for answer in self.answers if answer.request_id]

    @property
    def rows(self) -> list[tuple[Mapping[str, Any], dict[str, Any]]]:
        """What was asked for and the row that was answered, of all that was found."""
        return [
            (answer.arguments, row["values"])
            for answer in self.answers
            if answer.result is not None and not answer.result["isError"]
            for row in answer.result["structuredContent"]["rows"]
        ]

    def _run(self) -> None:
        try:
            with httpx.Client(timeout=60) as client:
                for number in itertools.count():
                    if self._stop.wait(_PAUSE_S):
                        return
                    self._ask_once(client, number)
        except Exception as error:
            self._failure = error

    def _ask_once(self, client: httpx.Client, number: int) -> None:
        try:
            self.answers.append(ask(client, self._url, self._tool, self._arguments(number)))
        except httpx.TransportError:
            self._stop.wait(0.05)  # the server is not there: ask again


def undrained(data: Path) -> list[str]:
    """The writers in a data folder whose outboxes are not wholly published and removed."""
    return writers(data / "outbox")


def assert_each_recorded_once(config: Path, request_ids: list[str]) -> None:
    """Each of these calls has exactly one event on the log, once what was published twice is dropped."""
    assert len(set(request_ids)) == len(request_ids) > 0
    recorded = Counter(recorded_ids(config))
    wrong = {each: recorded[each] for each in request_ids if recorded[each] != 1}
    assert not wrong, f"{len(wrong)} of {len(request_ids)} answers have not one event each: {list(wrong.items())[:5]}"


def recorded_ids(config: Path) -> list[str]:
    """The ids of calls that have an event on the log; what was published twice once."""
    _, app = reader_of(config)
    try:
        records = all_records(app.log(app.events_log))
    finally:
        app.close()
    first_of_each = {_name_of(record): record for record in reversed(records)}
    return [each for record in first_of_each.values() if (each := _id_of(record))]


def all_records(log: Log) -> list[Logged]:
    """Everything that is on the topic now, which has one partition."""
    ((place, end),) = log.end([CALLS_TOPIC.name]).items()
    reader = log.read({place: 0})
    records: list[Logged] = []

    def is_whole() -> bool:
        records.extend(reader.poll(10_000, 0.1))
        return bool(records) and records[-1].offset + 1 >= end

    try:
        until(is_whole)
    finally:
        reader.close()
    return records


def _name_of(record: Logged) -> tuple[bytes, bytes]:
    headers = dict(record.headers)
    return headers[WRITER_HEADER], headers[SEQ_HEADER]


def _id_of(record: Logged) -> str:
    try:
        return decode_cloudevent(record.value or b"").id
    except NotACallEvent:
        return ""  # an aggregate of refusals
