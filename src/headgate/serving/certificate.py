"""The files that the config names for TLS, as they change."""

from __future__ import annotations

import ssl
from pathlib import Path

from headgate.config import Config
from headgate.server.tls import open_tls, read_again


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
