"""Callers that a proxy before us has identified by their client certificates (mutual TLS)."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, IPvAnyNetwork

from headgate.access.issuer import Scope
from headgate.access.refusal import refusal
from headgate.model.caller import Caller

EVERYONE = "*"
_LONGEST_SUBJECT = 512
_OTHERS = frozenset({"authorization", "host", "origin", "cookie", "content-type", "content-length", "accept"})


def _free(name: str) -> str:
    if name in _OTHERS or name.startswith(("mcp-", "x-forwarded-")):
        raise ValueError("that header has another meaning: choose one that only the proxy sets")
    return name


class ProxyConfig(BaseModel):
    """A proxy that ends TLS, checks the client's certificate, and names its subject in a header.

    It must set or remove the header on every request. From any other address the header is refused.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    trusted: list[IPvAnyNetwork] = Field(min_length=1)
    """The addresses that the proxy calls from, such as `127.0.0.1/32`."""
    subject_header: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,64}$"), AfterValidator(_free)] = "x-client-subject"
    """In small letters."""
    scopes: Mapping[str, list[Scope]] = {}
    """Subject → its scopes; `*` gives those of every subject that is not named."""

    def trusts(self, peer: str) -> bool:
        """Whether a request from this address is the proxy's, so that its header says the truth."""
        try:
            address = ipaddress.ip_address(peer)
        except ValueError:
            return False
        mapped = getattr(address, "ipv4_mapped", None)  # as a socket of both families writes IPv4
        return any((mapped or address) in network for network in self.trusted)

    def caller(self, subject: str) -> Caller:
        """Who the trusted header names. Unauthenticated when that can't be a subject."""
        if len(subject) > _LONGEST_SUBJECT or not subject.isprintable():
            raise refusal("malformed")
        given = self.scopes.get(subject, self.scopes.get(EVERYONE, ()))
        return Caller(subject=subject, method="mtls", scopes=frozenset(given))
