"""What the suite of sources needs to know of a kind: one file here per kind, named as the kind is.

Each file holds `def open_ground(request: pytest.FixtureRequest, folder: Path) -> Ground`, which makes a
fresh, empty database (by `request.getfixturevalue("postgres")`, where a server is needed). A kind that reads
more than one kind of server is named in the suite, and is given each as a third argument. The suite
speaks SQL that both dialects know (integer and text columns, quoted identifiers by `"`); what differs
goes through `Ground`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from headgate.model.change import Change
from headgate.sources.base import Source


class Ground(Protocol):
    """One empty database with its owner, who writes as if Headgate were not there."""

    kind: str
    connector: str
    """The kind's `CONNECTOR`."""

    def source(self, tables: Sequence[str] = (), *, batch: int = 1000) -> Source:
        """Opens this database as a source of one and the same pipeline each time.

        `tables` as the config would name them, unqualified; none means all that can be captured. `batch`
        is the most rows of a snapshot in one batch, so that a test can interrupt a snapshot.
        """

    def decode(self, key: bytes | None, value: bytes | None) -> Change | None:
        """The kind module's `decode`."""

    def qualified(self, table: str) -> str:
        """`schema.table` of an unqualified name, as changes carry it."""

    def execute(self, *statements: str) -> None:
        """Runs the statements in one transaction of the owner's, and commits it."""

    def rows(self, table: str) -> list[dict[str, Any]]:
        """SELECT * of an unqualified name: integers as int, text as str, null as None."""

    def empty(self, table: str) -> None:
        """Removes all rows in the dialect's own way (TRUNCATE, or DELETE without WHERE)."""

    def leftovers(self) -> list[str]:
        """Names of everything of Headgate's at the database (slots, publications, triggers, tables)."""

    def close(self) -> None:
        """Removes the database."""
