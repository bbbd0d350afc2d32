"""A Kafka cluster as the config names it: how to reach it, what its errors mean, and what `doctor` says of it.

Settings are librdkafka's: https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Literal

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

# The library exports these two by documentation, but not to type checkers.
from confluent_kafka.admin import ConfigResource, ResourceType  # type: ignore[attr-defined]  # isort: skip
from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from headgate.connections._retention import judge
from headgate.errors import ConfigError, HeadgateError, LogError, RecordTooLarge, Unavailable
from headgate.model.finding import Finding
from headgate.model.keeping import Keeping
from headgate.telemetry import logger

_log = logger("kafka")

REFUSALS = frozenset({KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED, KafkaError._SSL})
"""The cluster answers, and does not let this connection in."""

_FORBIDDEN = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    }
)
_PASSING = frozenset(
    {
        KafkaError._TIMED_OUT,
        KafkaError._TRANSPORT,
        KafkaError._ALL_BROKERS_DOWN,
        KafkaError._RESOLVE,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError._MAX_POLL_EXCEEDED,
        KafkaError.REQUEST_TIMED_OUT,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.BROKER_NOT_AVAILABLE,
        KafkaError.COORDINATOR_NOT_AVAILABLE,
        KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
        KafkaError.NOT_COORDINATOR,
        KafkaError.NOT_CONTROLLER,
    }
)


class Config(BaseModel):
    """What a connection of kind `kafka` may hold."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    bootstrap_servers: str = Field(min_length=1)
    """`host:port`, several of them with commas between."""
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    username: str | None = None
    password: SecretStr | None = None
    ssl_ca_location: Path | None = None
    """The certificates to trust (PEM); the system's where it is absent."""
    ssl_certificate_location: Path | None = None
    """Our own certificate (PEM), where the cluster asks for one."""
    ssl_key_location: Path | None = None
    ssl_key_password: SecretStr | None = None
    client_id: str = "headgate"
    replication_factor: int = Field(default=-1, ge=-1, le=32767)
    """Of topics that Headgate creates; -1 is the cluster's default."""
    message_max_bytes: int = Field(default=8 * 1024 * 1024, ge=1_024, le=64 * 1024 * 1024)
    """The largest record, and the `max.message.bytes` of topics that Headgate creates."""
    linger_ms: float = Field(default=0, ge=0, le=1_000)
    """How long a record waits for others to share its request, in milliseconds. Records are handed over many at a
    time and gather while a request is under way, so that waiting more only makes changes late."""
    requests_in_flight: int = Field(default=1, ge=1, le=5)
    """Of one writer to one broker. With one, records gather while the last request is under way: requests are
    small while it is quiet and large under load. More help where many partitions lie on a far broker."""
    compression: Literal["none", "lz4", "zstd", "snappy", "gzip"] = "lz4"
    group_protocol: Literal["classic", "consumer"] = "classic"
    """`consumer` is KIP-848's: quicker rebalances, Kafka 4.0 and later."""
    timeout_s: float = Field(default=10.0, gt=0, le=300)
    """How long one question to the cluster may take."""

    @model_validator(mode="after")
    def _check_credentials(self) -> Config:
        sasl = (self.sasl_mechanism, self.username, self.password)
        if self.security_protocol.startswith("SASL_"):
            if None in sasl:
                raise ValueError("SASL needs sasl_mechanism, username and password")
        elif any(value is not None for value in sasl):
            raise ValueError("sasl_mechanism, username and password need security_protocol SASL_SSL or SASL_PLAINTEXT")
        if (self.ssl_certificate_location is None) != (self.ssl_key_location is None):
            raise ValueError("ssl_certificate_location and ssl_key_location go together")
        return self

    def librdkafka(self) -> dict[str, Any]:
        """The settings that every client of this cluster has in common. They hold the password: never print them."""
        settings = {
            "bootstrap.servers": self.bootstrap_servers,
            "client.id": self.client_id,
            "security.protocol": self.security_protocol,
            "sasl.mechanism": self.sasl_mechanism,
            "sasl.username": self.username,
            "sasl.password": _reveal(self.password),
            "ssl.ca.location": _text(self.ssl_ca_location),
            "ssl.certificate.location": _text(self.ssl_certificate_location),
            "ssl.key.location": _text(self.ssl_key_location),
            "ssl.key.password": _reveal(self.ssl_key_password),
            "allow.auto.create.topics": False,
            "log.connection.close": False,
            "socket.keepalive.enable": True,
            "socket.connection.setup.timeout.ms": 10_000,
            # A broker that comes back is noticed within a second, not within ten.
            "reconnect.backoff.ms": 50,
            "reconnect.backoff.max.ms": 1_000,
            "logger": _Librdkafka(),
        }
        return {name: value for name, value in settings.items() if value is not None}

    def describe(self) -> str:
        """Where it leads and how it is secured, without secrets."""
        user = f", {self.sasl_mechanism} as {self.username}" if self.sasl_mechanism else ""
        return f"Kafka at {self.bootstrap_servers} ({self.security_protocol}{user})"


class _Librdkafka:
    """Takes librdkafka's own messages, which repeat with each attempt to connect, into our log for debugging.

    What matters of them comes again as errors of the calls.
    """

    def log(self, level: int, message: str, *arguments: object) -> None:
        """What confluent-kafka calls on its `logger`."""
        _log.debug(message, *arguments)


def _reveal(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def error_of(exception: KafkaException) -> KafkaError:
    """The KafkaError that a KafkaException carries."""
    error: KafkaError = exception.args[0]
    return error


def is_passing(error: KafkaError) -> bool:
    """Whether it may be gone at the next try, without anyone's doing."""
    return not error.fatal() and (error.retriable() or error.code() in _PASSING)


def explain(error: KafkaError, doing: str) -> HeadgateError:
    """A Kafka error as one of ours. `doing` completes the sentence "Kafka did not let us …"."""
    code = error.code()
    if code in REFUSALS:
        return Unavailable(
            "Kafka refuses this connection: look at its security_protocol, username, password and certificates",
            retry_after_s=5.0,
        )
    if code in _FORBIDDEN:
        needed = "grant what `headgate contract` lists"
        return LogError(f"Kafka does not allow this user to {doing}: {needed} (error {error.name()})")
    if code == KafkaError.MSG_SIZE_TOO_LARGE:
        return RecordTooLarge(
            "a record is larger than Kafka takes: raise message_max_bytes of the connection and max.message.bytes "
            "of the topic, or leave a large column out of the pipeline"
        )
    if is_passing(error):
        return Unavailable(f"Kafka does not answer (error {error.name()}): look whether its brokers run")
    return LogError(f"Kafka could not {doing} (error {error.name()}): look at the process's log and at the brokers'")


def settings_refused() -> ConfigError:
    """What a client says that can't even be made."""
    return ConfigError("the Kafka connection's settings do not hold: look at its bootstrap_servers and ssl_ files")


# --- doctor --------------------------------------------------------------------------------------


def diagnose(name: str, config: Config, topics: Mapping[str, Keeping] | None = None) -> Sequence[Finding]:
    """What `headgate doctor` says of the connection `name`. Never raises; takes up to twice `timeout_s`.

    `topics` are those that Headgate uses, each with how it must keep its records; one that does not exist yet is
    passed over, because Headgate creates it as it should be, and who reads another's says that it is not there.
    """
    part = f"connection {name}"
    errors: list[KafkaError] = []
    try:
        settings: dict[str, Any] = {**config.librdkafka(), "error_cb": errors.append}
        admin = AdminClient(settings)
    except KafkaException:
        return [Finding(level="error", part=part, message="its settings do not hold", mend=settings_refused().message)]
    try:
        brokers = len(_ask(admin.describe_cluster(request_timeout=config.timeout_s)).nodes)
        found = [Finding(level="ok", part=part, message=f"{config.describe()} answers, brokers: {brokers}")]
        return found + _diagnose_topics(part, admin, config, topics or {})
    except KafkaException as exception:
        admin.poll(0)  # the reason of a timeout waits in the client's queue
        return [_unreachable(part, config, [*errors, error_of(exception)])]


def _ask(answer: Future[Any]) -> Any:
    return answer.result()


def _unreachable(part: str, config: Config, errors: Sequence[KafkaError]) -> Finding:
    refusal = next((error for error in errors if error.code() in REFUSALS), None)
    error = explain(refusal or errors[-1], "look at the cluster")
    return Finding(level="error", part=part, message=f"{config.describe()} can't be used", mend=error.message)


def _diagnose_topics(part: str, admin: AdminClient, config: Config, topics: Mapping[str, Keeping]) -> list[Finding]:
    if not topics:
        return []
    asked = admin.describe_configs(
        [ConfigResource(ResourceType.TOPIC, topic) for topic in topics], request_timeout=config.timeout_s
    )
    findings: list[Finding] = []
    for resource, answer in asked.items():
        part_of_topic = f"{part}, topic {resource.name}"
        try:
            settings = {name: entry.value for name, entry in _ask(answer).items()}
        except KafkaException as exception:
            findings += _not_described(part_of_topic, exception)
        else:
            findings += judge(part_of_topic, settings, topics[resource.name], config.message_max_bytes)
    return findings


def _not_described(part: str, exception: KafkaException) -> list[Finding]:
    """One that is not there will be made as it should be, or is told by who reads it."""
    code = error_of(exception).code()
    if code in _FORBIDDEN:
        mend = "allow this user to DescribeConfigs of the topic"
        message = "whether it keeps its records for long enough can't be told: its settings are not shown to us"
        return [Finding(level="warning", part=part, message=message, mend=mend)]
    if code != KafkaError.UNKNOWN_TOPIC_OR_PART:
        raise exception
    return []
