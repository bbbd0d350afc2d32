"""Which HTTP requests are let as far as the question of who asks."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from mcp.shared.inbound import (
    decode_header_value,
    find_invalid_x_mcp_header,
    validate_mcp_param_headers,
    x_mcp_header_map,
)
from mcp_types import HEADER_MISMATCH
from starlette.datastructures import Headers

from headgate.errors import InvalidRequest, OriginRefused

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")

_SINGLE = frozenset(
    {"host", "origin", "authorization", "content-type", "content-length"}
    | {"mcp-protocol-version", "mcp-method", "mcp-name", "mcp-session-id"}
)
"""Headers of which two copies would let two readers see two requests."""

_FORWARDING = frozenset({"forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via"})
_TOKEN_PARAMETERS = frozenset({"access_token", "token", "id_token", "api_key", "apikey", "key", "authorization"})

NAMED_BY_TASK = frozenset({"tasks/get", "tasks/update", "tasks/cancel"})
"""Methods whose `Mcp-Name` is a task's id (extension Tasks, "Streamable HTTP: Routing Headers")."""

RawHeaders = Iterable[tuple[bytes, bytes]]


@dataclass(frozen=True)
class Reach:
    """The names this server is reached by: `name` (at any port) or `name:port`, as in the Host header.

    `origins` are further origins, such as `https://app.example.com`, whose pages may call it. The default
    is loopback, where pages of any port of this machine may call.
    """

    hosts: tuple[str, ...] = LOOPBACK_NAMES
    origins: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "hosts", tuple(host.lower() for host in self.hosts))

    def check(self, headers: Mapping[str, str]) -> None:
        """OriginRefused when the Host or the Origin is another's, as after DNS rebinding (HTTP 421 and 403)."""
        if not self._is_ours(headers.get("host", "")):
            raise OriginRefused(
                "This server is not reached by that Host name: an operator can add it to `allowed_hosts`.",
                http_status=421,
            )
        origin = headers.get("origin")
        if origin is not None and origin not in self.origins and not self._is_our_page(origin):
            raise OriginRefused(
                "Pages of that Origin may not call this server: an operator can add it to `allowed_origins`.",
                http_status=403,
            )

    def _is_ours(self, host: str) -> bool:
        return host.lower() in self.hosts or _name_of(host) in self.hosts

    def _is_our_page(self, origin: str) -> bool:
        scheme, separator, host = origin.partition("://")
        return scheme in ("http", "https") and bool(separator) and self._is_ours(host)


@lru_cache(maxsize=256)
def _name_of(host: str) -> str:
    """The name without its port: `[::1]:80` → `[::1]`."""
    name, colon, port = host.lower().rpartition(":")
    return name if colon and port.isdigit() else host.lower()


def single_valued(raw: RawHeaders, *others: str) -> dict[str, str]:
    """The headers by name. InvalidRequest when one that decides something, or one of the `others`, comes twice."""
    pairs = list(raw)
    single = {name.decode("latin-1"): value.decode("latin-1") for name, value in pairs}
    if len(single) == len(pairs):
        return single
    counts = Counter(name.decode("latin-1") for name, _ in pairs)
    twice = sorted(name for name in _SINGLE.union(others) if counts[name] > 1)
    if twice:
        raise InvalidRequest(f"The header {twice[0]} comes more than once: send it once.", http_status=400)
    return single


def stripped(raw: RawHeaders) -> list[tuple[bytes, bytes]]:
    """The headers without blanks around their values, which httptools leaves (RFC 9110 §5.5 excludes them)."""
    return [(name.lower(), value.strip(b" \t")) for name, value in raw]


def bearer_of(headers: Mapping[str, str]) -> str | None:
    """The bearer token of the Authorization header (RFC 6750 §2.1); None when there is no such header.

    A header of another scheme is a credential that does not hold, and not the absence of one: empty text.
    """
    if "authorization" not in headers:
        return None
    scheme, _, token = headers["authorization"].partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def has_token_in_query(query: bytes) -> bool:
    """Whether the URL carries a credential, where logs and caches keep it."""
    if not query:
        return False
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    return any(name.lower() in _TOKEN_PARAMETERS for name, _ in pairs)


def is_from_this_machine(peer: str, headers: Mapping[str, str]) -> bool:
    """Whether a client on this machine asks by a loopback name, and no proxy asks for someone else."""
    return is_loopback(peer) and _name_of(headers.get("host", "")) in LOOPBACK_NAMES and _FORWARDING.isdisjoint(headers)


@lru_cache(maxsize=1_024)
def is_loopback(address: str) -> bool:
    """Whether the address, or the name `localhost`, is this machine's own."""
    try:
        return address == "localhost" or ipaddress.ip_address(address.strip("[]")).is_loopback
    except ValueError:
        return False


def check_types(headers: Mapping[str, str]) -> None:
    """InvalidRequest when the body is not JSON (HTTP 415) or the answer can't be taken (406).

    An answer may be JSON or an event stream, so a client accepts both (transports, "Sending Messages").
    """
    check_body_type(headers)
    if not _accepts_both(headers.get("accept", "")):
        raise InvalidRequest("Accept must name application/json and text/event-stream.", http_status=406)


def check_body_type(headers: Mapping[str, str]) -> None:
    """InvalidRequest when the body is not JSON (HTTP 415)."""
    if _media_type(headers.get("content-type", "")) != "application/json":
        raise InvalidRequest("The Content-Type must be application/json.", http_status=415)


def check_mirrored(schema: Mapping[str, Any], arguments: Mapping[str, Any], raw: RawHeaders) -> None:
    """InvalidRequest when the `Mcp-Param-*` headers are not what the arguments say (2026-07-28, "Custom Headers").

    A proxy may have decided by such a header. `schema` is the tool's: it names the arguments that are mirrored.
    """
    wrong = validate_mcp_param_headers(schema, arguments, Headers(raw=list(raw)))
    if wrong is not None:
        raise InvalidRequest(f"{wrong.message}.", http_status=400, jsonrpc_code=wrong.code)


def check_name(name: str, raw: RawHeaders) -> None:
    """InvalidRequest when `Mcp-Name` is not what the body names. For methods of which the SDK does not know it."""
    if decode_header_value(Headers(raw=list(raw)).get("mcp-name")) != name:
        raise InvalidRequest(
            "The header Mcp-Name must be the taskId of the body: send both.",
            http_status=400, jsonrpc_code=HEADER_MISMATCH,
        )  # fmt: skip


def are_mirrored(schema: Mapping[str, Any]) -> bool:
    """Whether any of a tool's arguments are to stand in headers too, by a schema that may ask for it."""
    return find_invalid_x_mcp_header(schema) is None and bool(x_mcp_header_map(schema))


@lru_cache(maxsize=256)
def _accepts_both(accept: str) -> bool:
    accepted = {_media_type(part) for part in accept.split(",")}
    return _accepts(accepted, "application", "json") and _accepts(accepted, "text", "event-stream")


def _accepts(accepted: set[str], kind: str, subtype: str) -> bool:
    return not accepted.isdisjoint({"*/*", f"{kind}/*", f"{kind}/{subtype}"})


@lru_cache(maxsize=256)
def _media_type(value: str) -> str:
    return value.partition(";")[0].strip().lower()


def base_url(headers: Mapping[str, str], scheme: str, public_url: str) -> str:
    """Where clients reach this server: `public_url` if the operator has set it, else by the checked Host."""
    if public_url:
        parts = urlsplit(public_url)
        return f"{parts.scheme}://{parts.netloc}"
    return f"{scheme}://{headers.get('host', 'localhost')}"
