"""A task: what is known of one call that goes on after its request was answered."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from headgate.model.caller import Caller, Grant
from headgate.server.message import Asked

EXTENSION: Final = "io.modelcontextprotocol/tasks"

Status = Literal["working", "input_required", "completed", "failed", "cancelled"]


class TaskSettings(msgspec.Struct, frozen=True, kw_only=True):
    """How long tasks live and how many there may be."""

    ttl_ms: int = 3_600_000
    """From its making on: so long a task and its answer are kept, and so long it may work."""
    poll_ms: int = 1_000
    """How often its client is told to ask."""
    after_ms: int = 500
    """A call that may become a task, and reads, becomes one when it takes longer."""
    most_open: int = 16
    """Of one caller, that have not ended."""
    most_kept: int = 64
    """Of one caller, ended or not."""


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What stands in `state`, under the caller's name and the task's id."""

    id: str
    caller: Caller
    """Who made it, or, since it was last updated, who updated it: always the same identity."""
    asked: Asked
    """The call, by `tools/call`; `answers` are those of this round."""
    door: Literal["http", "stdio"]
    peer: str
    changes: bool
    """Whether the tool does more than read, so that it is never run twice."""
    created_ms: int
    updated_ms: int
    ttl_ms: int
    poll_ms: int
    status: Status = "working"
    note: str = ""
    """How far it is, or why it ended."""
    attempt: int = 1
    """The fence: whoever works writes only as long as this is the attempt that it began."""
    round: int = 0
    """How often it has asked its client for something."""
    questions: Mapping[str, Any] = {}
    """Of this round, by keys that no other round of the task uses."""
    answers: Mapping[str, Any] = {}
    """To some of the questions, by their keys."""
    kept: Any = None
    """What the tool keeps from one round to the next."""
    sight: str = ""
    """Of the grant by which the answer was read, see `sight_of`."""
    error: Mapping[str, Any] | None = None
    """JSON-RPC's, once it has failed."""

    @property
    def owner(self) -> str:
        """Whose it is."""
        return owner_of(self.caller)

    @property
    def is_over(self) -> bool:
        """Whether nothing more comes."""
        return self.status in ("completed", "failed", "cancelled")

    @property
    def ends_ms(self) -> int:
        """Until when it is kept, in milliseconds since the epoch."""
        return self.created_ms + self.ttl_ms

    def open_questions(self) -> dict[str, Any]:
        """What its client has not answered yet, by key."""
        return {key: question for key, question in self.questions.items() if key not in self.answers}

    def key_of(self, name: str) -> str:
        """The key of a question of this round: no other round has it."""
        return f"{name}.{self.round}"

    def answers_by_name(self) -> dict[str, Any]:
        """The answers of this round as the tool has named its questions."""
        ending = self.key_of("")
        return {key.removesuffix(ending): answer for key, answer in self.answers.items()}


def owner_of(caller: Caller) -> str:
    """A name for the caller's identity, which says nothing of it. Its scopes and claims may change."""
    return hashlib.sha256(msgspec.json.encode(caller.who)).hexdigest()


def sight_of(grant: Grant, tool: str) -> str:
    """A digest of what the grant gives by that tool: two grants that differ may show different rows and fields.

    Without a policy's document scopes decide alone whether there is an answer, and all that have them see the same.
    """
    if grant.given is None:
        return ""
    given = [each for each in grant.given if each.gives_tool(tool)]
    return hashlib.sha256(msgspec.msgpack.encode(given)).hexdigest()
