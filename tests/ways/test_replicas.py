"""Identity, budgets and retries across real processes on one Valkey: what one of them knows, all of them do."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
import redis
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from headgate.access.control import Control
from headgate.app import App
from headgate.audit.event import NotACallEvent, decode_cloudevent
from headgate.audit.outbox_file import OutboxFile, writers
from headgate.config import load
from headgate.failpoints import VARIABLE
from headgate.telemetry import wall_clock_ms
from tests.unit.access.test_jwks import Endpoint, endpoint, jwk
from tests.ways.deployment import PROGRAM, ready, until
from tests.ways.replicas import ISSUERS, Replicas, Said, call, token

RESTART = ("restart_pipeline", {"pipeline_id": "shop"})


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=60) as opened:
        yield opened


def recorded(folder: Path) -> list[Any]:
    """The call events in the outboxes below a folder."""
    found = []
    for outbox in folder.glob("*/data/outbox"):
        for writer in writers(outbox):
            file = OutboxFile(outbox, writer, own=False)
            for stored in file.unpublished(100_000):
                try:
                    found.append(decode_cloudevent(stored.body))
                except NotACallEvent:
                    continue  # an intent, or an aggregate
            file.close()
    return found


# --- budgets ---------------------------------------------------------------------------------------


def test_eight_replicas_at_once_spend_one_budget_and_not_one_over(tmp_path: Path, redis_url: str) -> None:
    """A budget that takes a day to fill again: what is answered within the test is exactly what it holds."""
    budget = 100
    replicas = Replicas(tmp_path, redis_url, f"{ISSUERS}, budgets: {{read: {{calls: {budget}, per_s: 86400}}}}")
    bearer = token()

    def spend(url: str) -> list[Said]:
        with httpx.Client(timeout=60) as client:
            return [
                call(client, url, bearer, "lookup_customer", {"customer_id": 1 + number % 19}) for number in range(40)
            ]

    with replicas.syncing(), replicas.serving(8) as urls, ThreadPoolExecutor(8) as pool:
        answers = [said for each in pool.map(spend, urls) for said in each]
        with httpx.Client(timeout=60) as client:
            others = call(client, urls[0], token("grace"), "lookup_customer", {"customer_id": 1})
    codes = Counter(said.code for said in answers)
    assert codes == {"": budget, "budget_spent": 320 - budget}
    assert sorted(said.meta["headgate/budget"]["remaining"] for said in answers if not said.code) == list(range(budget))
    for said in answers:
        if said.code:
            assert "shop.example" not in json.dumps(said.result)
            assert said.meta["headgate/budget"]["retry_after_ms"] > 0
            assert 0 < int(said.headers["retry-after"]) <= 864
    assert others.code == ""
    events = Counter((event.error_code, bool(event.positions)) for event in recorded(tmp_path))
    assert events == {("", True): budget + 1, ("budget_spent", False): 320 - budget}


def test_a_read_and_its_payment_share_a_round_trip(tmp_path: Path, redis_url: str, client: httpx.Client) -> None:
    """As the server counts what it reads from its clients; what else a replica asks it, it asks once a second."""
    calls = 300
    replicas = Replicas(tmp_path, redis_url, f"{ISSUERS}, budgets: {{read: 1000000}}")
    with replicas.syncing(), replicas.serving(1):
        pass  # the rows are in the store
    with replicas.serving(1) as [url], redis.Redis.from_url(redis_url) as other:
        bearer = token()
        call(client, url, bearer, "lookup_customer", {"customer_id": 1})
        before, asked = other.info("stats"), other.info("commandstats")
        for number in range(calls):
            said = call(client, url, bearer, "lookup_customer", {"customer_id": 1 + number % 19})
            assert len(said.result["structuredContent"]["rows"]) == 1 and "headgate/budget" in said.meta
        after, then = other.info("stats"), other.info("commandstats")
    for command in ("cmdstat_evalsha", "cmdstat_mget"):
        assert then[command]["calls"] - asked[command]["calls"] >= calls
    reads = after["total_reads_processed"] - before["total_reads_processed"]
    assert calls <= reads < 1.5 * calls


def test_the_local_user_is_not_held_to_the_default_budget(tmp_path: Path, redis_url: str, client: httpx.Client) -> None:
    replicas = Replicas(tmp_path, redis_url, "local: true")
    with replicas.syncing(), replicas.serving(1) as [url]:
        answers = [call(client, url, None, "lookup_customer", {"customer_id": 3}) for _ in range(130)]
    assert Counter(said.code for said in answers) == {"": 130}
    assert not any("headgate/budget" in said.meta for said in answers)


# --- retries ---------------------------------------------------------------------------------------


def restarts(replicas: Replicas) -> int:
    """How often the pipeline was asked to restart: every call that acts is one more."""
    with App(load(replicas.config("looking"))) as app:
        return Control(app.state, "shop", wall_clock_ms).desired().restarts


def test_a_retry_at_another_replica_gets_the_first_answer(tmp_path: Path, redis_url: str, client: httpx.Client) -> None:
    replicas = Replicas(tmp_path, redis_url, ISSUERS)
    with replicas.syncing(), replicas.serving(2) as [here, there]:
        first = call(client, here, token(), *RESTART, key="k-1")
        again = call(client, there, token(), *RESTART, key="k-1")
        other_arguments = call(client, there, token(), "restart_pipeline", {"pipeline_id": "x"}, key="k-1")
        another_caller = call(client, there, token("grace"), *RESTART, key="k-1")
        assert restarts(replicas) == 2  # ada's and grace's
    assert (first.code, again.code, another_caller.code) == ("", "", "")
    assert again.result["structuredContent"] == first.result["structuredContent"]
    assert again.result["content"] == first.result["content"]
    assert again.meta["headgate/answer_of"] == first.meta["headgate/request_id"] != again.meta["headgate/request_id"]
    assert other_arguments.code == "idempotency_key_reused"


@pytest.mark.parametrize(("failpoint", "acted"), [("call.intended", 0), ("call.acted", 1), ("call.kept", 1)])
def test_kill_9_around_the_act_runs_it_at_most_once(
    tmp_path: Path, redis_url: str, client: httpx.Client, monkeypatch: pytest.MonkeyPatch, failpoint: str, acted: int
) -> None:
    replicas = Replicas(tmp_path, redis_url, f"{ISSUERS}, budgets: {{write: 1000}}")  # it asks without a pause
    with replicas.syncing(), replicas.serving(1) as [there]:
        with monkeypatch.context() as armed:
            armed.setenv(VARIABLE, f"{failpoint}=kill")
            doomed = replicas.start("doomed")
        until(lambda: ready(doomed.url()))
        with pytest.raises(httpx.TransportError):
            call(client, doomed.url(), token(), *RESTART, key="k-1")
        doomed.kill()
        assert restarts(replicas) == acted
        # Whoever comes at once can't know yet that the other process is gone.
        until(lambda: call(client, there, token(), *RESTART, key="k-1").code != "call_in_progress")
        said = call(client, there, token(), *RESTART, key="k-1")
        again = call(client, there, token(), *RESTART, key="k-1")
        assert restarts(replicas) == acted
    if failpoint == "call.kept":
        assert said.code == again.code == ""
        assert said.result["structuredContent"]["asked"] == "restart"
    else:
        assert said.code == again.code == "outcome_unknown"
        assert "get_pipeline_detail" in said.result["content"][0]["text"]
    intents = [body for body in _bodies(tmp_path / "doomed") if b"dev.headgate.intent.v1" in body]
    assert [json.loads(body)["data"]["idempotency_key"] for body in intents] == ["k-1"]


def _bodies(folder: Path) -> list[bytes]:
    outbox = folder / "data" / "outbox"
    found = []
    for writer in writers(outbox):
        file = OutboxFile(outbox, writer, own=False)
        found += [stored.body for stored in file.unpublished(1_000)]
        file.close()
    return found


# --- who asks --------------------------------------------------------------------------------------


def _signed(key: Any, algorithm: str, kid: str) -> str:
    now_s = wall_clock_ms() // 1000
    claims = {"iss": "https://keys.example", "aud": "headgate", "sub": "ada", "exp": now_s + 600, "scope": "data:read"}
    return jwt.encode(claims, key, algorithm=algorithm, headers={"kid": kid})


@pytest.fixture
def keys() -> Iterator[Endpoint]:
    with endpoint() as served:
        yield served


def test_a_rotated_key_set_is_followed_and_the_old_key_ends(
    tmp_path: Path, redis_url: str, client: httpx.Client, keys: Endpoint
) -> None:
    old, new = ec.generate_private_key(ec.SECP256R1()), rsa.generate_private_key(65537, 2048)
    old_token, new_token = _signed(old, "ES256", "old"), _signed(new, "RS256", "new")
    keys.publish(jwk(old, "old"))
    issuer = (
        f'{{issuer: "https://keys.example", algorithms: [ES256, RS256], jwks: {{url: "{keys.url}", refetch_s: 1}}}}'
    )
    budgets = "budgets: {read: 100000}"
    replicas = Replicas(tmp_path, redis_url, f"issuers: [{issuer}], {budgets}")
    with replicas.syncing(), replicas.serving(2) as urls:

        def status(url: str, bearer: str) -> int:
            return call(client, url, bearer, "lookup_customer", {"customer_id": 3}).status

        assert [status(url, old_token) for url in urls] == [200, 200]
        assert [status(url, new_token) for url in urls] == [401, 401]
        keys.publish(jwk(new, "new"))
        for url in urls:
            until(lambda: status(url, new_token) == 200)  # noqa: B023 - asked at once
        assert [status(url, old_token) for url in urls] == [401, 401]
        asked = len(keys.asked)
        keys.status = 503
        assert [status(url, new_token) for url in urls] == [200, 200]
        for number in range(30):
            assert status(urls[0], _signed(old, "ES256", f"guess-{number}")) in (401, 503)
        assert len(keys.asked) <= asked + 30  # bounded by time, as the unit tests show to the letter


def test_what_the_operator_revokes_every_replica_refuses_until_it_is_taken_back(
    tmp_path: Path, redis_url: str, client: httpx.Client
) -> None:
    replicas = Replicas(tmp_path, redis_url, f"{ISSUERS}, budgets: {{read: 100000}}")

    def headgate(*words: str) -> str:
        config = replicas.config("operator")
        done = subprocess.run([PROGRAM, *words, "--config", config], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    mine, leaked, key = token(jti="a"), token(jti="leaked"), ""
    with replicas.syncing(), replicas.serving(2) as urls:
        made = headgate("key", "make", "ci", "--scope", "data:read").split()
        key_id, key = made[1], made[3]

        def statuses(bearer: str) -> set[int]:
            return {call(client, url, bearer, "lookup_customer", {"customer_id": 3}).status for url in urls}

        assert statuses(mine) | statuses(leaked) | statuses(key) == {200}
        headgate("revoke", "token", "leaked", "--for", "1h")
        headgate("key", "revoke", key_id)
        until(lambda: statuses(leaked) == {401})
        until(lambda: statuses(key) == {401})
        assert statuses(mine) == {200}
        headgate("revoke", "subject", "ada", "--issuer", "https://login.example")
        until(lambda: statuses(mine) == {401})
        assert statuses(token("grace")) == {200}
        assert "subject  ada  of https://login.example  until" in headgate("revoke", "list")
        headgate("revoke", "subject", "ada", "--issuer", "https://login.example", "--undo")
        until(lambda: statuses(mine) == {200})
