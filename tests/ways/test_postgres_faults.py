"""What goes wrong with a PostgreSQL source, what is said of it, and that nothing is lost. On a real server."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo
from pydantic import SecretStr

from headgate.errors import (
    HeadgateError,
    PublicationMissing,
    SlotMissing,
    SourceBusy,
    SourceNotReady,
    Unavailable,
)
from headgate.sources import postgres as kind
from headgate.sources.postgres import slot as slots
from headgate.sources.postgres.stream import finish_results, result_of
from headgate.stack import Postgres
from headgate.telemetry import wall_clock_ms
from tests.services import started
from tests.ways.deployment import until
from tests.ways.postgres_owner import DEADLINE_S, Owner, Run, key


@pytest.fixture
def owner(database: str) -> Iterator[Owner]:
    with closing(Owner(database)) as made:
        yield made


def _ids(run: Run) -> set[int]:
    return {key(change)["id"] for change in run.changes if change.marker is None}


def test_a_killed_walsender_loses_nothing(owner: Owner) -> None:
    owner.execute("create table t (id int primary key)")
    seen: set[int] = set()
    for number in range(3):
        with Run(owner.source()) as run:
            run.streaming()
            seen |= _ids(run)  # what the last run was killed over comes again, before its first head or after
            owner.execute("insert into t values (%s)", number * 10)
            seen |= {key(change)["id"] for change in run.rows(1)}
            owner.execute("insert into t values (%s)", number * 10 + 1)
            owner.execute(
                "select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = %s", owner.slot
            )
            with pytest.raises(Unavailable) as caught:
                run.until(lambda: False, "never")
            _says_nothing_secret(caught.value)
            seen |= _ids(run)
    with Run(owner.source()) as run:
        run.streaming()
        seen |= _ids(run)
    assert seen == {0, 1, 10, 11, 20, 21}


def test_a_restarted_server_is_unavailable_and_then_goes_on(owner: Owner, postgres: Postgres) -> None:
    owner.execute("create table t (id int primary key)")
    with Run(owner.source()) as run:
        run.streaming()
        postgres.kill()
        with pytest.raises(Unavailable):
            run.until(lambda: False, "never")
        with pytest.raises(Unavailable):
            owner.source().tables()
    postgres.start()
    with psycopg.connect(owner.dsn, autocommit=True) as connection:
        connection.execute("insert into t values (1)")
    with Run(owner.source()) as run:
        assert [(change.op, key(change)) for change in run.rows(1)] == [("c", {"id": 1})]


def _drop_slot(owner: Owner) -> None:
    owner.execute("select pg_drop_replication_slot(%s)", owner.slot)


def test_a_dropped_slot_is_an_error_that_a_whole_resnapshot_mends(owner: Owner) -> None:
    owner.execute("create table t (id int primary key); create table u (id int primary key)")
    with Run(owner.source()) as run:
        run.streaming()
    _drop_slot(owner)
    owner.execute("insert into t values (1)")
    for resnapshot, left in (([], "not yet: public.t, public.u"), (["public.t"], "not yet: public.u")):
        with pytest.raises(SlotMissing, match="detach") as refused:
            owner.source().capture(resnapshot=resnapshot, now_ms=wall_clock_ms)
        assert left in refused.value.message
    assert any(finding.level == "error" and owner.slot in finding.message for finding in owner.source().diagnose())
    with Run(owner.source(), resnapshot=["public.t", "public.u"]) as run:
        run.streaming()
        assert run.snapshotted() == ["public.t", "public.u"]
        assert [key(change) for change in run.changes if change.op == "r"] == [{"id": 1}]


def test_a_slot_that_the_server_gave_up_is_an_error(owner: Owner) -> None:
    owner.execute("create table t (id int primary key)")
    with Run(owner.source()) as run:
        run.streaming()
    owner.execute("alter system set max_slot_wal_keep_size = '1MB'")
    try:
        owner.execute("select pg_reload_conf()")
        until(lambda: _is_given_up(owner))  # the checkpointer hears of the setting in its own time
    finally:
        owner.execute("alter system reset max_slot_wal_keep_size")
        owner.execute("select pg_reload_conf()")
    with pytest.raises(SlotMissing):
        owner.source().capture(now_ms=wall_clock_ms)
    with Run(owner.source(), resnapshot=["public.t"]) as run:
        run.streaming()
        assert run.snapshotted() == ["public.t"]


def _is_given_up(owner: Owner) -> bool:
    """Whether one more file of the log is too much to be kept for the slot."""
    owner.execute("select pg_logical_emit_message(false, 'p', 'x')")
    owner.execute("select pg_switch_wal()")
    owner.execute("checkpoint")
    return bool(owner.value("select wal_status = 'lost' from pg_replication_slots where slot_name = %s", owner.slot))


def test_a_publication_dropped_under_a_stream_is_an_error_at_once(owner: Owner) -> None:
    owner.execute("create table t (id int primary key)")
    with Run(owner.source()) as run:
        run.streaming()
        owner.execute(f"drop publication {owner.slot}")
        with pytest.raises(PublicationMissing, match="detach"):
            run.until(lambda: False, "never")
    with pytest.raises(PublicationMissing):
        owner.source().capture(now_ms=wall_clock_ms)
    with Run(owner.source(), resnapshot=["public.t"]) as run:
        run.streaming()
        owner.execute("insert into t values (1)")
        assert key(run.rows(1)[0]) == {"id": 1}


def test_a_table_taken_out_of_the_publication_is_read_again(owner: Owner) -> None:
    owner.execute("create table t (id int primary key); create table u (id int primary key)")
    with Run(owner.source()) as run:
        run.streaming()
    owner.execute(f"alter publication {owner.slot} drop table t")
    owner.execute("insert into t values (1)")
    with Run(owner.source()) as run:
        run.streaming()
        assert run.snapshotted() == ["public.t"]
        assert [key(change) for change in run.changes if change.op == "r"] == [{"id": 1}]


def test_a_finished_table_is_not_read_again_where_another_was_interrupted(owner: Owner) -> None:
    owner.execute("create table a (id int primary key); create table b (id int primary key)")
    owner.execute("insert into a select generate_series(1, 10); insert into b select generate_series(1, 10)")
    with Run(owner.source(snapshot_batch=3)) as run:
        run.until(lambda: len(run.changes) > 15, "a part of the second table")
        assert run.snapshotted() == ["public.a"]
    owner.execute("delete from a where id = 5; delete from b where id = 5")
    with Run(owner.source()) as run:
        run.streaming()
        assert run.snapshotted() == ["public.b"]
        assert [(change.table, change.key) for change in run.changes if change.op == "d"] == [("public.a", b'{"id":5}')]


def test_a_stop_ends_a_snapshot_that_waits_for_a_transaction(owner: Owner) -> None:
    owner.execute("create table t (id int primary key)")
    with owner.connection.transaction():
        owner.execute("insert into t values (1)")  # the slot waits for its end
        with psycopg.connect(owner.dsn, autocommit=True) as other, Run(owner.source()) as run:
            assert [len(run.step().changes) for _ in range(3)] == [0, 0, 0]
            run.capture.stop()
            assert list(run.batches) == []
            run.capture.close()
            gone = "select count(*) from pg_replication_slots where slot_name = %s"
            deadline = time.monotonic() + DEADLINE_S
            while other.execute(gone, [owner.slot]).fetchone() != (0,):
                assert time.monotonic() < deadline


@contextmanager
def _foreign_reader(owner: Owner) -> Iterator[None]:
    """Something that is not Headgate streams our slot."""
    with closing(psycopg.connect(owner.dsn, autocommit=True, replication="database")) as connection:
        name = owner.slot
        text = f"START_REPLICATION SLOT {name} LOGICAL 0/0 (proto_version '1', publication_names '{name}')"
        assert connection.pgconn.exec_(text.encode()).status == psycopg.pq.ExecStatus.COPY_BOTH
        yield


def test_an_answer_that_is_long_in_coming_holds_up_no_other_thread(database: str) -> None:
    """Whoever waits for it alone waits: another thread ends what it waits for."""
    patience = "-c statement_timeout=10s"
    with psycopg.connect(database) as owner, psycopg.connect(database, autocommit=True, options=patience) as asking:
        owner.execute("create table held (id integer)")
        owner.commit()
        owner.execute("lock table held")
        asking.pgconn.send_query(b"select count(*) from held")
        begun = threading.Event()

        def answer() -> bytes | None:
            begun.set()
            found = result_of(asking.pgconn, "the source").get_value(0, 0)
            finish_results(asking.pgconn)
            return found

        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(answer)
            begun.wait()
            owner.rollback()
            assert waiting.result(DEADLINE_S) == b"0"


def test_a_slot_that_someone_else_reads_is_busy(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    owner.execute("create table t (id int primary key)")
    with Run(owner.source()) as run:
        run.streaming()
    with _foreign_reader(owner), monkeypatch.context() as hasty:
        hasty.setattr(slots, "PATIENCE_S", 0.2)
        with pytest.raises(SourceBusy), Run(owner.source()) as run:
            run.streaming()
        with pytest.raises(SourceBusy):
            owner.source().detach()
    assert owner.source().detach() == [f"replication slot {owner.slot}", f"publication {owner.slot}"]


def test_names_that_others_hold_are_not_touched(owner: Owner, postgres: Postgres) -> None:
    owner.execute("create table t (id int primary key); create publication theirs for all tables")
    slot = f"their_{owner.pipeline}"
    with psycopg.connect(postgres.dsn(), autocommit=True) as elsewhere:
        elsewhere.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", [slot])
        try:
            _is_refused(owner.source(publication="theirs"))
            _is_refused(owner.source(slot=slot))
        finally:
            elsewhere.execute("select pg_drop_replication_slot(%s)", [slot])


def _is_refused(source: kind.PostgresSource) -> None:
    with pytest.raises(SourceNotReady, match="set another name"):
        source.capture(now_ms=wall_clock_ms)
    with pytest.raises(SourceNotReady, match="set another name"):
        source.detach()
    assert any(finding.level == "error" for finding in source.diagnose())


def _says_nothing_secret(error: HeadgateError) -> None:
    assert "hidden" not in error.message and "postgres@" not in error.message and "FATAL" not in error.message


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"dbname": "no_such_database", "password": "hidden"}, SourceNotReady),
        ({"user": "no_such_user", "password": "hidden"}, SourceNotReady),
        ({"port": "1", "password": "hidden"}, Unavailable),
        ({"sslmode": "require", "password": "hidden"}, SourceNotReady),
        ({"host": "no-such-host.invalid", "password": "hidden"}, Unavailable),
    ],
)
def test_a_server_that_lets_nobody_in_is_said_without_secrets(
    owner: Owner, more: dict[str, str], expected: type[HeadgateError]
) -> None:
    source = owner.source(dsn=make_conninfo(owner.dsn, **more))
    with pytest.raises(expected) as caught:
        source.tables()
    _says_nothing_secret(caught.value)
    with pytest.raises(expected):
        source.capture(now_ms=wall_clock_ms)
    (finding,) = source.diagnose()
    assert finding.level == "error" and "hidden" not in finding.message
    assert "hidden" not in source.describe() + repr(source)


def test_a_user_without_privileges_is_told_which(owner: Owner) -> None:
    role = f"poor_{owner.pipeline}"
    owner.execute("create table t (id int primary key)")
    owner.execute(f"create role {role} login")
    try:
        source = owner.source(dsn=make_conninfo(owner.dsn, user=role))
        messages = [finding.message for finding in source.diagnose() if finding.level == "error"]
        assert any("replicate" in message for message in messages)
        assert any("create publications" in message for message in messages)
        assert any("public.t" in message for message in messages)
        with pytest.raises(SourceNotReady, match="privilege"):
            source.capture(now_ms=wall_clock_ms)
    finally:
        owner.execute(f"drop role {role}")


def test_a_user_who_may_publish_but_not_replicate_is_refused(owner: Owner) -> None:
    role = f"half_{owner.pipeline}"
    owner.execute(f"create role {role} login")
    try:
        owner.execute(sql.SQL("grant create on database {} to {}").format(
            sql.Identifier(owner.pipeline), sql.Identifier(role)).as_string(owner.connection))  # fmt: skip
        owner.execute(f"create table t (id int primary key); alter table t owner to {role}")
        with (
            pytest.raises(SourceNotReady, match="REPLICATION"),
            Run(owner.source(dsn=make_conninfo(owner.dsn, user=role))) as run,
        ):
            run.streaming()
    finally:
        owner.execute(f"drop owned by {role}")
        owner.execute(f"drop role {role}")


def test_a_server_that_does_not_decode_its_log_is_told_how_to(services_folder: Path) -> None:
    with started(Postgres(services_folder / "replica-level")) as server:
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            connection.execute("alter system set wal_level = replica")
            connection.execute("create table t (id int primary key)")
        server.stop()
        server.start()
        source = kind.open_source(kind.Config(dsn=SecretStr(server.dsn())), "shop", services_folder, wall_clock_ms)
        with pytest.raises(SourceNotReady, match="wal_level = logical"):
            source.capture(now_ms=wall_clock_ms)
        assert any(f.level == "error" and "wal_level" in f.message for f in source.diagnose())
        assert source.detach() == []
