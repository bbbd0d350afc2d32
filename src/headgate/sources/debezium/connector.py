"""What Kafka Connect says of the connector that fills the topics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import anyio

from headgate.connections.connect import Config, ConnectCluster, Connector
from headgate.errors import HeadgateError
from headgate.model.finding import Finding


class Examined(NamedTuple):
    """What was found of a connector, and its settings, secrets left out; none where it could not be asked."""

    finding: Finding
    settings: Mapping[str, str] = {}


def examine_connector(part: str, cluster: Config, name: str) -> Examined:
    """Whether it runs, with all its tasks. A connector that says RUNNING may still hear nothing: heartbeats tell."""
    try:
        found = next((each for each in anyio.run(_connectors, cluster) if each.name == name), None)
    except HeadgateError as error:
        return Examined(Finding(level="error", part=part, message=error.message, mend="see the message"))
    if found is None:
        mend = "correct the source's `connector`, or register it"
        return Examined(Finding(level="error", part=part, message=f"Kafka Connect has no connector {name}", mend=mend))
    return Examined(_running(part, found), found.config)


def _running(part: str, found: Connector) -> Finding:
    states = _states(found)
    if states == {"RUNNING"}:
        return Finding(level="ok", part=part, message=f"the connector {found.name} runs")
    message = f"the connector {found.name} or a task of it is {', '.join(sorted(states - {'RUNNING'}))}"
    return Finding(level="error", part=part, message=message, mend="see its trace, then restart or resume it")


async def _connectors(cluster: Config) -> Sequence[Connector]:
    asked = ConnectCluster(cluster)
    try:
        return await asked.connectors()
    finally:
        await asked.close()


def _states(connector: Connector) -> set[str]:
    tasks = {task.state for task in connector.tasks}
    return {connector.state, *(tasks or {"without tasks"})}
