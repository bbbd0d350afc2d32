"""Apache Kafka, one node that is broker and controller (KRaft)."""

from __future__ import annotations

import base64
import shutil
import socket
import struct
import uuid
from pathlib import Path
from typing import ClassVar

from headgate.stack.base import Connection
from headgate.stack.java import SIMPLE_LOGGER, JavaServer
from headgate.stack.ports import LOOPBACK

METADATA_REQUEST = struct.pack(">hhihi", 3, 1, 1, -1, 0)  # Metadata v1, no client id, no topics


class Kafka(JavaServer):
    """A Kafka broker on loopback that keeps its data through `stop` and `kill`.

    Topics are never made by being mentioned: whoever wants one creates it, with its own settings.
    """

    name: ClassVar[str] = "kafka"
    port_names = ("broker", "controller")

    @property
    def bootstrap_servers(self) -> str:
        """What a Kafka client connects to. Raises StackError before the first start."""
        return f"{LOOPBACK}:{self.port}"

    def connection(self) -> Connection:
        """Its entry of a config's `connections:` block. Raises StackError before the first start."""
        return {"kind": "kafka", "bootstrap_servers": self.bootstrap_servers}

    def prepare(self) -> None:
        """Write the settings, and format the data folder once."""
        settings = self.write("server.properties", self._settings())
        if not (self._data / "meta.properties").exists():
            shutil.rmtree(self._data, ignore_errors=True)  # what an interrupted format left
            self.make_folder("data")
            self.run(self._java("kafka.tools.StorageTool", *_format_arguments(settings)))

    def command(self) -> list[str]:
        """The broker."""
        return self._java("kafka.Kafka", str(self.home / "server.properties"))

    def answers(self) -> bool:
        """Whether the broker names a broker that is fit for use. It answers before it counts itself as one."""
        with socket.create_connection((LOOPBACK, self.port), timeout=1) as connection:
            connection.sendall(struct.pack(">i", len(METADATA_REQUEST)) + METADATA_REQUEST)
            answer = connection.makefile("rb").read(12)
        return len(answer) == 12 and struct.unpack(">iii", answer)[2] > 0

    @property
    def _data(self) -> Path:
        return self.home / "data"

    def _java(self, main: str, *arguments: str) -> list[str]:
        return self.java(*self.class_path("kafka"), main, *arguments, heap="512m", properties=SIMPLE_LOGGER)

    def _settings(self) -> str:
        broker, controller = self.bootstrap_servers, f"{LOOPBACK}:{self.ports['controller']}"
        addresses = {
            "controller.quorum.bootstrap.servers": controller,
            "listeners": f"PLAINTEXT://{broker},CONTROLLER://{controller}",
            "advertised.listeners": f"PLAINTEXT://{broker}",
            "log.dirs": str(self._data),
        }
        return "".join(f"{name}={value}\n" for name, value in {**SETTINGS, **addresses}.items())


def _format_arguments(settings: Path) -> list[str]:
    # A leading dash would be read as an option.
    cluster = "A" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")[1:]
    return ["format", "--standalone", "-t", cluster, "-c", str(settings)]


SETTINGS = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "inter.broker.listener.name": "PLAINTEXT",
    "auto.create.topics.enable": "false",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.num.partitions": "4",
    "group.initial.rebalance.delay.ms": "0",
    # A broker killed with -9 is let back in once its old session has ended: after 1.5 s instead of 9.
    "broker.session.timeout.ms": "1500",
    "broker.heartbeat.interval.ms": "300",
}
