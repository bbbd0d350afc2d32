"""Several servers together: up, down, status, and the config block that leads to them."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from headgate.errors import HeadgateError, StackError
from headgate.stack.base import Connection, Progress, Server, exclusive, silent
from headgate.stack.connect import PLUGINS, Connect
from headgate.stack.kafka import Kafka
from headgate.stack.mariadb import MariaDB
from headgate.stack.mysql import MySQL
from headgate.stack.postgres import Postgres
from headgate.stack.registry import Registry
from headgate.stack.valkey import Valkey

DEFAULT_SERVICES = ("kafka", "postgres", "valkey")
# What each is called in the `connections:` block. A MySQL is no connection; a source names it itself.
CONNECTION_NAMES = MappingProxyType(
    {"kafka": "main", "valkey": "cache", "postgres": "shop", "registry": "registry", "connect": "connect"}
)
# In the order in which they are started; those of one line do not wait for each other.
STAGES = (("kafka", "postgres", "valkey", "registry", "mariadb", "mysql"), ("connect",))
NEEDS: Mapping[str, Sequence[str]] = {"connect": ("kafka",)}


class Status(NamedTuple):
    """What is known of one service. `connection` is None before its first start."""

    name: str
    running: bool
    connection: Connection | None


class Stack:
    """The servers of one folder, each in a folder below it.

    What was started is written down there, so that a later process finds it: given no `services`, a stack
    is the ones that its folder already has, else Kafka, PostgreSQL and Valkey. `progress` is told what
    happens in short sentences, one at a time.
    """

    def __init__(self, folder: Path, services: Sequence[str] = (), progress: Progress = silent) -> None:
        """Look at a folder; nothing is started. Raises StackError for a service that there is not."""
        self.folder = Path(folder)
        self.progress = _one_at_a_time(progress)
        known = [name for stage in STAGES for name in stage]
        for name in services:
            if name not in known:
                raise StackError(f"There is no service {name!r} in the stack. Services: {', '.join(known)}.")
        self._asked = tuple(services)

    @property
    def services(self) -> list[str]:
        """The names of its services, in the order in which they are started."""
        kept: list[str] = json.loads(self._file.read_text())["services"] if self._file.exists() else []
        wanted = {*kept, *self._asked} or set(DEFAULT_SERVICES)
        for name in tuple(wanted):
            wanted.update(NEEDS.get(name, ()))
        return [name for stage in STAGES for name in stage if name in wanted]

    def service(self, name: str) -> Server:
        """One of its services, started or not."""
        folder = self.folder / name
        if name == Connect.name:
            plugins = [name for name in self.services if name in PLUGINS]  # for the databases that are beside it
            return Connect(folder, Kafka(self.folder / Kafka.name), plugins=plugins, progress=self.progress)
        return KINDS[name](folder, progress=self.progress)

    def up(self) -> None:
        """Start all that do not run yet, and wait until each answers.

        Raises StackError naming every one that did not start; the others stay up, and a second call goes
        on from there.
        """
        with self._alone():
            self._file.write_text(json.dumps({"services": self.services}))
            for stage in STAGES:
                self._start_together([name for name in stage if name in self.services])

    def down(self, *, purge: bool = False) -> None:
        """Stop all, the last started first. Their data stay unless `purge` is set.

        Raises StackError naming every one that could not be stopped, after having tried all.
        """
        if not self.folder.exists():
            return
        with self._alone():
            failures = [self._stop(name, purge) for name in reversed(self.services)]
            _raise_all(filter(None, failures))
            if purge:
                shutil.rmtree(self.folder)

    def status(self) -> list[Status]:
        """Each service: its name, whether it runs, and its connection."""
        return [self._status(name) for name in self.services]

    def connections_yaml(self) -> str:
        """The `connections:` block of a config that uses these servers, to paste.

        Raises StackError before the first `up`.
        """
        lines = ["connections:"]
        for name in self.services:
            connection = self.service(name).connection()
            if name in CONNECTION_NAMES:
                lines.append(f"  {CONNECTION_NAMES[name]}: {_flow_mapping(connection)}")
            else:
                lines.append(f"  # for a source of kind {connection['kind']}: {connection['dsn']}")
        return "\n".join(lines) + "\n"

    def _start_together(self, names: Sequence[str]) -> None:
        if not names:
            return
        with ThreadPoolExecutor(len(names)) as pool:
            _raise_all(filter(None, pool.map(self._start, names)))

    def _start(self, name: str) -> HeadgateError | None:
        try:
            service = self.service(name)
            was_running = service.is_running
            service.start()
            self.progress(f"{name} {'runs already' if was_running else 'is up'} on port {service.port}")
        except HeadgateError as error:
            return error
        return None

    def _stop(self, name: str, purge: bool) -> HeadgateError | None:
        try:
            service = self.service(name)
            was_running = service.is_running
            service.purge() if purge else service.stop()
            if was_running:
                self.progress(f"{name} stopped")
        except HeadgateError as error:
            return error
        return None

    def _status(self, name: str) -> Status:
        try:
            service = self.service(name)
            return Status(name, service.is_running, service.connection())
        except StackError:
            return Status(name, False, None)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep two processes from starting or stopping the same stack at once."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with exclusive(self.folder / "lock"):
            yield

    @property
    def _file(self) -> Path:
        return self.folder / "stack.json"


KINDS: Mapping[str, type[Kafka | Postgres | Valkey | Registry | MariaDB | MySQL]] = {
    kind.name: kind for kind in (Kafka, Postgres, Valkey, Registry, MariaDB, MySQL)
}


def _raise_all(failures: Iterator[HeadgateError | None]) -> None:
    found = [failure for failure in failures if failure]
    if len(found) == 1:
        raise found[0]
    if found:
        raise StackError("\n".join(failure.message for failure in found)) from found[0]


def _flow_mapping(connection: Connection) -> str:
    entries = (f"{key}: {value if key == 'kind' else json.dumps(value)}" for key, value in connection.items())
    return "{" + ", ".join(entries) + "}"


def _one_at_a_time(progress: Progress) -> Callable[[str], None]:
    lock = threading.Lock()

    def tell(message: str) -> None:
        with lock:
            progress(message)

    return tell
