"""Apicurio, a schema registry that speaks the API of Confluent's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from headgate.stack.base import Connection
from headgate.stack.http import answers_ok
from headgate.stack.jars import unpacked
from headgate.stack.java import JavaServer
from headgate.stack.ports import LOOPBACK

API = "/apis/ccompat/v7"


class Registry(JavaServer):
    """A schema registry on loopback that keeps its schemas in a file of its folder."""

    name: ClassVar[str] = "registry"
    port_names = ("api", "management")

    @property
    def url(self) -> str:
        """The URL that clients of Confluent's registry are given. Raises StackError before the first start."""
        return f"http://{LOOPBACK}:{self.port}{API}"

    def connection(self) -> Connection:
        """Its entry of a config's `connections:` block. Raises StackError before the first start."""
        return {"kind": "registry", "url": self.url}

    def prepare(self) -> None:
        """Make the folder of its database."""
        self.make_folder("data")

    def command(self) -> list[str]:
        """The registry."""
        program = unpacked("registry", self.progress, account=self.account)
        properties = {
            "quarkus.http.host": LOOPBACK,
            "quarkus.http.port": str(self.port),
            # Unless told, this one listens on every address.
            "quarkus.management.host": LOOPBACK,
            "quarkus.management.port": str(self.ports["management"]),
            "apicurio.datasource.url": f"jdbc:h2:file:{self.home / 'data' / 'registry'}",
        }
        run_jar = next(program.rglob("quarkus-run.jar"))
        return self.java("-jar", str(run_jar), heap="384m", properties=properties)

    def environment(self) -> Mapping[str, str]:
        """Ours, with the kind of its storage."""
        return {**super().environment(), "APICURIO_STORAGE_KIND": "sql"}

    def answers(self) -> bool:
        """Whether it lists its subjects."""
        return answers_ok(self.port, f"{API}/subjects")
