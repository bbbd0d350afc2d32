"""Several processes on one port: evenly spread, started anew, told what their parent is told."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.ways.asking import Asking, ask
from tests.ways.deployment import Process, until
from tests.ways.serving import ROWS, Shop, await_replaced, clients_of, lives, page, workers_of

WORKERS = 3


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


@contextlib.contextmanager
def connected(url: str, count: int) -> Iterator[list[httpx.Client]]:
    """So many clients, each with a connection of its own over which it has asked once."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(httpx.Client(timeout=60)) for _ in range(count)]
        for number, client in enumerate(clients):
            assert ask(client, url, "lookup_customer", {"customer_id": 1 + number % ROWS}).result is not None
        yield clients


def is_answered(client: httpx.Client, url: str) -> bool:
    """Who comes anew before the parent has heard of a worker's end may be handed to the dying one once more."""
    try:
        return ask(client, url, "lookup_customer", {"customer_id": 1}).result is not None
    except httpx.TransportError:
        return False


def spread(process: Process, url: str) -> list[int]:
    """How many clients each worker has."""
    return sorted(clients_of(worker, url) for worker in workers_of(process))


@pytest.mark.parametrize("share", [1, 4])
def test_each_worker_gets_its_share_of_the_connections(shop: Shop, share: int) -> None:
    with shop.serving("--workers", str(WORKERS)) as process:
        url = process.url()
        until(lambda: spread(process, url) == [0] * WORKERS)  # those that asked whether it is ready have left
        with connected(url, WORKERS * share) as clients:
            assert spread(process, url) == [share] * WORKERS
            for client in clients[: share * 2]:
                client.close()
            until(lambda: sum(spread(process, url)) == share)
            with connected(url, share * 2):
                assert spread(process, url) == [share] * WORKERS
    assert len({each["writer"] for each in shop.events("call")}) == WORKERS
    shop.verify()


def test_a_dead_worker_is_missed_by_its_own_clients_alone_and_soon_replaced(shop: Shop) -> None:
    with shop.serving("--workers", str(WORKERS)) as process:
        url = process.url()
        with connected(url, WORKERS) as clients:
            killed = workers_of(process)[0]
            killed.kill()
            lost = 0
            for client in clients:
                try:
                    ask(client, url, "lookup_customer", {"customer_id": 1})
                except httpx.TransportError:
                    lost += 1
                    until(lambda: is_answered(client, url))  # noqa: B023 - asked at once
            assert lost <= 1
            await_replaced(process, url, killed, WORKERS)
            assert page(url, "/readyz").json()["workers"] == {"ready": WORKERS, "of": WORKERS}
            until(lambda: sum(spread(process, url)) == WORKERS)
            with connected(url, WORKERS):  # who comes now goes where there is most room
                assert spread(process, url) == [2] * WORKERS


def test_one_that_dies_again_and_again_leaves_the_port_to_the_others(shop: Shop) -> None:
    with shop.serving("--workers", "2") as process:
        url = process.url()
        with Asking(url, "lookup_customer", lambda number: {"customer_id": 1 + number % ROWS}) as asking:
            for _ in range(3):
                first = workers_of(process)[-1]
                first.kill()
                await_replaced(process, url, first, 2)
            answered = len(asking.answers)
            until(lambda: len(asking.answers) > answered + 20)
        assert Counter(bool(each.result) for each in asking.answers) == {True: len(asking.answers)}


def test_a_worker_that_hangs_gets_no_clients_and_is_counted_out(shop: Shop) -> None:
    with shop.serving("--workers", "2") as process:
        url = process.url()
        hung = workers_of(process)[0]
        hung.suspend()
        try:
            until(lambda: _ready_count(url) == 1)
            with connected(url, 4):
                assert clients_of(hung, url) <= 1  # those that came before it was noticed
        finally:
            hung.resume()
        until(lambda: _ready_count(url) == 2)


def _ready_count(url: str) -> int:
    """A page that the hung one was asked for does not come."""
    try:
        count: int = httpx.get(url.replace("/mcp", "/readyz"), timeout=5).json()["workers"]["ready"]
    except httpx.TimeoutException:
        return 0
    return count


def test_workers_end_with_their_parent(shop: Shop) -> None:
    with shop.serving("--workers", "2") as process:
        workers = workers_of(process)
        process.kill()
        until(lambda: not any(map(lives, workers)))
        process.start()  # the port is a new one, and its end is asked for as ever
        until(lambda: process.text().count("serving MCP") == 2)


def test_the_port_is_left_at_once_and_calls_under_way_end(shop: Shop) -> None:
    with shop.serving("--workers", "2") as process:
        url = process.url()
        with connected(url, 2):
            assert process.stop() == 0
            with pytest.raises(OSError), socket.create_connection(("127.0.0.1", int(url.split(":")[2].split("/")[0]))):
                pass
    assert len(shop.events("call")) == 2
    shop.verify()


def test_a_worker_alone_that_is_told_to_end_is_replaced(shop: Shop) -> None:
    with shop.serving("--workers", "2") as process:
        url = process.url()
        gone = workers_of(process)[0]
        os.kill(gone.pid, signal.SIGTERM)
        await_replaced(process, url, gone, 2)


def test_a_config_that_no_worker_can_serve_by_ends_the_whole_with_its_reason(shop: Shop) -> None:
    shop.write(server="port: 0, host: 0.0.0.0", access="dev_tokens: false")
    process = Process(shop.folder, "serve", "--workers", "2")
    assert process.ended() == 1
    assert "no identity is configured" in process.text()
    assert "Traceback" not in process.text()
