"""A template's events are, byte for byte, those that are encoded whole."""

from __future__ import annotations

import os
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from headgate.audit.event import BudgetNote, CallEvent, encode_cloudevent, event_id, payload_json, payload_of
from headgate.audit.template import Differing, EventTemplate
from tests.unit.audit.test_event import NOW_MS, event

SOURCE = "headgate://100%25"
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
)
payloads = st.builds(payload_of, values, keep=st.sampled_from([0, 10, 1_000]))
alike = st.fixed_dictionaries(
    {
        "writer": texts,
        "name": texts,
        "client_name": texts,
        "policy_version": texts,
        "rules": st.lists(texts, max_size=3).map(tuple),
        "claims": payloads | st.just(msgspec.UNSET),
        "task": texts | st.just(msgspec.UNSET),
        "approval": texts | st.just(msgspec.UNSET),
    }
)
traced = st.sampled_from([(None, msgspec.UNSET), ("1", msgspec.UNSET), ("1", "a=b")])
traces = st.builds(lambda number: f"00-{number:032x}-00f067aa0ba902b7-01", st.integers(1, 2**127))
budgets = st.builds(BudgetNote, class_=st.just("read"), limit=st.just(100), remaining=st.integers(0, 100))
differing = st.fixed_dictionaries(
    {
        "id": st.builds(event_id, st.integers(0, 2**45), st.binary(min_size=10, max_size=10)),
        "time_ms": st.integers(0, NOW_MS * 4),
        "duration_us": st.integers(0, 10**9),
        "request_id": st.none() | st.integers(-(2**60), 2**60) | texts,
        "arguments": payloads,
        "positions": st.dictionaries(texts, st.dictionaries(texts, st.integers(0, 2**60), max_size=3), max_size=3),
        "result": payloads,
        "admitted_us": st.integers(0, 10**6),
    }
)


@given(values | st.floats() | st.text(), st.sampled_from([0, 10, 1_000]))
def test_a_payload_in_json_is_the_payload_encoded(value: Any, keep: int) -> None:
    assert payload_json(value, keep=keep) == msgspec.json.encode(payload_of(value, keep=keep))


@given(alike, differing, differing, budgets | st.just(msgspec.UNSET), st.integers(0, 100), traced, traces)
def test_filling_makes_the_bytes_of_the_whole_event(
    shared: dict[str, Any],
    first: dict[str, Any],
    second: dict[str, Any],
    budget: Any,
    remaining: int,
    kind: tuple[Any, Any],
    trace: str,
) -> None:
    parent, state = kind
    template = EventTemplate(
        event(**shared, **first, budget=budget, traceparent=parent, tracestate=state), SOURCE, os.urandom(16)
    )
    left = budget if budget is msgspec.UNSET else msgspec.structs.replace(budget, remaining=remaining)
    state = state if state is msgspec.UNSET else f"{state},{trace}"
    whole = event(**shared, **second, budget=left, traceparent=parent and trace, tracestate=state)
    assert template.fill(_differing(whole, remaining)) == encode_cloudevent(whole, SOURCE)


def _differing(whole: CallEvent, remaining: int) -> Differing:
    assert isinstance(whole.admitted_us, int)
    return Differing(
        id=whole.id,
        time_ms=whole.time_ms,
        duration_us=whole.duration_us,
        request_id=whole.request_id,
        arguments=msgspec.json.encode(whole.arguments),
        positions=msgspec.json.encode(whole.positions),
        result=msgspec.json.encode(whole.result),
        remaining=remaining,
        admitted_us=whole.admitted_us,
        traceparent=whole.traceparent or "",
        tracestate=whole.tracestate if isinstance(whole.tracestate, str) else "",
    )
