"""MariaDB with a row-based binary log, from the PATH: no package of Python's ships it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from headgate.errors import StackError
from headgate.stack.binlog import BinlogServer, found


class MariaDB(BinlogServer):
    """A MariaDB, found as `mariadbd`. See `BinlogServer`."""

    name: ClassVar[str] = "mariadb"

    @staticmethod
    def is_installed() -> bool:
        """Whether this machine has it."""
        return bool(found("mariadbd"))

    def installation(self, data: Path) -> Sequence[str]:
        """The script that it comes with."""
        program = _program("mariadb-install-db")
        return [
            program,
            "--no-defaults",
            f"--datadir={data}",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
        ]

    def command(self) -> list[str]:
        """The server."""
        return [
            _program("mariadbd"),
            "--no-defaults",
            *self.settings(),
            "--binlog-format=ROW",
            "--log-slave-updates",
        ]


def _program(name: str) -> str:
    programs = found(name)
    if not programs:
        raise StackError(
            f"There is no {name} on the PATH. Install MariaDB's server first; on Debian and Ubuntu: "
            "apt-get install mariadb-server"
        )
    return programs[0]
