"""A Redis connection's config: what it takes, and what it never says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import redis
from pydantic import ValidationError
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    ExecAbortError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)

from headgate.connections.redis import Config, diagnose, guard
from headgate.errors import HeadgateError, StoreError, Unavailable

SECRET = "hunter2"


def test_never_tells_its_secrets() -> None:
    config = Config.model_validate({"url": f"rediss://ann:{SECRET}@db.example:6380/3?x={SECRET}", "password": SECRET})
    assert config.describe() == "rediss://db.example:6380/3"
    assert SECRET not in repr(config) + str(config) + config.model_dump_json()


@pytest.mark.parametrize(
    "given",
    [
        {"url": f"http://:{SECRET}@x"},
        {"url": f"{SECRET}"},
        {"url": "redis://x", SECRET: 1},
        {"url": "redis://x", "prefix": "a{b"},
        {"url": "redis://x", "prefix": ""},
        {"url": "redis://x", "timeout_s": 0},
        {"url": "redis://x", "tls_ca": "/nowhere/ca.pem"},
    ],
)
def test_refuses_what_does_not_hold(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as refusal:
        Config.model_validate(given)
    assert f":{SECRET}@" not in str(refusal.value)


def test_tls_takes_its_files(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.touch()
    config = Config.model_validate({"url": "rediss://x", "tls_ca": str(ca), "username": "ann", "password": SECRET})
    for client in (config.connect(), config.connect_async()):
        pool = client.connection_pool
        assert issubclass(pool.connection_class, redis.SSLConnection | redis.asyncio.SSLConnection)
        told = {
            name: pool.connection_kwargs[name] for name in ("ssl_ca_certs", "username", "password", "socket_timeout")
        }
        assert told == {"ssl_ca_certs": str(ca), "username": "ann", "password": SECRET, "socket_timeout": 5.0}


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (redis.ConnectionError("x"), Unavailable),
        (redis.TimeoutError("x"), Unavailable),
        (BusyLoadingError("x"), Unavailable),
        (ReadOnlyError("x"), Unavailable),
        (OutOfMemoryError("x"), Unavailable),
        (ExecAbortError("x"), Unavailable),
        (AuthenticationError("x"), StoreError),
        (ResponseError("WRONGTYPE"), StoreError),
    ],
)
def test_what_redis_says_becomes_ours(raised: Exception, expected: type[HeadgateError]) -> None:
    with pytest.raises(expected) as refusal, guard():
        raise raised
    assert refusal.value.__cause__ is raised
    assert str(raised) not in refusal.value.message.split()


def test_an_unreachable_server_is_a_finding() -> None:
    (finding,) = diagnose("cache", Config.model_validate({"url": f"redis://:{SECRET}@127.0.0.1:1/0", "timeout_s": 0.5}))
    assert (finding.level, finding.part) == ("error", "connection cache")
    assert "127.0.0.1:1" in finding.mend and SECRET not in finding.mend
