"""What of the config a door and its server are made with."""

from __future__ import annotations

from collections.abc import Callable

from headgate.config import Config
from headgate.server.crowd import Bounds
from headgate.server.headers import LOOPBACK_NAMES, Reach
from headgate.server.request import HttpSettings


def settings_of(config: Config, workers: Callable[[], tuple[int, int]] | None) -> HttpSettings:
    """How the door is reached, and what it takes."""
    server = config.server
    return HttpSettings(
        reach=Reach(hosts=(*LOOPBACK_NAMES, *server.allowed_hosts), origins=tuple(server.allowed_origins)),
        public_url=server.public_url or "",
        authorization_servers=tuple(dict.fromkeys(issuer.issuer for issuer in config.access.issuers)),
        subject_header=config.access.proxy.subject_header if config.access.proxy else "",
        express=server.express,
        body_limit=server.limits.body_bytes,
        body_timeout_s=server.limits.body_timeout_s,
        workers=workers,
    )


def bounds_of(config: Config) -> Bounds:
    """What one client may take."""
    limits = config.server.limits
    return Bounds(
        header_s=limits.header_timeout_s,
        body_s=limits.body_timeout_s,
        idle_s=limits.idle_timeout_s,
        send_s=limits.send_timeout_s,
        grace_s=limits.drain_s,
        header_bytes=limits.header_bytes,
        body_bytes=limits.body_bytes,
        connections=limits.connections,
    )
