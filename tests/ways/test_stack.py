"""`headgate stack`: real servers come up, are found again, survive a kill, and leave nothing behind."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psycopg
import pytest
import redis
from confluent_kafka import Consumer, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from headgate.errors import MissingExtra, StackError
from headgate.stack import DEFAULT_SERVICES, Connect, Kafka, MariaDB, MySQL, Postgres, Registry, Stack, Valkey
from headgate.stack.base import kill_all_below
from headgate.stack.jars import LOCK_FILE, Jar, locked, obtain
from headgate.stack.ports import free_port, is_free
from headgate.stack.process import Process, wait_for
from tests.services import started, throwaway_folder
from tests.ways.debezium import asked


@pytest.fixture
def folder() -> Iterator[Path]:
    with throwaway_folder() as made:
        yield made


# --- the stack -------------------------------------------------------------------------------------


def test_up_status_down_of_the_default_services(folder: Path) -> None:
    told: list[str] = []
    stack = Stack(folder / "stack", progress=told.append)
    assert [(name, running) for name, running, _ in stack.status()] == [(name, False) for name in DEFAULT_SERVICES]

    stack.up()
    first = processes(stack)
    assert all(status.running for status in stack.status())
    assert_connections_work(stack)

    stack.up()
    assert processes(stack) == first, "a second up leaves what runs alone"

    # A later process knows nothing but the folder.
    later = Stack(folder / "stack")
    assert later.status() == stack.status()
    ports = [port for name in later.services for port in later.service(name).ports.values()]
    later.down()
    assert not any(found.is_alive for found in first)
    assert all(is_free(port) for port in ports)
    assert not any(status.running for status in stack.status())

    stack.down()  # twice is no error
    stack.down(purge=True)
    assert not (folder / "stack").exists()
    assert {name for name in DEFAULT_SERVICES if f"{name} stopped" in told} == set()
    assert [line for line in told if "runs already" in line]


def test_servers_never_run_as_root(folder: Path) -> None:
    with started(Valkey(folder / "valkey")) as server:
        assert Path("/proc", str(server.pid)).stat().st_uid != 0


def test_the_connections_block_is_what_a_config_holds(folder: Path) -> None:
    stack = Stack(folder / "stack", ["valkey"])
    with pytest.raises(StackError, match="never started"):
        stack.connections_yaml()
    stack.up()
    port = stack.service("valkey").port
    expected = f'connections:\n  cache: {{kind: redis, url: "redis://127.0.0.1:{port}/0"}}\n'
    assert stack.connections_yaml() == expected
    stack.down()
    assert stack.connections_yaml() == expected, "the port is kept"


def test_connect_brings_its_kafka_along(folder: Path) -> None:
    stack = Stack(folder / "stack", ["connect"])
    assert stack.services == ["kafka", "connect"]
    assert [status.connection for status in stack.status()] == [None, None]
    stack.down()  # never started: no error


def test_an_unknown_service_is_named(folder: Path) -> None:
    with pytest.raises(StackError, match=r"no service 'oracle'.*Services: kafka"):
        Stack(folder, ["oracle"])


def test_one_failure_leaves_the_others_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr("headgate.stack.binlog.SYSTEM_PROGRAMS", "")
    stack = Stack(folder / "stack", ["valkey", "mariadb"])
    with pytest.raises(StackError, match="apt-get install mariadb-server"):
        stack.up()
    assert {status.name: status.running for status in stack.status()} == {"valkey": True, "mariadb": False}
    stack.down()


# --- one server ------------------------------------------------------------------------------------


def test_kafka_killed_and_started_again_keeps_its_data(folder: Path) -> None:
    with started(Kafka(folder / "kafka")) as kafka:
        port = kafka.port
        create_topic(kafka, "kept")
        produce(kafka, "kept", [b"1", b"2", b"3"])

        kafka.kill()
        assert not kafka.is_running
        kafka.start()

        assert kafka.port == port
        produce(kafka, "kept", [b"4"])
        assert consume(kafka, "kept", 4) == [b"1", b"2", b"3", b"4"]


def test_a_jvm_takes_its_options_from_one_variable_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADGATE_JAVA_OPTIONS", "-Xlog:gc -XX:TieredStopAtLevel=1")
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Xmx1m")  # of which no JVM would start
    with started(Kafka(folder / "kafka")) as kafka:
        assert "[gc]" in kafka.log.read_text()
        assert "JAVA_TOOL_OPTIONS" not in kafka.log.read_text()


def test_kafka_makes_no_topic_by_itself(kafka: Kafka, topic_prefix: str) -> None:
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    admin.list_topics(f"{topic_prefix}none", timeout=60)
    assert f"{topic_prefix}none" not in admin.list_topics(timeout=60).topics


def test_postgres_killed_and_started_again_keeps_what_it_acknowledged(folder: Path) -> None:
    with started(Postgres(folder / "postgres")) as postgres:
        with psycopg.connect(postgres.dsn(), autocommit=True) as connection:
            assert connection.execute("show wal_level").fetchone() == ("logical",)
            assert connection.execute("show fsync").fetchone() == ("on",)
            connection.execute("create table kept (n int)")
            connection.execute("insert into kept values (7)")
            members = running(postgres).family()
            postgres.kill()
        assert not any(member.is_alive for member in members), "its child processes die with it"
        postgres.start()
        with psycopg.connect(postgres.dsn()) as connection:
            assert connection.execute("select n from kept").fetchone() == (7,)


def test_a_frozen_walsender_can_be_found(database: str, postgres: Postgres) -> None:
    assert wait_for(lambda: postgres.walsenders() == [], 60), "those of tests before have ended"
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("select pg_create_logical_replication_slot('s', 'pgoutput')")
    command = [str(postgres.programs() / "pg_recvlogical"), "-d", database, "-S", "s", "--start", "-f", "-"]
    options = ["-o", "proto_version=1", "-o", "publication_names=p"]
    with subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as reader:
        assert wait_for(lambda: len(postgres.walsenders()) == 1, 60)
        (walsender,) = postgres.walsenders()
        walsender.signal(signal.SIGSTOP)
        postgres.resume()
        reader.terminate()
    assert wait_for(lambda: postgres.walsenders() == [], 60)


def test_a_frozen_server_does_not_answer_and_then_goes_on(folder: Path) -> None:
    with started(Valkey(folder / "valkey")) as valkey, redis.Redis.from_url(valkey.url()) as client:
        client.set("k", "v")
        valkey.pause()
        assert valkey.is_running
        with redis.Redis.from_url(valkey.url(), socket_timeout=0.2) as hasty, pytest.raises(redis.TimeoutError):
            hasty.get("k")
        valkey.resume()
        assert client.get("k") == b"v"
        valkey.pause()
        valkey.start()  # a start thaws it
        assert client.get("k") == b"v"
        valkey.pause()
    assert not valkey.is_running, "a frozen server can be stopped"


def test_valkey_keeps_its_keys_through_a_kill_only_where_it_is_told_to(folder: Path) -> None:
    for append_only, expected in ((True, b"v"), (False, None)):
        with started(Valkey(folder / f"valkey-{append_only}", append_only=append_only)) as valkey:
            with redis.Redis.from_url(valkey.url()) as client:
                client.set("k", "v")
                assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
            valkey.kill()
            valkey.start()
            with redis.Redis.from_url(valkey.url()) as client:
                assert client.get("k") == expected


def test_a_server_that_ends_at_once_tells_why(folder: Path) -> None:
    valkey = Valkey(folder / "valkey", binary=Path("/bin/false"))
    with pytest.raises(StackError, match=r"valkey ended at once"):
        valkey.start()
    assert not valkey.is_running


def test_a_taken_port_is_named(folder: Path) -> None:
    with started(Valkey(folder / "first")) as first:
        second = Valkey(folder / "second")
        second.folder.mkdir()
        (second.folder / "ports.json").write_text(f'{{"main": {first.port}}}')
        with pytest.raises(StackError, match=f"another process listens on its port {first.port}"):
            second.start()


def test_two_starts_at_once_make_one_server(folder: Path) -> None:
    servers = [Valkey(folder / "valkey") for _ in range(4)]
    threads = [threading.Thread(target=server.start) for server in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({server.pid for server in servers}) == 1
    servers[0].stop()
    assert not any(server.is_running for server in servers)


def test_a_server_outlives_the_process_that_started_it(folder: Path) -> None:
    script = (
        f"from pathlib import Path; from headgate.stack import Valkey; Valkey(Path({str(folder / 'valkey')!r})).start()"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True)
    valkey = Valkey(folder / "valkey")
    assert valkey.is_running
    found = running(valkey)
    kill_all_below(folder)
    assert not found.is_alive


def test_mariadb_that_is_missing_names_its_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr("headgate.stack.binlog.SYSTEM_PROGRAMS", "")
    with pytest.raises(StackError, match="apt-get install mariadb-server"):
        MariaDB(folder / "mariadb").start()


def test_without_mariadb_its_tests_are_skipped_but_not_in_ci(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr("headgate.stack.binlog.SYSTEM_PROGRAMS", "")
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="mariadb-server"), started(MariaDB(folder / "mariadb")):
        pass
    monkeypatch.setenv("CI", "true")
    with pytest.raises(StackError, match="mariadb-server"), started(MariaDB(folder / "mariadb")):
        pass


def made_program(folder: Path, version: str) -> Path:
    """A `mysqld` that says it is of this version, alone in its folder."""
    folder.mkdir(parents=True)
    program = folder / "mysqld"
    program.write_text(f"#!/bin/sh\necho 'mysqld  Ver {version} for Linux on x86_64'\n")
    program.chmod(0o755)
    return program


def test_mysql_is_found_behind_the_link_of_its_name_that_comes_with_mariadb(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headgate.stack.binlog.SYSTEM_PROGRAMS", "")
    link = made_program(folder / "mariadb", "10.11.19-MariaDB-0")
    monkeypatch.setenv("PATH", str(link.parent))
    assert not MySQL.is_installed()
    program = made_program(folder / "mysql", "8.4.3 (MySQL Community Server - GPL)")
    monkeypatch.setenv("PATH", f"{link.parent}:{program.parent}")
    assert MySQL.is_installed()
    assert MySQL(folder / "server").installation(folder)[0] == str(program)


def test_without_mysql_its_tests_are_skipped_and_it_says_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr("headgate.stack.binlog.SYSTEM_PROGRAMS", "")
    with pytest.raises(StackError, match="Install MySQL's server"):
        MySQL(folder / "mysql").start()
    for in_ci in ("true", "false"):
        monkeypatch.setenv("CI", in_ci)
        with pytest.raises(pytest.skip.Exception, match="MySQL's server"), started(MySQL(folder / "mysql")):
            pass


def test_a_package_that_is_missing_names_the_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headgate.stack.base.find_spec", lambda package: None)
    with pytest.raises(MissingExtra, match=re.escape("headgate[stack]")):
        Valkey(folder / "valkey").start()


# --- the optional ones -----------------------------------------------------------------------------


def test_the_registry_keeps_its_schemas(registry: Registry) -> None:
    schema = {"schema": '{"type": "record", "name": "R", "fields": []}'}
    versions = f"{registry.url}/subjects/r-value/versions"
    given = httpx.post(versions, json=schema, timeout=60).raise_for_status().json()["id"]
    registry.stop()
    registry.start()
    assert httpx.get(f"{registry.url}/schemas/ids/{given}", timeout=60).status_code == 200


def test_connect_runs_debezium(connect: Connect, kafka: Kafka, database: str, topic_prefix: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("create table seen (id int primary key)")
        connection.execute("insert into seen values (7)")
    name = topic_prefix.rstrip(".")
    asked(connect, "PUT", f"/connectors/{name}/config", debezium(database, name)).raise_for_status()
    try:
        assert wait_for(lambda: f"{name}.public.seen" in topics(kafka), 180)
        (record,) = consume(kafka, f"{name}.public.seen", 1)
        assert record is not None and json.loads(record)["after"] == {"id": 7}
    finally:
        asked(connect, "DELETE", f"/connectors/{name}").raise_for_status()


def debezium(dsn: str, name: str) -> dict[str, str]:
    database = urlsplit(dsn)
    return {
        "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
        "database.hostname": str(database.hostname),
        "database.port": str(database.port),
        "database.user": "postgres",
        "database.dbname": database.path.strip("/"),
        "topic.prefix": name,
        "plugin.name": "pgoutput",
        "slot.name": "debezium",
        "topic.creation.default.partitions": "1",
        "topic.creation.default.replication.factor": "1",
    }


# --- processes and ports ---------------------------------------------------------------------------


def test_a_pid_that_was_given_to_another_process_is_not_signalled() -> None:
    with subprocess.Popen(["sleep", "60"]) as other:
        impostor = Process(other.pid, "another boot/1")
        assert not impostor.is_alive
        impostor.signal(signal.SIGKILL)
        assert other.poll() is None
        other.kill()


def test_free_ports_lie_below_those_of_outgoing_connections() -> None:
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert 1024 < free_port() < lowest


# --- jars ------------------------------------------------------------------------------------------

CONTENT = b"a jar"
JAR = Jar("org.example:thing:1.0", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


def good_fetch(jar: Jar, staging: Path) -> Path:
    fetched = staging / jar.file_name
    fetched.write_bytes(CONTENT)
    return fetched


def no_fetch(jar: Jar, staging: Path) -> Path:
    raise AssertionError("nothing is fetched")


def test_a_jar_is_fetched_once(tmp_path: Path) -> None:
    told: list[str] = []
    (file,) = obtain([JAR], tmp_path, told.append, good_fetch)
    assert file.read_bytes() == CONTENT
    assert told == ["fetching 0 MB of Java archives (1 files), once", "fetched 0 MB of Java archives"]
    told.clear()
    assert obtain([JAR], tmp_path, told.append, no_fetch) == [file]
    assert told == []


@pytest.mark.parametrize("changed", [b"A jar", b"a jar and more", b""])
def test_a_tampered_jar_is_not_run(tmp_path: Path, changed: bytes) -> None:
    (file,) = obtain([JAR], tmp_path, fetch=good_fetch)
    file.write_bytes(changed)
    with pytest.raises(StackError, match=r"is not the org\.example:thing:1\.0 that jars\.lock\.toml names"):
        obtain([JAR], tmp_path, fetch=no_fetch)


def test_a_wrong_download_never_reaches_the_cache(tmp_path: Path) -> None:
    def bad_fetch(jar: Jar, staging: Path) -> Path:
        fetched = staging / jar.file_name
        fetched.write_bytes(b"evil!")
        return fetched

    with pytest.raises(StackError, match="SHA-256"):
        obtain([JAR], tmp_path, fetch=bad_fetch)
    assert list(tmp_path.glob("*.jar")) == []
    obtain([JAR], tmp_path, fetch=good_fetch)


def test_two_that_need_a_jar_at_once_fetch_it_once(tmp_path: Path) -> None:
    fetched: list[str] = []
    meet = threading.Barrier(2)

    def counted_fetch(jar: Jar, staging: Path) -> Path:
        fetched.append(jar.coordinates)
        return good_fetch(jar, staging)

    def need() -> None:
        meet.wait(60)
        obtain([JAR], tmp_path, fetch=counted_fetch)

    threads = [threading.Thread(target=need) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert fetched == [JAR.coordinates]


def test_the_lock_file_names_every_root_and_no_host() -> None:
    text = LOCK_FILE.read_text()
    assert "://" not in text
    for name, content in tomllib.loads(text).items():
        coordinates = [jar.coordinates for jar in locked(name)]
        assert set(content["roots"]) <= set(coordinates)
        assert len({jar.file_name for jar in locked(name)}) == len(coordinates)


# --- what these tests say in one word --------------------------------------------------------------


def running(server: Postgres | Valkey | Kafka) -> Process:
    found = server.process
    assert found is not None
    return found


def processes(stack: Stack) -> list[Process]:
    found = [stack.service(name).process for name in stack.services]
    return [process for process in found if process]


def assert_connections_work(stack: Stack) -> None:
    connections = {status.name: status.connection or {} for status in stack.status()}
    with psycopg.connect(connections["postgres"]["dsn"]) as connection:
        assert connection.execute("select 1").fetchone() == (1,)
    with redis.Redis.from_url(connections["valkey"]["url"]) as client:
        assert client.ping()
    admin = AdminClient({"bootstrap.servers": connections["kafka"]["bootstrap_servers"]})
    assert len(admin.list_topics(timeout=60).brokers) == 1


def topics(kafka: Kafka) -> set[str]:
    return set(AdminClient({"bootstrap.servers": kafka.bootstrap_servers}).list_topics(timeout=60).topics)


def create_topic(kafka: Kafka, topic: str) -> None:
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(60)


def produce(kafka: Kafka, topic: str, values: list[bytes]) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "acks": "all"})
    for value in values:
        producer.produce(topic, value)
    assert producer.flush(60) == 0


def consume(kafka: Kafka, topic: str, count: int) -> list[bytes | None]:
    consumer = Consumer({"bootstrap.servers": kafka.bootstrap_servers, "group.id": f"test-{os.getpid()}"})
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        found: list[Message] = consumer.consume(count, 60)
        return [message.value() for message in found]
    finally:
        consumer.close()
