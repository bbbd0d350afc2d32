"""How deep JSON may nest: the same on every interpreter, whose own bounds differ from version to version.

On Python 3.11 a decoder gives up at a thousand levels, on 3.14 where the stack of the very thread ends. What one
process has let through another one could then not read.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from itertools import accumulate
from typing import Final

DEEPEST: Final = 512
"""Levels. The oldest interpreter that we run on gets so far from anywhere."""
DEEPEST_IN_ROW: Final = DEEPEST - 12
"""Levels of a document that becomes a row's value, so that what the row stands in is none too deep."""
_TEXT: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
"""Never looks at a byte twice: text that nothing ends goes to the end of all."""
_STEPS: Final = bytes.maketrans(b"{[}]", b"\x01\x01\xff\xff")
"""One level up or down, as a signed byte."""
_OTHERS: Final = bytes(set(range(256)).difference(b"{[}]"))


def check_depth(data: bytes, deepest: int = DEEPEST) -> None:
    """RecursionError, as decoders have it, for JSON that nests deeper. What is no JSON may pass.

    Costs nanoseconds where there is nothing to look at: what is shorter than its levels' brackets can't be so deep.
    """
    if len(data) > 2 * deepest and data.count(b"{") + data.count(b"[") > deepest and _levels(data) > deepest:
        raise RecursionError("the JSON nests too deep")


def check_depths(values: Collection[bytes]) -> None:
    """The same of many at once."""
    if max(map(len, values), default=0) > 2 * DEEPEST:
        for value in values:
            check_depth(value)


def _levels(data: bytes) -> int:
    steps = _TEXT.sub(b"", data).translate(_STEPS, _OTHERS)
    return max(accumulate(memoryview(steps).cast("b")), default=0)
