"""The way of a change, second half: reads the log and applies to the store.

Rows and position are written in one atomic step; then the log's offset is committed, as a hint for other
tools. The store's position is the truth: after a crash, a failover or a re-delivery this page starts from
what the store holds, and a writer that has been fenced off changes nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import ExitStack
from typing import NamedTuple

from headgate.errors import HeadgateError, LogTruncated, Refused
from headgate.failpoints import reach
from headgate.flow.apply import Applying
from headgate.flow.catalog import Catalog
from headgate.flow.contract import define_sound
from headgate.flow.definition import await_tables
from headgate.flow.desired import Wishes
from headgate.flow.halting import Halting
from headgate.flow.heartbeat import Heartbeats
from headgate.flow.lag import Lag
from headgate.flow.lanes import Lanes
from headgate.flow.letters import Letters, passed_over, requests_of
from headgate.flow.lookout import Lookout
from headgate.flow.materializing import Materializing
from headgate.flow.retry import Backoff
from headgate.flow.standing import Standing
from headgate.flow.touching import Touching
from headgate.flow.upkeep import Run, Upkeep, told
from headgate.model.pipeline import group_of
from headgate.model.table import Table
from headgate.telemetry import logger

_log = logger("flow.materialize")
_BATCH = 10_000
_POLL_S = 0.1
_LOOK_EVERY_S = 1.0


def run_materialize(rooms: Materializing, stop: threading.Event) -> None:
    """Materializes until `stop`. After a fault it claims anew and goes on from the store's position.

    A pipeline that is to be paused leaves the group that shares partitions; its positions stay in the store.
    """
    half = _Half(Wishes(rooms.state, rooms.pipeline), Standing(), Lag(rooms.log), rooms.catalog())
    with rooms.reporter.reminding(half.lag.records), half.wishes.looking():
        _materialize_until(rooms, half, stop)
    rooms.reporter.withdraw()


class _Half(NamedTuple):
    """What outlasts a run."""

    wishes: Wishes
    standing: Standing
    lag: Lag
    catalog: Catalog


def _materialize_until(rooms: Materializing, half: _Half, stop: threading.Event) -> None:
    backoff = Backoff(rooms.jitter)
    distrust = False
    while not stop.is_set():
        half.wishes.stand_by(rooms.reporter, stop)
        if stop.is_set():
            break
        ending = half.wishes.run(stop)
        try:
            _materialize_once(rooms, half, ending, backoff, distrust=distrust)
            distrust = False
        except LogTruncated as error:
            _log.warning("%s: the log has lost records: %s", rooms.pipeline, error.message)
            rooms.reporter.fault(error)
            distrust = True
        except Refused:
            _log.warning("%s: another process has taken over; joining again", rooms.pipeline)
        except HeadgateError as error:
            _log.warning("%s: materialize stands still: %s", rooms.pipeline, error.message)
            _log.debug("%s: what was below it", rooms.pipeline, exc_info=error)
            rooms.reporter.fault(error)
        except Exception as error:
            _log.exception("%s: materialize failed", rooms.pipeline)
            failed = f"Materializing failed unexpectedly ({type(error).__name__}): see its log."
            rooms.reporter.fault(HeadgateError(failed))
        backoff.wait(ending)


def _materialize_once(
    rooms: Materializing, half: _Half, ending: threading.Event, backoff: Backoff, *, distrust: bool
) -> None:
    """One run, from learning the schemas to a fault or the end."""
    tables = await_tables(rooms, ending)
    if tables is None:
        return
    with ExitStack() as opened:
        run = _begin(rooms, half, tables, opened, distrust=distrust)
        upkeep = Upkeep(run)
        while not ending.is_set() and upkeep.is_current:
            _round(run, upkeep)
            backoff.reset()


def _begin(rooms: Materializing, half: _Half, tables: Mapping[str, Table], opened: ExitStack, *, distrust: bool) -> Run:
    """Joins the group that shares partitions. What is opened is closed with `opened`, the last one first."""
    defined = define_sound(rooms, tables, half.standing)
    writer = rooms.open_writer(defined.entities)
    opened.callback(writer.close)
    writer.define(defined.entities)
    half.catalog.defined(defined.entities)
    opened.callback(half.catalog.tell)  # what came to be since it was last told
    lanes = Lanes(
        defined.entities,
        writer,
        rooms.log,
        topic_of=rooms.topic_of,
        lost=rooms.ask_for_snapshot,
        distrust=distrust,
        refills=rooms.refills(),
        touching=Touching(rooms.tell),
        switched=half.catalog.switched,
    )
    fed = rooms.feed is not None
    reader = rooms.log.follow(lanes.topics, group_of(rooms.pipeline), lanes.assign, lanes.revoke, tell_ends=fed)
    opened.callback(reader.close)
    control = rooms.beats(entity.table for entity in defined.entities)
    opened.callback(control.close)
    beats = Heartbeats()
    halting = Halting(rooms, lanes, half.standing, passed_over(requests_of(rooms.state, rooms.pipeline)))
    applying = Applying(rooms, writer, lanes, reader, beats, halting)
    applying.define(defined.entities, tables)
    letters = Letters(rooms, writer, lanes, half.standing, applying.fitting, applying.write)
    opened.callback(letters.close)
    lookout = Lookout(lambda: told(rooms, defined, tables), _LOOK_EVERY_S, f"lookout-{rooms.pipeline}")
    opened.callback(lookout.close)
    return Run(
        rooms=rooms,
        defined=defined,
        tables=tables,
        writer=writer,
        lanes=lanes,
        reader=reader,
        control=control,
        beats=beats,
        applying=applying,
        halting=halting,
        letters=letters,
        lookout=lookout,
        standing=half.standing,
        lag=half.lag,
        catalog=half.catalog,
    )


def _round(run: Run, upkeep: Upkeep) -> None:
    """Poll, apply, tend. Returns after at most a tenth of a second when nothing comes."""
    records = run.reader.poll_slices(_BATCH, _POLL_S)
    upkeep.take_heartbeats()
    if records:
        reach("materialize.polled")
        run.applying.apply(records)
        upkeep.note(records, _POLL_S)
    upkeep.tend(idle=not records)
