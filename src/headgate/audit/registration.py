"""Registers the events' schemas in the background: nothing waits for a registry, and its refusal is said loudly."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from headgate.errors import HeadgateError, Unavailable
from headgate.telemetry import logger

if TYPE_CHECKING:
    from headgate.connections.registry import Config

_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 60.0
_log = logger("audit")


def register_schemas(config: Config, stop: threading.Event) -> None:
    """Registers every schema, trying again while the registry is away, until it is done, refused or told to stop."""
    from headgate.audit.schemas import register
    from headgate.connections.registry import Registry

    registry = Registry(config)
    pause_s = _PAUSE_S
    try:
        while not stop.is_set():
            try:
                _log.info("the registry has the schemas of %d events", register(registry))
                return
            except Unavailable as error:
                _log.warning("the events' schemas are not registered yet: %s", error.message)
            except HeadgateError as error:
                _log.error("the events' schemas are NOT registered, and events go on without: %s", error.message)
                return
            stop.wait(pause_s)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
    finally:
        registry.close()
