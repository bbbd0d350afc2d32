"""Strangers who are let in: what they are refused fills no disk, and what several processes can't do is said."""

from __future__ import annotations

from pathlib import Path

import httpx

from tests.ways.asking import ask
from tests.ways.serving import Shop

MANY = 60
LONG = "x" * 50_000


def test_strangers_who_are_let_in_fill_no_disk(tmp_path: Path) -> None:
    """And HTTP+SSE, which several processes can't serve, is refused at whichever of them."""
    shop = Shop(tmp_path, access=f"anonymous: true, anonymous_scopes: [data:read], budgets: {{read: {MANY}}}")
    with shop.serving("--workers", "2") as process, httpx.Client(timeout=60) as client:
        url = process.url()
        assert ask(client, url, "lookup_customer", {"customer_id": 1}).result is not None
        assert client.get(url.replace("/mcp", "/sse")).status_code == 501
        for _ in range(2 * MANY):
            refused = ask(client, url, "no_such_tool", {"text": LONG})
            assert refused.code == "unknown_tool" or (refused.result is not None and refused.result["isError"])
        outboxes = tmp_path / "data" / "outbox"
        assert sum(file.stat().st_size for file in outboxes.rglob("*")) < MANY * len(LONG)
    assert [event["status"] for event in shop.events("call")] == ["answered"]
    counts = [count for event in shop.events("refusals") for count in event["counts"]]
    assert sum(count["count"] for count in counts) == 2 * MANY + 1
    assert {count["network"] for count in counts} == {"127.0.0.0/24"}
