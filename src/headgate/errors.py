"""The one tree of errors. Each class has a stable code; each message says what to do next.

A message may reach an agent, so it never holds driver text, SQL, a path of the server or a secret.
What a library said is kept as `__cause__`, for the log of the process alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar


class HeadgateError(Exception):
    """Root of the tree. `code` is stable across releases; `details` is safe to show to a caller."""

    code: ClassVar[str] = "internal"

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details: dict[str, Any] = details


# --- the operator's side -------------------------------------------------------------------------


class ConfigError(HeadgateError):
    """The config does not hold. Names the place (`file:line`) and the mend."""

    code = "config_invalid"


class MissingExtra(ConfigError):
    """A kind needs a library that is not installed."""

    code = "extra_missing"

    def __init__(self, extra: str, library: str) -> None:
        super().__init__(
            f"this needs the library {library}: install it with  pip install 'headgate[{extra}]'",
            extra=extra,
            library=library,
        )


class StackError(HeadgateError):
    """A server of `headgate stack` could not be fetched, started or stopped."""

    code = "stack_failed"


class Unavailable(HeadgateError):
    """A server does not answer now. Safe to try again after `retry_after_s` seconds."""

    code = "unavailable"

    def __init__(self, message: str, *, retry_after_s: float = 1.0, **details: Any) -> None:
        super().__init__(message, retry_after_s=retry_after_s, **details)
        self.retry_after_s = retry_after_s


class DataFolderLocked(HeadgateError):
    """Another process captures and materializes in this data folder."""

    code = "data_folder_locked"


# --- the way of a change -------------------------------------------------------------------------


class SourceError(HeadgateError):
    """A source can't be captured until someone mends it."""

    code = "source_failed"


class SlotMissing(SourceError):
    """The replication slot is gone; changes since its last position may be lost to us."""

    code = "slot_missing"


class BinlogPurged(SourceError):
    """The binary log lacks the place that capture goes on from, or is another one; changes may be lost to us."""

    code = "binlog_purged"


class PublicationMissing(SourceError):
    """The publication is gone, so that the source sends nothing."""

    code = "publication_missing"


class SourceNotReady(SourceError):
    """The source lacks a setting or a privilege that capture needs."""

    code = "source_not_ready"


class TableWithoutKey(SourceError):
    """A table has no primary key, and so can't be captured."""

    code = "table_without_key"


class SourceBusy(SourceError):
    """Another process captures this source. Not a fault: the caller waits or stands by."""

    code = "source_busy"


class LogError(HeadgateError):
    """The log refused records, or is not as it was left."""

    code = "log_failed"


class RecordDamaged(LogError):
    """One record of the log can't be read any more. A reader stands before it, and `seek` leads past it."""

    def __init__(self, message: str, offset: int) -> None:
        super().__init__(message, offset=offset)
        self.offset = offset


class RecordTooLarge(LogError):
    """One record is larger than the log takes: its table stops alone and needs a re-snapshot."""

    code = "record_too_large"


class LogTruncated(LogError):
    """The log no longer holds a position: the store must be rebuilt."""

    code = "log_truncated"


class StoreError(HeadgateError):
    """The store can't be read or written as it stands."""

    code = "store_failed"


class Refused(StoreError):
    """The stored fence or position is not the expected one. Nothing was written; claim anew."""

    code = "writer_refused"


class ChangeRejected(HeadgateError):
    """One change does not fit. It goes to the dead letters, whole, with this code and sentence."""

    code = "change_rejected"


class Undecodable(ChangeRejected):
    """The record is not what its source's format says."""

    code = "change_undecodable"


class SchemaMismatch(ChangeRejected):
    """The change lacks a field that its entity needs, or holds another type."""

    code = "schema_mismatch"


class ContractBroken(HeadgateError):
    """A table no longer fits the entity that the config makes of it, which stands still alone."""

    code = "contract_broken"


class KeysMoved(HeadgateError):
    """A topic that others fill has got more partitions: nothing tells the order of what its keys' rows have become."""

    code = "keys_moved"


class TruncateUnclear(ChangeRejected):
    """A truncate in one of several partitions that others fill: which rows of the other ones it is for, none tells."""

    code = "truncate_unclear"


class ConnectorFailed(HeadgateError):
    """A connector of Kafka Connect, or a task of it, has failed."""

    code = "connector_failed"


class StateConflict(HeadgateError):
    """A compare-and-set found another version than the expected one."""

    code = "state_conflict"


class OutboxError(HeadgateError):
    """The call event could not be made durable, so the call is not answered."""

    code = "outbox_failed"


class OutboxFull(OutboxError):
    """There is no room for the call event: the disk is full, or the outbox's bound is reached."""

    code = "outbox_full"


# --- the way of a tool call ----------------------------------------------------------------------


class CallError(HeadgateError):
    """Something in a call that its caller can mend."""

    code = "call_failed"


class InvalidRequest(CallError):
    """The request is not one that this door takes."""

    code = "invalid_request"


class InvalidArguments(CallError):
    """The arguments do not fit the tool's input schema."""

    code = "invalid_arguments"


class UnknownTool(CallError):
    """No such tool for this caller."""

    code = "unknown_tool"


class UnknownResource(CallError):
    """No such resource for this caller."""

    code = "unknown_resource"


class UnknownPrompt(CallError):
    """No such prompt for this caller."""

    code = "unknown_prompt"


class UnknownEntity(CallError):
    """No such entity for this caller. Names the ones there are."""

    code = "unknown_entity"

    def __init__(self, entity: str, known: Sequence[str]) -> None:
        names = ", ".join(known) or "none yet"
        super().__init__(f"There is no entity {entity!r}. Entities you can read: {names}.", known=list(known))


class UnknownPipeline(CallError):
    """No such pipeline for this caller. Names the ones there are."""

    code = "unknown_pipeline"

    def __init__(self, pipeline: str, known: Sequence[str]) -> None:
        names = ", ".join(known) or "none yet"
        super().__init__(f"There is no pipeline {pipeline!r}. Pipelines: {names}.", known=list(known))


class NotIndexed(CallError):
    """A filter or an order by a field that has no index. Names the fields that have one."""

    code = "field_not_indexed"


class SnapshotPending(CallError):
    """The entity is still taking its snapshot: there is no whole answer yet."""

    code = "snapshot_pending"


class Unauthenticated(CallError):
    """No credential, or one that does not hold (HTTP 401)."""

    code = "unauthenticated"


class Forbidden(CallError):
    """A known caller lacks scopes (HTTP 403). Names all that the call needs."""

    code = "insufficient_scope"

    def __init__(self, message: str, scopes: Sequence[str]) -> None:
        super().__init__(message, scopes=list(scopes))
        self.scopes = tuple(scopes)


class InputRequired(CallError):
    """The call goes on once its client has answered: not a fault, and nothing was done yet.

    `questions` are what it is asked, by name, and `request_state` is what it must bring back with the answers.
    `keep` is what that state holds, for a task, which keeps it itself.
    """

    code = "input_required"

    def __init__(self, questions: Mapping[str, Any], request_state: str, keep: Any = None) -> None:
        super().__init__("Answer what is asked, and call again with the answers and the request state.")
        self.questions = questions
        self.request_state = request_state
        self.keep = keep


class CapabilityMissing(CallError):
    """The call needs something that its client did not say it can do (JSON-RPC -32021)."""

    code = "client_capability_missing"

    def __init__(self, capabilities: Sequence[str]) -> None:
        super().__init__(
            f"This call needs a client that can be asked for: {', '.join(capabilities)}. Call it from one that says "
            "so in its capabilities, by MCP revision 2026-07-28.",
            requiredCapabilities={name: {} for name in capabilities},
        )


class ExtensionMissing(CapabilityMissing):
    """The call needs an extension of MCP that its client did not say it takes part in (JSON-RPC -32021)."""

    def __init__(self, extension: str) -> None:
        CallError.__init__(
            self,
            f"This needs a client that takes part in the extension {extension}: name it under `extensions` in the "
            "capabilities of each request, by MCP revision 2026-07-28.",
            requiredCapabilities={"extensions": {extension: {}}},
        )


class UnknownTask(CallError):
    """No such task of this caller, or its time is over."""

    code = "unknown_task"


class TooManyTasks(CallError):
    """The caller has as many tasks as it may. Another one can be made once one of them ends or expires."""

    code = "too_many_tasks"

    def __init__(self, message: str, *, retry_after_s: float, **details: Any) -> None:
        super().__init__(message, retry_after_s=retry_after_s, **details)
        self.retry_after_s = retry_after_s


class GrantChanged(CallError):
    """What the caller may see has changed since a task read its answer, which is therefore not shown."""

    code = "grant_changed"


class BudgetSpent(CallError):
    """The caller has spent its budget. The same call can be paid for after `retry_after_s` seconds."""

    code = "budget_spent"

    def __init__(self, message: str, *, retry_after_s: float, **details: Any) -> None:
        super().__init__(message, retry_after_s=retry_after_s, **details)
        self.retry_after_s = retry_after_s


class TooManyWaiting(CallError):
    """The caller, or all together, keep too many waits or streams open."""

    code = "too_many_waiting"


class CallInProgress(CallError):
    """Another call with this idempotency key has not ended yet. Ask again with the same key."""

    code = "call_in_progress"

    def __init__(self, message: str, *, retry_after_s: float, **details: Any) -> None:
        super().__init__(message, retry_after_s=retry_after_s, **details)
        self.retry_after_s = retry_after_s


class KeyReused(CallError):
    """The idempotency key came with another tool or other arguments before. Nothing was done."""

    code = "idempotency_key_reused"


class OutcomeUnknown(CallError):
    """A call with this idempotency key began and may have acted or not. It is never run again."""

    code = "outcome_unknown"


class ApprovalRequired(CallError):
    """The call needs another person's yes, which is asked for. Nothing was done; call again later."""

    code = "approval_required"

    def __init__(self, message: str, *, retry_after_s: float, **details: Any) -> None:
        super().__init__(message, retry_after_s=retry_after_s, **details)
        self.retry_after_s = retry_after_s


class ApprovalDenied(CallError):
    """A person has said no to this call. It can be asked for again once the approval's time is over."""

    code = "approval_denied"


class TooManyApprovals(CallError):
    """The caller has as many approvals waiting as it may."""

    code = "too_many_approvals"

    def __init__(self, message: str, *, retry_after_s: float, **details: Any) -> None:
        super().__init__(message, retry_after_s=retry_after_s, **details)
        self.retry_after_s = retry_after_s


class UnknownApproval(CallError):
    """No such approval for this caller."""

    code = "unknown_approval"


class ApprovalOver(CallError):
    """There is nothing to decide any more: the approval was decided or used, its time is over, or its policy is."""

    code = "approval_over"


class OwnApproval(CallError):
    """Whoever asked for an approval can't decide it."""

    code = "own_approval"


class OriginRefused(CallError):
    """The Host or Origin header is not one that this server is reached by (HTTP 421/403)."""

    code = "origin_refused"
