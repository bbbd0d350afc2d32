"""What of the config a door and its server are made with."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

from headgate.config import Config
from headgate.server.crowd import Bounds
from headgate.server.headers import LOOPBACK_NAMES, Reach
from headgate.server.request import HttpSettings
from headgate.server.tls import open_tls, read_again


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


class TlsFiles:
    """The certificate that the config names, as its files change."""

    def __init__(self, config: Config) -> None:
        """ConfigError when the files do not hold."""
        self._files = tls_files(config)
        self._seen = self._stamps()
        self.context: ssl.SSLContext | None = open_tls(*self._files) if self._files else None
        """None where no TLS is spoken."""

    def adopt(self, config: Config) -> None:
        """From now on these files. ConfigError: those before go on."""
        files = tls_files(config)
        if files is None or self.context is None or files == self._files:
            return
        read_again(self.context, *files)
        self._files = files
        self._seen = self._stamps()

    def read_if_changed(self) -> bool:
        """Answers whether the files were read again. ConfigError when they do not hold; tried at their next change."""
        stamps = self._stamps()
        if self.context is None or self._files is None or stamps == self._seen:
            return False
        self._seen = stamps
        read_again(self.context, *self._files)
        return True

    def _stamps(self) -> list[tuple[int, int, int]]:
        found = []
        for file in self._files or ():
            try:
                status = file.stat()
                found.append((status.st_mtime_ns, status.st_size, status.st_ino))
            except OSError:
                found.append((0, 0, 0))
        return found


def tls_files(config: Config) -> tuple[Path, Path] | None:
    """Where the certificate and its key are; None where no TLS is spoken."""
    tls = config.server.tls
    if tls is None:
        return None
    base = config.path.parent if config.path else Path()
    return base / Path(tls.cert).expanduser(), base / Path(tls.key).expanduser()
