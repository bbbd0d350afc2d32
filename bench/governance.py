"""What governance costs: calls a second with all of it, with the record alone and without, and the record's own rates.

- calls: one server process over HTTP, 16 connections, `lookup_customer` on the embedded store. `all` has tokens of
  1,000 callers, a policy of 20 rules with a mask, budgets of 10,000 a minute and the record; `record only` the record
  and the local user; `off` the same server with an outbox that forgets. Events wait in the outbox, as they do while
  another process publishes.
- the same on Valkey, budgets included, where callers who come again go the straight way. Only who has a token does, so
  that each mode has the tokens of 1,000 callers: what they cost is not in the ratios.
- outbox: events made durable, by 16 and by 1,024 callers at once, and with a backlog; beside it the disk's own syncs.
- drain: what a publisher brings to Kafka after an outage, beside a plain producer of the same records.
- verify: events that `audit verify` checks, beside reading and hashing the same bytes.

    python bench/governance.py [--quick]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import os
import secrets
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from governance_calls import ISSUER, call_rates
from measure import line, ratios

from headgate.audit.chain import Chain, Linked
from headgate.audit.checkpoints import Checkpoints, Witness
from headgate.audit.event import CallerNote, CallEvent, encode_cloudevent, event_id, payload_of
from headgate.audit.outbox import Outbox
from headgate.audit.outbox_file import OutboxFile, file_of
from headgate.audit.publisher import CALLS_TOPIC, Publisher, record_of
from headgate.audit.segment import lines, segments_of
from headgate.audit.signing import PublicKeys, Signer
from headgate.audit.trail import Foreign, outbox_trail
from headgate.audit.verify import Verifier
from headgate.connections.kafka import Config as KafkaConfig
from headgate.log.kafka import open_log
from headgate.stack import Kafka, Valkey
from headgate.telemetry import wall_clock_ms

# --- the outbox ----------------------------------------------------------------------------------


def body(number: int) -> tuple[str, bytes]:
    """A call event as they are, and its id."""
    id_ = event_id(wall_clock_ms(), secrets.token_bytes(10))
    event = CallEvent(
        id=id_, time_ms=wall_clock_ms(), duration_us=400, writer="w-bench", door="http", method="tools/call",
        name="lookup_customer", schema_sha256="sha256:" + "0" * 64, client_name="bench", client_version="1",
        caller=CallerNote(subject=f"agent-{number}", method="jwt", issuer=ISSUER, scopes=("data:read",)),
        protocol_version="2026-07-28", request_id=number, arguments=payload_of({"customer_id": number}, keep=1_000),
        policy_version="sha256:" + "0" * 64, rules=("rule 1",), positions={"customer": {"0": number}},
        result=payload_of({"n": number}), status="answered",
    )  # fmt: skip
    return id_, encode_cloudevent(event, "urn:headgate")


def opened(folder: Path, writer: str) -> Outbox:
    """An outbox as the server has it."""
    checkpoints = Checkpoints(
        Signer(folder), Witness(folder), source="urn:headgate", clock=wall_clock_ms, random_bytes=secrets.token_bytes
    )
    return Outbox(folder / "outbox", writer, clock=wall_clock_ms, checkpoints=checkpoints)


def durable(folder: Path, writer: str, callers: int, count: int) -> float:
    """Events a second, each awaited by its caller."""
    bodies = [body(number) for number in range(count)]

    async def run(outbox: Outbox) -> float:
        left = iter(bodies)

        async def caller() -> None:
            for id_, event in left:
                await outbox.append(event, id_)

        began = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(callers)))
        return count / (time.perf_counter() - began)

    with contextlib.closing(opened(folder, writer)) as outbox:
        return asyncio.run(run(outbox))


def syncs(folder: Path, seconds: float) -> float:
    """How often a second the disk makes an event's bytes durable, one after the other."""
    _, event = body(1)
    descriptor = os.open(folder / "syncs", os.O_CREAT | os.O_WRONLY)
    count, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        os.write(descriptor, event)
        os.fdatasync(descriptor)
        count += 1
    os.close(descriptor)
    return count / seconds


def fill(folder: Path, writer: str, count: int) -> None:
    """An outbox of a dead writer with that many events that wait."""
    chain = Chain(writer)
    with contextlib.closing(OutboxFile(folder / "outbox", writer, own=True)) as file:
        for start in range(0, count, 5_000):
            size = min(5_000, count - start)
            file.add([chain.add(*body(start + number)) for number in range(size)], wall_clock_ms())


def outbox_rates(folder: Path, count: int, backlog: int, seconds: float) -> dict[str, float]:
    """The outbox empty and with a backlog, beside the disk."""
    limit = syncs(folder, seconds)
    line("limit", what="outbox", syncs_per_s=round(limit))
    rates = {callers: durable(folder, f"w-{callers}", callers, count) for callers in (1, 16, 1_024)}
    for callers, rate in rates.items():
        line("headgate", what="outbox", callers=callers, events_per_s=round(rate))
    fill(folder, "w-full", backlog)
    full = durable(folder, "w-full", 1_024, count)
    line("headgate", what="outbox", callers=1_024, backlog=backlog, events_per_s=round(full))
    return {
        "durable_events_over_syncs": rates[1_024] / limit,
        "durable_alone_over_syncs": rates[1] / limit,
        "with_a_backlog_over_without": full / rates[1_024],
    }


# --- drain ---------------------------------------------------------------------------------------


def drain_rates(folder: Path, count: int) -> dict[str, float]:
    """A publisher beside a plain producer, on a Kafka of this run."""
    server = Kafka(folder / "kafka")
    server.start()
    try:
        log = open_log(KafkaConfig(bootstrap_servers=server.bootstrap_servers), clock=wall_clock_ms)
        log.ensure([CALLS_TOPIC])
        fill(folder / "drain", "w-drain", count)
        with contextlib.closing(OutboxFile(folder / "drain" / "outbox", "w-drain")) as file:
            events = file.events(0, count, max_bytes=1 << 40)
        _produced(log, events[:5_000])  # a broker that has just started is slow at first
        plain = _produced(log, events)
        line("plain producer", what="drain", events_per_s=round(plain))
        publisher = Publisher(log, folder / "drain" / "outbox", clock=wall_clock_ms)
        began = time.perf_counter()
        publisher.start()
        while file_of(folder / "drain" / "outbox", "w-drain").exists():
            time.sleep(0.005)
        drained = count / (time.perf_counter() - began)
        publisher.close()
        log.close()
        line("headgate", what="drain", events_per_s=round(drained))
    finally:
        server.stop()
    return {"drain_over_plain_producer": drained / plain}


def _produced(log: Any, events: Sequence[Linked]) -> float:
    began = time.perf_counter()
    with contextlib.closing(log.appender()) as appender:
        for event in events:
            appender.append(CALLS_TOPIC.name, record_of("w-plain", event, event.body))
        appender.flush(300)
    return len(events) / (time.perf_counter() - began)


# --- verify --------------------------------------------------------------------------------------


def verify_rates(folder: Path, count: int) -> dict[str, float]:
    """The verifier beside a loop that reads the same events and hashes their bytes."""
    data = folder / "verify"
    fill(data, "w-verify", count)
    began = time.perf_counter()
    for segment in segments_of(file_of(data / "outbox", "w-verify")):
        for event, _ in lines(segment):
            hashlib.sha256(event).digest()
    hashed = count / (time.perf_counter() - began)
    line("plain sha256", what="verify", events_per_s=round(hashed))
    verifier = Verifier(PublicKeys([]))
    began = time.perf_counter()
    for taken in outbox_trail(data / "outbox"):
        assert not isinstance(taken, Foreign)
        verifier.take(taken)
    rate = count / (time.perf_counter() - began)
    assert verifier.report().breached == 0
    line("headgate", what="verify", events_per_s=round(rate))
    return {"verify_over_plain_sha256": rate / hashed}


def on_valkey(folder: Path, seconds: float) -> dict[str, float]:
    """The calls on a server's store, of this run."""
    server = Valkey(folder / "valkey")
    server.start()
    try:
        return call_rates(folder, seconds, server.url())
    finally:
        server.stop()


def main() -> None:
    """All of it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="the same on less work")
    options = parser.parse_args()
    quick, whole = (2.0, 10_000, 30_000, 30_000), (15.0, 50_000, 1_000_000, 500_000)
    seconds, count, backlog, many = quick if options.quick else whole
    with tempfile.TemporaryDirectory(prefix="headgate-bench-") as scratch:
        folder = Path(scratch)
        folder.chmod(0o711)  # servers may run as another account
        rates = call_rates(folder, seconds) | on_valkey(folder, seconds)
        outbox = outbox_rates(folder, count, backlog, seconds / 3)
        drain = drain_rates(folder, many)
        verify = verify_rates(folder, many)
    ratios(
        **rates,
        **outbox,
        **drain,
        **verify,
    )


if __name__ == "__main__":
    main()
