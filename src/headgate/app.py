"""Wires the rooms of one process from a config. The one place that knows every room.

What serves is imported by whoever serves: nearly all of that is the SDK's, a second and 30 MiB that a `headgate sync`
or a `headgate check` goes without.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import socket
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cached_property
from os import getpid
from types import TracebackType
from typing import TYPE_CHECKING, Any

from headgate import plugins
from headgate.access.budget import Budget
from headgate.access.connectors import Connectors
from headgate.access.idempotency import Once
from headgate.access.identity import Identity
from headgate.access.issuer import Issuer, ensure_dev_issuer
from headgate.access.keys import ApiKeys, KeyInfo
from headgate.access.policy import Policy
from headgate.access.watching import Watching, open_watching
from headgate.audit.checkpoints import Checkpoints, Witness
from headgate.audit.journal import Journal
from headgate.audit.outbox import Outbox, new_writer
from headgate.audit.publisher import Publisher
from headgate.audit.refusals import Refusals
from headgate.audit.registration import register_schemas
from headgate.audit.signing import Signer
from headgate.config import Config, Pipeline
from headgate.errors import ConfigError, DataFolderLocked
from headgate.flow.feeding import sampler
from headgate.flow.lock import FolderLock
from headgate.flow.status import Reporter
from headgate.log.base import Log
from headgate.model.entity import Entity
from headgate.model.pipeline import Half, PipelineInfo
from headgate.serving.flowing import halves_of
from headgate.serving.halves import Halves
from headgate.serving.pipelines import connectors_of, info_of, naming
from headgate.serving.policies import policy_of
from headgate.serving.serve import Orders, beside_a_door, serve_http
from headgate.sources.base import Feed, Source, Surroundings
from headgate.state.base import Buckets, State
from headgate.stores._named import named_reader
from headgate.stores.base import Reader, Writer
from headgate.subscriptions._telling import Teller, open_teller
from headgate.telemetry import Clock, wall_clock_ms

if TYPE_CHECKING:
    from headgate.flow.verify import Verified
    from headgate.server.call import Rooms
    from headgate.server.push.push import Push

_DAY_MS = 86_400_000
_BY_CONFIG = ("rooms", "budget", "policy")
"""What is made anew when the config changes."""
_JOIN_S = 20.0
OUTBOX = "outbox"
"""The folder of outboxes in the data folder."""
NOTICES = "notices.db"
"""The file by which processes of one data folder hear of changed rows."""
SOURCE = "urn:headgate"
"""Names this software as the source of its events (CloudEvents `source`); the writer names the process."""


class App:
    """One process's rooms, opened when first used and closed together.

    `process` names this process in reports and in the record of calls; it is another one each time.
    """

    def __init__(self, config: Config, *, clock: Clock = wall_clock_ms, jitter: random.Random | None = None) -> None:
        self.config = config
        self.clock = clock
        self.process = f"{socket.gethostname()}-{getpid()}-{uuid.uuid4().hex[:6]}"
        self.jitter = jitter or random.Random()  # noqa: S311 - spreads retries, guards nothing
        self._stack = ExitStack()
        self._stop = threading.Event()
        self._halves: Halves | None = None
        self._lock = FolderLock(config.data)
        self._publisher: Publisher | None = None
        self.reporters: list[Reporter] = []

    def __enter__(self) -> App:
        self.config.data.mkdir(parents=True, exist_ok=True, mode=0o700)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the flow's threads, then lets go of every room. Idempotent."""
        self._stop.set()
        if self._halves is not None:
            self._halves.close()
        if "outbox" in self.__dict__:
            self.outbox.close()
        if self._publisher is not None:
            self._publisher.close()
        self._stack.close()
        self._lock.release()

    # --- families --------------------------------------------------------------------------------

    @cached_property
    def state(self) -> State:
        """The shared facts of running processes."""
        target = self._target(self.config.state, "state.db")
        state: State = self._load("state", self.config.state).open_state(target, clock=self.clock)
        self._stack.callback(state.close)
        return state

    def log(self, connection: str | None) -> Log:
        """The log on a connection, or the embedded one. One a connection."""
        if connection not in self._logs:
            target = self._target(connection, "log.db")
            log: Log = self._load("log", connection).open_log(target, clock=self.clock)
            self._stack.callback(log.close)
            self._logs[connection] = log
        return self._logs[connection]

    @cached_property
    def _logs(self) -> dict[str | None, Log]:
        return {}

    @cached_property
    def reader(self) -> Reader:
        """The store that tools read."""
        reader: Reader = self._load("stores", self._store).open_reader(self._target(self._store, "store.db"))
        return reader

    @property
    def _store(self) -> str | None:
        stores = {pipeline.store for pipeline in self.config.pipelines.values()} or {None}
        if len(stores) > 1:
            raise ConfigError("All pipelines of one server keep their rows in one store: name the same store: in each.")
        return next(iter(stores))

    def source(self, pipeline: Pipeline) -> Source:
        """A pipeline's source, not yet captured."""
        module = plugins.load("sources", pipeline.source.kind)
        noted = {"state": self.state} if getattr(module, "KEEPS_STATE", False) else {}
        source: Source = module.open_source(
            pipeline.source.settings, pipeline.name, self.config.data, self.clock, **noted
        )
        return source

    def feed(self, pipeline: Pipeline) -> Feed | None:
        """A pipeline's feed, where others fill its topics. One a pipeline."""
        open_feed = getattr(plugins.load("sources", pipeline.source.kind), "open_feed", None)
        if open_feed is None:
            return None
        if pipeline.name not in self._feeds:
            surroundings = Surroundings(
                connections={name: kind.settings for name, kind in self.config.connections.items()},
                declared=pipeline.entities,
                # opens the log only when a sample is wanted
                sample=lambda topic: sampler(self.log(pipeline.log))(topic),  # noqa: PLW0108
            )
            feed: Feed = open_feed(pipeline.source.settings, pipeline.name, surroundings)
            self._stack.callback(feed.close)
            self._feeds[pipeline.name] = feed
        return self._feeds[pipeline.name]

    @cached_property
    def _feeds(self) -> dict[str, Feed]:
        return {}

    def forget_feed(self, pipeline: str) -> None:
        """Lets go of a pipeline's feed, if it has one. The next who asks gets another."""
        feed = self._feeds.pop(pipeline, None)
        if feed is not None:
            feed.close()

    def _load(self, family: plugins.Family, connection: str | None) -> Any:
        return plugins.load(family, self._kind(connection))

    def _kind(self, connection: str | None) -> str:
        return self.config.connections[connection].kind if connection else "sqlite"

    def _target(self, connection: str | None, file: str) -> Any:
        return self.config.connections[connection].settings if connection else self.config.data / file

    # --- the way of a change ---------------------------------------------------------------------

    @property
    def is_embedded(self) -> bool:
        """Whether any pipeline uses the data folder for its log or store."""
        pipelines = self.config.pipelines.values()
        return not pipelines or any(pipeline.log is None or pipeline.store is None for pipeline in pipelines)

    def start_flow(self, halves: Sequence[Half] = ("capture", "materialize")) -> None:
        """Starts capture, materialize (or the one of them that is asked for) and the publishing of call events.

        Each on a thread. DataFolderLocked when they run on this folder already; ConfigError for one half of a
        pipeline whose log or store is in the folder, which belongs to one process.
        """
        if self.is_embedded:
            if len(halves) < 2:
                raise ConfigError("Only a pipeline with a log and a store of its own can be split by --half.")
            self._lock.take()
        self._halves = Halves(lambda opened: list(halves_of(self, opened, halves)), _JOIN_S)
        self._halves.follow(self.config.pipelines)
        self._start_publishing()

    def follow_flow(self) -> None:
        """Has what flows here be as the config says by now. Blocks until what is to end has ended."""
        if self._halves is not None:
            self._halves.follow(self.config.pipelines)

    def start_flow_if_free(self) -> bool:
        """Starts the flow unless another process of this folder runs it. Answers whether it was started."""
        try:
            self.start_flow()
        except DataFolderLocked:
            return False
        return True

    def retention_ms(self, pipeline: Pipeline) -> int:
        """For how long the log keeps each change of a pipeline, in milliseconds."""
        return round(pipeline.settings.retention_days * _DAY_MS)

    def writer(self, pipeline: Pipeline, entities: Sequence[Entity]) -> Writer:
        """A writer of these entities into a pipeline's store; whoever asks closes it."""
        target = self._target(pipeline.store, "store.db")
        writer: Writer = self._load("stores", pipeline.store).open_writer(target, entities)
        return writer

    def teller(self, pipeline: Pipeline) -> Teller:
        """Tells those who wait for rows of a pipeline; whoever asks closes it."""
        return open_teller(self._kind(pipeline.store), self._target(pipeline.store, NOTICES))

    # --- the way of a tool call ------------------------------------------------------------------

    @cached_property
    def keys(self) -> ApiKeys:
        """API keys."""
        return ApiKeys(self.state, self.clock)

    @cached_property
    def budget(self) -> Budget:
        """What callers may spend. Its buckets are opened when someone is first held to one."""
        return Budget(self.config.access.budgets, self._buckets, lambda: time.monotonic_ns() // 1_000_000)

    @cached_property
    def _buckets(self) -> Buckets:
        target = self._target(self.config.state, "state.db")
        buckets: Buckets = self._load("state", self.config.state).open_buckets(target, clock=self.clock)
        return buckets

    def dev_issuer(self) -> Issuer:
        """The issuer of `headgate token`."""
        return ensure_dev_issuer(self.config.data)

    @cached_property
    def outbox(self) -> Outbox:
        """Where call events are durable before an answer leaves."""
        data, audit = self.config.data, self.config.audit
        return Outbox(
            data / OUTBOX,
            new_writer(self.clock(), secrets.token_bytes),
            clock=self.clock,
            checkpoints=Checkpoints(
                Signer(data), self._witness, source=SOURCE, clock=self.clock, random_bytes=secrets.token_bytes
            ),
            max_bytes=self.outbox_bytes,
            serves_when_full=audit.on_full_disk == "serve",
        )

    @property
    def outbox_bytes(self) -> int:
        """How large one outbox may grow."""
        return round(self.config.audit.outbox_max_gb * 1e9)

    @cached_property
    def _witness(self) -> Witness:
        return Witness(self.config.data)

    @cached_property
    def journal(self) -> Journal:
        """Writes the events that are of no call."""
        return Journal(self.outbox, SOURCE, clock=self.clock)

    @cached_property
    def refusals(self) -> Refusals:
        """Counts refusals of whom nobody knows."""
        return Refusals(self.outbox, SOURCE, clock=self.clock)

    @cached_property
    def rooms(self) -> Rooms:
        """What the call page works with."""
        from headgate.server.call import Rooms
        from headgate.server.record import Recording

        access = self.config.access
        dev = self.dev_issuer() if access.takes_dev_tokens else None
        return Rooms(
            identity=Identity(access, self.keys, self.clock, dev_issuer=dev),
            policy=self.policy,
            budget=self.budget,
            once=Once(self.state),
            reader=named_reader(self.reader, naming(self.config.pipelines)),
            state=self.state,
            pipelines=self.pipelines(),
            outbox=self.outbox,
            refusals=self.refusals,
            reading=self.config.server.limits,
            tasks=self.config.tasks.settings(),
            recording=Recording(self.config.audit),
            approval_limits=access.approvals,
            clock=self.clock,
            source=SOURCE,
            connectors=self.connectors,
            watching=self.watching,
            push=self.push,
        )

    @cached_property
    def push(self) -> Push:
        """The open streams on which clients hear of changes: the same ones for all rooms."""
        from headgate.server.push.push import Push

        return Push()

    @cached_property
    def watching(self) -> Watching:
        """What callers wait for."""
        return open_watching(self.reader, self._kind(self._store), self._target(self._store, NOTICES), self.config.push)

    @cached_property
    def connectors(self) -> Connectors | None:
        """Kafka Connect's connectors; None where no connection to one is named. Asked when a pipeline is first."""
        return connectors_of(self.config.connections, self.clock, self.log)

    @cached_property
    def policy(self) -> Policy:
        """What decides: the policy's document, or the scopes alone. ConfigError when the document does not hold."""
        return policy_of(self.config)

    def adopt(self, config: Config) -> None:
        """From now on `rooms` are made by this config, over what is open already. ConfigError: all is as it was.

        Its connections, state and data folder must be those before; see `serving.live`.
        """
        before, kept = self.config, {name: self.__dict__.pop(name) for name in _BY_CONFIG if name in self.__dict__}
        self.config = config
        if (before.policy, before.access.policy_key) == (config.policy, config.access.policy_key):
            self.__dict__["policy"] = kept["policy"]
        try:
            _ = self.rooms
        except BaseException:
            self.config = before
            self.__dict__.update(kept)
            raise

    @property
    def flows(self) -> bool:
        """Whether this process captures or materializes too."""
        return bool(self.reporters)

    async def verify(self, pipeline: str, settle_s: float, progress: Callable[[str, int], None]) -> list[Verified]:
        """Compares each entity of a pipeline with its table at the source. See `flow.verify`."""
        from headgate.flow.verify import verified

        chosen = self.config.pipelines[pipeline]
        if not hasattr(plugins.load("sources", chosen.source.kind), "open_source"):
            raise ConfigError(f"{pipeline}: others fill its topics, so that there is no database to compare with")
        return await verified(self.source(chosen), self.reader, pipeline, settle_s=settle_s, progress=progress)

    def pipelines(self) -> list[PipelineInfo]:
        """What the config says of its pipelines."""
        return [
            info_of(pipeline, (feed or self.source(pipeline)).describe(), self._kind, captured=feed is None)
            for pipeline in self.config.pipelines.values()
            for feed in [self.feed(pipeline)]
        ]

    @property
    def has_identity(self) -> bool:
        """Whether someone has said who may come in from other machines; development's default does not count."""
        access = self.config.access
        chosen = access.issuers or access.anonymous or access.dev_tokens or access.proxy
        return bool(chosen) or any(self._holds(key) for key in self.keys.list())

    def _holds(self, key: KeyInfo) -> bool:
        return key.revoked_ms is None and (key.expires_ms is None or key.expires_ms > self.clock())

    async def serve_http(self, ready: Callable[[int], None], stop: asyncio.Event, *, port: int | None = None) -> None:
        """Serves MCP over HTTP until `stop`; `ready` gets the port. `port` stands in for the config's."""
        await serve_http(self, ready, Orders(stop), port=port)

    async def serve_stdio(self) -> None:
        """Serves MCP on standard input and output until the client leaves."""
        from headgate.server.stdio import serve_stdio

        async with beside_a_door(self):
            await serve_stdio(self.rooms)

    async def close_rooms(self) -> None:
        """Lets go of what the rooms hold open on this event loop."""
        await self.budget.close()
        if self.connectors is not None:
            await self.connectors.close()
        await self.reader.close()

    def hurry(self) -> None:
        """What is being closed waits for nobody any more. May be called from a signal's handler."""
        if self._publisher is not None:
            self._publisher.hurry()

    # --- the record of calls ---------------------------------------------------------------------

    @property
    def calls(self) -> int:
        """How many events of calls this process has recorded."""
        return self.outbox.recorded - self.journal.written

    @property
    def events_log(self) -> str | None:
        """The connection of the log that call events travel on: the first pipeline's; None for the embedded one."""
        return next((pipeline.log for pipeline in self.config.pipelines.values()), None)

    def start_publishing(self) -> None:
        """Publishes this process's events where the log is a server; else the folder's holder does."""
        if self.events_log is not None:
            self._start_publishing()

    def _start_publishing(self) -> None:
        self._publisher = Publisher(
            self.log(self.events_log),
            self.config.data / OUTBOX,
            clock=self.clock,
            outbox=self.outbox,
            topic_retention_ms=round(self.config.audit.retention_days * _DAY_MS),
            max_bytes=self.outbox_bytes,
            witness=self._witness,
        )
        self._publisher.start()
        if self.config.audit.registry is not None:
            settings = self.config.connections[self.config.audit.registry].settings
            threading.Thread(target=register_schemas, args=(settings, self._stop), daemon=True).start()
