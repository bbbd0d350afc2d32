"""Why a caller is not let in: a sentence for the caller, a reason for the record."""

from __future__ import annotations

from typing import Literal

from headgate.errors import Unauthenticated

Reason = Literal[
    "missing", "in_query", "malformed", "wrong_issuer", "bad_signature", "wrong_audience", "claim_missing",
    "expired", "not_yet_valid", "unknown_key", "unknown_kid", "revoked", "proxy_untrusted",
]  # fmt: skip
"""Why a caller was refused: for the record, in the error's `details["reason"]`."""

_INVALID = "This credential does not hold: get a new one."
_MESSAGES: dict[Reason, str] = {
    "missing": "This needs a credential: send the header `Authorization: Bearer`, then a token or an API key.",
    "in_query": "A credential in the query string is never taken: send the header `Authorization: Bearer` instead.",
    "expired": "This credential has expired: get a new one.",
}


def refusal(reason: Reason) -> Unauthenticated:
    return Unauthenticated(_MESSAGES.get(reason, _INVALID), reason=reason)
