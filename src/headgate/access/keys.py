"""API keys: made by the operator, shown once, kept as digests in `state`, revocable at any time."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterable

import msgspec

from headgate.access.revocations import Mark, Revocations
from headgate.access.verified import RECHECK_MS
from headgate.errors import ConfigError, StateConflict, Unauthenticated
from headgate.model.caller import SCOPES, Caller
from headgate.state.base import Entry, State
from headgate.telemetry import Clock

PREFIX = "hg_"
"""What every key's text starts with, so that leaked ones are found by scanners."""
SHOWN_MS = 30 * 24 * 3_600_000
"""How long an expired or revoked key is still listed."""

_STATE = "apikey/"
_REMEMBERED_MS = 10 * RECHECK_MS
_TEXT = re.compile(PREFIX + r"([0-9a-f]{12})_[A-Za-z0-9_-]{43}")
_REFUSED = "This API key does not hold: ask the operator for a new one."
_EXPIRED = "This API key has expired: ask the operator for a new one."


class KeyInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What anyone who administers keys may see of one: never the key."""

    id: str
    name: str
    scopes: tuple[str, ...]
    created_ms: int
    expires_ms: int | None = None
    revoked_ms: int | None = None


class _Kept(msgspec.Struct, frozen=True):
    """What `state` holds of a key."""

    info: KeyInfo
    sha256: str


class ApiKeys:
    """The keys in one `state`. Its methods block for about a millisecond and may be called from any thread.

    Unavailable when the state does not answer: then no key holds. `Identity` remembers keys that held, and
    sees by `revocations` which of them do no longer.
    """

    def __init__(
        self, state: State, clock: Clock, *, random_bytes: Callable[[int], bytes] = secrets.token_bytes
    ) -> None:
        self._state = state
        self._clock = clock
        self._random_bytes = random_bytes
        self.revocations = Revocations(state, clock)

    def make(self, name: str, scopes: Iterable[str], ttl_s: float | None = None) -> tuple[str, str]:
        """A new key: its id, and its text `hg_<id>_<secret>`, which is kept nowhere and shown this once.

        The secret is 256 random bits. Without `ttl_s` it holds until it is revoked. ConfigError when a
        scope does not exist or the time is not positive.
        """
        wanted = _known(scopes)
        if ttl_s is not None and ttl_s <= 0:
            raise ConfigError("a key's time to live must be longer than nothing: give a positive one")
        now = self._clock()
        while True:
            key_id = self._random_bytes(6).hex()
            text = f"{PREFIX}{key_id}_{_base64(self._random_bytes(32))}"
            expires_ms = None if ttl_s is None else now + int(ttl_s * 1000)
            info = KeyInfo(id=key_id, name=name, scopes=wanted, created_ms=now, expires_ms=expires_ms)
            try:
                self._keep(_Kept(info, _digest(text)), expect=0)
            except StateConflict:
                continue  # the id is taken
            return key_id, text

    def revoke(self, key_id: str) -> bool:
        """Ends a key; answers whether there was one to end. Every process refuses it within five seconds."""
        while True:
            entry = self._state.get(_STATE + key_id)
            kept = entry and _decode(entry)
            if entry is None or not kept or kept.info.revoked_ms is not None:
                return False
            info = msgspec.structs.replace(kept.info, revoked_ms=self._clock())
            # For those who remember it, first: if we end in between, the key is still listed as one that holds.
            self.revocations.revoke(Mark("api_key", key_id), _REMEMBERED_MS)
            try:
                self._keep(_Kept(info, kept.sha256), expect=entry.version)
            except StateConflict:
                continue
            return True

    def list(self) -> list[KeyInfo]:
        """All keys, the oldest first; expired and revoked ones for thirty days more."""
        kept = map(_decode, self._state.scan(_STATE).values())
        return sorted((key.info for key in kept), key=lambda info: (info.created_ms, info.id))

    def verify(self, text: str) -> Caller:
        """Who holds this key. Unauthenticated otherwise; `details["reason"]` says why, for the call event."""
        match = _TEXT.fullmatch(text)
        kept = self._find(match[1]) if match else None
        # An unknown id and a wrong secret take the same way, so that neither tells which keys exist.
        if not hmac.compare_digest(_digest(text), kept.sha256 if kept else "") or kept is None:
            raise Unauthenticated(_REFUSED, reason="unknown_key")
        info = kept.info
        if info.revoked_ms is not None:
            raise Unauthenticated(_REFUSED, reason="revoked")
        if info.expires_ms is not None and info.expires_ms <= self._clock():
            raise Unauthenticated(_EXPIRED, reason="expired")
        return Caller(
            subject=info.id,
            method="api_key",
            scopes=frozenset(info.scopes) & frozenset(SCOPES),
            claims={"name": info.name},
            expires_at_s=None if info.expires_ms is None else info.expires_ms / 1000,
        )

    def _keep(self, kept: _Kept, *, expect: int) -> None:
        info, now = kept.info, self._clock()
        end_ms = info.expires_ms if info.revoked_ms is None else info.revoked_ms
        ttl_ms = None if end_ms is None else max(end_ms - now, 0) + SHOWN_MS
        self._state.put(_STATE + info.id, msgspec.json.encode(kept), expect=expect, ttl_ms=ttl_ms)

    def _find(self, key_id: str) -> _Kept | None:
        entry = self._state.get(_STATE + key_id)
        return None if entry is None else _decode(entry)


def _known(scopes: Iterable[str]) -> tuple[str, ...]:
    wanted = tuple(sorted(set(scopes)))
    unknown = [scope for scope in wanted if scope not in SCOPES]
    if unknown:
        raise ConfigError(f"there is no scope {', '.join(unknown)}: choose from {', '.join(SCOPES)}")
    return wanted


def _decode(entry: Entry) -> _Kept:
    return msgspec.json.decode(entry.value, type=_Kept)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


def _base64(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()
