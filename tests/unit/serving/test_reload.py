"""The config's file as it changes under a process, with what takes it in the test's own hands."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from headgate.config import Config, load
from headgate.errors import ConfigError, Unavailable
from headgate.serving.reload import ConfigFile

TEXT = """\
server: {port: 1}
access: {local: true}
pipelines:
  shop: {source: {kind: sqlite, path: shop.db}}
"""


class Site:
    """A file, who runs by it, and what was recorded."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "headgate.yaml"
        self.path.write_text(TEXT)
        self.config = load(self.path)
        self.told: list[tuple[str, str]] = []
        self.versions: list[str] = []
        self.refuses = self.is_away = False
        self.taken = asyncio.Event()
        self.file = ConfigFile(self, self.tell, flows=False, taken=self.versions.append)

    def take(self, config: Config) -> None:
        if self.is_away:
            raise Unavailable("the state does not answer")
        if self.refuses:
            raise ConfigError("policy.yaml:3: rules: is needed here")
        self.config = config
        self.taken.set()

    async def tell(self, kind: str, version: str, previous: str = "", reason: str = "") -> None:
        assert version != previous
        self.told.append((kind, reason))

    async def write(self, text: str) -> bool:
        self.path.write_text(text)
        return await self.file.look()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


async def test_a_changed_file_is_taken_and_recorded_once(site: Site) -> None:
    assert not await site.file.look()
    assert await site.write(TEXT.replace("local: true", "local: false"))
    assert not await site.file.look()
    assert not site.config.access.local
    assert site.told == [("adopted", "")]
    assert site.versions == [site.file.version]


async def test_of_two_looks_at_once_one_takes_what_has_changed(site: Site) -> None:
    """As when it is told to look while it looks anyway."""
    site.path.write_text(TEXT.replace("local: true", "local: false"))
    assert sorted(await asyncio.gather(site.file.look(), site.file.look())) == [False, True]
    assert site.told == [("adopted", "")]
    site.path.write_text("a: [")
    assert not any(await asyncio.gather(site.file.look(), site.file.look()))
    assert [kind for kind, _ in site.told] == ["adopted", "refused"]


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        (TEXT.replace("local", "lokal"), "headgate.yaml:2: access.lokal: is not a setting here"),
        ("a: [", "headgate.yaml:1: is no YAML"),
        ("data: x\n", "headgate.yaml:1: pipelines: there are none any more"),
        ("", "headgate.yaml:1: pipelines: there are none any more"),
    ],
)
async def test_a_broken_one_is_refused_once_with_its_place_and_the_one_before_stays(
    site: Site, text: str, mistake: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = site.config
    assert not await site.write(text)
    assert not await site.file.look()
    assert site.config is before
    ((kind, reason),) = site.told
    assert kind == "refused"
    assert reason.startswith(mistake)
    assert [f"{site.path.parent}/{mistake}" in record.getMessage() for record in caplog.records] == [True]
    assert not await site.write(TEXT)  # as it was: nothing to take
    assert len(site.told) == 1
    assert not await site.write(text)  # and broken once more is another time
    assert len(site.told) == 2


async def test_what_those_who_run_by_it_refuse_is_not_taken(site: Site) -> None:
    before, site.refuses = site.config, True
    assert not await site.write(TEXT.replace("local: true", "local: false"))
    assert site.config is before
    assert site.told == [("refused", "policy.yaml:3: rules: is needed here")]
    assert site.versions == []


async def test_what_can_not_be_told_now_is_tried_again(site: Site) -> None:
    text = TEXT.replace("local: true", "local: false")
    site.is_away = True
    assert not await site.write(text)
    site.is_away = False
    assert await site.file.look()
    assert site.told == [("adopted", "")]


async def test_a_file_that_is_gone_changes_nothing(site: Site) -> None:
    before = site.config
    site.path.unlink()
    assert not await site.file.look()
    assert site.config is before
    assert [kind for kind, _ in site.told] == ["refused"]
    assert not await site.write(TEXT)


async def test_what_waits_is_said(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    assert await site.write(TEXT.replace("port: 1", "port: 2, public_url: https://a.example"))
    assert site.config.server.port == 1
    assert site.config.server.public_url == "https://a.example"
    assert site.told == [("adopted", "waiting: server.port")]
    assert "waiting until this process starts anew: server.port" in caplog.text


async def test_a_version_that_was_read_before_the_start_is_compared_with(site: Site) -> None:
    file = ConfigFile(site, site.tell, flows=False, version="sha256:older")
    assert await file.look()  # it changed between the reading and the start
    assert not await file.look()


@pytest.fixture
async def looking(site: Site) -> AsyncIterator[Site]:
    task = asyncio.create_task(site.file.run())
    yield site
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_it_looks_by_itself(looking: Site) -> None:
    looking.path.write_text(TEXT.replace("local: true", "local: false"))
    await asyncio.wait_for(looking.taken.wait(), 60)
    assert not looking.config.access.local
