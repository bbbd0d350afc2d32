"""What a caller may: by the scopes of its credential and, where there is one, by the policy's document."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

import msgspec

from headgate.access.sight import Kept, Lenses
from headgate.errors import Forbidden
from headgate.model.access import Given
from headgate.model.caller import SCOPES, Caller, Grant

if TYPE_CHECKING:
    from headgate.access.rules import Rules

_RULE = "scopes"
_DESCRIPTION = {"form": 1, "rules": [{"name": _RULE, "grants": "credential", "scopes": SCOPES}]}
_GRANTS = 8_192
_encode = msgspec.msgpack.Encoder(order="sorted").encode


class Edition:
    """One version of the policy: all that a decision needs. Without rules, the scopes are the whole policy."""

    def __init__(self, version: str, rules: Rules | None = None) -> None:
        self.version = version
        """The digest of what this policy says: another policy has another version."""
        self.rules = rules
        self._claims_used = sorted(rules.claims_used) if rules else ()
        self._grants = Kept(_GRANTS)
        self._given = Kept(_GRANTS)
        self._latest = Kept(_GRANTS)
        """By the caller's own place in memory, which its credential keeps as long as it holds."""

    @classmethod
    def of(cls, text: str, shown: str = "policy", changing: Collection[str] | None = None) -> Edition:
        """The edition of a document's text. ConfigError names every mistake by `shown` and its line.

        `changing` are the tools that may need an approval; None: which they are is not looked at.
        """
        # Imported here, so that a server without a document starts without its form.
        from headgate.access.document import parse_document, version_of
        from headgate.access.rules import Rules

        return cls(version_of(text), Rules(parse_document(text, shown, changing), changing))

    def decide(self, caller: Caller) -> Grant:
        """The grant. Made once for each caller with the same scopes and claims that rules ask for."""
        known: Grant | None = self._latest.get(id(caller))
        if known is None or known.caller is not caller:
            known = self._decide(caller)
            self._latest.pop(id(caller), None)
            self._latest.take(id(caller), lambda: known)
        return known

    def _decide(self, caller: Caller) -> Grant:
        if self.rules is None:
            return Grant(caller=caller, scopes=_known(caller), policy_version=self.version, rules=(_RULE,))
        claims = [caller.claims.get(name) for name in self._claims_used]
        place = (caller.subject, caller.issuer, caller.method, caller.scopes, _encode(claims) if claims else b"")
        grant: Grant = self._grants.take(place, lambda: self._made(caller))
        return grant if grant.caller is caller else msgspec.structs.replace(grant, caller=caller)

    def _made(self, caller: Caller) -> Grant:
        assert self.rules is not None, "only rules give more or less than the scopes"
        given, claims = self._same(self.rules.given(caller)), self.rules.claims_of(caller)
        identity = [self.version, caller.subject, caller.issuer, caller.method, given]
        return Grant(
            caller=caller,
            scopes=_known(caller),
            policy_version=self.version,
            rules=tuple(each.rule for each in given),
            given=given,
            fingerprint=hashlib.sha256(_encode(identity)).hexdigest(),
            claims=msgspec.json.encode(claims, order="sorted") if claims else b"",
        )

    def _same(self, given: tuple[Given, ...]) -> tuple[Given, ...]:
        """What another caller was given already, if it is the same: what is made of it is then made once for both."""
        same: tuple[Given, ...] = self._given.take(hashlib.sha256(_encode(given)).digest(), lambda: given)
        return same


class Policy:
    """Turns callers into grants. The same caller gets the same grant under the same version.

    `key` is what hashes of values and cursors are made with: the same in every process that serves the same data.
    `adopt` may be called from any thread; a decision is made wholly by one edition.
    """

    def __init__(self, edition: Edition | None = None, key: bytes = b"") -> None:
        self._edition = edition or Edition(_version_of(_DESCRIPTION))
        self.key = key or secrets.token_bytes(32)
        self.lenses = Lenses(self.key)

    @property
    def edition(self) -> Edition:
        """What holds now."""
        return self._edition

    @property
    def version(self) -> str:
        """The version of what holds now."""
        return self._edition.version

    def adopt(self, edition: Edition) -> None:
        """From now on this edition decides. Calls under way keep their grants."""
        self._edition = edition

    def decide(self, caller: Caller) -> Grant:
        """The grant: the scopes of the credential that exist, and what the document's rules give this caller."""
        return self._edition.decide(caller)


def require(grant: Grant, scopes: Iterable[str]) -> None:
    """Returns if the grant holds all of these scopes. Forbidden otherwise, naming all and those that lack."""
    asked = frozenset(scopes)
    if grant.allows(*asked):
        return
    needed = sorted(asked)
    missing = [scope for scope in needed if scope not in grant.scopes]
    raise Forbidden(
        f"This needs {_scopes(needed)}, and the credential lacks {', '.join(missing)}: ask for one that has them.",
        needed,
    )


def _known(caller: Caller) -> frozenset[str]:
    return caller.scopes & frozenset(SCOPES)


def _scopes(names: list[str]) -> str:
    return f"the scope{'s' if len(names) > 1 else ''} {', '.join(names)}"


def _version_of(description: object) -> str:
    canonical = msgspec.json.encode(description, order="sorted")
    return f"sha256:{hashlib.sha256(canonical).hexdigest()}"
