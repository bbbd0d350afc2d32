"""Threads of pipelines' halves: started, ended and begun anew as the config says."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from headgate.config import Pipeline, parse
from headgate.serving.halves import Halves, Opened

DEADLINE_S = 30.0
SHOP = "shop: {source: {kind: sqlite, path: shop.db}}"
MORE = "more: {source: {kind: sqlite, path: more.db}}"


def pipelines(*lines: str) -> Mapping[str, Pipeline]:
    return parse("pipelines:\n" + "".join(f"  {line}\n" for line in lines), Path("/x/headgate.yaml"), {}).pipelines


class Seen:
    """What was begun and closed, in order; each half waits until it is to end."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.halves = Halves(self._open, DEADLINE_S)

    def _open(self, opened: Opened) -> list[tuple[str, Callable[[], None]]]:
        name = opened.pipeline.name
        self.told.append(f"open {name}")
        opened.stack.callback(self.told.append, f"close {name}")

        def run() -> None:
            assert opened.stop.wait(DEADLINE_S)
            self.told.append(f"end {name}")

        return [(f"test-half-{name}", run)]

    def taken(self) -> list[str]:
        told = list(self.told)
        self.told.clear()
        return told


@pytest.fixture
def seen() -> Iterator[Seen]:
    made = Seen()
    yield made
    made.halves.close()


def alive() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("test-half-")}


def test_what_changed_is_begun_anew_and_what_did_not_goes_on(seen: Seen) -> None:
    seen.halves.follow(pipelines(SHOP))
    assert (seen.taken(), alive()) == (["open shop"], {"test-half-shop"})
    seen.halves.follow(pipelines(SHOP, MORE))
    assert (seen.taken(), alive()) == (["open more"], {"test-half-shop", "test-half-more"})
    seen.halves.follow(pipelines(SHOP, MORE.replace("more.db", "other.db")))
    assert seen.taken() == ["end more", "close more", "open more"]
    seen.halves.follow(pipelines(MORE.replace("more.db", "other.db")))
    assert (seen.taken(), alive()) == (["end shop", "close shop"], {"test-half-more"})


def test_how_fresh_answers_are_to_be_is_not_the_flow_s(seen: Seen) -> None:
    seen.halves.follow(pipelines(SHOP))
    seen.halves.follow(pipelines(SHOP.replace("db}", "db}, freshness_bound_s: 5")))
    assert seen.taken() == ["open shop"]
    seen.halves.follow(pipelines(SHOP.replace("db}", "db}, freshness_bound_s: 5, retention_days: 2")))
    assert seen.taken() == ["end shop", "close shop", "open shop"]


def test_what_is_opened_is_closed_once_its_half_has_ended(seen: Seen) -> None:
    seen.halves.follow(pipelines(SHOP, MORE))
    seen.taken()
    seen.halves.close()
    seen.halves.close()
    told = seen.taken()
    assert sorted(told) == ["close more", "close shop", "end more", "end shop"]
    assert all(told.index(f"end {name}") < told.index(f"close {name}") for name in ("shop", "more"))
    assert alive() == set()
