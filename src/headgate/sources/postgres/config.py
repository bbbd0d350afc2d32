"""What a pipeline's `source:` block may hold for PostgreSQL, and the names we take at the server."""

from __future__ import annotations

import hashlib
import re

from pydantic import BaseModel, ConfigDict, Field, SecretStr

LONGEST_NAME = 63  # NAMEDATALEN - 1


class Config(BaseModel):
    """Which database and tables to capture, and how."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    dsn: SecretStr
    """libpq's connection string; TLS by `sslmode`, `sslrootcert` in it."""
    tables: list[str] = []
    """`schema.table`, or `table` of schema public. None: every table that has a key when capture starts."""
    slot: str | None = Field(default=None, pattern=r"^[a-z0-9_]{1,63}$")
    """The replication slot; `headgate_<pipeline>` unless set. Slots' names are common to all databases of a server."""
    publication: str | None = Field(default=None, min_length=1, max_length=LONGEST_NAME)
    """The publication; `headgate_<pipeline>` unless set."""
    snapshot_batch: int = Field(default=2000, ge=1)
    """The most rows of a snapshot that are handed over together."""
    status_interval_s: float = Field(default=1.0, gt=0)
    """How often the slot is told what it may forget, and the server is asked for its head."""

    def slot_name(self, pipeline: str) -> str:
        """The slot's name."""
        return self.slot or default_name(pipeline)

    def publication_name(self, pipeline: str) -> str:
        """The publication's name."""
        return self.publication or default_name(pipeline)


def default_name(pipeline: str) -> str:
    """`headgate_<pipeline>` in the letters that a slot's name may have.

    Where that changes the pipeline's name, a digest of it keeps two pipelines apart.
    """
    plain = "headgate_" + re.sub(r"[^a-z0-9_]", "_", pipeline.lower())
    if plain == f"headgate_{pipeline}" and len(plain) <= LONGEST_NAME:
        return plain
    digest = hashlib.sha256(pipeline.encode()).hexdigest()[:8]
    return f"{plain[: LONGEST_NAME - 9]}_{digest}"


def qualified(table: str) -> str:
    """`schema.table` of a name as the config gives it."""
    return table if "." in table else f"public.{table}"
