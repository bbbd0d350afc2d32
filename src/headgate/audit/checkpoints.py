"""Checkpoints: signed statements of how long a writer's chain was, so that its end can't be cut off unseen.

A checkpoint is an event in the chain, and so is published with all others. The newest one of each writer is also
kept in a small file of the data folder, apart from the trail: the witness.
"""

from __future__ import annotations

import base64
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec

from headgate.audit.event import cloudevent, event_id
from headgate.audit.signing import PublicKeys, Signer, signature_of
from headgate.connections._wal import turn_to_wal
from headgate.errors import OutboxError
from headgate.telemetry import Clock

CHECKPOINT_TYPE = "dev.headgate.checkpoint.v1"
WITNESS = "checkpoints.db"
"""The witness's file in the data folder."""

_BUSY_S = 1.0
_SCHEMA = """
create table if not exists checkpoint (
    writer text primary key, seq integer not null, time_ms integer not null, body blob not null
)
"""


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """That this writer's chain has, at this number, this link. `final` says that the writer then ended."""

    id: str
    writer: str
    seq: int
    """Of the event before the checkpoint's own."""
    link: str
    """In hex."""
    time_ms: int
    final: bool
    key: str
    """The id of the key that signed."""
    signature: str
    """Ed25519, in base64, over what `signed_bytes` says."""

    def signed_bytes(self) -> bytes:
        """Lines of text: a version, and then the fields but for key and signature."""
        fields = (self.id, self.writer, self.seq, self.link, self.time_ms, str(self.final).lower())
        return "\n".join(["headgate-checkpoint-v1", *map(str, fields)]).encode()

    def holds(self, keys: PublicKeys) -> bool:
        """Whether a trusted key has signed it."""
        try:
            signature = signature_of(self.signature)
        except ValueError:
            return False
        return keys.holds(self.key, signature, self.signed_bytes())


class _Envelope(msgspec.Struct, frozen=True):
    type: str
    data: msgspec.Raw


_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_decode = msgspec.json.Decoder(Checkpoint).decode


def checkpoint_in(event: bytes) -> Checkpoint | None:
    """The checkpoint that an event is; None for every other event. ValueError for one that is malformed."""
    if CHECKPOINT_TYPE.encode() not in event:
        return None
    envelope = _decode_envelope(event)
    return _decode(envelope.data) if envelope.type == CHECKPOINT_TYPE else None


class Checkpoints:
    """Makes a writer's checkpoints, and keeps the newest at the witness. One thread uses it."""

    def __init__(
        self, signer: Signer, witness: Witness, *, source: str, clock: Clock, random_bytes: Callable[[int], bytes]
    ) -> None:
        self._signer = signer
        self._witness = witness
        self._source = source
        self._clock = clock
        self._random_bytes = random_bytes

    def make(self, writer: str, seq: int, link: bytes, *, final: bool) -> Checkpoint:
        """The checkpoint of a chain that ends there, signed. ConfigError when the key can't be used."""
        now = self._clock()
        unsigned = Checkpoint(
            id=event_id(now, self._random_bytes(10)),
            writer=writer,
            seq=seq,
            link=link.hex(),
            time_ms=now,
            final=final,
            key=self._signer.key_id,
            signature="",
        )
        signature = base64.b64encode(self._signer.sign(unsigned.signed_bytes())).decode()
        return msgspec.structs.replace(unsigned, signature=signature)

    def event(self, checkpoint: Checkpoint) -> bytes:
        """The checkpoint as an event of the chain."""
        return cloudevent(
            checkpoint, id=checkpoint.id, type=CHECKPOINT_TYPE, source=self._source, time_ms=checkpoint.time_ms
        )

    def witness(self, checkpoint: Checkpoint) -> None:
        """Keeps it apart, once it is durable in the chain. OutboxError when that can't be done."""
        self._witness.keep(checkpoint)


class Witness:
    """The newest checkpoint of each writer, in a file of its own. Safe for any number of processes."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / WITNESS

    def keep(self, checkpoint: Checkpoint) -> None:
        """Keeps it in the place of an older one of its writer. OutboxError when it can't be written."""
        with self._opened() as database:
            database.execute(
                "insert into checkpoint values (?, ?, ?, ?) on conflict (writer) do update set"
                " seq = excluded.seq, time_ms = excluded.time_ms, body = excluded.body where excluded.seq > seq",
                (checkpoint.writer, checkpoint.seq, checkpoint.time_ms, msgspec.json.encode(checkpoint)),
            )

    def all(self) -> list[Checkpoint]:
        """What it holds, in the order of writers. OutboxError when it can't be read or is malformed."""
        if not self._file.exists():
            return []
        with self._opened() as database:
            rows = database.execute("select body from checkpoint order by writer").fetchall()
        try:
            return [_decode(body) for (body,) in rows]
        except (ValueError, TypeError) as error:  # what msgspec raises is a ValueError too
            raise OutboxError(
                "the file of checkpoints was changed by others: it holds what we did not write"
            ) from error

    def forget(self, before_ms: int) -> None:
        """Drops those older than that: the log no longer holds what they speak of. OutboxError as `keep`."""
        if self._file.exists():
            with self._opened() as database:
                database.execute("delete from checkpoint where time_ms < ?", (before_ms,))

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        try:
            os.close(os.open(self._file, os.O_CREAT | os.O_RDWR, 0o600))
            with closing(sqlite3.connect(self._file, timeout=_BUSY_S, isolation_level=None)) as database:
                database.execute("pragma synchronous = normal")
                turn_to_wal(database)
                database.execute(_SCHEMA)
                yield database
        except (sqlite3.Error, OSError) as error:
            raise OutboxError("the file of checkpoints can't be written or read: look at its disk's space") from error
