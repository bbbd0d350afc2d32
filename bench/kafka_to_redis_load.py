"""The load of kafka_to_redis.py: changes of accounts as a capture would write them, and what must be stored at the end.

Of all changes 18 % move the looked-up e-mail address, 2 % delete a row and 2 % bring a deleted one back; the others
change a balance and a time. Keys are drawn evenly.
"""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from confluent_kafka import Producer

from headgate.model.change import Change, Op, Sequence
from headgate.model.envelope import encode_change, source_prefix

TABLE = "main.accounts"
MOVED = 0.18
GONE = 0.02
_FIRST_SEQUENCE = 4_000_000_000_000_000_000  # beyond whatever the real capture has written before
_TIME_MS = 1_760_000_000_000
_COLUMNS = "id integer primary key, email text, name text, city text, balance text, updated_at text"


class Accounts:
    """The table as it is after the changes so far: what the store is compared with."""

    def __init__(self, rows: int, seed: int) -> None:
        self._dice = random.Random(seed)
        self._rows = rows
        self._emails = [0] * rows
        self._gone: list[int] = []
        self._is_gone = bytearray(rows)
        self._number = 0
        self.stored: dict[str, bytes] = {str(key): self._row(key, 0) for key in range(rows)}

    def create(self, path: Path) -> None:
        """The rows of the beginning, in a database."""
        with closing(sqlite3.connect(path)) as database:
            database.execute(f"create table accounts ({_COLUMNS})")
            database.executemany(
                "insert into accounts values (?, ?, ?, ?, ?, ?)", (self._values(key, 0) for key in range(self._rows))
            )
            database.commit()

    def changes(self, count: int) -> Iterator[tuple[bytes, Change]]:
        """The next changes, each with its key."""
        dice = self._dice.random
        for _ in range(count):
            self._number += 1
            chance = dice()
            if chance < GONE and self._gone:
                yield self._put(self._gone.pop(), "c")
            elif chance < 2 * GONE:
                yield self._delete(self._alive())
            else:
                key = self._alive()
                if chance < 2 * GONE + MOVED:
                    self._emails[key] = self._number
                yield self._put(key, "u")

    def _alive(self) -> int:
        while True:
            key = int(self._dice.random() * self._rows)
            if not self._is_gone[key]:
                return key

    def _put(self, key: int, op: Op) -> tuple[bytes, Change]:
        self._is_gone[key] = False
        row = self._row(key, self._number)
        self.stored[str(key)] = row
        return self._change(key, op, row)

    def _delete(self, key: int) -> tuple[bytes, Change]:
        self._is_gone[key] = True
        self._gone.append(key)
        del self.stored[str(key)]
        return self._change(key, "d", None)

    def _change(self, key: int, op: Op, row: bytes | None) -> tuple[bytes, Change]:
        place = _FIRST_SEQUENCE + self._number
        sequence = Sequence(place, place)
        return b'{"id":%d}' % key, Change(op=op, table=TABLE, after=row, sequence=sequence, time_ms=_TIME_MS)

    def _values(self, key: int, number: int) -> tuple[int, str, str, str, str, str]:
        email = f"ada.{key}.{self._emails[key]}@example.org"
        moment = f"2026-11-20T12:{number // 60 % 60:02d}:{number % 60:02d}"
        return key, email, f"Ada Lovelace {key}", "Hamburg", f"{number % 9973}.{number % 100:02d}", moment

    def _row(self, key: int, number: int) -> bytes:
        row = '{"id":%d,"email":"%s","name":"%s","city":"%s","balance":"%s","updated_at":"%s"}'
        return (row % self._values(key, number)).encode()


def produce(bootstrap_servers: str, pipeline: str, accounts: Accounts, count: int) -> int:
    """Writes the next changes to the table's topic, durably. Answers their bytes."""
    producer = Producer(
        {
            "bootstrap.servers": bootstrap_servers,
            "enable.idempotence": True,
            "partitioner": "murmur2_random",
            "compression.type": "lz4",
            "linger.ms": 20,
            "batch.size": 1_000_000,
            "queue.buffering.max.messages": 200_000,
        }
    )
    topic, prefix, size = f"{pipeline}.{TABLE}", source_prefix("sqlite", pipeline, "", TABLE), 0
    for number, (key, change) in enumerate(accounts.changes(count)):
        value = encode_change(change, prefix)
        size += len(value)
        _send(producer, topic, key, value)
        if change.op == "d":
            _send(producer, topic, key, None)
        if number % 10_000 == 0:
            producer.poll(0)
    if producer.flush(120):
        raise SystemExit("Kafka did not take the load")
    return size


def _send(producer: Producer, topic: str, key: bytes, value: bytes | None) -> None:
    while True:
        try:
            producer.produce(topic, value, key)
            return
        except BufferError:
            producer.poll(0.1)
