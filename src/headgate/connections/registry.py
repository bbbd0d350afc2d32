"""Connections to a schema registry that speaks the REST API of Confluent's (Apicurio does, as `ccompat`).

API: https://docs.confluent.io/platform/current/schema-registry/develop/api.html. A record in its wire format is a
zero byte, the schema's id in four bytes, most significant first, and then the data:
https://docs.confluent.io/platform/current/schema-registry/fundamentals/serdes-develop/index.html#wire-format
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import quote

import msgspec

from headgate.connections._rest import RestConfig
from headgate.errors import ConfigError, HeadgateError, LogError, Unavailable
from headgate.model.finding import Finding

if TYPE_CHECKING:
    import httpx2

SchemaKind = Literal["AVRO", "JSON", "PROTOBUF"]

MAGIC: Final = 0
_HEADER: Final = 5
_MEDIA: Final = "application/vnd.schemaregistry.v1+json"
_LARGEST_ANSWER: Final = 16 * 1024 * 1024
_MOST_CACHED: Final = 10_000
_DENIED: Final = (401, 403)
_REFUSED_SCHEMA: Final = (409, 422)


class Config(RestConfig):
    """One schema registry, as the config's `connections:` block names it.

    Its `url` is `http://registry:8081`, or Apicurio's `http://registry:8080/apis/ccompat/v7`.
    """


class Schema(msgspec.Struct, frozen=True):
    """A registered schema. What an id stands for never changes."""

    id: int
    kind: SchemaKind
    text: str
    references: tuple[Reference, ...] = ()


class Reference(msgspec.Struct, frozen=True):
    """Another schema that this one names: the newest text of `subject` at `version` defines `name`."""

    name: str
    subject: str
    version: int


class Registry:
    """Asks one registry, and keeps what it said of ids. Its methods block; any thread may call them.

    Unavailable when it does not answer; ConfigError when it does not let us in; LogError when it refuses.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._client: httpx2.Client | None = None
        self._by_id: dict[int, Schema | None] = {}

    def by_id(self, number: int) -> Schema | None:
        """The schema of an id, asked for once; None when the registry has none such."""
        if number in self._by_id:
            return self._by_id[number]
        found = self._ask("GET", f"/schemas/ids/{number}")
        schema = None if found is None else _schema(number, found)
        if schema is not None:  # what is not there may come
            if len(self._by_id) >= _MOST_CACHED:
                self._by_id.clear()
            self._by_id[number] = schema
        return schema

    def latest(self, subject: str) -> Schema | None:
        """The newest version of a subject; None when there is no such subject."""
        found = self._ask("GET", f"/subjects/{quote(subject, safe='')}/versions/latest")
        return None if found is None else _schema(int(found["id"]), found)

    def at(self, subject: str, version: int) -> Schema | None:
        """One version of a subject."""
        found = self._ask("GET", f"/subjects/{quote(subject, safe='')}/versions/{version}")
        return None if found is None else _schema(int(found["id"]), found)

    def register(self, subject: str, schema: str, kind: SchemaKind = "AVRO") -> int:
        """Makes a schema the newest version of a subject, and answers its id. Idempotent.

        A JSON schema must name its `$schema`: by that alone does Apicurio know it as one.
        LogError when the registry finds it malformed, or not compatible with the version before.
        """
        body = {"schema": schema, "schemaType": kind}
        found = self._ask("POST", f"/subjects/{quote(subject, safe='')}/versions", body)
        return int((found or {}).get("id", 0))

    def is_compatible(self, subject: str, schema: str, kind: SchemaKind = "AVRO") -> bool:
        """Whether a schema could become the newest version of a subject; true when there is no such subject."""
        path = f"/compatibility/subjects/{quote(subject, safe='')}/versions/latest"
        found = self._ask("POST", path, {"schema": schema, "schemaType": kind})
        return True if found is None else bool(found.get("is_compatible"))

    def compatibility(self, subject: str) -> str:
        """By which rule new versions of a subject are judged (`BACKWARD`, `NONE`, …): its own, or the registry's."""
        own = self._ask("GET", f"/config/{quote(subject, safe='')}")
        found = own if own is not None else self._ask("GET", "/config")
        return str((found or {}).get("compatibilityLevel", "NONE"))

    def set_compatibility(self, subject: str, level: str) -> None:
        """Sets that rule for one subject. Idempotent."""
        self._ask("PUT", f"/config/{quote(subject, safe='')}", {"compatibility": level})

    def subjects(self) -> list[str]:
        """The names of all subjects."""
        return sorted(self._ask("GET", "/subjects") or [])

    def close(self) -> None:
        """Lets go of connections. Never raises."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def _ask(self, method: str, path: str, body: Any = None) -> Any:
        """The answer's JSON; None when the registry knows no such thing."""
        import httpx2

        content = None if body is None else msgspec.json.encode(body)
        try:
            response = self._connected().request(method, self._config.url + path, content=content)
            return _answer_of(response.status_code, response.content)
        except httpx2.HTTPError as error:
            raise Unavailable("The schema registry does not answer: try again, or see whether it runs") from error

    def _connected(self) -> httpx2.Client:
        with self._lock:
            if self._client is None:
                import httpx2

                media = {"Accept": f"{_MEDIA}, application/json", "Content-Type": _MEDIA}
                self._client = httpx2.Client(**self._config.client(), headers=media)
            return self._client


def split(data: bytes) -> tuple[int, bytes]:
    """The schema's id and the data of a record in the registry's wire format. ValueError for another one."""
    if len(data) < _HEADER or data[0] != MAGIC:
        raise ValueError("no record of a schema registry")
    return int.from_bytes(data[1:_HEADER], "big"), data[_HEADER:]


def framed(number: int, data: bytes) -> bytes:
    """The inverse of `split`."""
    return bytes([MAGIC]) + number.to_bytes(4, "big") + data


def _answer_of(status: int, body: bytes) -> Any:
    if status in _DENIED:
        raise ConfigError("The schema registry refuses our user or password: mend the connection's credentials")
    if status == 404:
        return None
    if status in _REFUSED_SCHEMA:
        raise LogError("The schema registry refuses the schema: it is malformed, or not compatible with the last one")
    if status >= 400 or len(body) > _LARGEST_ANSWER:
        raise Unavailable("The schema registry can't do this now: look at its log", retry_after_s=3.0)
    try:
        return msgspec.json.decode(body) if body else {}
    except msgspec.DecodeError as error:
        raise ConfigError("The connection's url leads to no schema registry: mend it") from error


def _schema(number: int, found: Any) -> Schema:
    try:
        references = msgspec.convert(found.get("references") or [], tuple[Reference, ...])
        return Schema(number, found.get("schemaType") or "AVRO", found["schema"], references)
    except (KeyError, TypeError, AttributeError, msgspec.ValidationError) as error:
        raise ConfigError("The connection's url leads to no schema registry: mend it") from error


# --- doctor --------------------------------------------------------------------------------------


def diagnose(name: str, config: Config) -> list[Finding]:
    """What `headgate doctor` says of the connection `name`. Never raises."""
    part = f"connection {name}"
    registry = Registry(config)
    try:
        subjects = registry.subjects()
    except HeadgateError as error:
        return [Finding(level="error", part=part, message=error.message, mend=f"see what answers at {config.url}")]
    finally:
        registry.close()
    return [Finding(level="ok", part=part, message=f"the registry at {config.url} answers, subjects: {len(subjects)}")]
