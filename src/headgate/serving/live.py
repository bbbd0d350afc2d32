"""Which parts of a changed config a running process can take, and which wait until it starts anew."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from typing import Any, NamedTuple

from headgate.config import AuditConfig, Config, Pipeline, ServerConfig

_SERVER = frozenset({"allowed_hosts", "allowed_origins", "public_url", "limits"})
_AUDIT = frozenset({"arguments", "results", "tools"})
_BOUND = "freshness_bound_s"
_JUDGED = frozenset({"path", "access", "policy", "server", "audit", "pipelines"})
"""The parts that are looked into; every other one waits."""


class Merged(NamedTuple):
    """The config that can hold now."""

    config: Config
    taken: tuple[str, ...]
    """The places in the file that were changed and hold from now on."""
    waiting: tuple[str, ...]
    """Those that were changed and do not."""


def merged(running: Config, found: Config, *, flows: bool) -> Merged:
    """What of the found config can be taken by a process that runs by the other one.

    `flows` says whether it captures or materializes too: then what flows is begun anew with what was taken.
    """
    notes = _Notes()
    others = (field.name for field in fields(Config) if field.name not in _JUDGED)
    notes.waiting += [name for name in others if getattr(running, name) != getattr(found, name)]
    if (running.access, running.policy) != (found.access, found.policy):
        notes.taken.append("access")
    config = replace(
        running,
        access=found.access,
        policy=found.policy,
        server=_server(running.server, found.server, notes),
        audit=_audit(running.audit, found.audit, notes),
        pipelines=_pipelines(running, found, notes, flows=flows),
    )
    return Merged(config, tuple(notes.taken), tuple(notes.waiting))


class _Notes:
    def __init__(self) -> None:
        self.taken: list[str] = []
        self.waiting: list[str] = []

    def note(self, place: str, *, taken: bool) -> None:
        (self.taken if taken else self.waiting).append(place)


def _server(old: ServerConfig, new: ServerConfig, notes: _Notes) -> ServerConfig:
    taken: dict[str, Any] = {}
    for name in _changed(old, new):
        # Files of a certificate may become others; whether TLS is spoken is the listening socket's.
        can = name in _SERVER or (name == "tls" and old.tls is not None and new.tls is not None)
        notes.note(f"server.{name}", taken=can)
        if can:
            taken[name] = getattr(new, name)
    return old.model_copy(update=taken)


def _audit(old: AuditConfig, new: AuditConfig, notes: _Notes) -> AuditConfig:
    taken: dict[str, Any] = {}
    for name in _changed(old, new):
        notes.note(f"audit.{name}", taken=name in _AUDIT)
        if name in _AUDIT:
            taken[name] = getattr(new, name)
    return old.model_copy(update=taken)


def _changed(old: Any, new: Any) -> Iterator[str]:
    return (name for name in type(old).model_fields if getattr(old, name) != getattr(new, name))


def _pipelines(running: Config, found: Config, notes: _Notes, *, flows: bool) -> Mapping[str, Pipeline]:
    result: dict[str, Pipeline] = {}
    for name in dict.fromkeys([*running.pipelines, *found.pipelines]):
        old, new = running.pipelines.get(name), found.pipelines.get(name)
        place = f"pipelines.{name}"
        if old is not None and new is not None:
            result[name] = _pipeline(old, new, notes, place, flows=flows)
        elif new is not None:
            can = _fits(new, running, found, flows=flows)
            notes.note(place, taken=can)
            if can:
                result[name] = new
        else:
            notes.note(place, taken=True)
    return result


def _pipeline(old: Pipeline, new: Pipeline, notes: _Notes, place: str, *, flows: bool) -> Pipeline:
    """A reading process takes what is declared; one where it flows, another source too. Log and store stay open."""
    bound = new.settings.freshness_bound_s
    if bound != old.settings.freshness_bound_s:
        notes.note(f"{place}.{_BOUND}", taken=True)
    timed = replace(old, settings=old.settings.model_copy(update={_BOUND: bound}))
    if timed == new:
        return new
    can = (old.log, old.store) == (new.log, new.store) and (flows or old.source == new.source)
    notes.note(f"{place} or its entities", taken=can)
    return new if can else timed


def _fits(new: Pipeline, running: Config, found: Config, *, flows: bool) -> bool:
    """Whether a new pipeline works with what is open: the same store, no other connections; to flow, the same log."""
    stores = {pipeline.store for pipeline in running.pipelines.values()}
    logs = {pipeline.log for pipeline in running.pipelines.values()}
    return running.connections == found.connections and new.store in stores and (new.log in logs or not flows)
