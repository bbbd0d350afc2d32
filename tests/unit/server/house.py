"""A small shop behind the page: a store, a real state and outbox in one folder, and clocks that stand still."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jwt

from headgate.access.budget import Budget
from headgate.access.idempotency import Once
from headgate.access.identity import Identity, IdentityConfig
from headgate.access.issuer import AUDIENCE, DEV_ISSUER, Issuer, ensure_dev_issuer
from headgate.access.keys import ApiKeys
from headgate.access.policy import Edition, Policy
from headgate.access.token import mint_token
from headgate.audit.event import CallEvent, decode_cloudevent
from headgate.audit.outbox import Outbox
from headgate.audit.outbox_file import OutboxFile
from headgate.audit.refusals import Refusals
from headgate.model.entity import Entity, Field
from headgate.model.pipeline import PipelineInfo
from headgate.server.call import Rooms
from headgate.state.base import Buckets, State
from headgate.state.sqlite import open_buckets, open_state
from headgate.stores.base import Reader
from headgate.testing import MemoryReader

NOW_MS = 1_800_000_000_000
KEY = b"k" * 32
"""What hashes of values are made with, and what cursors are sealed with, under a policy's document."""

CUSTOMER = Entity(
    name="customer",
    pipeline="shop",
    table="main.customers",
    key=("id",),
    fields=(
        Field(name="id", type="integer", nullable=False),
        Field(name="email", type="string", classification="personal.email"),
        Field(name="plan", type="string"),
    ),
    lookups=("email",),
)
SHOP = PipelineInfo(
    name="shop",
    source_kind="sqlite",
    source="shop.db",
    log_kind="sqlite",
    store_kind="sqlite",
    tables=("main.customers",),
    entities=("customer",),
)
ROWS = [{"id": number, "email": f"c{number}@shop.example", "plan": "free"} for number in range(1, 8)]


@dataclass(frozen=True)
class House:
    """The rooms, and what a test wants to look at behind them."""

    rooms: Rooms
    folder: Path
    issuer: Issuer
    keys: ApiKeys

    def token(
        self, *scopes: str, ttl_s: float = 60.0, subject: str = "ada", audience: str = AUDIENCE, **claims: Any
    ) -> str:
        """A token that the house takes, if it is not made otherwise."""
        assert self.issuer.secret is not None
        minted = mint_token(
            self.issuer.secret,
            issuer=DEV_ISSUER,
            audience=audience,
            subject=subject,
            scopes=scopes,
            ttl_s=ttl_s,
            clock=lambda: NOW_MS,
        )
        if not claims:
            return minted
        said = {**jwt.decode(minted, options={"verify_signature": False}), **claims}
        return jwt.encode(said, self.issuer.secret.get_secret_value(), "HS256")

    def events(self) -> list[CallEvent]:
        """The call events on the disk, in their order."""
        return [decode_cloudevent(stored) for stored in self.bodies() if b"dev.headgate.call.v1" in stored]

    def bodies(self) -> list[bytes]:
        """Every event on the disk as it stands there."""
        file = OutboxFile(self.rooms.outbox.folder, self.rooms.outbox.writer, own=False)
        try:
            return [stored.body for stored in file.unpublished(10_000)]
        finally:
            file.close()

    def with_reader(self, reader: Reader) -> House:
        """The same house over another reader."""
        return replace(self, rooms=replace(self.rooms, reader=reader))

    def under(self, text: str) -> House:
        """The same house under a policy's document."""
        return replace(self, rooms=replace(self.rooms, policy=Policy(Edition.of(text), KEY)))


@contextmanager
def open_house(folder: Path, reader: Reader | None = None, **identity: Any) -> Iterator[House]:
    """A house over this reader, else over the customers in memory. `identity` is its IdentityConfig."""
    folder.mkdir(parents=True, exist_ok=True)
    state = open_state(folder / "state.db", clock=lambda: NOW_MS)
    buckets = open_buckets(folder / "state.db", clock=lambda: NOW_MS)
    outbox = Outbox(folder / "outbox", "w-test", clock=lambda: NOW_MS)
    try:
        customers = MemoryReader([CUSTOMER], {CUSTOMER.name: ROWS}, as_of_ms=NOW_MS - 1_000)
        yield _house(folder, state, buckets, outbox, reader or customers, IdentityConfig(**identity))
    finally:
        outbox.close()
        state.close()
        with ThreadPoolExecutor(1) as elsewhere:  # a loop may run in this thread
            elsewhere.submit(asyncio.run, buckets.close()).result()


def _house(
    folder: Path, state: State, buckets: Buckets, outbox: Outbox, reader: Reader, config: IdentityConfig
) -> House:
    issuer = ensure_dev_issuer(folder)
    keys = ApiKeys(state, lambda: NOW_MS)
    ticks = itertools.count(0, 1_000)
    rooms = Rooms(
        identity=Identity(config, keys, lambda: NOW_MS, dev_issuer=issuer, local_user="tester"),
        policy=Policy(),
        budget=Budget(config.budgets, buckets, lambda: NOW_MS),
        once=Once(state),
        reader=reader,
        state=state,
        pipelines=[SHOP],
        outbox=outbox,
        refusals=Refusals(outbox, "headgate://test", clock=lambda: NOW_MS),
        source="headgate://test",
        clock=lambda: NOW_MS,
        ticks_ns=lambda: next(ticks),
        random_bytes=os.urandom,
    )
    return House(rooms, folder, issuer, keys)
