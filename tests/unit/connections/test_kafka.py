"""A Kafka connection's config, what its errors become, and what `doctor` says, against real brokers."""

from __future__ import annotations

import datetime
import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from pydantic import ValidationError

from headgate.audit.contract import PipelineTopics, contract
from headgate.connections.kafka import Config, _not_described, diagnose, explain, is_passing
from headgate.errors import ConfigError, HeadgateError, LogError, RecordTooLarge, Unavailable
from headgate.log.base import Reader, Record, Topic
from headgate.log.kafka import open_log
from headgate.model.keeping import Keeping
from headgate.model.pipeline import group_of
from headgate.model.position import Partition
from headgate.stack import Kafka
from headgate.stack.ports import free_port
from headgate.telemetry import wall_clock_ms
from tests.services import started

# The library exports these by documentation, but not to type checkers.
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # isort: skip
    AclBinding, AclOperation, AclPermissionType, NewTopic, ResourcePatternType, ResourceType,
)  # fmt: skip

SASL: dict[str, Any] = {
    "sasl_mechanism": "PLAIN",
    "username": "ann",
    "password": "s3cret-of-ann",
}
WITHIN_S = 60.0
_UPPER = re.compile(r"(?<!^)(?=[A-Z])")


# --- the config ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "bootstrap_servers"),
        ({"bootstrap_servers": ""}, "bootstrap_servers"),
        ({"bootstrap_servers": "k:9092", "bootstrap": "k"}, "bootstrap"),
        ({"bootstrap_servers": "k:9092", "security_protocol": "TLS"}, "security_protocol"),
        ({"bootstrap_servers": "k:9092", "security_protocol": "SASL_SSL"}, "SASL needs sasl_mechanism, username"),
        ({"bootstrap_servers": "k:9092", "username": "ann"}, "need security_protocol SASL_SSL"),
        ({"bootstrap_servers": "k:9092", "security_protocol": "SASL_SSL", **SASL, "password": None}, "SASL needs"),
        ({"bootstrap_servers": "k:9092", "ssl_key_location": "k.pem"}, "ssl_certificate_location"),
        ({"bootstrap_servers": "k:9092", "message_max_bytes": 10}, "message_max_bytes"),
    ],
)
def test_a_config_that_does_not_hold_says_where(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        Config(**settings)


def test_secrets_are_shown_nowhere_but_to_librdkafka() -> None:
    config = Config(bootstrap_servers="k:9092", security_protocol="SASL_SSL", **SASL)
    assert config.librdkafka()["sasl.password"] == "s3cret-of-ann"
    assert "s3cret" not in f"{config!r} {config} {config.describe()} {config.model_dump()} {config.model_dump_json()}"
    assert config.describe() == "Kafka at k:9092 (SASL_SSL, PLAIN as ann)"
    with pytest.raises(ValidationError) as raised:
        Config(bootstrap_servers="k:9092", **SASL, **{"unknown": 1})
    assert "s3cret" not in str(raised.value)


def test_a_certificate_that_is_not_there_is_an_error_of_the_config(tmp_path: Path) -> None:
    config = Config(bootstrap_servers="k:9092", security_protocol="SSL", ssl_ca_location=tmp_path / "missing.pem")
    with pytest.raises(ConfigError) as raised:
        open_log(config, clock=wall_clock_ms)
    assert str(tmp_path) not in str(raised.value)
    (finding,) = diagnose("main", config)
    assert (finding.level, finding.part) == ("error", "connection main")
    assert "ssl_" in finding.mend


# --- what errors become --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "kind", "passes"),
    [
        (KafkaError._ALL_BROKERS_DOWN, Unavailable, True),
        (KafkaError._TIMED_OUT, Unavailable, True),
        (KafkaError.NOT_LEADER_FOR_PARTITION, Unavailable, True),
        (KafkaError._AUTHENTICATION, Unavailable, False),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, LogError, False),
        (KafkaError.MSG_SIZE_TOO_LARGE, RecordTooLarge, False),
        (KafkaError.INVALID_REPLICATION_FACTOR, LogError, False),
    ],
)
def test_an_error_says_what_to_do_and_not_what_the_driver_said(
    code: int, kind: type[HeadgateError], passes: bool
) -> None:
    error = KafkaError(code, "driver text with broker-7.internal:9092")
    explained = explain(error, "read the log")
    assert type(explained) is kind
    assert "broker-7" not in str(explained)
    assert is_passing(error) is passes


# --- doctor --------------------------------------------------------------------------------------


def test_a_cluster_that_answers_is_ok(kafka: Kafka) -> None:
    (finding,) = diagnose("main", Config(bootstrap_servers=kafka.bootstrap_servers))
    assert finding.level == "ok"
    assert finding.message.endswith("answers, brokers: 1")


def test_a_cluster_that_does_not_answer_is_an_error_with_its_mend() -> None:
    (finding,) = diagnose("main", Config(bootstrap_servers=f"127.0.0.1:{free_port()}", timeout_s=0.5))
    assert finding.level == "error"
    assert "look whether its brokers run" in finding.mend


def test_topics_that_forget_too_soon_are_named_with_the_mend(kafka: Kafka, topic_prefix: str) -> None:
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    config = Config(bootstrap_servers=kafka.bootstrap_servers)
    log = open_log(config, clock=wall_clock_ms)
    ours = [Topic(name=f"{topic_prefix}{n}", compacted=bool(n), retention_ms=1_000_000) for n in range(2)]
    short = f"{topic_prefix}short"
    settings = {"cleanup.policy": "compact,delete", "retention.ms": "5000", "retention.bytes": "100000"}
    admin.create_topics([NewTopic(short, 1, config=settings)])[short].result(WITHIN_S)
    log.ensure([*ours, Topic(name=short)])
    log.close()
    asked = Keeping(holds="rows", retention_ms=1_000_000, because="Headgate replays")
    needs = dict.fromkeys([short, *(topic.name for topic in ours), f"{topic_prefix}missing"], asked)
    _, *findings = diagnose("main", config, needs)
    assert {finding.part for finding in findings} == {f"connection main, topic {short}"}
    assert {finding.level for finding in findings} == {"warning"}
    assert {finding.mend for finding in findings} == {
        "set retention.ms=1000000 on the topic",
        "set min.compaction.lag.ms=1000000 on the topic",
        "set retention.bytes=-1 on the topic",
        f"set max.message.bytes={config.message_max_bytes} on the topic",
    }


def test_a_topic_whose_settings_are_not_shown_to_us_is_said_to_be_so() -> None:
    (finding,) = _not_described("topic t", KafkaException(KafkaError(KafkaError.TOPIC_AUTHORIZATION_FAILED)))
    assert (finding.level, finding.part) == ("warning", "topic t")
    assert "DescribeConfigs" in finding.mend
    assert _not_described("topic t", KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))) == []
    with pytest.raises(KafkaException):
        _not_described("topic t", KafkaException(KafkaError(KafkaError._TIMED_OUT)))


# --- a cluster that asks who we are --------------------------------------------------------------


class GuardedKafka(Kafka):
    """A broker behind TLS whose clients log in with a password."""

    def prepare(self) -> None:
        """Certificates first."""
        authority, identity = make_certificates()
        self.write("authority.pem", authority)
        self.write("identity.pem", identity)
        super().prepare()

    def config(self, **changes: Any) -> Config:
        """Its connection, as it should be unless changed."""
        settings: dict[str, Any] = {"ssl_ca_location": self.home / "authority.pem", **SASL, **changes}
        return Config(bootstrap_servers=self.bootstrap_servers, security_protocol="SASL_SSL", **settings)

    def _settings(self) -> str:
        named = " ".join(f"user_{name}=s3cret-of-{name}" for name in ("ann", "headgate", "reader", "broker"))
        users = f"{named} username=broker password=s3cret-of-broker"
        login = f"org.apache.kafka.common.security.plain.PlainLoginModule required {users};"
        guard = {
            "listeners": f"SASL_SSL://{self.bootstrap_servers},CONTROLLER://127.0.0.1:{self.ports['controller']}",
            "advertised.listeners": f"SASL_SSL://{self.bootstrap_servers}",
            "listener.security.protocol.map": "SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT",
            "inter.broker.listener.name": "SASL_SSL",
            "sasl.enabled.mechanisms": "PLAIN",
            "sasl.mechanism.inter.broker.protocol": "PLAIN",
            "listener.name.sasl_ssl.plain.sasl.jaas.config": login,
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ann;User:broker;User:ANONYMOUS",  # the controller's listener asks nobody
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(self.home / "identity.pem"),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.home / "authority.pem"),
        }
        return super()._settings() + "".join(f"{name}={value}\n" for name, value in guard.items())

    def answers(self) -> bool:
        """Whether it lets a client in that knows its password."""
        return diagnose("guarded", self.config(timeout_s=2))[0].level == "ok"


def make_certificates() -> tuple[str, str]:
    """An authority's certificate, and a key with a certificate of it for 127.0.0.1, as PEM."""
    now, name = datetime.datetime.now(datetime.UTC), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tests")])
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    public = certificate.public_bytes(Encoding.PEM).decode()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return public, private + public


@pytest.fixture(scope="module")
def guarded(services_folder: Path) -> Iterator[GuardedKafka]:
    with started(GuardedKafka(services_folder / "guarded-kafka")) as server:
        yield server


def test_the_right_certificate_and_password_open_the_cluster(guarded: GuardedKafka) -> None:
    log = open_log(guarded.config(), clock=wall_clock_ms)
    log.ensure([Topic(name="t")])
    appender = log.appender()
    appender.append("t", Record(b"k", b"v"))
    appender.close()
    reader = log.read({Partition("t", 0): 0})
    assert [record.value for record in reader.poll(1, WITHIN_S)] == [b"v"]
    reader.close()
    log.close()


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"password": "s3cret-of-nobody"}, id="password"),
        pytest.param({"ssl_ca_location": None}, id="authority"),  # the system's do not know this one
    ],
)
def test_a_refusal_is_told_by_every_part_and_shows_no_secret(
    guarded: GuardedKafka, caplog: pytest.LogCaptureFixture, wrong: dict[str, Any]
) -> None:
    caplog.set_level(logging.DEBUG)
    config = guarded.config(**wrong, timeout_s=1)
    log = open_log(config, clock=wall_clock_ms)
    reader, appender = log.follow(["t"], "g", lambda _: {}, lambda _: None), log.appender()
    appender.append("t", Record(b"k", b"v"))
    for ask in (lambda: log.end(["t"]), lambda: appender.flush(2), lambda: reader.poll(1, 2)):
        with pytest.raises(Unavailable, match="look at its security_protocol, username, password"):
            ask()
    (finding,) = diagnose("main", config)
    assert finding.level == "error"
    assert "password" in finding.mend
    for closable in (reader, appender, log):
        closable.close()
    assert "s3cret" not in f"{caplog.text} {finding}"


# --- a cluster with ACLs -------------------------------------------------------------------------


def as_user(guarded: GuardedKafka, name: str) -> Config:
    return guarded.config(username=name, password=f"s3cret-of-{name}")


def allow(guarded: GuardedKafka, acls: list[dict[str, Any]]) -> None:
    """What the contract's document says that each side must be allowed."""
    admin = AdminClient(guarded.config().librdkafka())
    bindings = [
        AclBinding(
            ResourceType["BROKER" if acl["resource"] == "cluster" else acl["resource"].upper()],
            acl["name"], ResourcePatternType[acl["pattern"].upper()],
            "User:" + {"headgate": "headgate", "readers": "reader"}[acl["who"]], "*",
            AclOperation[_UPPER.sub("_", operation).upper()], AclPermissionType.ALLOW,
        )
        for acl in acls
        for operation in acl["operations"]
    ]  # fmt: skip
    for answer in admin.create_acls(list(dict.fromkeys(bindings))).values():
        answer.result(WITHIN_S)


def test_what_the_contract_allows_is_enough_on_a_cluster_with_acls(guarded: GuardedKafka) -> None:
    """Topics made, written, read alone and in the group, and looked at by doctor: all as a user with nothing more."""
    shop = PipelineTopics(pipeline="shop", partitions=1, retention_ms=60_000)
    document = contract("1", [shop], calls_retention_ms=60_000)
    config = as_user(guarded, "headgate")
    log = open_log(config, clock=wall_clock_ms)
    topics = [
        Topic(name=name, compacted=name.startswith("shop."))
        for name in ("headgate.calls", "shop.public.orders", "headgate.heartbeats.shop", "headgate.dead-letters.shop")
    ]
    for topic in topics:
        with pytest.raises(LogError, match="AUTHORIZATION"):
            log.ensure([topic])
    acls = [acl for operation in document["operations"].values() for acl in operation["x-acls"]]
    allow(guarded, acls)
    until_allowed(lambda: log.ensure(topics))
    names = [topic.name for topic in topics]
    assert (log.partitions(names), len(log.identities(names))) == (dict.fromkeys(names, 1), 4)
    with closing(log.appender()) as appender:
        for name in names:
            appender.append(name, Record(b"k", b"v"))
        appender.flush(WITHIN_S)
    start = {Partition(name, 0): 0 for name in names}
    with closing(log.read(start)) as alone, pytest.raises(LogError, match=r"read the log.*GROUP_AUTHORIZATION"):
        read_all(alone, 5)  # there are four; what a reader without a group needs is said of the whole cluster
    allow(guarded, document["x-acls"])
    alone = log.read(start)
    assert read_all(alone, 4) == dict.fromkeys(names, b"v")
    with closing(log.follow(names[1:2], group_of("shop"), lambda _: start, lambda _: None)) as member:
        assert read_all(member, 1) == {names[1]: b"v"}
        member.commit({Partition(names[1], 0): 1})
    keeping = Keeping(holds="history", retention_ms=1, because="a test wants it")
    of_rows = Keeping(holds="rows", retention_ms=1, because="a test wants it")
    found = diagnose("main", config, {**dict.fromkeys(names, keeping), names[1]: of_rows})
    assert not [each for each in found if each.level == "error" or "not shown" in each.message]
    assert alone.poll(1, 0.0) == []  # no refusal has come by now
    for closable in (alone, log):
        closable.close()
    committed = Consumer({**config.librdkafka(), "group.id": group_of("shop")})
    [place] = committed.committed([TopicPartition(names[1], 0)], WITHIN_S)
    assert place.offset == 1
    committed.close()
    with closing(open_log(as_user(guarded, "reader"), clock=wall_clock_ms)) as other:
        assert other.partitions(names) == dict.fromkeys(names, 1)
        with closing(other.appender()) as appender, pytest.raises(LogError):
            appender.append(names[0], Record(b"k", b"v"))
            appender.flush(WITHIN_S)


def until_allowed(ask: Callable[[], None]) -> None:
    """Brokers hear of what is allowed a moment later."""
    deadline = time.monotonic() + WITHIN_S
    while True:
        try:
            return ask()
        except LogError:
            if time.monotonic() > deadline:
                raise


def read_all(reader: Reader, count: int) -> dict[str, bytes | None]:
    """The values of so many topics' records."""
    found: dict[str, bytes | None] = {}
    deadline = time.monotonic() + WITHIN_S
    while len(found) < count and time.monotonic() < deadline:
        found |= {record.partition.topic: record.value for record in reader.poll(10, 1.0)}
    return found
