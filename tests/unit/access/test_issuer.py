"""Issuers: keys that fit their algorithms, and the development secret on disk."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from pydantic import SecretStr, ValidationError

from headgate.access.issuer import AUDIENCE, DEV_ISSUER, Issuer, ensure_dev_issuer
from headgate.access.token import mint_token
from headgate.errors import ConfigError

RSA_KEY = rsa.generate_private_key(65537, 2048)


def pem(key: Any) -> str:
    text: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return text.decode()


def private_pem(key: Any) -> str:
    text: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return text.decode()


@pytest.mark.parametrize(
    "wrong",
    [
        {"algorithms": ["HS256"]},
        {"algorithms": [], "secret": "s" * 32},
        {"algorithms": ["none"], "secret": "s" * 32},
        {"algorithms": ["HS512"], "secret": "s" * 64},
        {"algorithms": ["HS256"], "secret": "s" * 31},
        {"algorithms": ["HS256"], "secret": "s" * 32, "public_key": pem(RSA_KEY)},
        {"algorithms": ["HS256"], "public_key": pem(RSA_KEY)},
        {"algorithms": ["RS256"], "secret": pem(RSA_KEY)},
        {"algorithms": ["RS256", "HS256"], "public_key": pem(RSA_KEY)},
        {"algorithms": ["ES256"], "public_key": pem(RSA_KEY)},
        {"algorithms": ["RS256"], "public_key": pem(rsa.generate_private_key(65537, 1024))},
        {"algorithms": ["ES256"], "public_key": pem(ec.generate_private_key(ec.SECP384R1()))},
        {"algorithms": ["RS256"], "public_key": pem(dsa.generate_private_key(2048))},
        {"algorithms": ["RS256"], "public_key": private_pem(RSA_KEY)},
        {"algorithms": ["RS256"], "public_key": "no key"},
        {"algorithms": ["HS256"], "secret": "s" * 32, "audience": ""},
        {"algorithms": ["HS256"], "secret": "s" * 32, "issuer": ""},
        {"algorithms": ["HS256"], "secret": "s" * 32, "jwks": "https://login.example"},
        {"algorithms": ["HS256"], "jwks": {"url": "https://login.example/keys"}},
        {"algorithms": ["RS256"], "jwks": {"url": "https://login.example/keys"}, "public_key": pem(RSA_KEY)},
        {"algorithms": ["RS256"], "jwks": {"url": "http://login.example/keys"}},
        {"algorithms": ["RS256"], "jwks": {"url": "https://sssss:sssss@login.example/keys"}},
        {"algorithms": ["RS256"], "jwks": {"url": "file:///sssss"}},
        {"algorithms": ["RS256"], "jwks": {}, "issuer": "no-url"},
    ],
)
def test_a_key_that_does_not_fit_is_refused_and_not_repeated(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as refused:
        Issuer.model_validate({"issuer": "https://login.example", **wrong})
    assert "sssss" not in str(refused.value)
    assert "PRIVATE" not in str(refused.value)


def test_the_development_secret_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with ThreadPoolExecutor(8) as threads:
        issuers = list(threads.map(lambda _: ensure_dev_issuer(folder), range(16)))
    assert len({issuer.own_key() for issuer in issuers}) == 1
    assert [stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()] == [0o600]
    assert issuers[0].secret is not None
    assert issuers[0].secret.get_secret_value() not in repr(issuers[0])
    assert ensure_dev_issuer(tmp_path / "other").own_key() != issuers[0].own_key()


def test_a_development_secret_that_others_may_read_is_refused(tmp_path: Path) -> None:
    ensure_dev_issuer(tmp_path)
    (file,) = tmp_path.iterdir()
    file.chmod(0o644)
    with pytest.raises(ConfigError) as refused:
        ensure_dev_issuer(tmp_path)
    assert str(tmp_path) not in refused.value.message


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 64])
def test_a_damaged_development_secret_is_refused(tmp_path: Path, content: bytes) -> None:
    ensure_dev_issuer(tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(content)
    with pytest.raises(ConfigError):
        ensure_dev_issuer(tmp_path)


def test_a_link_in_place_of_the_development_secret_is_not_followed(tmp_path: Path) -> None:
    ensure_dev_issuer(tmp_path)
    (file,) = tmp_path.iterdir()
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError):
        ensure_dev_issuer(tmp_path)


def test_a_minted_token_says_what_was_asked() -> None:
    secret = SecretStr("s" * 32)
    text = mint_token(
        secret, issuer=DEV_ISSUER, audience=AUDIENCE, subject="ada", scopes=["sql:read", "data:read"], ttl_s=90,
        clock=lambda: 1_700_000_000_999,
    )  # fmt: skip
    assert jwt.decode(text, options={"verify_signature": False}) == {
        "iss": DEV_ISSUER,
        "aud": AUDIENCE,
        "sub": "ada",
        "scope": "data:read sql:read",
        "iat": 1_700_000_000,
        "exp": 1_700_000_090,
    }
    with pytest.raises(ConfigError, match="data:write"):
        mint_token(secret, issuer="i", audience="a", subject="s", scopes=["data:write"], ttl_s=1, clock=lambda: 0)
