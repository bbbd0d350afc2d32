"""Keys that an issuer publishes by URL: a JSON Web Key Set (RFC 7517), fetched, kept and rotated."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlsplit

import msgspec
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FilePath

from headgate.errors import Unavailable
from headgate.model.finding import Finding
from headgate.telemetry import Clock, logger

if TYPE_CHECKING:
    from headgate.access.public_key import PublicKey

FETCH_S = 5.0
"""How long one document may take."""
LARGEST_BYTES = 256 * 1024
MOST_KEYS = 100

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_DISCOVERY = "/.well-known/openid-configuration"
_Name = tuple[str | int, str]
"""A key's id, or its place where it has none, and its algorithm."""
_log = logger("access.jwks")


def safe_url(url: str) -> str:
    """The URL, if nobody on the way can change what it answers. ValueError otherwise."""
    parts = urlsplit(url)
    if parts.username or parts.password:
        raise ValueError("a URL of keys holds no user or password: the keys are public")
    if not parts.hostname or not (parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)):
        raise ValueError("a URL of keys begins with https:// (http:// on this machine alone)")
    return url


class JwksConfig(BaseModel):
    """Where an issuer's keys are published, and for how long they hold."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    url: Annotated[str, AfterValidator(safe_url)] | None = None
    """The key set's URL; unless set, the one that the issuer's OpenID configuration names (OpenID Discovery)."""
    refresh_s: float = Field(300.0, gt=0)
    """How old the keys may be before they are fetched again in the background: a key that the issuer has
    withdrawn holds for that long, and a minute."""
    refetch_s: float = Field(10.0, gt=0)
    """The least time between two fetches: strangers with unknown keys can't make us fetch more often."""
    grace_s: float = Field(3_600.0, gt=0)
    """How long the last keys hold while the URL does not answer."""
    ca: FilePath | None = None
    """Authorities that may sign the URL's certificate (PEM); the system's unless set."""


class KeySet:
    """One issuer's keys. For one event loop.

    Fetched when first needed, again in the background once they are old, and at once for a `kid` that is not
    known, but never more often than every `refetch_s`; all who need a fetch share the one under way. Redirects
    are not followed.
    """

    def __init__(self, config: JwksConfig, issuer: str, algorithms: Collection[str], clock: Clock) -> None:
        self.version = 0
        """Grows whenever the issuer's keys are others than before."""
        self._config = config
        self._issuer = issuer
        self._algorithms = algorithms
        self._clock = clock
        self._keys: Mapping[_Name, PublicKey] = {}
        self._document: object = None
        self._fetched_ms: int | None = None
        self._tried_ms: int | None = None
        self._failed = False
        self._fetching: asyncio.Task[None] | None = None

    async def find(self, kid: str | None, algorithm: str) -> PublicKey | None:
        """The key of this id that checks this algorithm; without an id the only key that does. None: there is none.

        Unavailable when the keys could not be fetched, so that nobody can tell.
        """
        await self._ensure_held()
        found = self._held(kid, algorithm)
        if found is None and (self._fetching is not None or self._may_fetch()):
            await asyncio.shield(self._fetch())
            found = self._held(kid, algorithm)
        if found is None and self._failed:
            raise self._unavailable()
        return found

    async def diagnose(self, part: str) -> Finding:
        """What `doctor` says: whether they can be fetched now, and how many fit. Keeps nothing; never raises."""
        try:
            async with asyncio.timeout(FETCH_S):
                keys = _keys_of(await self._document_of_keys(), self._algorithms)
        except Exception as error:  # a library's or the network's
            mend = "see that this machine reaches jwks.url; jwks.ca names an authority of your own that signed for it"
            message = f"its keys can't be fetched: {_why(error)}"
            return Finding(level="error", part=part, message=message, mend=mend)
        return Finding(level="ok", part=part, message=f"its keys are published, fitting: {len(keys)}")

    async def _ensure_held(self) -> None:
        """Returns with keys that hold, fetched now if need be."""
        if self._is_older_than(self._config.grace_s):
            if self._fetching is not None or self._may_fetch():
                await asyncio.shield(self._fetch())
            if self._is_older_than(self._config.grace_s):
                raise self._unavailable()
        elif self._is_older_than(self._config.refresh_s) and self._may_fetch():
            self._fetch()

    def _held(self, kid: str | None, algorithm: str) -> PublicKey | None:
        if kid is not None:
            return self._keys.get((kid, algorithm))
        fitting = [key for (_, known), key in self._keys.items() if known == algorithm]
        return fitting[0] if len(fitting) == 1 else None

    def _is_older_than(self, seconds: float) -> bool:
        return self._fetched_ms is None or not 0 <= self._clock() - self._fetched_ms < seconds * 1000

    def _may_fetch(self) -> bool:
        return self._tried_ms is None or not 0 <= self._clock() - self._tried_ms < self._config.refetch_s * 1000

    def _unavailable(self) -> Unavailable:
        return Unavailable(
            "the keys of this token's issuer can't be fetched now: try again", retry_after_s=self._config.refetch_s
        )

    def _fetch(self) -> asyncio.Task[None]:
        """The one fetch that is under way. It never fails: what went wrong is remembered."""
        if self._fetching is None:
            self._tried_ms = self._clock()
            self._fetching = asyncio.create_task(self._fetch_now())
            self._fetching.add_done_callback(self._fetch_ended)
        return self._fetching

    def _fetch_ended(self, _: asyncio.Task[None]) -> None:
        self._fetching = None

    async def _fetch_now(self) -> None:
        began = self._clock()
        try:
            async with asyncio.timeout(FETCH_S):
                document = await self._document_of_keys()
            keys = _keys_of(document, self._algorithms)
        except Exception as error:  # a library's or the network's: whatever it was, the keys are as they were
            self._failed = True
            _log.warning("the keys of issuer %s can't be fetched: %s", self._issuer, _why(error))
            return
        if document != self._document:
            self.version += 1
        self._failed, self._fetched_ms = False, began
        self._document, self._keys = document, keys

    async def _document_of_keys(self) -> Any:
        tls = ssl.create_default_context(cafile=str(self._config.ca)) if self._config.ca else None
        url = self._config.url or await self._discovered(tls)
        return await _fetch_json(url, tls)

    async def _discovered(self, tls: ssl.SSLContext | None) -> str:
        """The URL that the issuer itself names (OpenID Connect Discovery 1.0 §4)."""
        found = await _fetch_json(safe_url(self._issuer.rstrip("/") + _DISCOVERY), tls)
        if not isinstance(found, dict) or found.get("issuer") != self._issuer:
            raise ValueError("its OpenID configuration is another issuer's")
        return safe_url(str(found.get("jwks_uri", "")))


def _keys_of(document: object, algorithms: Collection[str]) -> dict[_Name, PublicKey]:
    """The keys that check tokens, by id and algorithm. ValueError when it is no key set, or none of them fits."""
    listed: Any = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list) or len(listed) > MOST_KEYS:
        raise ValueError(f"it is no key set of at most {MOST_KEYS} keys")
    keys: dict[_Name, PublicKey] = {}
    for number, jwk in enumerate(listed):
        if not isinstance(jwk, dict):
            continue
        for algorithm, key in _public_key(jwk, algorithms):
            kid = jwk.get("kid")
            # One without an id is found by its algorithm alone: no token's id is a number.
            keys.setdefault((kid if isinstance(kid, str) else number, algorithm), key)
    if not keys:
        raise ValueError("it holds no key that fits the issuer's algorithms")
    return keys


def _public_key(jwk: Mapping[str, Any], algorithms: Collection[str]) -> Sequence[tuple[str, PublicKey]]:
    """The key and the algorithm that it checks, if that is one of these; nothing otherwise (RFC 7517 §4 and §5)."""
    from jwt import PyJWK, PyJWTError

    from headgate.access.public_key import algorithm_of

    if not _checks_signatures(jwk):
        return ()
    try:
        key = PyJWK(dict(jwk)).key
    except (PyJWTError, ValueError, TypeError, KeyError, AttributeError):
        return ()  # of a sort that we don't know, which RFC 7517 §5 has us pass over
    algorithm = algorithm_of(key)
    if algorithm is None or algorithm not in algorithms or jwk.get("alg", algorithm) != algorithm:
        return ()
    return ((algorithm, key),)


def _checks_signatures(jwk: Mapping[str, Any]) -> bool:
    """Whether it is public, and meant for nothing but signatures."""
    operations = jwk.get("key_ops", ["verify"])
    return jwk.get("use", "sig") == "sig" and isinstance(operations, list) and "verify" in operations and "d" not in jwk


async def _fetch_json(url: str, tls: ssl.SSLContext | None) -> Any:
    """A JSON document of bounded size. Redirects lead elsewhere, and are not followed."""
    import httpx2

    headers = {"accept": "application/json, application/jwk-set+json", "accept-encoding": "identity"}
    body = bytearray()
    async with (
        httpx2.AsyncClient(verify=tls or True, follow_redirects=False, timeout=FETCH_S) as client,
        client.stream("GET", url, headers=headers) as response,
    ):
        if response.status_code != 200:
            raise ValueError(f"the URL answers status {response.status_code}")
        async for part in response.aiter_raw():
            body += part
            if len(body) > LARGEST_BYTES:
                raise ValueError(f"the URL answers more than {LARGEST_BYTES} bytes")
    return msgspec.json.decode(bytes(body))


def _why(error: Exception) -> str:
    return str(error) if isinstance(error, ValueError) else type(error).__name__
