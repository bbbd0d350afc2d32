"""Two servers of one kind, of which one may follow the other, and how each kind is told to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from headgate.stack import MariaDB, MySQL
from headgate.stack.binlog import BinlogServer
from headgate.state.sqlite import open_state
from headgate.telemetry import wall_clock_ms
from tests.services import started
from tests.ways.deployment import until
from tests.ways.test_mysql_source import Owner

NUMBERS = (7, 8)
TABLE = ("create table t (id int primary key, v int)", "insert into t values (1, 1)")


@dataclass(frozen=True)
class Kind:
    """One kind of server, in its own words."""

    server: type[BinlogServer]
    stop: str
    """Ends a replica's following."""
    forget: Sequence[str]
    """After that, what it followed, and what it has read."""
    follow: str
    """From the other server's `{port}` on, as root."""
    reached: str
    await_reached: str
    """0 once all of `{reached}` is here, which is waited for for a minute at most."""

    def renewal(self, owner: Owner) -> str:
        """What begins the binary log anew. MySQL 8.4 has another name for it."""
        ((version,),) = owner.execute("select version()")
        is_old = self.server is MariaDB or str(version).startswith("8.0")
        return "reset master" if is_old else "reset binary logs and gtids"


KINDS = {
    "mariadb": Kind(
        server=MariaDB,
        stop="stop slave",
        forget=("reset slave all", "set global gtid_slave_pos = ''"),
        follow="change master to master_host = '127.0.0.1', master_port = {port}, master_user = 'root',"
        " master_use_gtid = slave_pos; start slave",
        reached="select @@gtid_binlog_pos",
        await_reached="select master_gtid_wait('{reached}', 60)",
    ),
    "mysql": Kind(
        server=MySQL,
        stop="stop replica",
        forget=("reset replica all",),
        follow="change replication source to source_host = '127.0.0.1', source_port = {port}, source_user = 'root',"
        " source_auto_position = 1, get_source_public_key = 1; start replica",
        reached="select @@gtid_executed",
        await_reached="select wait_for_executed_gtid_set('{reached}', 60)",
    ),
}


@dataclass(frozen=True)
class Pair:
    """Two servers, each with its owner, whose sources share a pipeline's note."""

    kind: Kind
    first: Owner
    second: Owner

    def replicate(self) -> None:
        """The second server follows the first one."""
        ((port,),) = self.first.execute("select @@port")
        self.second.execute(*self.kind.follow.format(port=port).split("; "))

    def await_replica(self) -> None:
        """The second server has all that the first one has."""
        ((reached,),) = self.first.execute(self.kind.reached)
        assert self.second.execute(self.kind.await_reached.format(reached=reached)) == [(0,)]

    def stop_replica(self) -> None:
        """The second server goes its own way."""
        self.second.execute(self.kind.stop)

    def await_next_second(self) -> None:
        """What is begun from now on has another time than what is there, by the servers' clock."""
        began = _clock_s(self.first)
        until(lambda: _clock_s(self.second) > began)


@contextmanager
def two_servers(kind: Kind, folder: Path) -> Iterator[list[BinlogServer]]:
    """Both, started."""
    with ExitStack() as opened:
        yield [
            opened.enter_context(started(kind.server(folder / f"{kind.server.name}-{number}", server_id=number)))
            for number in NUMBERS
        ]


@contextmanager
def as_new(kind: Kind, servers: Sequence[BinlogServer], folder: Path) -> Iterator[Pair]:
    """Without a history, and strangers to each other. The note is in `folder`."""
    with ExitStack() as opened:
        state = opened.enter_context(closing(open_state(folder / "state.db", clock=wall_clock_ms)))
        owners = []
        for server, number in zip(servers, NUMBERS, strict=True):
            with closing(Owner(server.dsn("mysql"), state)) as root:
                root.execute(kind.stop, "drop database if exists shop", "create database shop")
                root.execute(kind.renewal(root), *kind.forget, f"set global server_id = {number}")
            owners.append(opened.enter_context(closing(Owner(server.dsn("shop"), state))))
        yield Pair(kind, *owners)


def _clock_s(owner: Owner) -> int:
    ((seconds,),) = owner.execute("select unix_timestamp()")
    return int(seconds)
