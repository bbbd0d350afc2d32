"""The outbox's chain and checkpoints: what it leaves behind verifies, whatever happened on the way."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import closing
from pathlib import Path

import pytest

from headgate.audit import outbox as outbox_module
from headgate.audit.checkpoints import Witness, checkpoint_in
from headgate.audit.outbox import CHECKPOINT_EVERY, Outbox
from headgate.audit.outbox_file import OutboxFile
from headgate.audit.signing import KEY_FILE
from headgate.audit.trail import Foreign, outbox_trail
from headgate.audit.verify import Report, Verifier
from tests.unit.audit.test_publisher import until
from tests.unit.audit.trails import body_of, checkpoints, keys_of


def opened(data: Path) -> Outbox:
    return Outbox(data / "outbox", "w-1", clock=lambda: 0, checkpoints=checkpoints(data))


async def append(outbox: Outbox, *numbers: int) -> None:
    await asyncio.gather(*(outbox.append(body, id_) for id_, body in map(body_of, numbers)))


def verified(data: Path) -> Report:
    verifier = Verifier(keys_of(data), Witness(data).all())
    for taken in outbox_trail(data / "outbox"):
        assert not isinstance(taken, Foreign)
        verifier.take(taken)
    return verifier.report()


def signed_in(data: Path) -> list[tuple[int, bool]]:
    """Where checkpoints stand, and whether each is the last."""
    with closing(OutboxFile(data / "outbox", "w-1")) as file:
        found = [(event.seq, checkpoint_in(event.body)) for event in file.events(0, 100_000)]
    return [(seq, checkpoint.final) for seq, checkpoint in found if checkpoint is not None]


async def test_what_an_outbox_leaves_is_whole_and_signed_to_its_end(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as outbox:
        for number in range(1, 51):
            await append(outbox, number)
        assert outbox.recorded == 50
    report = verified(tmp_path)
    (part,) = report.writers
    assert (report.breached, part.last, part.signed, part.final) == (0, 51, 50, True)
    assert [(each.seq, each.final) for each in Witness(tmp_path).all()] == [(50, True)]


async def test_a_thousand_events_have_a_checkpoint(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as outbox:
        for start in range(0, 2_500, 100):
            await append(outbox, *range(start, start + 100))
    places = signed_in(tmp_path)
    assert [final for _, final in places] == [False, False, True]
    assert all(second - first <= CHECKPOINT_EVERY + 100 for (first, _), (second, _) in itertools.pairwise(places))
    assert verified(tmp_path).breached == 0


async def test_a_writer_that_falls_silent_signs_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "_CHECKPOINT_AFTER_S", 0.05)
    with closing(opened(tmp_path)) as outbox:
        await append(outbox, 1, 2)
        await asyncio.to_thread(until, lambda: bool(Witness(tmp_path).all()))
        assert signed_in(tmp_path) == [(3, False)]
        await append(outbox, 3)
        await asyncio.to_thread(until, lambda: Witness(tmp_path).all()[0].seq == 4)
    assert signed_in(tmp_path) == [(3, False), (5, False), (6, True)]


async def test_a_chain_goes_on_in_a_file_that_is_opened_again(tmp_path: Path) -> None:
    for number in range(1, 4):
        with closing(opened(tmp_path)) as outbox:
            await append(outbox, number)
    report = verified(tmp_path)
    assert (report.breached, report.writers[0].last, report.writers[0].final) == (0, 6, True)


async def test_an_outbox_that_was_never_used_signs_nothing(tmp_path: Path) -> None:
    opened(tmp_path).close()
    assert signed_in(tmp_path) == [] and not (tmp_path / KEY_FILE).exists()


async def test_without_a_key_that_can_be_used_calls_go_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / KEY_FILE).write_text("no key")
    with closing(opened(tmp_path)) as outbox:
        await append(outbox, 1, 2)
    assert signed_in(tmp_path) == []
    assert "without a signed checkpoint" in caplog.text


async def test_without_a_witness_that_can_be_written_calls_go_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "checkpoints.db").write_bytes(b"something else " * 100)
    with closing(opened(tmp_path)) as outbox:
        await append(outbox, 1)
    assert signed_in(tmp_path) == [(2, True)]
    assert "is in the record alone" in caplog.text
