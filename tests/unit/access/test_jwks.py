"""Published keys, from a real server on this machine: rotated, withdrawn, out of reach, and not what they should be."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from headgate.access.jwks import LARGEST_BYTES, MOST_KEYS, JwksConfig, KeySet
from headgate.errors import Unavailable
from tests.ways.deployment import until, until_async

RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()
ALL = ("RS256", "ES256", "EdDSA")
ISSUER = "https://login.example"


class Hand:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now_ms = 1_700_000_000_000

    def __call__(self) -> int:
        return self.now_ms


class Endpoint:
    """A server of documents; it counts how often each is asked for."""

    def __init__(self) -> None:
        self.documents: dict[str, Any] = {}
        self.asked: list[str] = []
        self.headers: dict[str, str] = {}
        self.status = 200
        self.base = ""
        self.held = threading.Event()
        self.held.set()
        """Answers wait while it is not set."""

    def publish(self, *keys: dict[str, Any], path: str = "/keys") -> None:
        self.documents[path] = {"keys": list(keys)}

    @property
    def url(self) -> str:
        return f"{self.base}/keys"


@contextmanager
def endpoint() -> Iterator[Endpoint]:
    state = Endpoint()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.asked.append(self.path)
            state.held.wait(30)
            document = state.documents.get(self.path)
            body = document if isinstance(document, bytes) else json.dumps(document).encode()
            self.send_response(state.status if document is not None else 404)
            for name, value in {"content-length": str(len(body)), **state.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.base = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        state.held.set()
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def served() -> Iterator[Endpoint]:
    with endpoint() as state:
        yield state


@pytest.fixture
def clock() -> Hand:
    return Hand()


def jwk(key: Any, kid: str | None = "k1", **more: Any) -> dict[str, Any]:
    """The public half of a key, as an issuer publishes it."""
    algorithm: Any = {rsa.RSAPrivateKey: RSAAlgorithm, ec.EllipticCurvePrivateKey: ECAlgorithm}
    made = next((found for kind, found in algorithm.items() if isinstance(key, kind)), OKPAlgorithm)
    published: dict[str, Any] = made.to_jwk(key.public_key(), as_dict=True)
    published.pop("key_ops", None)
    return {**published, **({} if kid is None else {"kid": kid}), **more}


def key_set(served: Endpoint, clock: Hand, **config: Any) -> KeySet:
    return KeySet(JwksConfig(**{"url": served.url, **config}), ISSUER, ALL, clock)


async def test_keys_are_found_by_id_and_algorithm_and_fetched_once(served: Endpoint, clock: Hand) -> None:
    served.publish(jwk(RSA_KEY, "r"), jwk(EC_KEY, "e"), jwk(ED_KEY, "d", use="sig", alg="EdDSA"))
    keys = key_set(served, clock)
    assert await keys.find("r", "RS256") == RSA_KEY.public_key()
    assert await keys.find("e", "ES256") == EC_KEY.public_key()
    assert await keys.find("d", "EdDSA") == ED_KEY.public_key()
    for kid, algorithm in (("r", "ES256"), ("e", "EdDSA"), ("d", "RS256"), ("x", "RS256")):
        assert await keys.find(kid, algorithm) is None
    assert len(served.asked) == 1


async def test_without_an_id_the_only_key_of_its_algorithm_is_meant(served: Endpoint, clock: Hand) -> None:
    served.publish(jwk(RSA_KEY, None), jwk(EC_KEY, "a"), jwk(ec.generate_private_key(ec.SECP256R1()), "b"))
    keys = key_set(served, clock)
    assert await keys.find(None, "RS256") == RSA_KEY.public_key()
    assert await keys.find(None, "ES256") is None
    assert await keys.find(None, "EdDSA") is None


@pytest.mark.parametrize(
    "unfit",
    [
        {"kty": "oct", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0", "kid": "k1"},
        jwk(rsa.generate_private_key(65537, 1024)),
        jwk(ec.generate_private_key(ec.SECP384R1())),
        jwk(RSA_KEY, use="enc"),
        jwk(RSA_KEY, key_ops=["encrypt"]),
        jwk(RSA_KEY, key_ops=7),
        jwk(RSA_KEY, alg="RS512"),
        jwk(RSA_KEY, alg="PS256"),
        {**jwk(ED_KEY), "d": "c2VjcmV0"},
        {"kty": "RSA", "kid": "k1"},
        {"kty": "new", "kid": "k1"},
        {"kid": "k1"},
    ],
    ids=lambda unfit: f"{unfit.get('kty')}-{'-'.join(sorted(unfit))}"[:40],
)
async def test_a_key_that_is_not_for_our_signatures_is_passed_over(
    served: Endpoint, clock: Hand, unfit: dict[str, Any]
) -> None:
    served.publish(unfit, jwk(EC_KEY, "e"))
    keys = key_set(served, clock)
    assert await keys.find("e", "ES256") == EC_KEY.public_key()
    for algorithm in ALL:
        assert await keys.find("k1", algorithm) is None


async def test_a_new_key_is_taken_at_once_and_a_withdrawn_one_no_longer(served: Endpoint, clock: Hand) -> None:
    served.publish(jwk(EC_KEY, "old"))
    keys = key_set(served, clock)
    assert await keys.find("old", "ES256")
    before = keys.version
    served.publish(jwk(RSA_KEY, "new"))
    clock.now_ms += 10_000
    assert await keys.find("new", "RS256") == RSA_KEY.public_key()
    assert keys.version > before
    assert await keys.find("old", "ES256") is None
    assert len(served.asked) == 2


async def test_strangers_can_not_make_us_fetch_more_than_once_in_ten_seconds(served: Endpoint, clock: Hand) -> None:
    served.publish(jwk(EC_KEY, "known"))
    keys = key_set(served, clock)
    for number in range(50):
        assert await keys.find(f"guess-{number}", "ES256") is None
    assert len(served.asked) == 1
    clock.now_ms += 10_000
    assert await asyncio.gather(*(keys.find(f"guess-{number}", "ES256") for number in range(50))) == [None] * 50
    assert len(served.asked) == 2


async def test_old_keys_are_fetched_again_in_the_background(served: Endpoint, clock: Hand) -> None:
    served.publish(jwk(EC_KEY, "k"))
    keys = key_set(served, clock)
    assert await keys.find("k", "ES256")
    served.publish(jwk(RSA_KEY, "k"))
    served.held.clear()
    clock.now_ms += 300_000
    assert await keys.find("k", "ES256") == EC_KEY.public_key()  # nobody waits
    served.held.set()
    await until_async(lambda: keys.find("k", "RS256"))
    assert await keys.find("k", "ES256") is None
    assert len(served.asked) == 2


async def test_keys_outlive_their_endpoint_for_the_grace_and_no_longer(served: Endpoint, clock: Hand) -> None:
    served.publish(jwk(EC_KEY, "k"))
    keys = key_set(served, clock, grace_s=600)
    assert await keys.find("k", "ES256")
    served.status = 503
    for _ in range(5):
        clock.now_ms += 100_000
        assert await keys.find("k", "ES256") == EC_KEY.public_key()
    with pytest.raises(Unavailable):  # it may be new: nobody can tell
        await keys.find("other", "ES256")
    clock.now_ms += 100_000
    with pytest.raises(Unavailable):
        await keys.find("k", "ES256")
    served.status = 200
    clock.now_ms += 10_000
    assert await keys.find("k", "ES256") == EC_KEY.public_key()


@pytest.mark.parametrize(
    "wrong",
    [b"no json", b"[]", b'{"keys": 7}', b'{"keys": []}', b"null", b" " * (LARGEST_BYTES + 1),
     json.dumps({"keys": [{"kty": "oct"}] * (MOST_KEYS + 1)}).encode(), b'{"keys": [7, null, "x"]}'],
    ids=["text", "list", "number", "none", "null", "large", "many", "no objects"],
)  # fmt: skip
async def test_an_endpoint_that_answers_something_else_gives_no_keys(
    served: Endpoint, clock: Hand, wrong: bytes
) -> None:
    served.documents["/keys"] = wrong
    keys = key_set(served, clock)
    with pytest.raises(Unavailable):
        await keys.find("k", "ES256")
    served.publish(jwk(EC_KEY, "k"))
    with pytest.raises(Unavailable):  # not asked again so soon
        await keys.find("k", "ES256")
    assert len(served.asked) == 1
    clock.now_ms += 10_000
    assert await keys.find("k", "ES256")


async def test_a_redirect_is_not_followed(served: Endpoint, clock: Hand) -> None:
    served.publish(jwk(EC_KEY, "k"), path="/elsewhere")
    served.documents["/keys"] = {}
    served.status, served.headers = 302, {"location": f"{served.base}/elsewhere"}
    with pytest.raises(Unavailable):
        await key_set(served, clock).find("k", "ES256")
    assert served.asked == ["/keys"]


async def test_an_issuers_own_configuration_names_its_keys(served: Endpoint, clock: Hand) -> None:
    issuer = served.base
    where = "/.well-known/openid-configuration"
    served.publish(jwk(EC_KEY, "k"))
    served.documents[where] = {"issuer": issuer, "jwks_uri": served.url}
    assert await KeySet(JwksConfig(), issuer, ALL, clock).find("k", "ES256") == EC_KEY.public_key()
    assert served.asked == [where, "/keys"]
    for other in ({"issuer": ISSUER, "jwks_uri": served.url}, {"issuer": issuer, "jwks_uri": "http://192.0.2.1/keys"}):
        served.documents[where] = other
        with pytest.raises(Unavailable):
            await KeySet(JwksConfig(), issuer, ALL, clock).find("k", "ES256")


async def test_all_who_come_during_a_fetch_wait_for_the_one(served: Endpoint, clock: Hand) -> None:
    served.publish(jwk(EC_KEY, "k"))
    keys = key_set(served, clock)
    served.held.clear()
    waiting = [asyncio.ensure_future(keys.find("k", "ES256")) for _ in range(20)]
    await asyncio.to_thread(until, lambda: served.asked)
    waiting[0].cancel()  # who leaves does not stop it for the others
    served.held.set()
    found = await asyncio.gather(*waiting[1:])
    assert found == [EC_KEY.public_key()] * 19
    assert len(served.asked) == 1
