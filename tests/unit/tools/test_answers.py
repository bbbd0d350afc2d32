"""How values, times and numbers look in an answer."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from headgate.model.position import Freshness, FreshnessState
from headgate.tools._answers import decoded, freshness_note, instant, span


@pytest.mark.parametrize(
    ("json_text", "value"),
    [
        ("9007199254740992", 2**53),
        ("9007199254740993", "9007199254740993"),
        ("-9007199254740993", "-9007199254740993"),
        ('{"a":[{"b":18446744073709551616}]}', {"a": [{"b": "18446744073709551616"}]}),
        ("0.1", 0.1),
        ("1.7976931348623157E308", sys.float_info.max),
        ("0.30000000000000004", 0.1 + 0.2),
        ("0.10000000000000000000001", "0.10000000000000000000001"),
        ("1e400", "1e400"),
        ('"9007199254740993"', "9007199254740993"),
        ("true", True),
    ],
)
def test_no_digit_is_lost(json_text: str, value: Any) -> None:
    assert decoded(json_text.encode()) == value


def test_an_integer_of_thousands_of_digits_is_text_too() -> None:
    digits = "7" * 10_000
    assert decoded(b'{"a":%s,"b":1,"c":0.5}' % digits.encode()) == {"a": digits, "b": 1, "c": 0.5}


@pytest.mark.parametrize(
    ("duration_ms", "words"),
    [(0, "0 ms"), (999, "999 ms"), (75_999, "75 s"), (600_000, "10 min"), (7_200_000, "2 h"), (172_800_000, "2 days")],
)
def test_durations_in_words(duration_ms: int, words: str) -> None:
    assert span(duration_ms) == words


def test_times_are_utc_to_the_second() -> None:
    assert instant(1_795_226_475_999) == "2026-11-21T02:01:15Z"


@pytest.mark.parametrize(
    ("state", "as_of_ms", "said"),
    [
        ("fresh", 1, ""),
        ("stale", 1_795_226_400_000, "may be out of date: it shows the source as of 2026-11-21T02:00:00Z, 75 s ago"),
        (
            "stopped",
            1_795_226_400_000,
            "because its pipeline, or this part of it, does not run: it shows the source as of 2026-11-21T02:00",
        ),
        ("stopped", None, "because its pipeline, or this part of it, does not run: since when is not known"),
        ("snapshotting", 1_795_226_400_000, "because it is being read anew from its source: it shows"),
        ("snapshotting", None, "the snapshot is still being taken"),
        ("unknown", None, "it is not known how old this data is"),
    ],
)
def test_each_state_has_its_own_sentence(state: FreshnessState, as_of_ms: int | None, said: str) -> None:
    freshness = Freshness(
        state=state, as_of_ms=as_of_ms, staleness_ms=None if as_of_ms is None else 75_000, position={}, bound_ms=30_000
    )
    note = freshness_note(freshness)
    assert said in note and note.startswith("Note: ") == (state != "fresh")
