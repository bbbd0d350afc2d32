"""MariaDB with a row-based binary log, from the PATH: no package of Python's ships it."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path
from typing import ClassVar

from headgate.errors import StackError
from headgate.stack.base import Connection, Progress, Server, silent
from headgate.stack.ports import LOOPBACK

HANDSHAKE_VERSION = 10
SYSTEM_PROGRAMS = "/usr/sbin"  # Debian keeps servers here, where an ordinary user's PATH does not look


class MariaDB(Server):
    """A MariaDB on loopback with full row images in its binary log, superuser `root` without a password.

    Its binary log holds what it replicates from another one too. Raises StackError at `start` where `mariadbd` is
    not installed.
    """

    name: ClassVar[str] = "mariadb"

    def __init__(self, folder: Path, *, server_id: int = 7, progress: Progress = silent) -> None:
        """`server_id` must differ from that of a server that it replicates."""
        super().__init__(folder, progress=progress)
        self._server_id = server_id

    @staticmethod
    def is_installed() -> bool:
        """Whether this machine has it."""
        return _found("mariadbd") is not None

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
        self.run(
            [
                _program("mariadb-install-db"),
                "--no-defaults",
                f"--datadir={data}",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
            ]
        )
        self.write("data/headgate-ready", "")

    def command(self) -> list[str]:
        """The server."""
        return [
            _program("mariadbd"),
            "--no-defaults",
            f"--datadir={self.home / 'data'}",
            f"--bind-address={LOOPBACK}",
            f"--port={self.port}",
            "--socket=mariadb.sock",  # relative to the data folder, hence never too long
            f"--pid-file={self.home / 'mariadb.pid'}",
            "--log-bin",
            "--binlog-format=ROW",
            "--binlog-row-image=FULL",
            "--binlog-row-metadata=FULL",
            "--log-slave-updates",
            f"--server-id={self._server_id}",
        ]

    def answers(self) -> bool:
        """Whether it greets a client with its handshake."""
        with socket.create_connection((LOOPBACK, self.port), timeout=1) as connection:
            greeting = connection.recv(5)
        return len(greeting) == 5 and greeting[4] == HANDSHAKE_VERSION


def _found(name: str) -> str | None:
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", os.defpath), SYSTEM_PROGRAMS]))


def _program(name: str) -> str:
    found = _found(name)
    if found is None:
        raise StackError(
            f"There is no {name} on the PATH. Install MariaDB's server first; on Debian and Ubuntu: "
            "apt-get install mariadb-server"
        )
    return found
