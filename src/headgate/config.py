"""The config: one YAML file, checked whole before anything starts. The one reader of the environment.

Every mistake is named with its file, its line and its mend; no value is ever quoted, as it may be a secret.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from headgate import plugins
from headgate.access.approval import ApprovalLimits
from headgate.access.connectors import SEPARATOR
from headgate.access.deadline import ReadingLimits
from headgate.access.identity import IdentityConfig
from headgate.access.watching import PushConfig
from headgate.audit.payloads import PayloadRules
from headgate.errors import ConfigError
from headgate.model.entity import Declared, DeclaredField, DeclaredRelation
from headgate.model.pipeline import OnError
from headgate.model.table import ColumnType
from headgate.server.tasks.task import TaskSettings

_NAME = r"^[a-z][a-z0-9_-]{0,62}$"
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_PLACES: Mapping[str, tuple[str, ...]] = {"log": ("kafka",), "store": ("redis", "postgres"), "state": ("redis",)}
_REGISTRIES = ("registry",)

Name = Annotated[str, Field(pattern=_NAME)]
Location = tuple[str | int, ...]


class _Block(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, populate_by_name=True)


class AccessConfig(IdentityConfig):
    """Who may come in, and what they see."""

    policy: str | None = None
    """The policy's document, relative to the config. Without one, scopes are the whole policy."""
    approvals: ApprovalLimits = ApprovalLimits()
    policy_key: SecretStr | None = Field(None, min_length=32)
    """What hashes of values and cursors are made with: the same for all servers of the same data."""

    @model_validator(mode="after")
    def _has_key(self) -> AccessConfig:
        if self.policy is not None and self.policy_key is None:
            raise ValueError("a policy needs policy_key, at least 32 characters at random, the same for all servers")
        return self


class TlsConfig(_Block):
    """A certificate and its key, in PEM, relative to the config. Read again when they are renewed."""

    cert: str
    """The certificate, and behind it those up to an authority that clients know."""
    key: str


class LimitsConfig(ReadingLimits):
    """What one client may take of a server's time and room."""

    header_timeout_s: float = Field(10.0, ge=0.1, le=3_600)
    body_timeout_s: float = Field(30.0, ge=0.1, le=3_600)
    idle_timeout_s: float = Field(75.0, ge=0.1, le=86_400)
    """Between an answer and the next request."""
    send_timeout_s: float = Field(60.0, ge=1, le=86_400)
    """How long a client may read nothing while there is more to send."""
    drain_s: float = Field(5.0, ge=0, le=3_600)
    """How long calls under way may take once a stop was asked for."""
    header_bytes: int = Field(64 * 1024, ge=1_024, le=1024 * 1024)
    body_bytes: int = Field(4 * 1024 * 1024, ge=1_024, le=64 * 1024 * 1024)
    connections: int = Field(10_000, ge=1, le=1_000_000)
    """Of one process."""


class ServerConfig(_Block):
    """Where MCP is served. Anything but loopback needs an issuer or API keys."""

    host: str = "127.0.0.1"
    port: int = Field(8765, ge=0, le=65_535)
    allowed_hosts: list[str] = []
    """Names by which clients reach it, beside loopback's own."""
    allowed_origins: list[str] = []
    public_url: str | None = None
    """The URL that clients use, for OAuth's metadata; by default the address it listens at."""
    express: bool = True
    """Whether the express lane answers the calls that it can; the SDK answers all the others, or all of them."""
    tls: TlsConfig | None = None
    """TLS by the server itself; without it, a proxy ends TLS or none is spoken."""
    limits: LimitsConfig = LimitsConfig()


class PipelineConfig(_Block):
    """source → log → store for some tables."""

    source: dict[str, Any] = Field(repr=False)
    log: str | None = None
    """A `kafka` connection; the embedded log if left out."""
    store: str | None = None
    """A `redis` or `postgres` connection; the embedded store if left out."""
    partitions: int = Field(4, ge=1, le=1_000)
    """Of each topic on Kafka, when it is created. The embedded log has one."""
    freshness_bound_s: float = Field(30.0, gt=0)
    retention_days: float = Field(7.0, gt=0)
    """How long the log keeps every change; the last one of each row stays for ever."""
    on_error: OnError = "dead_letter"
    """What to do with a change that can't be applied: set it aside and go on, or let its entity stand still."""


class FieldConfig(_Block):
    """What to know of one field beyond the source's schema."""

    class_: str = Field("", alias="class")
    type: ColumnType | None = None
    description: str = ""


class RelationConfig(_Block):
    """`field` here equals `target_field` of `entity`, whose rows come by `order_by`, the largest first."""

    entity: str
    field: str
    target_field: str
    many: bool = False
    order_by: str | None = None
    limit: int = Field(20, ge=1, le=100)


class EntityConfig(_Block):
    """A read model: `from: <pipeline>.<schema>.<table>`."""

    from_: str = Field(alias="from")
    key: list[str] | None = None
    lookups: list[str] | None = None
    sorted: list[str] | None = None
    fields: dict[str, FieldConfig | None] = {}
    relations: dict[str, RelationConfig] | None = None
    description: str = ""


class AuditConfig(PayloadRules):
    """The record of calls: what is kept of them, for how long, and where."""

    retention_days: float = Field(30.0, gt=0)
    on_full_disk: Literal["refuse", "serve"] = "refuse"
    """What to do with a call that there is no room to record: refuse it, or answer it and say so loudly."""
    outbox_max_gb: float = Field(100.0, gt=0)
    """How large the outbox of one process may grow while the log is away."""
    registry: str | None = None
    """A `registry` connection, where the events' schemas are registered."""
    public_keys: list[str] = []
    """Files with public keys of other machines whose checkpoints are trusted, relative to the config."""


class TasksConfig(_Block):
    """Calls that go on after their request was answered."""

    ttl_s: float = Field(3_600, ge=60, le=7 * 86_400)
    """For how long a task and its answer are kept, and how long it may work."""
    poll_ms: int = Field(1_000, ge=100, le=600_000)
    after_ms: int = Field(500, ge=0, le=60_000)
    """A call that may become a task becomes one when it takes longer."""
    open: int = Field(16, ge=1, le=1_000)
    """Tasks of one caller that have not ended."""
    kept: int = Field(64, ge=1, le=10_000)
    """Tasks of one caller in all."""

    def settings(self) -> TaskSettings:
        """As the page takes them."""
        return TaskSettings(
            ttl_ms=round(self.ttl_s * 1000),
            poll_ms=self.poll_ms,
            after_ms=self.after_ms,
            most_open=self.open,
            most_kept=self.kept,
        )


class _File(_Block):
    data: str = ".headgate"
    server: ServerConfig = ServerConfig()
    access: AccessConfig = AccessConfig()
    connections: dict[Name, dict[str, Any]] = {}
    pipelines: dict[Name, PipelineConfig] = {}
    entities: dict[Name, EntityConfig] = {}
    state: str | None = None
    audit: AuditConfig = AuditConfig()
    push: PushConfig = PushConfig()
    tasks: TasksConfig = TasksConfig()


@dataclass(frozen=True)
class Kind:
    """A kind and its checked settings."""

    kind: str
    settings: Any


@dataclass(frozen=True)
class Pipeline:
    """One pipeline, its parts checked."""

    name: str
    source: Kind
    log: str | None
    store: str | None
    settings: PipelineConfig
    entities: tuple[Declared, ...]

    @property
    def connector(self) -> str:
        """The name under which the connector that fills its topics is listed; empty where the config names none."""
        source = self.source.settings
        connect, connector = getattr(source, "connect", None), getattr(source, "connector", None)
        return f"{connect}{SEPARATOR}{connector}" if connect and connector else ""


@dataclass(frozen=True)
class Config:
    """A whole, checked config."""

    path: Path | None
    data: Path
    server: ServerConfig
    access: AccessConfig
    audit: AuditConfig
    push: PushConfig
    tasks: TasksConfig
    connections: Mapping[str, Kind]
    pipelines: Mapping[str, Pipeline]
    state: str | None
    """The connection that holds `state`; None for the embedded one."""
    policy: Path | None
    """The policy's document; None without one."""


def load(path: Path, environment: Mapping[str, str] | None = None) -> Config:
    """The config of a file. ConfigError lists every mistake found, a line each, with file, line and mend."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: can't be read: make one with  headgate init SOURCE_URL") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text") from error
    return parse(text, path, os.environ if environment is None else environment)


def parse(text: str, path: Path | None, environment: Mapping[str, str]) -> Config:
    """The config in a text; `path` is what mistakes are named by, and what relative folders start from."""
    return _Checker(text, path, environment).check()


class _Checker:
    """One pass over one text, which gathers mistakes."""

    def __init__(self, text: str, path: Path | None, environment: Mapping[str, str]) -> None:
        self._path = path
        self._shown = str(path) if path else "config"
        self._environment = environment
        self._mistakes: list[str] = []
        self._lines = self._read(text)

    def _read(self, text: str) -> Any:
        try:
            return YAML(typ="rt").load(text) or {}
        except MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise ConfigError(f"{self._shown}:{line}: is no YAML: {error.problem}") from error
        except YAMLError as error:
            raise ConfigError(f"{self._shown}:1: is no YAML") from error

    def check(self) -> Config:
        values = self._expand(self._lines, ())
        self._end_if_wrong()
        file = self._validate(_File, values, ())
        self._end_if_wrong()
        connections = {name: self._kind("connections", ("connections", name), block)
                       for name, block in file.connections.items()}  # fmt: skip
        sources = {name: self._kind("sources", ("pipelines", name, "source"), pipeline.source)
                   for name, pipeline in file.pipelines.items()}  # fmt: skip
        self._check_references(file)
        self._check_feeds(file, sources)
        self._check_own_tables(file, connections, sources)
        declared = self._declared(file, sources)
        self._end_if_wrong()
        return self._assemble(file, connections, sources, declared)

    def _assemble(
        self, file: _File, connections: dict[str, Kind], sources: dict[str, Kind], declared: Sequence[Declared]
    ) -> Config:
        pipelines = {
            name: Pipeline(
                name=name,
                source=sources[name],
                log=settings.log,
                store=settings.store,
                settings=settings.model_copy(update={"source": {}}),  # checked above; it may hold a secret
                entities=tuple(entity for entity in declared if entity.pipeline == name),
            )
            for name, settings in file.pipelines.items()
        }
        base = self._path.parent if self._path else Path()
        return Config(
            path=self._path,
            data=(base / Path(file.data).expanduser()).absolute(),
            server=file.server,
            access=file.access,
            audit=file.audit,
            push=file.push,
            tasks=file.tasks,
            connections=connections,
            pipelines=pipelines,
            state=file.state or _default_state(file),
            policy=None if file.access.policy is None else (base / Path(file.access.policy).expanduser()).absolute(),
        )

    # --- values ---

    def _expand(self, node: Any, location: Location) -> Any:
        """Plain values, with `${VAR}` and `${VAR:-default}` replaced in every text."""
        if isinstance(node, Mapping):
            return {str(key): self._expand(value, (*location, str(key))) for key, value in node.items()}
        if isinstance(node, list):
            return [self._expand(value, (*location, index)) for index, value in enumerate(node)]
        return self._expand_text(node, location) if isinstance(node, str) else node

    def _expand_text(self, text: str, location: Location) -> str:
        def value(match: re.Match[str]) -> str:
            name, default = match.group(1), match.group(2)
            found = self._environment.get(name) or default
            if found is None:
                self._mistake(location, f"the environment has no {name}: set it, or write ${{{name}:-default}}")
                return ""
            return found

        return _VARIABLE.sub(value, str(text))

    # --- kinds ---

    def _kind(self, family: plugins.Family, location: Location, block: Mapping[str, Any]) -> Kind:
        kind = block.get("kind")
        if not isinstance(kind, str):
            self._mistake(location, f"needs a kind: one of {', '.join(plugins.kinds(family))}")
            return Kind("", None)
        try:
            module = plugins.load(family, kind)
        except ConfigError as error:
            self._mistake((*location, "kind"), error.message)
            return Kind(kind, None)
        settings = {key: value for key, value in block.items() if key != "kind"}
        return Kind(kind, self._validate(module.Config, settings, location))

    def _validate(self, model: type[BaseModel], values: Any, location: Location) -> Any:
        try:
            return model.model_validate(values)
        except ValidationError as error:
            for mistake in error.errors(include_input=False, include_url=False, include_context=False):
                self._mistake((*location, *mistake["loc"]), _sentence(mistake["type"], mistake["msg"], model, mistake))
            return None

    # --- references ---

    def _check_references(self, file: _File) -> None:
        for name, pipeline in file.pipelines.items():
            for place in ("log", "store"):
                self._check_connection(file, ("pipelines", name, place), getattr(pipeline, place), _PLACES[place])
        self._check_connection(file, ("state",), file.state, _PLACES["state"])
        self._check_connection(file, ("audit", "registry"), file.audit.registry, _REGISTRIES)

    def _check_own_tables(self, file: _File, connections: Mapping[str, Kind], sources: Mapping[str, Kind]) -> None:
        """A source must never capture the tables of its own store: what it writes there would come again for ever."""
        for name, pipeline in file.pipelines.items():
            store, source = connections.get(pipeline.store or "", Kind("", None)), sources[name]
            if not (store.kind == source.kind == "postgres" and store.settings and source.settings):
                continue
            describe = plugins.load("connections", "postgres").describe
            own = [table for table in source.settings.tables if table.startswith(f"{store.settings.store_schema}.")]
            places = {describe(kind.settings.dsn.get_secret_value()) for kind in (store, source)}
            if len(places) == 1 and (own or not source.settings.tables):
                message = f"source and store are one database: name the tables, none of {store.settings.store_schema}"
                self._mistake(("pipelines", name, "source", "tables"), message)

    def _check_feeds(self, file: _File, sources: Mapping[str, Kind]) -> None:
        """The connections that sources name; and that topics which others fill lie on a log of their own."""
        for name, source in sources.items():
            if source.settings is None:
                continue
            module = plugins.load("sources", source.kind)
            for setting, kinds in getattr(module, "CONNECTIONS", {}).items():
                location = ("pipelines", name, "source", setting)
                self._check_connection(file, location, getattr(source.settings, setting), kinds)
            if hasattr(module, "open_feed") and file.pipelines[name].log is None:
                self._mistake(("pipelines", name), "needs log: a kafka connection, where the topics are")

    def _check_connection(self, file: _File, location: Location, name: str | None, kinds: Sequence[str]) -> None:
        if name is None:
            return
        block = file.connections.get(name)
        if block is None:
            there = ", ".join(file.connections) or "none"
            self._mistake(location, f"there is no connection {name!r}; connections: {there}")
        elif block.get("kind") not in kinds:
            self._mistake(location, f"connection {name!r} must be of kind {' or '.join(kinds)}")

    def _declared(self, file: _File, sources: Mapping[str, Kind]) -> list[Declared]:
        found = []
        for name, entity in file.entities.items():
            pipeline, _, table = entity.from_.partition(".")
            location = ("entities", name, "from")
            if pipeline not in file.pipelines:
                there = ", ".join(file.pipelines) or "none"
                self._mistake(location, f"begins with no pipeline's name; pipelines: {there}")
            elif not table:
                self._mistake(location, "needs <pipeline>.<schema>.<table>")
            elif sources[pipeline].settings is not None:
                found.append(_declare(name, pipeline, _qualified(table, sources[pipeline]), entity))
        return found

    # --- mistakes ---

    def _mistake(self, location: Location, message: str) -> None:
        where = ".".join(str(part) for part in location) or "the file"
        self._mistakes.append(f"{self._shown}:{self._line(location)}: {where}: {message}")

    def _line(self, location: Location) -> int:
        """The line of the deepest part of the location that the file has."""
        node: Any = self._lines
        line = 1
        for part in location:
            try:
                marks = node.lc  # ruamel's notes of lines and columns
                line = (marks.key if isinstance(node, Mapping) else marks.item)(part)[0] + 1
                node = node[part]
            except (KeyError, AttributeError, TypeError, IndexError):
                break
        return line

    def _end_if_wrong(self) -> None:
        if self._mistakes:
            raise ConfigError("\n".join(self._mistakes))


def _sentence(kind: str, message: str, model: type[BaseModel], mistake: Mapping[str, Any]) -> str:
    if kind == "extra_forbidden":
        known = ", ".join(sorted(field.alias or name for name, field in model.model_fields.items()))
        return f"is not a setting here; there are: {known}" if len(mistake["loc"]) == 1 else "is not a setting here"
    if kind == "missing":
        return "is needed here"
    return message[:1].lower() + message[1:]


def _declare(name: str, pipeline: str, table: str, entity: EntityConfig) -> Declared:
    return Declared(
        name=name,
        pipeline=pipeline,
        table=table,
        key=None if entity.key is None else tuple(entity.key),
        lookups=None if entity.lookups is None else tuple(entity.lookups),
        sorted=None if entity.sorted is None else tuple(entity.sorted),
        fields={field: _declared_field(said or FieldConfig()) for field, said in entity.fields.items()},
        relations=None if entity.relations is None else {
            relation: DeclaredRelation(entity=said.entity, field=said.field, target_field=said.target_field,
                                       many=said.many, order_by=said.order_by, limit=said.limit)
            for relation, said in entity.relations.items()
        },
        description=entity.description,
    )  # fmt: skip


def _declared_field(said: FieldConfig) -> DeclaredField:
    return DeclaredField(type=said.type, classification=said.class_, description=said.description)


def _qualified(table: str, source: Kind) -> str:
    default: str = plugins.load("sources", source.kind).default_schema(source.settings)
    return table if "." in table else f"{default}.{table}"


def _default_state(file: _File) -> str | None:
    """State lives where the rows live, so that every process that serves them shares it."""
    stores = [pipeline.store for pipeline in file.pipelines.values() if pipeline.store]
    return next((name for name in stores if file.connections[name].get("kind") in _PLACES["state"]), None)
