"""Log sequence numbers: positions in the server's write-ahead log, written `16/B374D848`.

https://www.postgresql.org/docs/current/datatype-pg-lsn.html
"""

from __future__ import annotations


def parse_lsn(text: str) -> int:
    """The number of bytes that a position's text stands for."""
    high, _, low = text.partition("/")
    return (int(high, 16) << 32) | int(low, 16)


def format_lsn(lsn: int) -> str:
    """The text of a position."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"
