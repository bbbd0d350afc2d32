"""JSON Web Tokens (RFC 7519), read and written by PyJWT. Imported when the first token comes: it is slow to load."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jwt
from pydantic import SecretStr

from headgate.access.issuer import Issuer
from headgate.access.public_key import PublicKey
from headgate.access.refusal import refusal
from headgate.errors import ConfigError
from headgate.model.caller import SCOPES
from headgate.telemetry import Clock


class Claimed(NamedTuple):
    """The token's own word on itself, by which the key is chosen that then has to prove it."""

    issuer: Any
    algorithm: Any
    kid: str | None


def claimed(token: str) -> Claimed:
    """What an unchecked token says. Keys or URLs of keys in its header are never looked at."""
    try:
        header = jwt.get_unverified_header(token)
        claims = jwt.decode(token, options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError, RecursionError) as error:
        raise refusal("malformed") from error
    kid = header.get("kid")
    # RFC 7515 §4.1.11: extensions that we don't know must not be passed over
    if "crit" in header or not (kid is None or isinstance(kid, str)):
        raise refusal("malformed")
    return Claimed(claims.get("iss"), header.get("alg"), kid)


def decode_token(token: str, issuer: Issuer, key: PublicKey | bytes, algorithms: Sequence[str]) -> Mapping[str, Any]:
    """Checks signature, issuer and audience. The times are ours to check, by the injected clock."""
    try:
        return jwt.decode(
            token,
            key,
            algorithms=list(algorithms),
            audience=issuer.audience,
            issuer=issuer.issuer,
            options={
                "require": ["exp", "sub", "iss", "aud"],
                "verify_exp": False,
                "verify_nbf": False,
                "verify_iat": False,
                "verify_sub": False,
                "verify_jti": False,
            },
        )
    except (jwt.InvalidSignatureError, jwt.InvalidAlgorithmError) as error:
        raise refusal("bad_signature") from error
    except jwt.MissingRequiredClaimError as error:
        raise refusal("claim_missing") from error
    except jwt.InvalidAudienceError as error:
        raise refusal("wrong_audience") from error
    except jwt.InvalidIssuerError as error:
        raise refusal("wrong_issuer") from error
    except (jwt.PyJWTError, ValueError) as error:
        raise refusal("malformed") from error


def mint_token(
    secret: SecretStr, *, issuer: str, audience: str, subject: str, scopes: Iterable[str], ttl_s: float, clock: Clock
) -> str:
    """A JWT signed with HS256 that holds for `ttl_s` seconds. ConfigError when a scope does not exist."""
    wanted = sorted(set(scopes))
    unknown = [scope for scope in wanted if scope not in SCOPES]
    if unknown:
        raise ConfigError(f"there is no scope {', '.join(unknown)}: choose from {', '.join(SCOPES)}")
    now_s = clock() // 1000
    claims = {
        "iss": issuer,
        "aud": audience,
        "sub": subject,
        "scope": " ".join(wanted),
        "iat": now_s,
        "exp": now_s + math.ceil(ttl_s),
    }
    return jwt.encode(claims, secret.get_secret_value(), algorithm="HS256")
