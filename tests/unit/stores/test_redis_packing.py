"""Commands that are packed column by column are, byte for byte, what the client's library makes of them one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import hiredis
from hypothesis import given
from hypothesis import strategies as st

from headgate.stores.redis.link import pack
from headgate.stores.redis.packing import Heads, Packed, Starts, pack_mset, pack_zadd, pack_zrem

TEXTS = st.binary(max_size=12) | st.sampled_from([b"\r\n", b"$3\r\nabc\r\n", b"x" * 1_000])
PAIRS = st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=8)


def one_by_one(commands: Sequence[Sequence[Any]]) -> bytes:
    return b"".join(hiredis.pack_command(tuple(command)) for command in commands)


@given(TEXTS, TEXTS, PAIRS)
def test_rows(name: bytes, stamp: bytes, rows: list[tuple[bytes, bytes]]) -> None:
    words = [word for key, value in rows for word in (name + key, stamp + value)]
    packed = pack_mset(name, [key for key, _ in rows], stamp, [value for _, value in rows])
    assert packed == Packed(one_by_one([("MSET", *words)]), 1)


@given(TEXTS, PAIRS)
def test_members(name: bytes, pairs: list[tuple[bytes, bytes]]) -> None:
    sets, members = [place for place, _ in pairs], [member for _, member in pairs]
    removed = one_by_one([("ZREM", name + place, member) for place, member in pairs])
    added = one_by_one([("ZADD", name + place, 0, member) for place, member in pairs])
    assert pack_zrem(name, sets, members) == Packed(removed, len(pairs))
    assert pack_zadd(name, sets, members) == Packed(added, len(pairs))


def test_packed_and_other_commands_go_together() -> None:
    moved = pack_zrem(b"s:", [b"a", b"b"], [b"1", b"2"])
    together = pack([("MULTI",), moved, ("SET", "k", 7)])
    wanted = one_by_one([("MULTI",), ("ZREM", b"s:a", b"1"), ("ZREM", b"s:b", b"2"), ("SET", "k", 7)])
    assert together == Packed(wanted, 4)
    assert pack([moved]) is moved


def test_what_is_kept_of_lengths_is_bounded() -> None:
    heads, starts = Heads(), Starts()
    for length in range(5_000):
        assert heads[length] == b"\r\n$%d\r\n" % length
        assert starts.of(b"%d" % length)[0] == b"\r\n$%d\r\n%d" % (len(str(length)), length)
    assert len(heads) <= 1_000
    assert len(starts._heads) <= 16
