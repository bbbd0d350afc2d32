"""A writer's own connection: what it sends together comes back in order, in whatever pieces it arrives."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
import redis

from headgate.errors import HeadgateError
from headgate.stores.redis import link as links
from headgate.stores.redis.link import Link, transaction

SETS = [("SET", f"k{number}", f"v{number}") for number in range(40)]


@pytest.fixture(params=[1, 2, 3, 7, 64, 1 << 16])
def link(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, redis_url: str) -> Iterator[Link]:
    """Reads so many bytes at once, at most."""
    monkeypatch.setattr(links, "_RECEIVE", request.param)
    with closing(Link(redis.Redis.from_url(redis_url))) as opened:
        yield opened


def test_of_a_transaction_the_last_reply_comes_and_what_follows_stays_in_order(link: Link) -> None:
    first = link.post([("SET", "n", "1"), ("GET", "n")])
    done = link.post([transaction([*SETS, ("INCRBY", "n", 4), ("MGET", "k0", "k39")])])
    behind = link.post([("GET", "n"), ("GET", "none")])
    assert link.collect(first) == [b"OK", b"1"]
    assert link.collect(done)[-1] == [*[b"OK"] * len(SETS), 5, [b"v0", b"v39"]]
    assert link.is_done(done)
    assert link.collect(behind) == [b"5", None]
    assert link.write([("INCR", "n"), ("DEL", "n")]) == [6, 1]


def test_replies_may_be_collected_before_those_that_came_first(link: Link) -> None:
    done, behind = link.post([transaction(SETS)]), link.post([("MGET", "k1", "k2")])
    assert link.collect(behind) == [[b"v1", b"v2"]]
    assert link.collect(done)[-1] == [b"OK"] * len(SETS)


def test_a_transaction_whose_watched_key_has_changed_was_not_done(link: Link, redis_url: str) -> None:
    link.ask([("WATCH", "seen"), ("GET", "seen")])
    with closing(redis.Redis.from_url(redis_url)) as other:
        other.set("seen", "otherwise")
    assert not link.transact([*SETS, ("SET", "seen", "ours")])
    assert link.ask([("GET", "seen"), ("GET", "k0")]) == [b"otherwise", None]
    link.ask([("WATCH", "seen")])
    assert link.transact([("SET", "seen", "ours")])


@pytest.mark.parametrize(
    ("wrong", "stored"),
    [(("NOSUCHCOMMAND", "x"), None), (("ZADD", "text", 0, "member"), b"v39")],
    ids=["queue", "exec"],
)
def test_an_error_among_queued_commands_or_within_what_they_did_is_raised(
    link: Link, wrong: tuple[object, ...], stored: bytes | None
) -> None:
    link.ask([("SET", "text", "x")])
    with pytest.raises(HeadgateError):
        link.is_done(link.post([transaction([*SETS[:20], wrong, *SETS[20:]])]))
    assert link.ask([("GET", "k39")]) == [stored], "the next question opens the connection anew"
