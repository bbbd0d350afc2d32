"""Kafka Connect, one distributed worker, with Debezium's connectors and Apicurio's Avro converter."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

from headgate.errors import StackError
from headgate.stack.base import Connection, Progress, silent
from headgate.stack.http import answers_ok
from headgate.stack.jars import class_path, unpacked
from headgate.stack.java import SIMPLE_LOGGER, JavaServer
from headgate.stack.kafka import Kafka
from headgate.stack.ports import LOOPBACK

# Each plugin is loaded apart from the class path and from the others: Debezium's connectors differ in version.
ALWAYS = ("avro", "debezium-postgres")
AVRO_CONVERTER = "io.apicurio.registry.utils.converter.AvroConverter"
# Debezium's connectors that are fetched only when asked for, and the locked archive of each.
PLUGINS = MappingProxyType({"mariadb": "debezium-mariadb", "mysql": "debezium-mysql"})


class Connect(JavaServer):
    """A Kafka Connect worker on loopback, on `kafka`, which must be running.

    It has Debezium's connector for PostgreSQL, and those of `PLUGINS` that it is given.

    Connectors are kept in that Kafka. As it makes no topics by itself, a connector's own settings need
    `topic.creation.default.partitions` and `topic.creation.default.replication.factor`. Records are JSON
    without inline schemas unless a connector's settings say otherwise: `avro(registry)` makes them Avro.
    """

    name: ClassVar[str] = "connect"
    port_names = ("rest",)

    def __init__(
        self,
        folder: Path,
        kafka: Kafka,
        *,
        settings: Mapping[str, str] | None = None,
        plugins: Sequence[str] = (),
        progress: Progress = silent,
    ) -> None:
        """`settings` are the worker's, over those of `SETTINGS`; `plugins` are names in `PLUGINS`, else StackError."""
        super().__init__(folder, progress=progress)
        for plugin in plugins:
            if plugin not in PLUGINS:
                raise StackError(f"Connect has no plugin {plugin!r} to fetch. Plugins: {', '.join(PLUGINS)}.")
        self.kafka = kafka
        self._plugins = tuple(plugins)
        self._settings = {**SETTINGS, **(settings or {})}

    @property
    def url(self) -> str:
        """The URL of its REST API. Raises StackError before the first start."""
        return f"http://{LOOPBACK}:{self.port}"

    def connection(self) -> Connection:
        """Its entry of a config's `connections:` block. Raises StackError before the first start."""
        return {"kind": "connect", "url": self.url}

    def prepare(self) -> None:
        """Write the settings, and lay out the plugins, which stay off the class path."""
        for plugin in ALWAYS:
            self._make_plugin(plugin)
        self._declare_converter()
        for plugin in self._plugins:
            self._link_plugin(plugin)
        addresses = {"bootstrap.servers": self.kafka.bootstrap_servers, "listeners": self.url}
        addresses["plugin.path"] = str(self.make_folder("plugins"))
        settings = {**self._settings, **addresses}
        self.write("worker.properties", "".join(f"{name}={value}\n" for name, value in settings.items()))

    def command(self) -> list[str]:
        """The worker."""
        main = "org.apache.kafka.connect.cli.ConnectDistributed"
        settings = str(self.home / "worker.properties")
        return self.java(*self.class_path("connect"), main, settings, heap="768m", properties=SIMPLE_LOGGER)

    def _make_plugin(self, set_name: str) -> None:
        """Make a folder of links to the jars of a locked set."""
        self.make_folder("plugins")
        folder = self.make_folder(f"plugins/{set_name}")
        for jar in class_path(set_name, self.progress, account=self.account):
            link = folder / jar.name
            if not link.is_symlink():
                link.symlink_to(jar)

    def _declare_converter(self) -> None:
        """Say what Apicurio's plugin has, since it does not say so itself (`ServiceLoader`)."""
        file = self.make_folder("plugins/avro") / "services.jar"
        with zipfile.ZipFile(file, "w") as jar:
            jar.writestr("META-INF/services/org.apache.kafka.connect.storage.Converter", AVRO_CONVERTER)
        file.chmod(0o644)

    def _link_plugin(self, plugin: str) -> None:
        """Let Connect find the folder of an archive, which brings all of its own jars."""
        link = self.make_folder("plugins") / plugin
        link.unlink(missing_ok=True)
        link.symlink_to(unpacked(PLUGINS[plugin], self.progress, account=self.account))

    def answers(self) -> bool:
        """Whether it lists connectors, which it can only as a member of its group."""
        return answers_ok(self.port, "/connectors")


SETTINGS = {
    "group.id": "connect",
    "config.storage.topic": "connect.configs",
    "offset.storage.topic": "connect.offsets",
    "status.storage.topic": "connect.status",
    "config.storage.replication.factor": "1",
    "offset.storage.replication.factor": "1",
    "status.storage.replication.factor": "1",
    "offset.storage.partitions": "4",
    "status.storage.partitions": "2",
    "offset.flush.interval.ms": "1000",
    "key.converter": "org.apache.kafka.connect.json.JsonConverter",
    "key.converter.schemas.enable": "false",
    "value.converter": "org.apache.kafka.connect.json.JsonConverter",
    "value.converter.schemas.enable": "false",
    "connector.client.config.override.policy": "All",
    # Else it looks into every class of every jar at each start, which takes three times as long.
    "plugin.discovery": "service_load",
}


def avro(registry_url: str) -> dict[str, str]:
    """A connector's settings for Avro by a registry whose Confluent API is at `registry_url`, in its wire format."""
    converter = {
        "": AVRO_CONVERTER,
        ".apicurio.registry.url": registry_url.replace("/apis/ccompat/v7", "/apis/registry/v2"),
        ".apicurio.registry.auto-register": "true",
        ".apicurio.registry.find-latest": "true",
        ".apicurio.registry.headers.enabled": "false",
        ".apicurio.registry.as-confluent": "true",
        ".apicurio.registry.use-id": "contentId",
    }
    return {f"{part}.converter{name}": value for part in ("key", "value") for name, value in converter.items()}
