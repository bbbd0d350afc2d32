"""The document on the disk: adopted as it changes, refused when it does not hold, archived."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest

from headgate.access.document import version_of
from headgate.access.policy_file import ARCHIVE, PolicyChange, PolicyFile, archived, open_policy
from headgate.errors import ConfigError
from headgate.model.entity import Entity
from tests.unit.access.governed import ENTITIES, KEY, caller

FIRST = "rules: [{name: first, to: everyone, tools: find}]"
SECOND = "rules: [{name: second, to: everyone, tools: find, entities: [customer]}]"
UNFIT = "rules: [{name: unfit, to: everyone, tools: find, entities: {customer: {rows: pin = claims.x}}}]"


class Desk:
    """A document, the policy that follows it, and what was told of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "policy.yaml"
        self.file.write_text(FIRST)
        self.told: list[PolicyChange] = []
        self.policy = open_policy(self.file, KEY, folder / ARCHIVE)
        self.following = PolicyFile(self.policy, self.file, folder / ARCHIVE, self.entities, self.tell)

    async def entities(self) -> Mapping[str, Entity]:
        return ENTITIES

    async def tell(self, change: PolicyChange) -> None:
        self.told.append(change)

    def rules(self) -> tuple[str, ...]:
        return self.policy.decide(caller()).rules


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


async def test_a_changed_document_is_adopted_and_archived(desk: Desk) -> None:
    assert desk.rules() == ("first",) and await desk.following.look() is False
    desk.file.write_text(SECOND)
    assert await desk.following.look() is True and desk.rules() == ("second",)
    assert desk.told == [PolicyChange(kind="adopted", version=version_of(SECOND), previous=version_of(FIRST))]
    for text in (FIRST, SECOND):
        assert archived(desk.folder / ARCHIVE, version_of(text)).read_text() == text
    assert await desk.following.look() is False and len(desk.told) == 1


async def test_of_two_looks_at_once_one_adopts_what_has_changed(desk: Desk) -> None:
    """As when it is told to look while it looks anyway."""
    desk.file.write_text(SECOND)
    assert sorted(await asyncio.gather(desk.following.look(), desk.following.look())) == [False, True]
    assert [change.kind for change in desk.told] == ["adopted"]
    desk.file.write_text(UNFIT)
    assert not any(await asyncio.gather(desk.following.look(), desk.following.look()))
    assert [change.kind for change in desk.told] == ["adopted", "refused"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [("rules: [", "is no YAML"), ("rulez: []", "policy.yaml:1: rulez: is not a setting"), (UNFIT, "has no index")],
)
async def test_a_broken_document_is_refused_once_and_the_old_one_stays(desk: Desk, text: str, reason: str) -> None:
    desk.file.write_text(text)
    for _ in range(3):
        assert await desk.following.look() is False
    assert desk.rules() == ("first",)
    [change] = desk.told
    assert change.kind == "refused" and reason in change.reason
    assert (change.version, change.previous) == (version_of(text), version_of(FIRST))
    assert not archived(desk.folder / ARCHIVE, version_of(text)).exists()


async def test_a_refused_document_is_told_again_after_it_was_mended(desk: Desk) -> None:
    for text in (UNFIT, FIRST, UNFIT, SECOND):
        desk.file.write_text(text)
        await desk.following.look()
    assert [change.kind for change in desk.told] == ["refused", "refused", "adopted"] and desk.rules() == ("second",)


async def test_a_document_that_is_gone_changes_nothing(desk: Desk) -> None:
    desk.file.unlink()
    for _ in range(2):
        assert await desk.following.look() is False
    [change] = desk.told
    assert change.kind == "refused" and "can't be read" in change.reason and str(desk.folder) not in change.reason
    desk.file.write_text(SECOND)
    assert await desk.following.look() is True


async def test_it_goes_on_looking(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headgate.access.policy_file.CHECK_S", 0.001)
    adopted = asyncio.Event()

    async def fails_once() -> Mapping[str, Entity]:
        monkeypatch.setattr(desk.following, "_entities", desk.entities)
        raise RuntimeError("a fault of ours")

    async def tell(change: PolicyChange) -> None:
        adopted.set()

    monkeypatch.setattr(desk.following, "_entities", fails_once)
    monkeypatch.setattr(desk.following, "_told", tell)
    desk.file.write_text(SECOND)
    following = asyncio.create_task(desk.following.run())
    await asyncio.wait_for(adopted.wait(), 60)
    following.cancel()
    assert desk.rules() == ("second",)


@pytest.mark.parametrize("data", [b"rules: [", b"\xff\xfe"])
def test_a_server_does_not_start_on_a_document_that_does_not_hold(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "policy.yaml").write_bytes(data)
    with pytest.raises(ConfigError, match=r"policy\.yaml"):
        open_policy(tmp_path / "policy.yaml", KEY, tmp_path / ARCHIVE)
    with pytest.raises(ConfigError, match="can't be read"):
        open_policy(tmp_path / "other.yaml", KEY, tmp_path / ARCHIVE)
