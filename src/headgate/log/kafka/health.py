"""What a client of librdkafka says in the background: that no broker answers, that it is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from confluent_kafka import KafkaError, KafkaException

from headgate.connections.kafka import REFUSALS, explain, settings_refused
from headgate.errors import HeadgateError
from headgate.telemetry import logger

Client = TypeVar("Client")
_log = logger("kafka")


def made(kind: Callable[[dict[str, Any]], Client], settings: dict[str, Any]) -> Client:
    """A client of librdkafka. ConfigError when it does not take the settings."""
    try:
        return kind(settings)
    except KafkaException as exception:
        raise settings_refused() from exception


class Health:
    """Hears one client's background errors. librdkafka goes on trying by itself, so most need no more than a line."""

    def __init__(self, whose: str) -> None:
        self._whose = whose
        self._is_down = False
        self._refusal: KafkaError | None = None

    def settings(self) -> dict[str, Any]:
        """What to add to the client's settings."""
        return {"error_cb": self._hear}

    def well(self) -> None:
        """The client has just been answered."""
        if self._is_down:
            _log.info("Kafka answers %s again", self._whose)
        self._is_down, self._refusal = False, None

    def refusal(self) -> HeadgateError | None:
        """Why the cluster does not let this client in, if that is so."""
        return None if self._refusal is None else explain(self._refusal, "connect")

    def _hear(self, error: KafkaError) -> None:
        if error.code() in REFUSALS:
            self._refusal = error
        elif error.code() == KafkaError._ALL_BROKERS_DOWN and not self._is_down:
            self._is_down = True
            _log.warning("Kafka does not answer %s: it goes on trying", self._whose)
