"""Public keys, and the one algorithm that each goes with. Imported when a config names one, or a key set does."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey | Ed448PublicKey
_SHORTEST_RSA = 2048


def algorithm_of(key: Any) -> str | None:
    """The one algorithm that this key checks; None for a key that is too weak, of another sort, or not public."""
    if isinstance(key, RSAPublicKey) and key.key_size >= _SHORTEST_RSA:
        return "RS256"
    if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
        return "ES256"
    if isinstance(key, Ed25519PublicKey | Ed448PublicKey):
        return "EdDSA"
    return None


def checked_key(pem: str, algorithms: Iterable[str]) -> PublicKey:
    """The key of a PEM text. ValueError when it is none, too weak, or goes with another algorithm."""
    try:
        key: Any = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ValueError("public_key is no public key in PEM form (-----BEGIN PUBLIC KEY-----)") from error
    algorithm = algorithm_of(key)
    if algorithm is None:
        raise ValueError("public_key must be RSA of at least 2048 bits, P-256, Ed25519 or Ed448")
    if set(algorithms) != {algorithm}:
        raise ValueError(f"this public_key goes with the algorithm {algorithm} alone: name that one")
    checked: PublicKey = key
    return checked
