"""Connections to Kafka Connect's REST API (https://docs.confluent.io/platform/current/connect/references/restapi.html)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import quote

import msgspec

from headgate.connections._rest import RestConfig
from headgate.errors import StoreError, Unavailable, UnknownPipeline
from headgate.model.finding import Finding

if TYPE_CHECKING:
    import httpx2

ConnectorKind = Literal["source", "sink", "unknown"]

_LARGEST_ANSWER: Final = 16 * 1024 * 1024
_TRACE: Final = 4_000
_HIDDEN: Final = "(hidden)"
_SECRET = re.compile(
    r"password|passwd|secret|token|credential|jaas|\bauth|user\.info|signing|private|[._]key$", re.IGNORECASE
)
_USER_OF_URL = re.compile(r"(\w+://)[^/@\s]+@")
_SECRET_IN_TEXT = re.compile(r"((?:password|passwd|secret|token)\s*[=:]\s*)[^\s,;&)]+", re.IGNORECASE)
_KINDS: Final[dict[str, ConnectorKind]] = {"source": "source", "sink": "sink"}
_CONFLICT, _MISSING, _DENIED = 409, (400, 404), (401, 403)


class Config(RestConfig):
    """One Kafka Connect cluster, as the config's `connections:` block names it.

    Its `url` is of any worker's REST API: `http://connect:8083`.
    """


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """One task of a connector. `trace` is the newest part of why it failed, bounded."""

    id: int
    state: str
    worker: str = ""
    trace: str = ""


class Connector(msgspec.Struct, frozen=True, kw_only=True):
    """One connector as the cluster tells it. `config` holds no secret."""

    name: str
    kind: ConnectorKind
    state: str
    worker: str = ""
    trace: str = ""
    tasks: tuple[Task, ...] = ()
    config: Mapping[str, str] = {}

    @property
    def plugin(self) -> str:
        """The last part of its class's name."""
        return self.config.get("connector.class", "").rpartition(".")[2]


class ConnectCluster:
    """Asks one cluster. For one event loop; any number of questions at once, a cancelled one leaves nothing behind."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._client: httpx2.AsyncClient | None = None

    async def connectors(self) -> Sequence[Connector]:
        """Every connector, sorted by name. Unavailable when the cluster does not answer."""
        answer = await self._ask("GET", "/connectors?expand=status&expand=info")
        return [_connector(name, block) for name, block in sorted((answer or {}).items())]

    async def offsets(self, name: str) -> Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]:
        """Where a connector stands, as pairs of partition and offset in its plugin's own words (KIP-875)."""
        answer = await self._ask("GET", f"/connectors/{quote(name, safe='')}/offsets", name)
        return [(each.get("partition") or {}, each.get("offset") or {}) for each in (answer or {}).get("offsets", ())]

    async def pause(self, name: str) -> None:
        """Asks a connector and its tasks to pause; they follow in their own time. Idempotent."""
        await self._ask("PUT", f"/connectors/{quote(name, safe='')}/pause", name)

    async def resume(self, name: str) -> None:
        """Asks a paused or stopped connector to go on. Idempotent."""
        await self._ask("PUT", f"/connectors/{quote(name, safe='')}/resume", name)

    async def restart(self, name: str) -> None:
        """Restarts a connector with all its tasks, failed ones among them."""
        await self._ask("POST", f"/connectors/{quote(name, safe='')}/restart?includeTasks=true&onlyFailed=false", name)

    async def close(self) -> None:
        """Lets go of connections. Never raises."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _ask(self, method: str, path: str, connector: str = "") -> Any:
        import httpx2

        try:
            response = await self._connected().request(method, self._config.url + path)
            return _answer_of(response.status_code, response.content, connector)
        except httpx2.HTTPError as error:
            raise Unavailable("Kafka Connect does not answer: try again, or see whether it runs") from error

    def _connected(self) -> httpx2.AsyncClient:
        if self._client is None:
            import httpx2

            self._client = httpx2.AsyncClient(**self._config.client())
        return self._client


def _answer_of(status: int, body: bytes, connector: str) -> Any:
    if status in _DENIED:
        raise StoreError("Kafka Connect refuses our user or password: mend the connection's credentials")
    if connector and status in _MISSING:
        raise UnknownPipeline(connector, [])
    if status == _CONFLICT:
        raise Unavailable("Kafka Connect is rebalancing: try again in a few seconds", retry_after_s=3.0)
    if status >= 400 or len(body) > _LARGEST_ANSWER:
        raise Unavailable("Kafka Connect can't do this now: look at its worker's log", retry_after_s=3.0)
    try:
        return msgspec.json.decode(body) if body else None
    except msgspec.DecodeError as error:
        raise Unavailable("what answers at this url is no Kafka Connect: mend the connection's url") from error


def _connector(name: str, block: Mapping[str, Any]) -> Connector:
    status, info = block.get("status") or {}, block.get("info") or {}
    own = status.get("connector") or {}
    return Connector(
        name=name,
        kind=_KINDS.get(status.get("type") or info.get("type") or "", "unknown"),
        state=own.get("state", "UNASSIGNED"),
        worker=own.get("worker_id", ""),
        trace=_shortened(own.get("trace", "")),
        tasks=tuple(
            Task(id=task["id"], state=task.get("state", "UNASSIGNED"), worker=task.get("worker_id", ""),
                 trace=_shortened(task.get("trace", "")))
            for task in status.get("tasks") or ()
        ),
        config=without_secrets(info.get("config") or {}),
    )  # fmt: skip


def without_secrets(config: Mapping[str, Any]) -> dict[str, str]:
    """A connector's settings, sorted, each value that may be a secret hidden: by its name, or a URL with a user."""
    return {name: _shown(name, str(value)) for name, value in sorted(config.items())}


def _shown(name: str, value: str) -> str:
    if _SECRET.search(name):
        return _HIDDEN
    return _without_secrets_in(value)


def _without_secrets_in(text: str) -> str:
    return _SECRET_IN_TEXT.sub(rf"\1{_HIDDEN}", _USER_OF_URL.sub(r"\1", text))


def _shortened(trace: str) -> str:
    """The beginning names the error and the end its cause."""
    trace = _without_secrets_in(trace)
    if len(trace) <= _TRACE:
        return trace
    half = _TRACE // 2
    return f"{trace[:half]}\n…\n{trace[-half:]}"


def diagnose(name: str, config: Config) -> Sequence[Finding]:
    """What `doctor` says of a connection: whether it answers, and which connectors and tasks have failed."""
    import anyio

    part = f"connection {name}"
    try:
        connectors = anyio.run(_connectors_once, config)
    except (StoreError, Unavailable) as error:
        mend = f"start Kafka Connect at {config.describe()}, or mend this connection's url and credentials"
        return [Finding(level="error", part=part, message=error.message, mend=mend)]
    failed = [each.name for each in connectors if "FAILED" in (each.state, *(task.state for task in each.tasks))]
    findings = [Finding(level="ok", part=part, message=f"{config.describe()} answers: {len(connectors)} connectors")]
    return findings + [
        Finding(level="error", part=part, message=f"connector {each} has failed", mend="see its trace, then restart it")
        for each in failed
    ]


async def _connectors_once(config: Config) -> Sequence[Connector]:
    cluster = ConnectCluster(config)
    try:
        return await cluster.connectors()
    finally:
        await cluster.close()
