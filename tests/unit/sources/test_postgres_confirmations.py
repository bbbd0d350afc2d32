"""What the server may forget, by what is durable on the log."""

from __future__ import annotations

from headgate.sources.postgres.confirmations import Confirmations
from headgate.sources.postgres.publication import Finished


def test_a_token_confirms_its_position_and_none_after_it() -> None:
    confirmations = Confirmations()
    first = confirmations.hand_over(100, has_changes=True)
    second = confirmations.hand_over(200, has_changes=True)
    assert second > first
    confirmations.confirm(first)
    assert confirmations.lsn == 100
    confirmations.confirm(second)
    assert confirmations.lsn == 200


def test_a_later_token_confirms_the_earlier_ones() -> None:
    confirmations = Confirmations()
    confirmations.hand_over(100, has_changes=True)
    last = confirmations.hand_over(200, has_changes=False)
    confirmations.confirm(last)
    confirmations.reached(300)
    assert confirmations.lsn == 300


def test_the_stream_confirms_itself_only_while_no_change_is_outstanding() -> None:
    confirmations = Confirmations()
    token = confirmations.hand_over(100, has_changes=True)
    confirmations.hand_over(150, has_changes=False)
    confirmations.reached(300)
    assert confirmations.lsn == 0
    confirmations.confirm(token)
    confirmations.reached(300)
    assert confirmations.lsn == 300


def test_it_never_goes_back() -> None:
    confirmations = Confirmations()
    confirmations.reached(300)
    confirmations.confirm(confirmations.hand_over(100, has_changes=True))
    assert confirmations.lsn == 300


def test_a_snapshot_is_finished_once_its_last_batch_is_durable() -> None:
    confirmations = Confirmations()
    rows = confirmations.hand_over(0, has_changes=True)
    confirmations.finish("public.t", Finished(generation=7, lsn="0/64"))
    end = confirmations.hand_over(0, has_changes=True)
    confirmations.confirm(rows)
    assert confirmations.take_finished() == {}
    confirmations.confirm(end)
    assert confirmations.take_finished() == {"public.t": Finished(generation=7, lsn="0/64")}
    assert confirmations.take_finished() == {}
