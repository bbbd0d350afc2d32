"""Connections to a server that speaks the Redis protocol (Redis 6.2 or newer, or Valkey)."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from types import TracebackType
from typing import Annotated, Any
from urllib.parse import urlsplit

import redis
import redis.asyncio
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FilePath, SecretStr
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    ExecAbortError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from headgate.errors import StoreError, Unavailable
from headgate.model.finding import Finding

_SCHEMES = ("redis", "rediss")
_OLDEST = (6, 2)
_MOST_POOLED = 64
_NEARLY_FULL = 0.8


def _with_scheme(url: SecretStr) -> SecretStr:
    if urlsplit(url.get_secret_value()).scheme not in _SCHEMES:
        raise ValueError("the url begins with redis:// or, for TLS, rediss://")
    return url


class Config(BaseModel):
    """One Redis, as the config's `connections:` block names it."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    url: Annotated[SecretStr, AfterValidator(_with_scheme)]
    """`redis://host:6379/0`, or `rediss://…` for TLS. May hold user and password."""
    username: str | None = None
    password: SecretStr | None = None
    tls_ca: FilePath | None = None
    """Authorities that may sign the server's certificate (PEM); the system's unless set."""
    tls_cert: FilePath | None = None
    tls_key: FilePath | None = None
    prefix: str = Field(default="headgate", pattern=r"^[A-Za-z0-9._-]+$")
    """What all keys begin with, inside the hash tag: two installations can share a server."""
    timeout_s: float = Field(default=5.0, gt=0)
    """How long one answer, or a connection, may take."""

    def connect(self) -> redis.Redis:
        """A client for any number of threads. Connects on first use and never tries again by itself.

        More calls at once than it has connections wait for one.
        """
        pool = redis.BlockingConnectionPool.from_url(
            self.url.get_secret_value(),
            retry=Retry(NoBackoff(), 0),
            max_connections=_MOST_POOLED,
            timeout=self.timeout_s,
            **self._options(),
        )
        return redis.Redis.from_pool(pool)

    def connect_async(self) -> redis.asyncio.Redis:
        """A client for the running event loop. Connects on first use and never tries again by itself.

        More calls at once than it has connections wait for one.
        """
        pool = redis.asyncio.BlockingConnectionPool.from_url(
            self.url.get_secret_value(),
            retry=AsyncRetry(NoBackoff(), 0),
            max_connections=_MOST_POOLED,
            timeout=self.timeout_s,
            **self._options(),
        )
        return redis.asyncio.Redis.from_pool(pool)

    def describe(self) -> str:
        """Where it leads, without credentials."""
        parts = urlsplit(self.url.get_secret_value())
        return f"{parts.scheme}://{parts.hostname or 'localhost'}:{parts.port or 6379}{parts.path}"

    def _options(self) -> dict[str, Any]:
        options: dict[str, Any] = {
            "decode_responses": False,
            "protocol": 2,
            "socket_timeout": self.timeout_s,
            "socket_connect_timeout": self.timeout_s,
            "health_check_interval": 30,
        }
        if self.username is not None:
            options["username"] = self.username
        if self.password is not None:
            options["password"] = self.password.get_secret_value()
        if urlsplit(self.url.get_secret_value()).scheme == "rediss":
            files = {"ssl_ca_certs": self.tls_ca, "ssl_certfile": self.tls_cert, "ssl_keyfile": self.tls_key}
            options |= {name: str(file) for name, file in files.items() if file is not None}
        return options


class guard:
    """Raises what Redis or its client says as Unavailable, where trying again helps, or StoreError.

    No generator: every read of a row goes through it.
    """

    __slots__ = ()

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, (RedisError, OSError)):
            said = _said_of(error)
            if said is not None:
                raise said from error


def _said_of(error: RedisError | OSError) -> StoreError | Unavailable | None:
    """What is raised for it; None where it goes on as it is."""
    if _is_of_another(error):
        return StoreError("TLS to Redis fails: check tls_ca, the url's host name and the server's certificate")
    match error:
        case AuthenticationError() | AuthorizationError() | NoPermissionError():
            return StoreError("Redis refuses our user or password: mend the connection's credentials")
        case BusyLoadingError() | ReadOnlyError():
            return Unavailable("Redis is starting or failing over: try again", retry_after_s=1.0)
        case OutOfMemoryError():
            return Unavailable("Redis has no memory left: raise maxmemory", retry_after_s=5.0)
        case ExecAbortError():
            return Unavailable("Redis took none of a transaction, probably for lack of memory", retry_after_s=5.0)
        case RedisConnectionError() | RedisTimeoutError() | ConnectionError() | TimeoutError() | ssl.SSLError():
            return Unavailable("Redis does not answer: try again", retry_after_s=1.0)
        case RedisError():
            return StoreError("Redis refused a command: look at the process's log, and run doctor")
    return None


def _is_of_another(error: RedisError | OSError) -> bool:
    """Whether we do not trust the server's certificate. The client's library says so within an error of its own."""
    return any(isinstance(each, ssl.SSLCertVerificationError) for each in (error, error.__context__))


def diagnose(name: str, config: Config) -> Sequence[Finding]:
    """What `doctor` says of a connection: whether it answers, its version, and what could lose rows."""
    part = f"connection {name}"
    client = config.connect()
    try:
        with guard():
            info: dict[str, Any] = client.info()
    except (StoreError, Unavailable) as error:
        mend = f"start the server at {config.describe()}, or mend this connection's url and credentials"
        return [Finding(level="error", part=part, message=error.message, mend=mend)]
    finally:
        client.close()
    return [
        Finding(level="ok", part=part, message=f"{config.describe()} answers"),
        _judge_version(part, info),
        _judge_policy(part, info),
        _judge_memory(part, info),
        _judge_clients(part, info),
    ]


def _judge_version(part: str, info: dict[str, Any]) -> Finding:
    version = str(info.get("valkey_version") or info.get("redis_version", "0"))
    program = "Valkey" if "valkey_version" in info else "Redis"
    numbers = tuple(int(number) for number in version.split(".")[:2] if number.isdigit())
    if numbers >= _OLDEST:
        return Finding(level="ok", part=part, message=f"{program} {version}")
    return Finding(
        level="error", part=part, message=f"{program} {version} is too old", mend="use Redis 6.2 or newer, or Valkey"
    )


def _judge_policy(part: str, info: dict[str, Any]) -> Finding:
    policy = info.get("maxmemory_policy", "unknown")
    if policy == "noeviction":
        return Finding(level="ok", part=part, message="maxmemory-policy is noeviction")
    return Finding(
        level="error",
        part=part,
        message=f"maxmemory-policy is {policy}: rows that are evicted look as if they did not exist",
        mend="CONFIG SET maxmemory-policy noeviction, in redis.conf too",
    )


def _judge_memory(part: str, info: dict[str, Any]) -> Finding:
    used, most = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    if most == 0:
        return Finding(level="ok", part=part, message=f"{used >> 20} MiB used, no maxmemory set")
    message = f"{used >> 20} of {most >> 20} MiB used"
    if used < most * _NEARLY_FULL:
        return Finding(level="ok", part=part, message=message)
    return Finding(level="warning", part=part, message=message, mend="raise maxmemory: once full, writing stops")


def _judge_clients(part: str, info: dict[str, Any]) -> Finding:
    clients, most = int(info.get("connected_clients", 0)), int(info.get("maxclients", 0))
    message = f"{clients} clients connected" + (f" of at most {most}" if most else "")
    if not most or clients < most * _NEARLY_FULL:
        return Finding(level="ok", part=part, message=message)
    return Finding(level="warning", part=part, message=message, mend="raise maxclients, or close idle clients")
