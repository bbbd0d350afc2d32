"""The key that signs checkpoints: Ed25519 (RFC 8032), in the data folder, made when it is first needed."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from headgate.errors import ConfigError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

KEY_FILE = "audit.key"
"""In the data folder: PKCS 8 in PEM, for its owner alone."""
_LONGEST = 4_096


class Signer:
    """Signs by the data folder's key, which every process of the folder shares. Its methods block shortly."""

    def __init__(self, folder: Path) -> None:
        """Nothing is read or made before the first signature."""
        self._file = folder / KEY_FILE
        self._key: Ed25519PrivateKey | None = None

    @property
    def key_id(self) -> str:
        """Names the key: the first 16 hex digits of its public half's SHA-256. ConfigError as `sign`."""
        return key_id(self._loaded().public_key())

    def sign(self, data: bytes) -> bytes:
        """The signature. ConfigError when the key can't be read or made."""
        return self._loaded().sign(data)

    def public_pem(self) -> str:
        """The public half, to be kept where the trail is verified. ConfigError as `sign`."""
        return pem_of(self._loaded().public_key())

    def public(self) -> Ed25519PublicKey:
        """The public half. ConfigError as `sign`."""
        return self._loaded().public_key()

    def _loaded(self) -> Ed25519PrivateKey:
        if self._key is None:
            try:
                self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                self._key = _read(self._file) or _make(self._file)
            except (OSError, ValueError, TypeError) as error:
                raise ConfigError(
                    f"the key that signs the record, {KEY_FILE} in the data folder, can't be used: it must be an "
                    "Ed25519 key of ours with mode 0600, or be moved away to have a new one made"
                ) from error
        return self._key


def signature_of(text: str) -> bytes:
    """A signature from base64 in its one form. ValueError for every other text, also where it means the same bytes."""
    signature = base64.b64decode(text, validate=True)
    if base64.b64encode(signature).decode() != text:
        raise ValueError("base64 in another form")
    return signature


class PublicKeys:
    """The keys whose signatures are trusted."""

    def __init__(self, keys: Iterable[Ed25519PublicKey]) -> None:
        self._keys: Mapping[str, Ed25519PublicKey] = {key_id(key): key for key in keys}

    def knows(self, name: str) -> bool:
        """Whether the key of that id is one of them."""
        return name in self._keys

    def holds(self, name: str, signature: bytes, data: bytes) -> bool:
        """Whether the key of that id has signed the data."""
        from cryptography.exceptions import InvalidSignature

        try:
            self._keys[name].verify(signature, data)
        except (KeyError, InvalidSignature):
            return False
        return True


def public_key(pem: str) -> Ed25519PublicKey:
    """The key of a PEM text. ConfigError when it is no public Ed25519 key."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(pem.encode())
    except ValueError as error:
        raise ConfigError("this is no public key in PEM: `headgate audit key` prints one") from error
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigError("this is no Ed25519 key: `headgate audit key` prints one")
    return key


def public_key_in(folder: Path) -> Ed25519PublicKey | None:
    """The data folder's own, or None while nothing there was ever signed. ConfigError when it can't be used."""
    return Signer(folder).public() if (folder / KEY_FILE).exists() else None


def key_id(key: Ed25519PublicKey) -> str:
    """Names a key: the first 16 hex digits of the SHA-256 of its 32 bytes."""
    return sha256(key.public_bytes_raw()).hexdigest()[:16]


def pem_of(key: Ed25519PublicKey) -> str:
    """A public key as PEM."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def _read(file: Path) -> Ed25519PrivateKey | None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as opened:
        status = os.fstat(descriptor)
        if status.st_mode & 0o077 or status.st_uid != os.getuid():
            raise ValueError("others may read the key")
        key = load_pem_private_key(opened.read(_LONGEST), password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError("it is a key of another kind")
    return key


def _make(file: Path) -> Ed25519PrivateKey:
    """Writes it whole beside its place, then links it there: of two processes the first one's stays."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = Ed25519PrivateKey.generate()
    draft = file.with_name(f"{file.name}.{os.getpid()}.{key_id(key.public_key())}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
            opened.flush()
            os.fsync(descriptor)
        os.link(draft, file)
    except FileExistsError:
        key = _read(file) or key
    finally:
        draft.unlink()
    return key
