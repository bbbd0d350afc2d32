"""Seals cursors, so that one is of use to the grant and for the question that it was given to, and tells nothing.

AES-SIV (RFC 5297): the same cursor seals to the same text, as a call that is run again must answer the same.
"""

from __future__ import annotations

import base64
import binascii
import hmac

from headgate.errors import InvalidArguments

_LABEL = b"headgate cursor 1"


def seal(place: bytes, bound_to: bytes, key: bytes) -> str:
    """Opaque text that holds a place, for whoever asks the same under the same grant."""
    from cryptography.hazmat.primitives.ciphers.aead import AESSIV

    sealed = AESSIV(_derived(key)).encrypt(place, [bound_to])
    return base64.urlsafe_b64encode(sealed).rstrip(b"=").decode()


def unseal(text: str, bound_to: bytes, key: bytes) -> bytes:
    """The place. InvalidArguments for what was sealed for another question, for another caller, or not by us."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESSIV

    try:
        sealed = base64.b64decode(text.encode() + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
        return AESSIV(_derived(key)).decrypt(sealed, [bound_to])
    except (binascii.Error, UnicodeEncodeError, ValueError, InvalidTag) as error:
        raise InvalidArguments(
            "this cursor belongs to another query, or to what you were allowed before: repeat the query without it"
        ) from error


def _derived(key: bytes) -> bytes:
    return hmac.digest(key, _LABEL, "sha512")
