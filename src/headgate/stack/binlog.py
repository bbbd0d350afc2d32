"""What MariaDB and MySQL have in common: each is found on this machine, and writes its changes to a binary log."""

from __future__ import annotations

import os
import shutil
import socket
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path

from headgate.stack.base import Connection, Progress, Server, silent
from headgate.stack.ports import LOOPBACK

HANDSHAKE_VERSION = 10
SYSTEM_PROGRAMS = "/usr/sbin"  # Debian keeps servers here, where an ordinary user's PATH does not look


class BinlogServer(Server):
    """A server on loopback with full row images in its binary log, superuser `root` without a password.

    Its binary log holds what it replicates from another one too. Raises StackError at `start` where it is not
    installed.
    """

    def __init__(self, folder: Path, *, server_id: int = 7, progress: Progress = silent) -> None:
        """`server_id` must differ from that of a server that it replicates."""
        super().__init__(folder, progress=progress)
        self._server_id = server_id

    @abstractmethod
    def installation(self, data: Path) -> Sequence[str]:
        """The command that makes the system tables in `data`, which is empty."""

    def dsn(self, database: str = "") -> str:
        """The URL of a database on it. Raises StackError before the first start."""
        return f"mysql://root@{LOOPBACK}:{self.port}/{database}"

    def connection(self) -> Connection:
        """What a `mysql` source needs of it. Raises StackError before the first start."""
        return {"kind": "mysql", "dsn": self.dsn()}

    def prepare(self) -> None:
        """Make its system tables once."""
        data = self.home / "data"
        if (data / "headgate-ready").exists():
            return
        shutil.rmtree(data, ignore_errors=True)  # what an interrupted installation left
        self.make_folder("data")
        self.run(self.installation(data))
        self.write("data/headgate-ready", "")

    def settings(self) -> list[str]:
        """The arguments that both take."""
        return [
            f"--datadir={self.home / 'data'}",
            f"--bind-address={LOOPBACK}",
            f"--port={self.port}",
            f"--socket={self.name}.sock",  # relative to the data folder, hence never too long
            f"--pid-file={self.home / self.name}.pid",
            "--log-bin=binlog",
            "--binlog-row-image=FULL",
            "--binlog-row-metadata=FULL",
            f"--server-id={self._server_id}",
        ]

    def answers(self) -> bool:
        """Whether it greets a client with its handshake."""
        with socket.create_connection((LOOPBACK, self.port), timeout=1) as connection:
            greeting = connection.recv(5)
        return len(greeting) == 5 and greeting[4] == HANDSHAKE_VERSION


def found(name: str) -> Sequence[str]:
    """The programs of this name, the first on the PATH before those that an ordinary user's PATH leaves out."""
    folders = [*os.environ.get("PATH", os.defpath).split(os.pathsep), SYSTEM_PROGRAMS]
    programs = (shutil.which(name, path=folder) for folder in folders if folder)
    return list(dict.fromkeys(program for program in programs if program))
