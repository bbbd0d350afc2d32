"""Why single entities stand still, as one process knows it. It outlasts the runs of materialize."""

from __future__ import annotations

from headgate.errors import ConfigError, ContractBroken, HeadgateError
from headgate.model.pipeline import DeadLetter, Fault, LetterRequest


class Standing:
    """The entities that stand still. The thread that materializes uses it."""

    def __init__(self) -> None:
        self._faults: dict[tuple[str, str], Fault] = {}
        self._since: dict[tuple[str, str, str], int] = {}
        self._heard: set[tuple[str, str]] = set()

    def clear(self) -> None:
        """A run begins: whoever stands still will say so again, with the time since when."""
        self._faults.clear()

    def break_off(self, entity: str, error: HeadgateError, now_ms: int) -> None:
        """Its table no longer fits the entity, or its keys have lost their order."""
        message = f"Entity {entity!r} stands still, and the others go on: {error.message}."
        if isinstance(error, ConfigError):
            message += " It goes on from where it stands once table and config fit again."
            self._add(entity, "", ContractBroken.code, message, now_ms)
        else:
            self._add(entity, "", error.code, message, now_ms)

    def stop_at(self, letter: DeadLetter, now_ms: int) -> None:
        """A change can't be applied, and the pipeline's `on_error` is to stop there."""
        message = (
            f"Entity {letter.entity!r} stands still before offset {letter.offset} of partition {letter.partition} of "
            f"{letter.topic}: {letter.message} Mend that and retry it, or pass it over: drop_dead_letters with the "
            f"id {letter.id}."
        )
        self._add(letter.entity, letter.id, letter.code, message, now_ms)

    def faults(self) -> tuple[Fault, ...]:
        """Why, in the order of the entities' names."""
        return tuple(fault for _, fault in sorted(self._faults.items()))

    def is_news(self, key: str, request: LetterRequest) -> bool:
        """Whether this request is for a change before which an entity stands still, and was not heard before."""
        fresh = {(key, letter) for _, letter in self._faults if letter in request.ids} - self._heard
        self._heard |= fresh
        return bool(fresh)

    def _add(self, entity: str, letter: str, code: str, message: str, now_ms: int) -> None:
        since_ms = self._since.setdefault((entity, letter, message), now_ms)
        fault = Fault(code=code, message=message, since_ms=since_ms, entity=entity, letter=letter)
        self._faults[entity, letter] = fault
