"""What each side must be allowed on a Kafka cluster with ACLs, as AsyncAPI has no word for: `x-acls`."""

from __future__ import annotations

from typing import Any, Literal

from headgate.log.base import NO_GROUP
from headgate.model.pipeline import group_of

Acls = list[dict[str, Any]]


def of_cluster() -> Acls:
    """Whatever is read and written."""
    return [
        _acl("headgate", "group", NO_GROUP, "Describe", why="Its client looks for it, though it joins none."),
        _acl("headgate", "cluster", "kafka-cluster", "IdempotentWrite", why="Of brokers before 2.8 alone."),
    ]


def of_written(address: str) -> Acls:
    """On a topic that Headgate creates, writes and reads; a form stands for all that begin like it."""
    ours = ("Create", "Describe", "DescribeConfigs", "Read", "Write")
    return [_on_topic("headgate", address, *ours), _on_topic("readers", address, "Describe", "Read")]


def of_read(address: str) -> Acls:
    """On a topic that others fill."""
    return [_on_topic("headgate", address, "Describe", "DescribeConfigs", "Read")]


def of_group(pipeline: str) -> Acls:
    """On the group of those who materialize a pipeline."""
    return [_acl("headgate", "group", group_of(pipeline), "Describe", "Read")]


def _on_topic(who: Literal["headgate", "readers"], address: str, *operations: str) -> dict[str, Any]:
    begins, is_form, _ = address.partition("{")
    return _acl(who, "topic", begins, *operations, pattern="prefixed" if is_form else "literal")


def _acl(
    who: str, resource: Literal["topic", "group", "cluster"], name: str, *operations: str,
    pattern: Literal["literal", "prefixed"] = "literal", why: str = "",
) -> dict[str, Any]:  # fmt: skip
    said = {"who": who, "resource": resource, "name": name, "pattern": pattern, "operations": list(operations)}
    return {**said, "description": why} if why else said
