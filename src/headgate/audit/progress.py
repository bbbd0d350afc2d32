"""How far an outbox is published: a small file beside its events, written by whoever publishes them.

It proves nothing, and is lost without harm: events are then published again, which their numbers tell.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

NAME = "progress.json"


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """What the publisher knows of the events."""

    published: int = 0
    """Up to which number everything is known to be on the log."""
    place: tuple[int, int] | None = None
    """Where the next event begins: the first number of its segment, and the offset there."""
    withheld: tuple[int, ...] = ()
    """The events of which the log has the digest alone."""


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Progress).decode


def read_progress(folder: Path) -> Progress:
    """What is noted in a folder. OSError when it can't be read."""
    try:
        return _decode((folder / NAME).read_bytes())
    except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError):
        return Progress()


def write_progress(folder: Path, progress: Progress) -> None:
    """In one step: whoever reads it finds the old one or the new one. OSError when it can't be written."""
    new = folder / f"{NAME}.new"
    with open(new, "wb", opener=_for_its_owner) as file:
        file.write(_encode(progress))
    new.replace(folder / NAME)


def _for_its_owner(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
