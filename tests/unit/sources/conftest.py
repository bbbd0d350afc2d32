"""Fixtures of the sources' unit tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from .grounds import Replica, SqliteGround


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[SqliteGround]:
    """An empty SQLite file with its owner."""
    with closing(SqliteGround(tmp_path)) as opened:
        yield opened


@pytest.fixture
def replica(ground: SqliteGround) -> Replica:
    """What a reader of the log makes of that file."""
    return Replica(ground)
