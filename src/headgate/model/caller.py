"""Who asks, and what they may."""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import Any, Literal

import msgspec

from headgate.model.access import Given

SCOPES = (
    "pipelines:read", "pipelines:write", "data:read", "sql:read", "topics:read", "topics:write",
    "audit:read", "approvals:decide", "admin",
)  # fmt: skip

READ_SCOPES = frozenset(scope for scope in SCOPES if scope.endswith(":read"))

Method = Literal["jwt", "api_key", "mtls", "local", "anonymous"]


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """An authenticated identity. `claims` are those that decisions may use, never the credential."""

    subject: str
    method: Method
    scopes: frozenset[str]
    issuer: str = ""
    claims: dict[str, Any] = {}
    expires_at_s: float | None = None
    network: str = ""
    """Where an anonymous caller comes from, see `network_of`; of any other it does not count."""

    @property
    def is_anonymous(self) -> bool:
        """Whether nobody knows who it is."""
        return self.method == "anonymous"

    @property
    def who(self) -> tuple[str, ...]:
        """What tells this caller from others, whatever its scopes: what is one caller's is kept and counted by it.

        Anonymous callers of one network are one caller, and of two networks they are two.
        """
        known = (self.method, self.issuer, self.subject)
        return (*known, self.network) if self.is_anonymous else known


@lru_cache(maxsize=4_096)
def network_of(address: str) -> str:
    """The /24 or /48 of an IP address, which says enough of a caller nobody knows; empty for anything else."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    ip = getattr(ip, "ipv4_mapped", None) or ip  # as a socket of both families writes IPv4
    return str(ipaddress.ip_network((int(ip), 24 if ip.version == 4 else 48), strict=False))


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """What policy gives one caller. `policy_version` and `rules` say which policy and why."""

    caller: Caller
    scopes: frozenset[str]
    policy_version: str
    rules: tuple[str, ...]
    given: tuple[Given, ...] | None = None
    """What the rules of a policy's document give. None without a document: all that the scopes give."""
    fingerprint: str = ""
    """Of the caller and of all that is given: what one grant hands out (a cursor) is bound to it."""
    claims: bytes = b""
    """The claims that the rules ask for, as the caller has them: path → value, in JSON. Empty where it has none."""

    def allows(self, *scopes: str) -> bool:
        """Whether the grant holds all of these scopes. `admin` holds every one."""
        return "admin" in self.scopes or self.scopes.issuperset(scopes)

    def gives_tool(self, name: str) -> bool:
        """Whether a tool of that name exists for this caller, whatever scopes it needs."""
        return self.given is None or any(each.gives_tool(name) for each in self.given)

    def asking(self, tool: str) -> tuple[str, ...]:
        """The rules by which a call of that tool needs another person's yes, if it changes something."""
        return tuple(each.rule for each in self.given or () if each.asks_for(tool))
