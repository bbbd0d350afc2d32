"""The bound on nesting holds on every interpreter alike, and counts what nests alone."""

from __future__ import annotations

import msgspec
import pytest

from headgate.model.depth import DEEPEST, check_depth, check_depths


def nest(levels: int, within: bytes = b"1") -> bytes:
    return b'{"a":' * (levels // 2) + b"[" * (levels - levels // 2) + within + (b"]" * (levels - levels // 2)) + (
        b"}" * (levels // 2)
    )  # fmt: skip


def test_the_deepest_that_passes_can_be_decoded() -> None:
    deepest = nest(DEEPEST)
    check_depth(deepest)
    check_depths([b"{}", deepest])
    assert msgspec.json.encode(msgspec.json.decode(deepest)) == deepest


@pytest.mark.parametrize("levels", [DEEPEST + 1, 100_000])
def test_what_is_deeper_is_refused(levels: int) -> None:
    with pytest.raises(RecursionError):
        check_depth(nest(levels))
    with pytest.raises(RecursionError):
        check_depths([b"{}", nest(levels)])


@pytest.mark.parametrize("value", [
    b"[" + b",".join([b'{"a":[1]}'] * 1_000) + b"]",
    b'{"a":"' + b"[" * 2_000 + b'"}',
    b'{"a":"' + rb"\"[" * 2_000 + b'"}',
    b'{"a":"\\\\","b":"' + b"{" * 2_000 + b'"}',
    nest(DEEPEST - 1, b'"' + b"[{" * 3_000 + b'"'),
])  # fmt: skip
def test_what_is_wide_or_only_text_passes(value: bytes) -> None:
    msgspec.json.decode(value)
    check_depth(value)
    check_depths([value])


@pytest.mark.parametrize("text", [rb"\"", b"\\", b'"', b'""', b"x", b"\n"])
def test_text_that_nothing_ends_is_looked_at_once(text: bytes) -> None:
    """A megabyte of it: were each byte looked at anew from each, that would be for hours."""
    check_depth(b"{" * DEEPEST + b'"' + text * 500_000)
    with pytest.raises(RecursionError):
        check_depth(b"{" * (DEEPEST + 1) + b'"' + text * 500_000)


def test_nothing_at_all_passes() -> None:
    check_depth(b"")
    check_depths([])
