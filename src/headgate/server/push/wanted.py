"""What a client wants to hear of, by its own words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args
from urllib.parse import unquote

from headgate.errors import InvalidArguments
from headgate.model.row import key_parts, key_text

List = Literal["tools", "prompts", "resources"]
"""What may change as a whole for a caller."""

LISTS: tuple[List, ...] = get_args(List)

_ROW = "headgate://entity/"
_URIS = "resourceSubscriptions"
_TASKS = "taskIds"


class Place(NamedTuple):
    """A row, by its entity and key text."""

    entity: str
    key: str


class Wanted(NamedTuple):
    """A checked filter."""

    lists: frozenset[List]
    uris: tuple[str, ...]
    """As the client wrote them, each once."""
    tasks: tuple[str, ...] = ()
    """The tasks that it asks for, and once the stream is open those that are its caller's."""

    @property
    def honoured(self) -> dict[str, Any]:
        """The filter as it is acknowledged. A URI of nothing, or of what the caller does not see, never changes."""
        said: dict[str, Any] = {f"{name}ListChanged": True for name in LISTS if name in self.lists}
        said |= {_URIS: list(self.uris)} if self.uris else {}
        return {**said, _TASKS: list(self.tasks)} if self.tasks else said

    def places(self) -> Mapping[Place, Sequence[str]]:
        """The rows among what the URIs name, with the URIs that name them."""
        found: dict[Place, list[str]] = {}
        for uri in self.uris:
            entity, has_key, key = uri.removeprefix(_ROW).partition("/")
            if uri.startswith(_ROW) and has_key and key:
                found.setdefault(Place(unquote(entity), key_text(key_parts(key))), []).append(uri)
        return found


def wanted_of(filter_: Mapping[str, Any], most_uris: int) -> Wanted:
    """What the filter asks for; kinds that we do not know are left out. InvalidArguments for too many URIs or tasks."""
    uris, tasks = _texts(filter_, _URIS), _texts(filter_, _TASKS)
    if len(uris) + len(tasks) > most_uris:
        raise InvalidArguments(f"One stream takes at most {most_uris} URIs and tasks: open more than one.")
    return Wanted(
        lists=frozenset(name for name in LISTS if filter_.get(f"{name}ListChanged") is True),
        uris=tuple(dict.fromkeys(uris)),
        tasks=tuple(dict.fromkeys(tasks)),
    )


def _texts(filter_: Mapping[str, Any], name: str) -> list[str]:
    found = filter_.get(name)
    return found if isinstance(found, list) and all(isinstance(each, str) for each in found) else []
