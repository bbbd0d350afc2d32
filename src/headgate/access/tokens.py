"""Whose key signed a token: the issuers of the config, each with its own key or with those that it publishes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from headgate.access.issuer import Issuer
from headgate.access.jwks import KeySet
from headgate.access.refusal import refusal
from headgate.errors import Unauthenticated
from headgate.telemetry import Clock

if TYPE_CHECKING:
    from headgate.access.token import Claimed

KeysStand = Callable[[], bool]
"""Whether the keys that an issuer publishes are those that they were."""
_LESS_THAN_A_SIGNATURE = ("bad_signature", "unknown_kid")


class Tokens:
    """Checks tokens against these issuers. For one event loop."""

    def __init__(self, issuers: Sequence[Issuer], clock: Clock) -> None:
        self._issuers = [(issuer, _key_set(issuer, clock)) for issuer in issuers]

    async def verify(self, token: str) -> tuple[Mapping[str, Any], KeysStand | None]:
        """The claims, from the first issuer of that name whose key signed them for its audience.

        Also answers what tells later whether that issuer's keys are still the same; None where its one key is the
        config's own, so that checking the token again could say nothing else. Unauthenticated otherwise;
        Unavailable when the issuer's keys can't be fetched. Times are not looked at.
        """
        # PyJWT is slow to load, and stdio has no use for it.
        from headgate.access.token import claimed

        claim = claimed(token)
        nearest: Unauthenticated | None = None
        for issuer, published in self._issuers:
            if issuer.issuer != claim.issuer:
                continue
            try:
                return await _verify(token, claim, issuer, published)
            except Unauthenticated as error:
                # The nearest miss is the one to record: a signature that held says more than one that did not.
                if nearest is None or nearest.details["reason"] in _LESS_THAN_A_SIGNATURE:
                    nearest = error
        raise nearest or refusal("wrong_issuer")


async def _verify(
    token: str, claim: Claimed, issuer: Issuer, published: KeySet | None
) -> tuple[Mapping[str, Any], KeysStand | None]:
    from headgate.access.token import decode_token

    own = issuer.own_key()
    if own is not None:
        return decode_token(token, issuer, own, issuer.algorithms), None
    assert published is not None, "an issuer has a key of its own or publishes its keys"
    if claim.algorithm not in issuer.algorithms:
        raise refusal("bad_signature")
    key = await published.find(claim.kid, claim.algorithm)
    if key is None:
        raise refusal("unknown_kid")
    version = published.version
    return decode_token(token, issuer, key, [claim.algorithm]), lambda: published.version == version


def _key_set(issuer: Issuer, clock: Clock) -> KeySet | None:
    return None if issuer.jwks is None else KeySet(issuer.jwks, issuer.issuer, issuer.algorithms, clock)
