"""What one process takes of a changed config, by its real rooms."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from headgate.app import App
from headgate.config import Config, load
from headgate.errors import ConfigError
from headgate.serving.seat import Seat
from tests.unit.serving.certificates import certificate

TEXT = """\
data: data
server: {port: 0}
access: {anonymous: true, anonymous_scopes: [data:read], budgets: {read: 5}}
pipelines:
  shop: {source: {kind: sqlite, path: shop.db}}
"""


def config(folder: Path, text: str = TEXT) -> Config:
    path = folder / "headgate.yaml"
    path.write_text(text)
    return load(path, {})


@pytest.fixture
def app(tmp_path: Path) -> Iterator[App]:
    (tmp_path / "shop.db").touch()
    with App(config(tmp_path)) as opened:
        yield opened


async def test_rooms_are_made_anew_over_what_is_open(app: App, tmp_path: Path) -> None:
    seat = Seat(app, None)
    before, reader = app.rooms, app.reader
    seat.take(
        config(
            tmp_path, TEXT.replace("read: 5", "read: 7").replace("port: 0", "port: 0, limits: {drain_s: 1, scan_s: 2}")
        )
    )
    after = app.rooms
    assert after is not before
    assert after.budget is not before.budget
    assert app.reader is reader
    assert (after.state, after.outbox, after.refusals) == (before.state, before.outbox, before.refusals)
    assert after.policy is before.policy
    assert seat.server.crowd.bounds.grace_s == 1
    assert (before.reading.scan_s, after.reading.scan_s) == (300, 2)
    await app.close_rooms()


async def test_an_address_that_others_reach_is_never_left_without_an_identity(app: App) -> None:
    app.config = replace(app.config, server=app.config.server.model_copy(update={"host": "0.0.0.0"}))
    seat = Seat(app, None)
    before = app.config, app.rooms.identity
    closed = app.config.access.model_copy(update={"anonymous": False})
    with pytest.raises(ConfigError, match="no identity"):
        seat.take(replace(app.config, access=closed))
    assert app.config is before[0]
    assert app.config.access.anonymous
    await app.close_rooms()


async def test_a_policy_that_does_not_hold_leaves_all_as_it_was(app: App, tmp_path: Path) -> None:
    seat = Seat(app, None)
    before, rooms = app.config, app.rooms
    (tmp_path / "policy.yaml").write_text("rules: none\n")
    found = config(tmp_path, TEXT.replace("access: {", f"access: {{policy: policy.yaml, policy_key: {'k' * 32}, "))
    with pytest.raises(ConfigError, match=r"policy\.yaml:1"):
        seat.take(found)
    assert (app.config, app.rooms) == (before, rooms)
    await app.close_rooms()


async def test_a_certificate_that_does_not_hold_leaves_all_as_it_was(tmp_path: Path) -> None:
    certificate(tmp_path, "first")
    (tmp_path / "shop.db").touch()
    tls = TEXT.replace("port: 0", "port: 0, tls: {cert: cert.pem, key: key.pem}")
    with App(config(tmp_path, tls)) as app:
        seat = Seat(app, None)
        with pytest.raises(ConfigError, match=r"server\.tls needs"):
            seat.take(config(tmp_path, tls.replace("cert.pem", "other.pem").replace("read: 5", "read: 9")))
        assert app.config.access.budgets.read.calls == 5
        seat.read_tls()  # nothing has changed
        await app.close_rooms()
