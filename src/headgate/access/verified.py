"""Credentials that held a moment ago: checked once, and not again at every call."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import msgspec

from headgate.access.revocations import Mark
from headgate.model.caller import Caller

RECHECK_MS = 60_000
"""The longest that a credential is taken without being checked again, if checking it again may say otherwise."""
MOST = 10_000


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """A credential that holds until `until_ms`, unless a mark is revoked or its keys have changed."""

    caller: Caller
    checked_ms: int
    until_ms: int
    marks: tuple[Mark, ...]
    """By which it can be revoked."""
    keys_stand: Callable[[], bool] = lambda: True
    """Whether the issuer's keys are still those that it was checked by."""

    def holds_at(self, now_ms: int) -> bool:
        """Whether it need not be checked anew, but for its revocation. A clock that was set back makes nothing last."""
        return self.checked_ms <= now_ms < self.until_ms and self.keys_stand()


class VerifiedCredentials:
    """The newest of them, by the SHA-256 of the credential: the credential itself is not kept."""

    def __init__(self) -> None:
        self._known: dict[bytes, Verified] = {}

    def find(self, credential: str, now_ms: int) -> Verified | None:
        """What is known of it, if that still holds but for its revocation."""
        name = _name(credential)
        known = self._known.get(name)
        if known is None:
            return None
        return known if known.holds_at(now_ms) else None

    def keep(self, credential: str, verified: Verified) -> Verified:
        """Remembers it, and answers what is remembered, in the place of the oldest where there are too many.

        One that was checked anew, and says the same of its caller, goes on with the very same: much is made of it.
        """
        name = _name(credential)
        before = self._known.pop(name, None)
        if before is not None and before.caller == verified.caller:
            verified = msgspec.structs.replace(verified, caller=before.caller)
        if len(self._known) >= MOST:
            del self._known[next(iter(self._known))]
        self._known[name] = verified
        return verified


def _name(credential: str) -> bytes:
    return hashlib.sha256(credential.encode()).digest()
