"""The events beside those of calls: intents, versions of policy and config, what is asked of pipelines, approvals,
the catalog."""

from __future__ import annotations

from typing import Literal

import msgspec

from headgate.audit.event import CallerNote, Payload
from headgate.model.approval import ApprovalKind

INTENT_TYPE = "dev.headgate.intent.v1"
POLICY_TYPE = "dev.headgate.policy.v1"
CONFIG_TYPE = "dev.headgate.config.v1"
PIPELINE_TYPE = "dev.headgate.pipeline.v1"
APPROVAL_TYPE = "dev.headgate.approval.v1"
CATALOG_TYPE = "dev.headgate.catalog.v1"

CatalogKind = Literal["defined", "changed", "switched"]


class IntentEvent(msgspec.Struct, frozen=True, kw_only=True):
    """That a call is about to change something, or to open a stream. The call event of the same `call` says the rest.

    An intent without that event is of a process that ended in the middle.
    """

    call: str
    time_ms: int
    writer: str
    caller: CallerNote
    name: str
    """The tool, or the method that opens the stream."""
    arguments: Payload
    """Digest and size."""
    idempotency_key: str = ""
    opens: Literal["change", "stream"] = "change"


class _VersionEvent(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a version of a file that this process goes by."""

    id: str
    time_ms: int
    writer: str
    kind: Literal["loaded", "adopted", "refused"]
    """loaded: with which the process began."""
    version: str
    """The digest of its text; empty when it could not be read."""
    previous: str = ""
    reason: str = ""
    """Why it was refused; of a config that was adopted, which of its places wait until the process starts anew."""


class PolicyEvent(_VersionEvent, frozen=True, kw_only=True):
    """That this process decides by another version of the policy, or refused one."""


class ConfigEvent(_VersionEvent, frozen=True, kw_only=True):
    """That this process serves by another version of its config, or refused one."""


class PipelineEvent(msgspec.Struct, frozen=True, kw_only=True):
    """That something was asked of a pipeline, and by whom."""

    id: str
    time_ms: int
    writer: str
    pipeline: str
    action: str
    """The tool, or the word of the command line: pause, resume, restart, resnapshot, retry, drop."""
    caller: CallerNote
    """On the command line, the user of the machine."""
    call: str = ""
    """The id of the tool call; empty on the command line."""
    subject: str = ""
    """The table, or the dead letters, if it is about some alone."""


class ApprovalEvent(msgspec.Struct, frozen=True, kw_only=True):
    """What has become of an approval: asked for, approved, denied, used, or seen to be over."""

    id: str
    time_ms: int
    writer: str
    approval: str
    """The approval's id."""
    kind: ApprovalKind
    caller: CallerNote
    """Who wants to make the call."""
    tool: str
    arguments: Payload
    """Digest and size; the call event of who asked has what else is kept."""
    policy_version: str
    rules: tuple[str, ...] = ()
    """The policy's rules that ask for it."""
    asked_ms: int
    ends_ms: int
    """When its time is over."""
    call: str = ""
    """Of asked and used, the tool call that does; of expired the one that saw it, if one did."""
    asked_by_call: str
    """The tool call that asked first."""
    decided_by: CallerNote | msgspec.UnsetType = msgspec.UNSET
    """Once it is decided: on the command line, the user of the machine."""
    reason: str | msgspec.UnsetType = msgspec.UNSET
    """What the person who decided has said."""


class CatalogEvent(msgspec.Struct, frozen=True, kw_only=True):
    """That an entity was defined, is defined otherwise, or that its readers see other stored rows."""

    id: str
    time_ms: int
    writer: str
    pipeline: str
    entity: str
    kind: CatalogKind
    """switched: from a snapshot that is whole now, or rows of another form. A definition that needs such rows is seen
    from then on, any other at once."""
    definition: Payload
    """The entity's definition: whole, up to 256 KiB of JSON, but where it was switched alone."""
    previous_sha256: str = ""
    """Of changed: the digest of the definition before."""
    build: str
    """Names the form of the stored rows."""
    generation: int = 0
    """Of switched: the generation of rows that readers see."""
