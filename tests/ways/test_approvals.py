"""A person's yes, end to end: real servers, tokens, the command line and the local user; each yes acts once."""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from mcp import Client, StdioServerParameters

from headgate.access.control import Control
from headgate.app import App
from headgate.audit.outbox_file import OutboxFile, writers
from headgate.config import load
from headgate.failpoints import VARIABLE
from headgate.telemetry import wall_clock_ms
from tests.ways.asking import message_of
from tests.ways.deployment import PATIENCE_S, PROGRAM, ready, until
from tests.ways.replicas import ISSUERS, Replicas, Said, call, token
from tests.ways.serving import Shop

ASKS = "pipelines:read pipelines:write"
DECIDES = "approvals:decide"
RESTART = ("restart_pipeline", {"pipeline_id": "shop"})
POLICY = """\
rules:
  - name: operators
    to: {scopes: [pipelines:write]}
    tools: ["*_pipeline*", resnapshot_table]
    pipelines: [shop]
    approve: restart_pipeline
  - name: deciders
    to: {scopes: [approvals:decide]}
    tools: [list_approvals, decide_approval, restart_pipeline]
    pipelines: [shop]
"""
KEY = "a key of the tests of approvals, 32 or more"


def access(folder: Path, more: str = "") -> str:
    """Under the policy, which lies in the folder."""
    (folder / "policy.yaml").write_text(POLICY)
    return f'{ISSUERS}, policy: "{folder}/policy.yaml", policy_key: "{KEY}"{more}'


@pytest.fixture
def web() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=60) as opened:
        yield opened


def restart(web: httpx.Client, url: str, subject: str = "ada", key: str = "") -> Said:
    return call(web, url, token(subject, ASKS), *RESTART, key=key)


def waits(said: Said) -> str:
    """The id of the approval that a call waits for."""
    assert said.code == "approval_required", (said.result, said.error)
    assert said.result["isError"] and said.meta["headgate/error"]["retry_after_s"] > 0
    return str(said.meta["headgate/error"]["approval_id"])


def decide(
    web: httpx.Client,
    url: str,
    approval_id: str,
    decision: str = "approve",
    subject: str = "grace",
    scope: str = DECIDES,
) -> Said:
    given = {"approval_id": approval_id, "decision": decision, "reason": "the shop is closed"}
    return call(web, url, token(subject, scope), "decide_approval", given)


def restarts(config: Path) -> int:
    """How often the pipeline was asked to restart: every call that acts is one more."""
    with App(load(config)) as app:
        return Control(app.state, "shop", wall_clock_ms).desired().restarts


def command(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PROGRAM, *words], cwd=folder, capture_output=True, text=True, timeout=PATIENCE_S)


# --- one server ------------------------------------------------------------------------------------


def test_asked_refused_decided_by_another_used_once(tmp_path: Path, web: httpx.Client) -> None:
    shop = Shop(tmp_path, access=access(tmp_path))
    with shop.serving() as process:
        url = process.url()
        approval_id = waits(restart(web, url))
        assert waits(restart(web, url)) == approval_id
        assert (
            call(web, url, token("ada", ASKS), RESTART[0], {**RESTART[1], "confirm": True}).code == "invalid_arguments"
        )
        own = decide(web, url, approval_id, subject="ada", scope=f"{ASKS} {DECIDES}")
        assert own.code == "own_approval"
        assert decide(web, url, approval_id, scope=ASKS).code == "unknown_tool"
        listed = call(web, url, token("grace", DECIDES), "list_approvals", {})
        [shown] = listed.result["structuredContent"]["approvals"]
        assert shown["arguments"]["json"] == RESTART[1] and shown["caller"]["subject"] == "ada"
        assert restarts(shop.config) == 0
        assert decide(web, url, approval_id).code == ""
        assert waits(restart(web, url, subject="bob")) != approval_id
        acted = restart(web, url)
        assert (acted.code, restarts(shop.config)) == ("", 1)
        second = waits(restart(web, url))
        assert second != approval_id and restarts(shop.config) == 1
        assert decide(web, url, second, "deny").code == ""
        denied = restart(web, url)
        assert denied.code == "approval_denied" and "the shop is closed" in denied.result["content"][0]["text"]
        assert restarts(shop.config) == 1
    told = [event for event in shop.events("approval") if event["caller"]["subject"] == "ada"]
    assert [event["kind"] for event in told] == ["asked", "approved", "used", "asked", "denied"]
    calls = {event["id"]: event for event in shop.events("call")}
    used = calls[told[2]["call"]]
    assert (used["status"], used["approval"], used["name"]) == ("answered", approval_id, "restart_pipeline")
    assert used["id"] == acted.meta["headgate/request_id"]
    assert calls[told[0]["call"]]["error_code"] == "approval_required"
    shop.verify()


def test_a_yes_that_nobody_used_in_time_is_none(tmp_path: Path, web: httpx.Client) -> None:
    shop = Shop(tmp_path, access=access(tmp_path, ", approvals: {time_limit_s: 1}, budgets: {read: 100000}"))
    with shop.serving() as process:
        url = process.url()
        first = waits(restart(web, url))
        decided = decide(web, url, first)
        assert decided.code in ("", "approval_over")
        ends_ms = next(event["ends_ms"] for event in shop.events("approval") if event["approval"] == first)
        until(lambda: wall_clock_ms() > ends_ms)
        assert waits(restart(web, url)) != first
        assert decide(web, url, first).code == "approval_over"
    kinds = [event["kind"] for event in shop.events("approval") if event["approval"] == first]
    assert kinds[-1] == "expired" and restarts(shop.config) == 0


def test_clients_of_earlier_revisions_are_told_the_same(tmp_path: Path, web: httpx.Client) -> None:
    shop = Shop(tmp_path, access=access(tmp_path))
    with shop.serving() as process:
        url = process.url()

        def old() -> dict[str, Any]:
            headers = {"Accept": "application/json, text/event-stream", "MCP-Protocol-Version": "2025-11-25",
                       "Authorization": f"Bearer {token('ada', ASKS)}"}  # fmt: skip
            params = {"name": RESTART[0], "arguments": RESTART[1]}
            body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
            result: dict[str, Any] = message_of(web.post(url, json=body, headers=headers))["result"]
            return result

        refused = old()
        assert refused["isError"] and refused["_meta"]["headgate/error"]["code"] == "approval_required"
        approval_id = refused["_meta"]["headgate/error"]["approval_id"]
        assert approval_id in refused["content"][0]["text"]
        assert waits(restart(web, url)) == approval_id, "by whichever door"
        assert decide(web, url, approval_id).code == ""
        assert not old()["isError"] and restarts(shop.config) == 1


# --- the command line, and the local user ------------------------------------------------------------


async def test_who_has_the_shell_decides_for_others_and_not_for_itself(tmp_path: Path, web: httpx.Client) -> None:
    local = ", local_scopes: [pipelines:read, pipelines:write]"
    shop = Shop(tmp_path, access=access(tmp_path, local))
    with shop.serving() as process:
        url = process.url()
        theirs = waits(restart(web, url))
        listed = command(tmp_path, "approvals", "list")
        assert listed.returncode == 0 and f"{theirs}  waiting  ada (jwt" in listed.stdout, listed
        assert 'restart_pipeline {"pipeline_id":"shop"}' in listed.stdout
        assert command(tmp_path, "approvals", "approve", theirs).returncode == 0
        assert restart(web, url).code == "" and restarts(shop.config) == 1
        again = command(tmp_path, "approvals", "deny", theirs, "--reason", "late")
        assert again.returncode == 1 and "used already" in again.stderr

        parameters = StdioServerParameters(command=str(PROGRAM), args=["mcp"], cwd=tmp_path, env=dict(os.environ))
        async with Client(parameters) as stdio:
            refused = await stdio.call_tool(*RESTART)
            assert refused.is_error and refused.meta is not None
            mine = refused.meta["headgate/error"]["approval_id"]
            own = command(tmp_path, "approvals", "approve", mine)
            assert own.returncode == 1 and "another person" in own.stderr
            assert decide(web, url, mine).code == ""
            assert not (await stdio.call_tool(*RESTART)).is_error
        assert restarts(shop.config) == 2
        denied = waits(restart(web, url))
        assert command(tmp_path, "approvals", "deny", denied, "--reason", "not on a Friday").returncode == 0
        assert "not on a Friday" in restart(web, url).result["content"][0]["text"]
        assert "no approvals wait" in command(tmp_path, "approvals", "list").stdout
        assert denied in command(tmp_path, "approvals", "list", "--all").stdout
    decided = [event for event in shop.events("approval") if event["kind"] in ("approved", "denied")]
    assert Counter((event["kind"], event["decided_by"]["method"]) for event in decided) == {
        ("approved", "local"): 1, ("approved", "jwt"): 1, ("denied", "local"): 1,
    }  # fmt: skip
    shop.verify()


def test_a_rule_that_asks_for_what_only_reads_is_no_policy(tmp_path: Path) -> None:
    shop = Shop(tmp_path, access=access(tmp_path))
    (tmp_path / "policy.yaml").write_text(POLICY.replace("approve: restart_pipeline", "approve: get_pipeline_detail"))
    for words in (["check"], ["policy", "check"], ["serve"]):
        done = command(tmp_path, *words)
        assert done.returncode == 1
        assert "policy.yaml:6: rules.0.approve: get_pipeline_detail is no tool that changes something" in done.stderr
        assert "choose from drop_dead_letters, pause_pipeline" in done.stderr
    assert shop.config.exists()


# --- several processes ------------------------------------------------------------------------------


def test_two_replicas_at_once_use_one_yes_once(tmp_path: Path, redis_url: str, web: httpx.Client) -> None:
    rounds = 8
    replicas = Replicas(tmp_path, redis_url, access(tmp_path, ", budgets: {read: 100000, write: 100000}"))
    looking = replicas.config("looking")
    with replicas.syncing(), replicas.serving(2) as urls, ThreadPoolExecutor(8) as pool:

        def at(number: int) -> Said:
            with httpx.Client(timeout=60) as own:
                return restart(own, urls[number % 2], key=f"k-{number}" if number % 4 > 1 else "")

        for done in range(1, rounds + 1):
            approval_id = waits(restart(web, urls[0]))
            assert decide(web, urls[1], approval_id).code == ""
            said = list(pool.map(at, range(done * 8, done * 8 + 8)))
            codes = Counter(each.code for each in said)
            assert codes[""] == 1 and set(codes) <= {"", "call_in_progress", "approval_required"}, codes
            assert restarts(looking) == done
    used = [event["data"] for event in _events(tmp_path, "approval") if event["data"]["kind"] == "used"]
    assert len(used) == len({event["approval"] for event in used}) == rounds


@pytest.mark.parametrize(
    ("failpoint", "key"), [("approval.used", ""), ("approval.used", "k-1"), ("call.intended", ""), ("call.acted", "")]
)
def test_kill_9_after_the_use_is_told_as_unclear_and_never_acts_twice(
    tmp_path: Path, redis_url: str, web: httpx.Client, monkeypatch: pytest.MonkeyPatch, failpoint: str, key: str
) -> None:
    acted = int(failpoint == "call.acted")
    replicas = Replicas(tmp_path, redis_url, access(tmp_path, ", budgets: {read: 100000, write: 100000}"))
    looking = replicas.config("looking")
    with replicas.syncing(), replicas.serving(1) as [there]:
        approval_id = waits(restart(web, there))
        assert decide(web, there, approval_id).code == ""
        with monkeypatch.context() as armed:
            armed.setenv(VARIABLE, f"{failpoint}=kill")
            doomed = replicas.start("doomed")
        until(lambda: ready(doomed.url()))
        with pytest.raises(httpx.TransportError):
            restart(web, doomed.url(), key=key)
        doomed.kill()
        # Whoever comes at once can't know yet that the other process is gone.
        until(lambda: restart(web, there, key=key).code != "call_in_progress")
        for again in (key, "", "k-2"):
            said = restart(web, there, key=again)
            assert said.code == "outcome_unknown", said.result
        assert approval_id in said.result["content"][0]["text"]
        assert restarts(looking) == acted
    [used] = [event["data"] for event in _events(tmp_path / "doomed", "approval")]
    assert (used["kind"], used["approval"]) == ("used", approval_id)
    intents = [event["data"] for event in _events(tmp_path / "doomed", "intent")]
    assert [intent["call"] for intent in intents] == ([] if failpoint == "approval.used" else [used["call"]])


def _events(folder: Path, type_: str) -> list[dict[str, Any]]:
    """Those of a type in the outboxes below a folder."""
    found = []
    for outbox in folder.glob("**/data/outbox"):
        for writer in writers(outbox):
            file = OutboxFile(outbox, writer, own=False)
            found += [json.loads(stored.body) for stored in file.events(0, 100_000)]
            file.close()
    return [event for event in found if event["type"] == f"dev.headgate.{type_}.v1"]
