"""Who asks: a JWT, an API key, a certificate's subject, the local user, or nobody in particular where allowed."""

from __future__ import annotations

import asyncio
import math
import os
import pwd
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Field

from headgate.access.budget import BudgetsConfig
from headgate.access.issuer import Issuer, Scope
from headgate.access.keys import PREFIX, ApiKeys
from headgate.access.proxy import ProxyConfig
from headgate.access.refusal import refusal
from headgate.access.revocations import Mark
from headgate.access.sight import Kept
from headgate.access.tokens import Tokens
from headgate.access.verified import RECHECK_MS, Verified, VerifiedCredentials
from headgate.model.caller import READ_SCOPES, SCOPES, Caller, network_of
from headgate.telemetry import Clock

LEEWAY_S = 30
"""How far an issuer's clock may differ from ours."""

_LONGEST_TOKEN = 16_384
_STRANGERS = 4_096
_LONGEST_SUBJECT = 512
_NEVER_MS = 1 << 53
_SCOPE_CLAIMS = ("scope", "scopes", "scp")
_NOT_FOR_DECISIONS = frozenset({"iss", "aud", "exp", "nbf", "iat", "jti", "sub", *_SCOPE_CLAIMS})


class Credentials(msgspec.Struct, frozen=True, kw_only=True):
    """What a request brings to say who asks. Its repr does not hold the credential."""

    bearer: str | None
    door: Literal["http", "stdio"]
    loopback: bool = False
    """Whether the request came from this machine."""
    in_query: bool = False
    """Whether the URL's query holds a credential."""
    peer: str = ""
    """The address that the request came from."""
    subject: str | None = None
    """What the proxy's header for certificates' subjects holds, whoever set it; None where it is absent."""

    def __repr__(self) -> str:
        given = "given" if self.bearer else "none"
        return f"Credentials(bearer={given}, door={self.door}, loopback={self.loopback}, in_query={self.in_query})"


class IdentityConfig(BaseModel):
    """Who may come in. By default: the local user on stdio, and holders of API keys and development tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    local: bool = False
    """Whether a request from this machine without a credential is the local user's."""
    local_scopes: list[Scope] = Field(default_factory=lambda: sorted(READ_SCOPES))
    anonymous: bool = False
    """Whether a request without a credential is let in, with `anonymous_scopes`."""
    anonymous_scopes: list[Scope] = []
    issuers: list[Issuer] = []
    proxy: ProxyConfig | None = None
    """A proxy that says in a header whose certificate it has checked."""
    budgets: BudgetsConfig = BudgetsConfig()
    dev_tokens: bool | None = None
    """Whether tokens of `headgate token` are taken. Unset: only as long as `issuers` is empty."""

    @property
    def takes_dev_tokens(self) -> bool:
        """`dev_tokens` with its default worked out."""
        return not self.issuers if self.dev_tokens is None else self.dev_tokens


class Identity:
    """Tells who asks. For one event loop.

    A credential that held is not checked again for a minute, unless it ends, is revoked, or its issuer's keys
    change before; a token that a key of the config's own signed, of which checking it again would say nothing else,
    not until it ends. A revocation is honoured within five seconds (see `Revocations`).
    """

    def __init__(
        self,
        config: IdentityConfig,
        keys: ApiKeys,
        clock: Clock,
        *,
        dev_issuer: Issuer | None = None,
        local_user: str | None = None,
    ) -> None:
        self._config = config
        self._keys = keys
        self._revocations = keys.revocations
        self._clock = clock
        # The very same each time: by that what is made for a caller is found again.
        self._local = Caller(subject=local_user or os_user(), method="local", scopes=frozenset(config.local_scopes))
        self._verified = VerifiedCredentials()
        self._strangers = Kept(_STRANGERS)
        extra = [dev_issuer] if dev_issuer and config.takes_dev_tokens else []
        self._tokens = Tokens([*config.issuers, *extra], clock)

    async def identify(self, credentials: Credentials) -> Caller:
        """The caller. Unauthenticated when there is no credential or it does not hold.

        The message tells what to do and no more; `details["reason"]` is for the record, not for the caller.
        A credential that is given decides alone: a bad one never falls back to the local user. Unavailable when
        the state, or the keys of the token's issuer, can't be asked.
        """
        if credentials.in_query:
            raise refusal("in_query")
        if credentials.subject is not None and not self._is_proxy(credentials):
            raise refusal("proxy_untrusted")
        if credentials.bearer is not None:
            return await self._held(credentials.bearer)
        if credentials.subject:
            return await self._named_by_proxy(credentials.subject)
        if credentials.door == "stdio" or (self._config.local and credentials.loopback):
            return self._local
        if self._config.anonymous:
            network = network_of(credentials.peer)
            return self._strangers.take(network, lambda: self._stranger(network))
        raise refusal("missing")

    def _stranger(self, network: str) -> Caller:
        scopes = frozenset(self._config.anonymous_scopes)
        return Caller(subject="anonymous", method="anonymous", scopes=scopes, network=network)

    def verified(self, bearer: str) -> Verified | None:
        """What is known of a token or key that held a moment ago."""
        return self._verified.find(bearer, self._clock())

    def still(self, verified: Verified) -> Caller | None:
        """Who holds it, where that is certain now without asking anybody; None: `identify` tells."""
        now_ms = self._clock()
        holds = verified.holds_at(now_ms) and self._revocations.clears(verified.marks, now_ms)
        return verified.caller if holds else None

    def _is_proxy(self, credentials: Credentials) -> bool:
        return self._config.proxy is not None and self._config.proxy.trusts(credentials.peer)

    async def _named_by_proxy(self, subject: str) -> Caller:
        assert self._config.proxy is not None, "its header was looked at"
        caller = self._config.proxy.caller(subject)
        await self._revocations.check(_marks_of_subject(caller))
        return caller

    async def _held(self, bearer: str) -> Caller:
        """Who holds this token or key, checked now or a moment ago."""
        if len(bearer) > _LONGEST_TOKEN or not bearer.isascii():
            raise refusal("malformed")
        verified = self._verified.find(bearer, self._clock())
        if verified is None:
            verified = self._verified.keep(bearer, await self._verify(bearer))
        await self._revocations.check(verified.marks)
        return verified.caller

    async def _verify(self, bearer: str) -> Verified:
        now_ms = self._clock()
        if bearer.startswith(PREFIX):
            caller = await asyncio.to_thread(self._keys.verify, bearer)
            marks: tuple[Mark, ...] = (Mark("api_key", caller.subject),)
            ends_ms, keys_stand = min(_ends_ms(caller, 0), now_ms + RECHECK_MS), None
        else:
            claims, keys_stand = await self._tokens.verify(bearer)
            _check_text(claims)
            _check_times(claims, now_ms / 1000)
            caller = _caller_of(claims)
            marks = (*_marks_of_subject(caller), *_marks_of_token(claims))
            ends_ms = _ends_ms(caller, LEEWAY_S)
            if keys_stand is not None:
                ends_ms = min(ends_ms, now_ms + RECHECK_MS)
        stand = keys_stand or _always
        return Verified(caller=caller, checked_ms=now_ms, until_ms=ends_ms, marks=marks, keys_stand=stand)


def _always() -> bool:
    return True


def _ends_ms(caller: Caller, leeway_s: int) -> int:
    ends_s = caller.expires_at_s
    return _NEVER_MS if ends_s is None or ends_s > _NEVER_MS // 1000 - leeway_s else int((ends_s + leeway_s) * 1000)


def _marks_of_subject(caller: Caller) -> tuple[Mark, Mark]:
    return Mark("subject", caller.subject), Mark("subject", caller.subject, caller.issuer)


def _marks_of_token(claims: Mapping[str, Any]) -> Sequence[Mark]:
    name = claims.get("jti")
    return (Mark("token", name), Mark("token", name, claims["iss"])) if isinstance(name, str) else ()


def os_user() -> str:
    """The name of the user that this process runs as."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # a container's user needs no name
        return f"uid-{os.getuid()}"


def _check_text(claims: Mapping[str, Any]) -> None:
    """Half a surrogate pair is no text: neither a decision nor the record could hold it."""
    try:
        msgspec.json.encode(claims)
    except (UnicodeEncodeError, RecursionError):
        raise refusal("malformed") from None


def _check_times(claims: Mapping[str, Any], now_s: float) -> None:
    expires = _time(claims, "exp")
    if expires is None:
        raise refusal("claim_missing")
    if expires + LEEWAY_S <= now_s:
        raise refusal("expired")
    for claim in ("nbf", "iat"):
        start = _time(claims, claim)
        if start is not None and start - LEEWAY_S > now_s:
            raise refusal("not_yet_valid")


def _time(claims: Mapping[str, Any], claim: str) -> float | None:
    """A NumericDate (RFC 7519 §2). NaN and infinity, which Python's JSON takes, would never expire."""
    value = claims.get(claim)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise refusal("malformed")
    return value


def _caller_of(claims: Mapping[str, Any]) -> Caller:
    subject = claims["sub"]
    if not isinstance(subject, str) or not 0 < len(subject) <= _LONGEST_SUBJECT:
        raise refusal("malformed")
    return Caller(
        subject=subject,
        method="jwt",
        scopes=_scopes(claims),
        issuer=claims["iss"],
        claims={name: value for name, value in claims.items() if name not in _NOT_FOR_DECISIONS},
        expires_at_s=claims["exp"],
    )


def _scopes(claims: Mapping[str, Any]) -> frozenset[str]:
    """The scopes that exist, from whichever claim the issuer uses. Unknown ones are not ours to judge."""
    found: set[str] = set()
    for claim in _SCOPE_CLAIMS:
        value = claims.get(claim)
        names = value.split() if isinstance(value, str) else value if isinstance(value, list) else []
        found.update(name for name in names if isinstance(name, str))
    return frozenset(found.intersection(SCOPES))
