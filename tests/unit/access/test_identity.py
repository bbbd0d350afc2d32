"""Who asks: every way in, and every way to be refused."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import SecretStr, ValidationError

from headgate.access.identity import LEEWAY_S, Credentials, Identity, IdentityConfig
from headgate.access.issuer import Issuer
from headgate.access.keys import ApiKeys
from headgate.access.revocations import WITHIN_MS, Mark, Revocations
from headgate.access.token import mint_token
from headgate.access.verified import RECHECK_MS
from headgate.errors import Unauthenticated, Unavailable
from headgate.model.caller import READ_SCOPES, Caller
from headgate.state.base import State
from headgate.state.sqlite import open_state
from tests.ways.deployment import until_async

NOW_S = 1_700_000_000
SECRET = "s" * 32
ISSUER = "https://login.example"
HS = {"issuer": ISSUER, "audience": "headgate", "algorithms": ["HS256"], "secret": SECRET}
RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()


class Hand:
    """A clock that stands until it is moved."""

    now_ms = NOW_S * 1000

    def __call__(self) -> int:
        return self.now_ms


clock = Hand()


@pytest.fixture(autouse=True)
def _at_the_start() -> None:
    clock.now_ms = NOW_S * 1000


def pem(key: Any) -> str:
    text: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return text.decode()


def claims(**changes: Any) -> dict[str, Any]:
    whole = {"iss": ISSUER, "aud": "headgate", "sub": "ada", "exp": NOW_S + 60, "scope": "data:read", **changes}
    return {name: value for name, value in whole.items() if value is not None}


def token(key: Any = SECRET, algorithm: str = "HS256", headers: dict[str, Any] | None = None, **changes: Any) -> str:
    return jwt.encode(claims(**changes), key, algorithm=algorithm, headers=headers)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with closing(open_state(tmp_path / "state.db", clock=clock)) as opened:
        yield opened


@pytest.fixture
def keys(state: State) -> ApiKeys:
    return ApiKeys(state, clock)


class Gate:
    """An Identity over a config, asked with little ceremony."""

    def __init__(self, keys: ApiKeys, *issuers: dict[str, Any], dev_issuer: Issuer | None = None, **config: Any):
        parsed = IdentityConfig.model_validate({"issuers": list(issuers), **config})
        self.identity = Identity(parsed, keys, clock, dev_issuer=dev_issuer, local_user="grace")

    async def ask(self, bearer: str | None = None, **more: Any) -> Caller:
        return await self.identity.identify(Credentials(**{"bearer": bearer, "door": "http", **more}))

    async def refusal(self, bearer: str | None = None, **more: Any) -> str:
        with pytest.raises(Unauthenticated) as refused:
            await self.ask(bearer, **more)
        if bearer:
            assert bearer not in refused.value.message
        reason: str = refused.value.details["reason"]
        return reason


@pytest.fixture
def gate(keys: ApiKeys) -> Gate:
    return Gate(keys, HS)


# --- tokens that hold ----------------------------------------------------------------------------


async def test_a_token_tells_who_asks(gate: Gate) -> None:
    assert await gate.ask(token(team="north", jti="1", iat=NOW_S)) == Caller(
        subject="ada",
        method="jwt",
        scopes=frozenset({"data:read"}),
        issuer=ISSUER,
        claims={"team": "north"},
        expires_at_s=NOW_S + 60,
    )


@pytest.mark.parametrize(
    ("algorithm", "key"), [("RS256", RSA_KEY), ("ES256", EC_KEY), ("EdDSA", ED_KEY)], ids=lambda value: str(value)[:5]
)
async def test_public_keys_of_every_sort_are_taken(keys: ApiKeys, algorithm: str, key: Any) -> None:
    gate = Gate(keys, {"issuer": ISSUER, "algorithms": [algorithm], "public_key": pem(key)})
    assert (await gate.ask(token(key, algorithm))).subject == "ada"
    other: Any = {"RS256": EC_KEY, "ES256": ED_KEY, "EdDSA": EC_KEY}[algorithm]
    assert await gate.refusal(token(other, "EdDSA" if other is ED_KEY else "ES256")) == "bad_signature"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"scope": "data:read  topics:read"}, {"data:read", "topics:read"}),
        ({"scope": None, "scopes": ["data:read", "sql:read"]}, {"data:read", "sql:read"}),
        ({"scope": None, "scp": ["audit:read"]}, {"audit:read"}),
        ({"scope": None, "scp": "audit:read data:read"}, {"audit:read", "data:read"}),
        ({"scope": "data:read data:write root *"}, {"data:read"}),
        ({"scope": ["data:read", 7, None, ["admin"]]}, {"data:read"}),
        ({"scope": {"admin": True}}, set()),
        ({"scope": None}, set()),
    ],
)
async def test_scopes_are_read_however_the_issuer_writes_them(
    gate: Gate, given: dict[str, Any], expected: set[str]
) -> None:
    assert (await gate.ask(token(**given))).scopes == expected


async def test_one_of_several_audiences_will_do(gate: Gate) -> None:
    assert (await gate.ask(token(aud=["other", "headgate"]))).subject == "ada"


async def test_an_issuer_named_twice_has_two_keys(keys: ApiKeys) -> None:
    gate = Gate(keys, HS, {**HS, "secret": "t" * 32})
    assert (await gate.ask(token("s" * 32))).subject == (await gate.ask(token("t" * 32))).subject == "ada"
    assert await gate.refusal(token("t" * 32, exp=NOW_S - 60)) == "expired"
    assert await gate.refusal(token("t" * 32, aud="other")) == "wrong_audience"
    assert await gate.refusal(token("u" * 32)) == "bad_signature"


async def test_clocks_may_differ_by_the_leeway(gate: Gate) -> None:
    assert (
        await gate.ask(token(exp=NOW_S - LEEWAY_S + 1, nbf=NOW_S + LEEWAY_S, iat=NOW_S + LEEWAY_S))
    ).subject == "ada"


# --- tokens that don't ---------------------------------------------------------------------------


def forged(header: dict[str, Any], body: bytes, key: bytes) -> str:
    """A token whose parts may be anything, signed with HMAC."""
    signed = b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in (json.dumps(header).encode(), body))
    signature = base64.urlsafe_b64encode(hmac.digest(key, signed, hashlib.sha256)).rstrip(b"=")
    return (signed + b"." + signature).decode()


HEADER = {"alg": "HS256", "typ": "JWT"}
NEVER_ENDS = json.dumps(claims()).replace(str(NOW_S + 60), "NaN").encode()


@pytest.mark.parametrize(
    ("bearer", "reason"),
    [
        (token(exp=NOW_S - LEEWAY_S), "expired"),
        (token(nbf=NOW_S + LEEWAY_S + 1), "not_yet_valid"),
        (token(iat=NOW_S + LEEWAY_S + 1), "not_yet_valid"),
        (token("f" * 32), "bad_signature"),
        (token(RSA_KEY, "RS256"), "bad_signature"),
        (token(aud="other"), "wrong_audience"),
        (token(aud=[]), "claim_missing"),
        (token(iss="https://evil.example"), "wrong_issuer"),
        (token(exp=None), "claim_missing"),
        (token(sub=None), "claim_missing"),
        (token(aud=None), "claim_missing"),
        (token(headers={"crit": ["exp"]}), "malformed"),
        (forged({"alg": "none"}, json.dumps(claims()).encode(), b"x").rpartition(".")[0] + ".", "bad_signature"),
        (forged({"alg": "none"}, json.dumps(claims()).encode(), SECRET.encode()), "bad_signature"),
        (forged(HEADER, json.dumps(claims(iss=None)).encode(), SECRET.encode()), "wrong_issuer"),
        (forged(HEADER, json.dumps(claims(iss=[ISSUER])).encode(), SECRET.encode()), "wrong_issuer"),
        (forged(HEADER, json.dumps(claims(sub="")).encode(), SECRET.encode()), "malformed"),
        (forged(HEADER, json.dumps(claims(sub=7)).encode(), SECRET.encode()), "malformed"),
        (forged(HEADER, json.dumps(claims(sub="x" * 513)).encode(), SECRET.encode()), "malformed"),
        (forged(HEADER, json.dumps(claims(exp="tomorrow")).encode(), SECRET.encode()), "malformed"),
        (forged(HEADER, json.dumps(claims(exp=True)).encode(), SECRET.encode()), "malformed"),
        (forged(HEADER, json.dumps(claims(nbf="soon")).encode(), SECRET.encode()), "malformed"),
        (forged(HEADER, NEVER_ENDS, SECRET.encode()), "malformed"),
        (forged(HEADER, NEVER_ENDS.replace(b"NaN", b"Infinity"), SECRET.encode()), "malformed"),
        (token(sub="\ud800"), "malformed"),
        (token(tenant="\udfff"), "malformed"),
        (token(tenant={"\ud800": 1}), "malformed"),
        (forged(HEADER, b"[1]", SECRET.encode()), "malformed"),
        (forged(HEADER, b"\xff\xfe", SECRET.encode()), "malformed"),
        (forged(HEADER, b'{"iss":' + b"[" * 8_000, SECRET.encode()), "malformed"),
        (forged({"alg": "HS256", "b64": False}, json.dumps(claims()).encode(), SECRET.encode()), "malformed"),
        ("", "malformed"),
        ("x", "malformed"),
        ("..", "malformed"),
        ("ä.ö.ü", "malformed"),
        ("\ud800", "malformed"),
        ("x" * 20_000, "malformed"),
    ],
)  # fmt: skip
async def test_a_token_that_does_not_hold_is_refused(gate: Gate, bearer: str, reason: str) -> None:
    assert await gate.refusal(bearer) == reason


async def test_a_public_key_is_no_secret(keys: ApiKeys) -> None:
    gate = Gate(keys, {"issuer": ISSUER, "algorithms": ["RS256"], "public_key": pem(RSA_KEY)})
    confused = forged(HEADER, json.dumps(claims()).encode(), pem(RSA_KEY).encode())
    assert await gate.refusal(confused) == "bad_signature"


async def test_an_expired_token_is_told_so_only_if_it_was_ours(gate: Gate) -> None:
    async def words(bearer: str) -> str:
        with pytest.raises(Unauthenticated) as refused:
            await gate.ask(bearer)
        return refused.value.message

    assert await words(token(exp=NOW_S - 60)) != await words(token("f" * 32, exp=NOW_S - 60))
    assert await words(token("f" * 32)) == await words(token(iss="x")) == await words(token(aud="x"))
    assert await words(token("f" * 32)) == await words("x")


# --- what was checked a moment ago -----------------------------------------------------------------


async def test_a_credential_is_checked_once_a_minute(gate: Gate, keys: ApiKeys) -> None:
    _, text = keys.make("ci", ["data:read"])
    first = await gate.ask(text)
    checked = gate.identity.verified(text)
    assert await gate.ask(text) is first
    assert gate.identity.verified(text) is checked
    clock.now_ms += RECHECK_MS
    assert gate.identity.verified(text) is None
    assert await gate.ask(text) is first, "the same caller, for much is made of it"
    again = gate.identity.verified(text)
    assert again is not None and again is not checked
    clock.now_ms -= 3_600_000
    assert gate.identity.verified(text) is None
    assert await gate.ask(text) is first


async def test_a_token_that_the_config_has_the_key_of_is_checked_once(gate: Gate) -> None:
    text = token(exp=NOW_S + 3_600)
    caller = await gate.ask(text)
    checked = gate.identity.verified(text)
    clock.now_ms += 3_599_000
    assert checked is not None and gate.identity.verified(text) is checked
    assert await gate.ask(text) is caller
    assert gate.identity.still(checked) is caller
    clock.now_ms = NOW_S * 1000 - 1
    assert gate.identity.verified(text) is None, "the clock was set back: it may be too early for the token again"


async def test_what_is_remembered_of_a_token_ends_with_the_token(gate: Gate) -> None:
    short = token(exp=NOW_S + 10)
    await gate.ask(short)
    clock.now_ms = (NOW_S + 10 + LEEWAY_S) * 1000 - 1
    await gate.ask(short)
    clock.now_ms += 1
    assert await gate.refusal(short) == "expired"


@pytest.mark.parametrize(
    "mark",
    [Mark("subject", "ada"), Mark("subject", "ada", ISSUER), Mark("token", "t-1"), Mark("token", "t-1", ISSUER)],
    ids=lambda mark: f"{mark.sort}{'-of-issuer' if mark.issuer else ''}",
)
async def test_a_revocation_elsewhere_is_honoured_within_five_seconds(gate: Gate, state: State, mark: Mark) -> None:
    mine, others = token(jti="t-1"), token(jti="t-2", sub="grace")
    await gate.ask(mine)
    await gate.ask(others)
    elsewhere = Revocations(state, clock)
    elsewhere.revoke(mark, ttl_ms=3_600_000)
    clock.now_ms += WITHIN_MS
    assert WITHIN_MS <= 5_000
    assert await gate.refusal(mine) == "revoked"
    assert (await gate.ask(others)).subject == "grace"
    assert elsewhere.restore(mark) is True
    clock.now_ms += WITHIN_MS
    assert (await gate.ask(mine)).subject == "ada"


async def test_a_revoked_key_is_refused_though_it_was_remembered(gate: Gate, keys: ApiKeys, state: State) -> None:
    key_id, text = keys.make("ci", ["data:read"])
    await gate.ask(text)
    ApiKeys(state, clock).revoke(key_id)
    clock.now_ms += WITHIN_MS
    assert await gate.refusal(text) == "revoked"


async def test_the_list_of_revocations_is_read_in_the_background_while_it_is_in_use(gate: Gate, state: State) -> None:
    await gate.ask(token())
    Revocations(state, clock).revoke(Mark("subject", "ada"), ttl_ms=60_000)
    clock.now_ms += WITHIN_MS - 1
    await gate.ask(token())  # still by the old list, whose reading begins

    async def is_refused() -> bool:
        try:
            await gate.ask(token())
        except Unauthenticated:
            return True
        return False

    await until_async(is_refused)


async def test_another_issuers_revocation_is_not_ours(gate: Gate, keys: ApiKeys) -> None:
    keys.revocations.revoke(Mark("subject", "ada", "https://other.example"), ttl_ms=60_000)
    assert (await gate.ask(token())).subject == "ada"


async def test_a_revocation_ends(gate: Gate, keys: ApiKeys) -> None:
    keys.revocations.revoke(Mark("subject", "ada"), ttl_ms=10_000)
    assert await gate.refusal(token()) == "revoked"
    clock.now_ms += 10_001
    assert (await gate.ask(token())).subject == "ada"


async def test_nobody_is_let_in_when_nobody_can_tell_who_is_revoked(gate: Gate, state: State) -> None:
    mine = token()
    await gate.ask(mine)
    state.close()
    await gate.ask(mine)
    clock.now_ms += WITHIN_MS
    with pytest.raises(Unavailable):
        await gate.ask(mine)
    assert (await gate.ask(door="stdio")).method == "local"


# --- a proxy's word --------------------------------------------------------------------------------

PROXY: dict[str, Any] = {
    "trusted": ["127.0.0.1/32", "10.1.0.0/16"],
    "scopes": {"CN=reports": ["data:read"], "*": ["pipelines:read"]},
}


async def test_a_trusted_proxy_names_the_subject_of_a_certificate(keys: ApiKeys) -> None:
    gate = Gate(keys, HS, proxy=PROXY)
    assert await gate.ask(subject="CN=reports", peer="10.1.2.3") == Caller(
        subject="CN=reports", method="mtls", scopes=frozenset({"data:read"})
    )
    assert (await gate.ask(subject="CN=other", peer="::ffff:127.0.0.1")).scopes == {"pipelines:read"}
    assert (await gate.ask(token(), subject="CN=reports", peer="10.1.2.3")).subject == "ada"
    assert await gate.refusal(subject="", peer="10.1.2.3") == "missing"
    assert await gate.refusal(subject="x\ty", peer="10.1.2.3") == "malformed"


@pytest.mark.parametrize("peer", ["10.2.0.1", "192.0.2.1", "::1", "", "localhost"])
async def test_the_proxys_header_from_anyone_else_is_refused_whatever_comes_with_it(keys: ApiKeys, peer: str) -> None:
    gate = Gate(keys, HS, proxy=PROXY, local=True, anonymous=True)
    assert await gate.refusal(subject="CN=reports", peer=peer, loopback=True) == "proxy_untrusted"
    assert await gate.refusal(token(), subject="CN=reports", peer=peer) == "proxy_untrusted"
    assert await gate.refusal(subject="", peer=peer) == "proxy_untrusted"


async def test_a_subject_of_a_certificate_can_be_revoked(keys: ApiKeys) -> None:
    gate = Gate(keys, proxy=PROXY)
    keys.revocations.revoke(Mark("subject", "CN=reports"), ttl_ms=60_000)
    assert await gate.refusal(subject="CN=reports", peer="10.1.2.3") == "revoked"


# --- the other ways in ---------------------------------------------------------------------------


async def test_an_api_key_is_taken_where_a_token_is(gate: Gate, keys: ApiKeys) -> None:
    key_id, text = keys.make("ci", ["data:read"])
    assert (await gate.ask(text)).subject == key_id
    keys.revoke(key_id)
    assert await gate.refusal(text) == "revoked"


async def test_without_a_credential_nobody_comes_in_by_http(gate: Gate) -> None:
    assert await gate.refusal() == "missing"
    assert await gate.refusal(loopback=True) == "missing"


async def test_the_local_user_comes_in_on_stdio(gate: Gate) -> None:
    assert await gate.ask(door="stdio") == Caller(subject="grace", method="local", scopes=READ_SCOPES)


async def test_the_local_user_comes_in_on_loopback_only_where_the_config_says_so(keys: ApiKeys) -> None:
    gate = Gate(keys, local=True, local_scopes=["data:read"])
    assert (await gate.ask(loopback=True)).scopes == {"data:read"}
    assert await gate.refusal(loopback=False) == "missing"


async def test_anyone_comes_in_only_where_the_config_says_so(keys: ApiKeys) -> None:
    gate = Gate(keys, anonymous=True)
    assert await gate.ask() == Caller(subject="anonymous", method="anonymous", scopes=frozenset())
    assert (await Gate(keys, anonymous=True, anonymous_scopes=["data:read"]).ask()).scopes == {"data:read"}


@pytest.mark.parametrize("door", ["http", "stdio"])
async def test_a_bad_credential_never_falls_back(keys: ApiKeys, door: str) -> None:
    gate = Gate(keys, HS, local=True, anonymous=True)
    assert await gate.refusal(token("f" * 32), door=door, loopback=True) == "bad_signature"
    assert await gate.refusal("", door=door, loopback=True) == "malformed"
    assert await gate.refusal(f"hg_{'0' * 12}_{'A' * 43}", door=door, loopback=True) == "unknown_key"


async def test_a_credential_in_the_query_is_never_taken(keys: ApiKeys) -> None:
    gate = Gate(keys, HS, local=True, anonymous=True)
    assert await gate.refusal(loopback=True, in_query=True) == "in_query"
    assert await gate.refusal(token(), in_query=True) == "in_query"


async def test_development_tokens_hold_until_a_real_issuer_is_named(keys: ApiKeys) -> None:
    dev = Issuer(issuer="headgate-dev", algorithms=["HS256"], secret=SecretStr("d" * 32))
    minted = mint_token(
        SecretStr("d" * 32), issuer="headgate-dev", audience="headgate", subject="dev", scopes=["data:read"],
        ttl_s=60, clock=clock,
    )  # fmt: skip
    assert (await Gate(keys, dev_issuer=dev).ask(minted)).issuer == "headgate-dev"
    assert await Gate(keys, HS, dev_issuer=dev).refusal(minted) == "wrong_issuer"
    assert (await Gate(keys, HS, dev_issuer=dev, dev_tokens=True).ask(minted)).subject == "dev"
    assert await Gate(keys, dev_issuer=dev, dev_tokens=False).refusal(minted) == "wrong_issuer"


# --- what is written down ------------------------------------------------------------------------


def test_a_repr_holds_no_credential(gate: Gate) -> None:
    assert "abc" not in repr(Credentials(bearer="abc", door="http"))
    assert SECRET not in repr(IdentityConfig.model_validate({"issuers": [HS]}))


@pytest.mark.parametrize(
    "wrong",
    [
        {"locale": True},
        {"local_scopes": ["data:write"]},
        {"anonymous_scopes": ["root"]},
        {"proxy": {}},
        {"proxy": {"trusted": []}},
        {"proxy": {"trusted": ["anyone"]}},
        {"proxy": {**PROXY, "subject_header": "authorization"}},
        {"proxy": {**PROXY, "scopes": {"x": ["root"]}}},
        {"budgets": {"read": 0}},
        {"budgets": {"read": True}},
        {"budgets": {"costs": {"find": 101}}},
        {"budgets": {"costs": {"find": -1}}},
    ],
)
def test_a_config_with_anything_unknown_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        IdentityConfig.model_validate(wrong)
