"""MySQL with a row-based binary log and GTIDs, from the PATH: no package of Python's ships it."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import ClassVar

from headgate.errors import StackError
from headgate.stack.binlog import BinlogServer, found

_ASKED_WITHIN_S = 60


class MySQL(BinlogServer):
    """A MySQL 8.0 or newer, found as a `mysqld` that is no MariaDB. See `BinlogServer`."""

    name: ClassVar[str] = "mysql"

    @staticmethod
    def is_installed() -> bool:
        """Whether this machine has it."""
        return _found() is not None

    def installation(self, data: Path) -> Sequence[str]:
        """The server itself makes them, with a `root` that has no password."""
        return [_program(), "--no-defaults", "--initialize-insecure", f"--datadir={data}"]

    def command(self) -> list[str]:
        """The server. Rows in the log, and what it replicates, are the default of every version since 8.0."""
        return [
            _program(),
            "--no-defaults",
            *self.settings(),
            "--gtid-mode=ON",
            "--enforce-gtid-consistency=ON",
            "--mysqlx=OFF",  # it would take a second port
            "--secure-file-priv=NULL",  # else it looks for a folder of its package's
        ]


def _program() -> str:
    program = _found()
    if program is None:
        raise StackError(
            "There is no mysqld of MySQL on the PATH (MariaDB's goes by that name too). Install MySQL's server first; "
            "on Ubuntu: apt-get install mysql-server"
        )
    return program


def _found() -> str | None:
    return next((program for program in found("mysqld") if _is_mysql(program)), None)


@cache
def _is_mysql(program: str) -> bool:
    """Debian's MariaDB installs a link of MySQL's name: only the program itself can tell."""
    try:
        said = subprocess.run(
            [program, "--no-defaults", "--version"], capture_output=True, text=True, timeout=_ASKED_WITHIN_S, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return False
    return "mariadb" not in said.lower()
