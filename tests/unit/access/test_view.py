"""A store as one grant sees it."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import pytest

from headgate.access.view import narrow
from headgate.errors import NotIndexed, SnapshotPending, Unavailable, UnknownEntity, UnknownPipeline
from headgate.model.pipeline import REPORTS, PipelineState
from headgate.model.position import Watermark
from headgate.state.base import Entry
from headgate.stores.base import Count, Query
from headgate.testing import NOW_MS, MemoryReader, MemoryState, grant_of, view_of
from tests.unit.tools.shop import ENTITIES, SHOP, fault, letter, progress, reader, report, running, shop_view


class Silent(MemoryState):
    """A state whose server does not answer."""

    def scan(self, prefix: str) -> Mapping[str, Entry]:
        raise Unavailable("the state does not answer")


class Counting(MemoryState):
    """Counts how often it is scanned."""

    scans = 0

    def scan(self, prefix: str) -> Mapping[str, Entry]:
        self.scans += 1
        return super().scan(prefix)


def watermark(*as_of_ms: int, entity: str = "order", generation: int = 1) -> Watermark:
    """A watermark of one partition for each time."""
    partitions = {number: progress(each, offset=number + 5) for number, each in enumerate(as_of_ms)}
    return Watermark(entity=entity, generation=generation, partitions=partitions)


# --- entities -------------------------------------------------------------------------------------


async def test_rows_are_the_readers() -> None:
    view = shop_view()
    assert list(await view.entities()) == ["customer", "order", "order_line"]
    assert [row.key for row in (await view.get("customer", ["9", "1", "7"])).rows] == ["9", "7"]
    assert [row.key for row in (await view.lookup("customer", "plan", ["vip"], 5)).rows] == ["7", "9"]
    assert [row.key for row in (await view.find("order", Query(order="total", limit=2))).rows] == ["1", "2"]
    assert await view.count("customer") == Count(rows=3)
    assert (await view.watermark("customer")).entity == "customer"
    assert view.now_ms() == NOW_MS


async def test_an_unknown_entity_names_the_known_ones_at_every_read() -> None:
    view = shop_view()
    for read in (
        view.entity("x"), view.get("x", []), view.lookup("x", "f", [], 1), view.find("x", Query()), view.count("x"),
        view.watermark("x"),
    ):  # fmt: skip
        with pytest.raises(UnknownEntity, match="customer, order, order_line"):
            await read


async def test_without_the_scope_no_entity_exists() -> None:
    view = shop_view(grant=grant_of("pipelines:read"))
    assert await view.entities() == {}
    with pytest.raises(UnknownEntity, match="none yet"):
        await view.get("customer", ["7"])


async def test_admin_sees_everything() -> None:
    view = shop_view(grant=grant_of("admin"))
    assert len(await view.entities()) == 3 and len(await view.pipelines()) == 1


async def test_the_readers_refusals_come_through() -> None:
    with pytest.raises(NotIndexed):
        await shop_view().lookup("customer", "profile", ["x"], 1)


async def test_another_grant_on_the_same_store() -> None:
    view = shop_view()
    other = view.with_grant(grant_of("pipelines:read"))
    assert await other.entities() == {} and len(await view.entities()) == 3
    assert other.grant.scopes == {"pipelines:read"} and view.grant.scopes != other.grant.scopes


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("running", "it is being taken"),
        ("snapshotting", "has read 1200 of about 5000 rows so far"),
        ("error", r"is not running \(status: error\)"),
        ("paused", r"is not running \(status: paused\)"),
    ],
)
async def test_a_pending_snapshot_says_how_far_it_is(state: PipelineState, said: str) -> None:
    store, shared = reader(), running()
    store.mark_pending("order")
    shared.report(report("capture", state, snapshot_done=1_200, snapshot_total=5_000))
    with pytest.raises(SnapshotPending, match=said):
        await shop_view(store, shared).get("order", ["1"])


async def test_a_pending_snapshot_that_nobody_takes_says_so() -> None:
    store = reader()
    store.mark_pending("order")
    with pytest.raises(SnapshotPending, match=r"status: stopped"):
        await shop_view(store, MemoryState()).find("order", Query())


# --- freshness ------------------------------------------------------------------------------------


async def test_an_answer_is_as_fresh_as_its_stalest_partition() -> None:
    freshness = await shop_view().freshness([watermark(NOW_MS - 100, NOW_MS - 2_500)])
    assert freshness.state == "fresh"
    assert freshness.as_of_ms == NOW_MS - 2_500 and freshness.staleness_ms == 2_500
    assert freshness.position == {"order": {"0": 5, "1": 6}} and freshness.bound_ms == 30_000


@pytest.mark.parametrize(("behind_ms", "state"), [(30_000, "fresh"), (30_001, "stale")])
async def test_the_bound_is_the_pipelines(behind_ms: int, state: str) -> None:
    assert (await shop_view().freshness([watermark(NOW_MS - behind_ms)])).state == state


async def test_another_bound_judges_otherwise() -> None:
    strict = msgspec.structs.replace(SHOP, bound_ms=1_000)
    view = view_of(reader(), state=running(), pipelines=[strict])
    freshness = await view.freshness([watermark(NOW_MS - 1_500)])
    assert freshness.state == "stale" and freshness.bound_ms == 1_000


async def test_a_source_whose_clock_is_a_little_ahead_is_not_fresher_than_now() -> None:
    freshness = await shop_view().freshness([watermark(NOW_MS + 5_000)])
    assert freshness.state == "fresh" and freshness.staleness_ms == 0


@pytest.mark.parametrize("ahead_ms", [5_001, 86_400_000])
async def test_a_time_that_has_not_come_yet_is_unknown_and_never_fresh(ahead_ms: int) -> None:
    """Our clock was set back, or the source's is wrong: a pipeline that is silent would be fresh until then."""
    mark = watermark(NOW_MS + ahead_ms)
    view = shop_view()
    freshness = await view.freshness([mark])
    assert freshness.state == "unknown"
    assert freshness.as_of_ms == NOW_MS + ahead_ms and freshness.staleness_ms is None
    assert view.freshness_now(mark, await view.entity("order"), None) == freshness
    mixed = await view.freshness([mark, watermark(NOW_MS - 100, entity="customer")])
    assert mixed.state == "unknown"


async def test_narrowed_to_a_rows_partition_the_others_do_not_count() -> None:
    whole = watermark(NOW_MS - 100, NOW_MS - 60_000)
    assert (await shop_view().freshness([narrow(whole, {0})])).staleness_ms == 100
    assert (await shop_view().freshness([narrow(whole, {1})])).state == "stale"


async def test_without_a_heartbeat_it_is_unknown_and_never_fresh() -> None:
    freshness = await shop_view().freshness([watermark(NOW_MS, 0)])
    assert freshness.state == "unknown" and freshness.as_of_ms is None and freshness.staleness_ms is None


async def test_of_nothing_nothing_is_known() -> None:
    assert (await shop_view().freshness([])).state == "unknown"


@pytest.mark.parametrize("state", ["paused", "error", "stopped"])
async def test_stale_data_of_a_pipeline_that_stands_still_is_stopped(state: PipelineState) -> None:
    shared = running()
    shared.report(report("materialize", state))
    freshness = await shop_view(state=shared).freshness([watermark(NOW_MS - 60_000)])
    assert freshness.state == "stopped" and freshness.staleness_ms == 60_000


async def test_stale_data_without_a_live_report_is_stopped() -> None:
    assert (await shop_view(state=MemoryState()).freshness([watermark(NOW_MS - 60_000)])).state == "stopped"


async def test_data_within_the_bound_is_fresh_whoever_runs() -> None:
    assert (await shop_view(state=MemoryState()).freshness([watermark(NOW_MS - 60)])).state == "fresh"


async def test_fresh_answers_ask_no_state() -> None:
    shared = Counting()
    await shop_view(state=shared).freshness([watermark(NOW_MS)])
    assert shared.scans == 0


async def test_a_state_that_does_not_answer_leaves_stale_data_stale() -> None:
    freshness = await shop_view(state=Silent()).freshness([watermark(NOW_MS - 60_000)])
    assert freshness.state == "stale" and freshness.staleness_ms == 60_000


async def test_before_the_first_generation_it_is_snapshotting() -> None:
    freshness = await shop_view().freshness([watermark(generation=0)])
    assert freshness.state == "snapshotting" and freshness.staleness_ms is None


async def test_stale_data_whose_next_generation_is_being_filled_is_snapshotting() -> None:
    mark = Watermark(entity="order", generation=1, partitions={0: progress(NOW_MS - 60_000, generation=2)})
    freshness = await shop_view().freshness([mark])
    assert freshness.state == "snapshotting" and freshness.staleness_ms == 60_000


async def test_of_several_entities_the_worst_counts() -> None:
    marks = [watermark(NOW_MS), watermark(NOW_MS - 60_000, entity="customer")]
    freshness = await shop_view().freshness(marks)
    assert freshness.state == "stale" and freshness.staleness_ms == 60_000
    assert list(freshness.position) == ["customer", "order"]
    assert (await shop_view().freshness([*marks, watermark(0, entity="order_line")])).state == "unknown"


async def test_of_two_reads_of_a_partition_the_earlier_position_counts() -> None:
    early, late = watermark(NOW_MS), watermark(NOW_MS)
    late.partitions[0] = progress(NOW_MS, offset=99)
    assert (await shop_view().freshness([late, early])).position == {"order": {"0": 5}}


# --- pipelines ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("capture", "materialize", "expected"),
    [
        (["running"], ["running"], "running"),
        (["running"], [], "stopped"),
        ([], ["running"], "stopped"),
        ([], [], "stopped"),
        (["running"], ["stopped"], "stopped"),
        (["stopped"], ["paused"], "paused"),
        (["snapshotting"], ["paused"], "snapshotting"),
        (["snapshotting"], ["error"], "error"),
        (["running", "stopped"], ["running"], "running"),
        (["running"], ["running", "error"], "error"),
    ],
)
async def test_the_status_is_the_worse_halfs(
    capture: list[PipelineState], materialize: list[PipelineState], expected: str
) -> None:
    shared = MemoryState()
    for number, state in enumerate(capture):
        shared.report(report("capture", state, process=f"a{number}"))
    for number, state in enumerate(materialize):
        shared.report(report("materialize", state, process=f"b{number}"))
    [status] = await shop_view(state=shared).pipelines()
    assert status.state == expected


async def test_processes_of_one_half_are_taken_together() -> None:
    shared = running()
    shared.report(
        report(
            "materialize", process="second", events_per_s=20.0, lag_records=6_000, lag_ms=70_000, last_event_ms=NOW_MS
        )
    )
    half = (await shop_view(state=shared).pipeline("shop")).materialize
    assert (half.processes, half.events_per_s, half.lag_records, half.lag_ms) == (2, 100.0, 10_000, 70_000)
    assert (half.last_event_ms, half.batch_size, half.snapshot_total) == (NOW_MS, 500, None)


async def test_faults_come_with_their_half() -> None:
    shared = running()
    shared.report(report("materialize", "error", fault=fault("store_failed")))
    shared.report(report("capture", "error", fault=fault("slot_missing")))
    status = await shop_view(state=shared).pipeline("shop")
    assert [(half, each.code) for half, each in status.faults] == [
        ("capture", "slot_missing"), ("materialize", "store_failed"),
    ]  # fmt: skip


async def test_reports_of_other_pipelines_and_releases_are_passed_over() -> None:
    shared = running()
    shared.report(report("capture", "error", pipeline="other"))
    shared.put(f"{REPORTS}shop/capture/odd", b'{"state":"dancing"}')
    assert (await shop_view(state=shared).pipeline("shop")).state == "running"


async def test_reports_are_read_at_most_once_a_second_by_all_grants_together() -> None:
    shared, now = Counting(), [NOW_MS]
    view = view_of(reader(), state=shared, pipelines=[SHOP], clock=lambda: now[0])
    await view.pipelines()
    await view.with_grant(grant_of("pipelines:read")).pipelines()
    once = shared.scans
    assert once == 2  # the reports, and what is wanted
    now[0] += 1_000
    await view.pipelines()
    assert shared.scans == 2 * once


async def test_a_report_vanishes_with_its_time() -> None:
    now = [NOW_MS]
    shared = MemoryState(lambda: now[0])
    for half in ("capture", "materialize"):
        shared.put(f"{REPORTS}shop/{half}/1", msgspec.json.encode(report(half)), ttl_ms=10_000)
    view = view_of(reader(), state=shared, pipelines=[SHOP], clock=lambda: now[0])
    assert (await view.pipeline("shop")).state == "running"
    now[0] += 10_000
    assert (await view.pipeline("shop")).state == "stopped"


async def test_pipelines_come_in_the_order_of_their_names() -> None:
    infos = [msgspec.structs.replace(SHOP, name=name) for name in ("b", "c", "a")]
    view = view_of(reader(), pipelines=infos)
    assert [status.info.name for status in await view.pipelines()] == ["a", "b", "c"]


async def test_without_the_scope_no_pipeline_exists() -> None:
    view = shop_view(grant=grant_of("data:read"))
    assert list(await view.pipelines()) == []
    for read in (view.pipeline("shop"), view.dead_letters("shop", 1), view.pipeline_watermarks("shop")):
        with pytest.raises(UnknownPipeline, match="none yet"):
            await read


async def test_dead_letters_are_one_pipelines_newest() -> None:
    store = reader()
    for number in range(3):
        store.add_dead_letter(letter(number))
    found, total = await shop_view(store).dead_letters("shop", 2)
    assert [each.offset for each in found] == [2, 1] and total == 3
    with pytest.raises(UnknownPipeline, match="Pipelines: shop"):
        await shop_view(store).dead_letters("other", 2)


async def test_a_pipelines_watermarks_are_those_of_its_entities() -> None:
    elsewhere = msgspec.structs.replace(ENTITIES[0], name="elsewhere", pipeline="other")
    store = MemoryReader([*ENTITIES, elsewhere])
    store.mark_pending("order")
    marks = await shop_view(store).pipeline_watermarks("shop")
    assert [(mark.entity, mark.generation) for mark in marks] == [("customer", 1), ("order", 0), ("order_line", 1)]


async def test_a_state_that_does_not_answer_is_said_to_who_asks_for_pipelines() -> None:
    with pytest.raises(Unavailable):
        await shop_view(state=Silent()).pipelines()
