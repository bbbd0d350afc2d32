"""Issuers of tokens: whose tokens are taken, by which key; and the issuer for development."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, SecretStr, model_validator

from headgate.access.jwks import JwksConfig, safe_url
from headgate.errors import ConfigError
from headgate.model.caller import SCOPES

if TYPE_CHECKING:
    from headgate.access.public_key import PublicKey

Algorithm = Literal["HS256", "RS256", "ES256", "EdDSA"]

DEV_ISSUER = "headgate-dev"
AUDIENCE = "headgate"

_DEV_SECRET = "dev-token.secret"  # noqa: S105 (a file's name)
_SHORTEST_SECRET = 32


def _known(scope: str) -> str:
    if scope not in SCOPES:
        raise ValueError(f"there is no such scope: choose from {', '.join(SCOPES)}")
    return scope


Scope = Annotated[str, AfterValidator(_known)]
"""A scope that exists."""


class Issuer(BaseModel):
    """One issuer's keys: one that stands here, or those that it publishes by URL.

    `secret` (at least 32 bytes) goes with HS256; `public_key` (PEM) and `jwks` with the others: RS256 with RSA
    of at least 2048 bits, ES256 with P-256, EdDSA with Ed25519 or Ed448. No token is ever checked by a key of
    another sort than its algorithm's. To rotate a key that stands here, name the issuer twice.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    issuer: str = Field(min_length=1)
    """The exact `iss` of its tokens."""
    audience: str = Field(default=AUDIENCE, min_length=1)
    """What must be in the `aud` of its tokens."""
    algorithms: list[Algorithm] = Field(min_length=1)
    secret: SecretStr | None = None
    public_key: str | None = None
    jwks: JwksConfig | None = None

    _key: Any = PrivateAttr(None)

    @model_validator(mode="after")
    def _fits(self) -> Issuer:
        if [self.secret, self.public_key, self.jwks].count(None) != 2:
            raise ValueError("give one of secret (for HS256), public_key or jwks (for RS256, ES256, EdDSA)")
        if self.secret is not None:
            self._key = _checked_secret(self.secret, self.algorithms)
        elif self.public_key is not None:
            from headgate.access.public_key import checked_key

            self._key = checked_key(self.public_key, self.algorithms)
        elif self.jwks is not None:
            _check_published(self.jwks, self.issuer, self.algorithms)
        return self

    def own_key(self) -> PublicKey | bytes | None:
        """The key that stands in the config; None where the issuer publishes its keys."""
        key: PublicKey | bytes | None = self._key
        return key


def _check_published(jwks: JwksConfig, issuer: str, algorithms: Iterable[Algorithm]) -> None:
    if "HS256" in algorithms:
        raise ValueError("a published key goes with RS256, ES256 and EdDSA: HS256 needs a secret")
    if jwks.url is None:
        safe_url(issuer)


def _checked_secret(secret: SecretStr, algorithms: Iterable[Algorithm]) -> bytes:
    key = secret.get_secret_value().encode()
    if set(algorithms) != {"HS256"}:
        raise ValueError("a secret goes with the algorithm HS256 alone: give public_key for the others")
    if len(key) < _SHORTEST_SECRET:
        raise ValueError(f"the secret is shorter than {_SHORTEST_SECRET} bytes: make a longer one at random")
    return key


def ensure_dev_issuer(folder: Path, *, random_bytes: Callable[[int], bytes] = secrets.token_bytes) -> Issuer:
    """The issuer for development: its secret lies in the data folder, for its owner alone to read.

    The first call makes the secret; every process of the folder then gets the same one. ConfigError when
    the file can't be used.
    """
    file = folder / _DEV_SECRET
    try:
        folder.mkdir(parents=True, exist_ok=True)
        secret = _read_secret(file) or _make_secret(file, random_bytes(32).hex())
    except (OSError, ValueError) as error:
        raise ConfigError(
            "the development secret in the data folder can't be used: it must be a file of ours with mode 0600, "
            "or be removed to make a new one"
        ) from error
    return Issuer(issuer=DEV_ISSUER, audience=AUDIENCE, algorithms=["HS256"], secret=SecretStr(secret))


def _read_secret(file: Path) -> str | None:
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor) as opened:
        status = os.fstat(descriptor)
        if status.st_mode & 0o077 or status.st_uid != os.getuid():
            raise ValueError("others may read the secret")
        secret = opened.read(1024).strip()
    if len(secret) < _SHORTEST_SECRET:
        raise ValueError("the secret is too short")
    return secret


def _make_secret(file: Path, secret: str) -> str:
    """Writes it whole beside its place, then links it there: of two processes the first one's stays."""
    draft = file.with_name(f"{file.name}.{os.getpid()}.{secret[:8]}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as opened:
            opened.write(secret)
            opened.flush()
            os.fsync(descriptor)
        os.link(draft, file)
    except FileExistsError:
        secret = _read_secret(file) or secret
    finally:
        draft.unlink()
    return secret
