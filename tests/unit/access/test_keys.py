"""API keys: shown once, kept as digests, revocable within five seconds."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from headgate.access.keys import SHOWN_MS, ApiKeys
from headgate.access.revocations import Mark
from headgate.errors import ConfigError, Unauthenticated, Unavailable
from headgate.model.caller import Caller
from headgate.state.base import State
from headgate.state.sqlite import open_state

NOW_MS = 1_700_000_000_000


class Hand:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now_ms = NOW_MS

    def __call__(self) -> int:
        return self.now_ms


@pytest.fixture
def clock() -> Hand:
    return Hand()


@pytest.fixture
def state(tmp_path: Path, clock: Hand) -> Iterator[State]:
    with closing(open_state(tmp_path / "state.db", clock=clock)) as opened:
        yield opened


@pytest.fixture
def keys(state: State, clock: Hand) -> ApiKeys:
    return ApiKeys(state, clock)


def refusal(keys: ApiKeys, text: str) -> tuple[str, str]:
    """The reason for the record, and the message for the caller."""
    with pytest.raises(Unauthenticated) as refused:
        keys.verify(text)
    return refused.value.details["reason"], refused.value.message


def bytes_of(*numbers: int) -> Callable[[int], bytes]:
    """Randomness that is known beforehand."""
    coming = iter(numbers)
    return lambda count: bytes([next(coming)]) * count


def test_a_key_tells_who_holds_it(keys: ApiKeys) -> None:
    key_id, text = keys.make("ci", ["data:read", "pipelines:read"])
    assert keys.verify(text) == Caller(
        subject=key_id,
        method="api_key",
        scopes=frozenset({"data:read", "pipelines:read"}),
        claims={"name": "ci"},
    )


def test_a_key_holds_256_random_bits_and_differs_each_time(keys: ApiKeys) -> None:
    texts = {keys.make("k", [])[1] for _ in range(20)}
    assert len(texts) == 20
    assert all(re.fullmatch(r"hg_[0-9a-f]{12}_[A-Za-z0-9_-]{43}", text) for text in texts)


def test_the_state_holds_no_key(keys: ApiKeys, state: State) -> None:
    key_id, text = keys.make("k", ["data:read"])
    kept = b"".join(entry.value for entry in state.scan("").values())
    assert key_id.encode() in kept
    assert text.split("_", 2)[2].encode() not in kept


def test_a_taken_id_is_not_given_out_again(state: State, clock: Hand) -> None:
    keys = ApiKeys(state, clock, random_bytes=bytes_of(1, 2, 1, 3, 4, 5))
    first, second = keys.make("a", []), keys.make("b", [])
    assert (first[0], second[0]) == ("01" * 6, "04" * 6)
    assert keys.verify(first[1]).claims == {"name": "a"}
    assert keys.verify(second[1]).claims == {"name": "b"}


@pytest.mark.parametrize("change", [lambda text: text[:-2] + ("AA" if text[-2:] != "AA" else "BB"),
                                    lambda text: text + "A", lambda text: text[:-1], lambda text: text.upper(),
                                    lambda text: text + "\n", lambda text: "hg_" + "0" * 12 + text[15:],
                                    lambda text: "hg_", lambda text: text[:-1] + "\ud800"])  # fmt: skip
def test_anything_but_the_key_is_unknown(keys: ApiKeys, change: Callable[[str], str]) -> None:
    _, text = keys.make("k", ["data:read"])
    assert refusal(keys, change(text))[0] == "unknown_key"


def test_unknown_and_revoked_keys_get_the_same_words(keys: ApiKeys) -> None:
    key_id, text = keys.make("k", ["data:read"])
    unknown = refusal(keys, f"hg_{'0' * 12}_{'A' * 43}")
    assert keys.revoke(key_id) is True
    revoked = refusal(keys, text)
    assert (unknown[0], revoked[0]) == ("unknown_key", "revoked")
    assert unknown[1] == revoked[1]
    assert text not in revoked[1]


def test_a_key_expires(keys: ApiKeys, clock: Hand) -> None:
    _, text = keys.make("k", ["data:read"], ttl_s=60)
    clock.now_ms += 59_999
    assert keys.verify(text).expires_at_s == NOW_MS / 1000 + 60
    clock.now_ms += 1
    assert refusal(keys, text)[0] == "expired"
    assert refusal(keys, text[:-4] + "AAAA")[0] == "unknown_key"


def test_a_revocation_is_on_the_list_for_those_who_remember_the_key(keys: ApiKeys, state: State, clock: Hand) -> None:
    key_id, text = keys.make("k", ["data:read"])
    ApiKeys(state, clock).revoke(key_id)
    assert refusal(keys, text)[0] == "revoked"
    assert [each.mark for each in keys.revocations.list()] == [Mark("api_key", key_id)]


def test_a_revocation_happens_once(keys: ApiKeys) -> None:
    key_id, _ = keys.make("k", [])
    assert keys.revoke("0" * 12) is False
    assert keys.revoke(key_id) is True
    assert keys.revoke(key_id) is False


def test_the_list_shows_all_but_the_key(keys: ApiKeys, clock: Hand) -> None:
    first, text = keys.make("first", ["data:read"], ttl_s=60)
    clock.now_ms += 1
    second, _ = keys.make("second", ["admin"])
    clock.now_ms += 1
    keys.revoke(second)
    shown = keys.list()
    assert [(info.id, info.name, info.scopes) for info in shown] == [
        (first, "first", ("data:read",)),
        (second, "second", ("admin",)),
    ]
    assert (shown[0].expires_ms, shown[1].revoked_ms) == (NOW_MS + 60_000, NOW_MS + 2)
    assert text.split("_", 2)[2] not in repr(shown)


def test_the_list_forgets_what_ended_long_ago(keys: ApiKeys, clock: Hand) -> None:
    keys.make("expired", [], ttl_s=1)
    keys.revoke(keys.make("revoked", [])[0])
    keys.make("stays", [])
    clock.now_ms += SHOWN_MS
    assert {info.name for info in keys.list()} == {"expired", "stays"}
    clock.now_ms += 1_000
    assert {info.name for info in keys.list()} == {"stays"}


def test_a_key_gets_only_scopes_that_exist(keys: ApiKeys) -> None:
    with pytest.raises(ConfigError, match="data:write"):
        keys.make("k", ["data:read", "data:write"])
    with pytest.raises(ConfigError, match="positive"):
        keys.make("k", [], ttl_s=0)
    assert keys.list() == []


def test_no_key_holds_while_the_state_is_gone(keys: ApiKeys, state: State) -> None:
    _, text = keys.make("k", [])
    keys.verify(text)
    state.close()
    with pytest.raises(Unavailable):
        keys.verify(text)
