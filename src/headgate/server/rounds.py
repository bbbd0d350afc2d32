"""What a call of several rounds keeps between them, sealed so that its client can carry it to any process.

The client brings `requestState` back, and may have changed it (MCP 2026-07-28, "Multi Round-Trip Requests"): it is
encrypted and authenticated by AES-256-GCM (NIST SP 800-38D) under a key that all processes of one state share.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from typing import TYPE_CHECKING, Any

import mcp_types as types
import msgspec

from headgate.audit.event import payload_of
from headgate.errors import InvalidRequest, StateConflict
from headgate.state.base import State

if TYPE_CHECKING:
    from headgate.server.call import Call

TTL_MS = 600_000
"""How long a client may take for its answers."""

_KEY = "rounds/key"
_KEY_BYTES = 32
_NONCE_BYTES = 12
_LABEL = "headgate round 1"
_LONGEST = 64 * 1024


class _Kept(msgspec.Struct, frozen=True, array_like=True):
    until_ms: int
    value: Any


_decode = msgspec.msgpack.Decoder(_Kept).decode


async def seal(call: Call, value: Any) -> str:
    """Text that holds the value, for this caller, this method and these arguments, for ten minutes.

    Unavailable when the state, which holds the key, does not answer.
    """
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    key = await _key(call)
    nonce = call.rooms.random_bytes(_NONCE_BYTES)
    plain = msgspec.msgpack.encode(_Kept(call.rooms.clock() + TTL_MS, value))
    return base64.urlsafe_b64encode(nonce + AESGCM(key).encrypt(nonce, plain, _bound_to(call))).rstrip(b"=").decode()


async def unseal(call: Call) -> Any:
    """The value that came with the call; None when none came. InvalidRequest for one that was not sealed for it."""
    text = call.asked.request_state
    if not text:
        return None
    kept = _opened(text, await _key(call), _bound_to(call))
    if kept is None or kept.until_ms <= call.rooms.clock():
        raise InvalidRequest(
            "This request state is too old, or of another request: call again without it.",
            jsonrpc_code=types.INVALID_PARAMS,
        )
    return kept.value


def _opened(text: str, key: bytes, bound_to: bytes) -> _Kept | None:
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    if len(text) > _LONGEST:
        return None
    try:
        sealed = base64.b64decode(text.encode() + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
        return _decode(AESGCM(key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], bound_to))
    except (binascii.Error, UnicodeEncodeError, ValueError, InvalidTag, msgspec.MsgspecError):
        return None


def _bound_to(call: Call) -> bytes:
    """Who asks for what: state of one request is of no use in another."""
    who, asked = call.granted.caller.who, call.asked
    return msgspec.json.encode([_LABEL, who, asked.method, asked.name, payload_of(asked.arguments).sha256])


async def _key(call: Call) -> bytes:
    """The one key, made by whoever needs it first. Read each time: a state that lost it has another from then on."""
    return await asyncio.to_thread(_shared_key, call.rooms.state, call.rooms.random_bytes(_KEY_BYTES))


def _shared_key(state: State, fresh: bytes) -> bytes:
    found = state.get(_KEY)
    if found is not None:
        return found.value
    try:
        state.put(_KEY, fresh, expect=0)
    except StateConflict:
        return _shared_key(state, fresh)
    return fresh
