"""Names and errors of PostgreSQL connections, as far as no server is needed for them."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from headgate.connections.postgres import Config, connect, describe, diagnose, error_of
from headgate.errors import ConfigError, HeadgateError, SourceBusy, SourceError, SourceNotReady, Unavailable


@pytest.mark.parametrize(
    ("dsn", "expected"),
    [
        ("postgresql://me:hidden@db.example.org:6432/shop?sslmode=require", "postgresql://db.example.org:6432/shop"),
        ("host=db password='hid den' user=me", "postgresql://db:5432/me"),
        ("postgresql:///shop", "postgresql://localhost:5432/shop"),
    ],
)
def test_a_server_is_named_without_credentials(dsn: str, expected: str) -> None:
    assert describe(dsn) == expected


@pytest.mark.parametrize("dsn", ["postgresql://me:hidden@db:x y/shop?nonsense", "hidden", "password=hidden 'x"])
def test_a_malformed_dsn_says_nothing_of_what_it_holds(dsn: str) -> None:
    for attempt in (lambda: describe(dsn), lambda: connect(dsn), lambda: Config(dsn=SecretStr(dsn)).conninfo()):
        with pytest.raises(ConfigError) as caught:
            attempt()
        assert "hidden" not in str(caught.value)
        assert caught.value.__suppress_context__
    (finding,) = diagnose("main", Config(dsn=SecretStr(dsn)))
    assert finding.level == "error" and "hidden" not in finding.message


def test_a_config_keeps_its_secret_and_refuses_what_it_does_not_know() -> None:
    config = Config(dsn=SecretStr("postgresql://me:hidden@db/shop"))
    assert "hidden" not in repr(config)
    with pytest.raises(ValidationError) as caught:
        Config.model_validate({"dsn": "postgresql://me:hidden@db/shop", "tls": "hidden"})
    assert "hidden" not in str(caught.value)


def test_tls_settings_join_the_dsn() -> None:
    config = Config(dsn=SecretStr("host=db dbname=shop"), sslmode="verify-full", sslrootcert=Path("ca.pem"))
    assert sorted(config.conninfo().split()) == ["dbname=shop", "host=db", "sslmode=verify-full", "sslrootcert=ca.pem"]


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (None, Unavailable),
        ("08006", Unavailable),
        ("57P01", Unavailable),
        ("53300", Unavailable),
        ("28P01", SourceNotReady),
        ("3D000", SourceNotReady),
        ("42501", SourceNotReady),
        ("53400", SourceNotReady),
        ("55006", SourceBusy),
        ("55P03", Unavailable),
        ("22P02", SourceError),
    ],
)
def test_an_sqlstate_says_whether_to_try_again(state: str | None, expected: type[HeadgateError]) -> None:
    assert type(error_of(state, "postgresql://db:5432/shop")) is expected
