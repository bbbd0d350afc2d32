"""Whoever called, as a tool or prompt sees it that tells how far it is, or needs more than its arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NoReturn, Protocol

from headgate.errors import CapabilityMissing

Level = Literal["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"]
"""Of a notice, the least severe first (RFC 5424)."""

LEVELS: tuple[Level, ...] = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")

Question = Mapping[str, Any]
"""What a client is asked, in MCP's words: `method` and `params`, see `elicitation`, `sampling` and `ROOTS`."""

ROOTS: Question = {"method": "roots/list", "params": {}}
"""Asks which folders the client works in."""

_CAPABILITY_OF = {"elicitation/create": "elicitation", "sampling/createMessage": "sampling", "roots/list": "roots"}


class Client(Protocol):
    """Whoever called. A client that leaves cancels the call; what is told it then goes nowhere."""

    @property
    def capabilities(self) -> Mapping[str, Any]:
        """What it can be asked for: `elicitation`, `sampling`, `roots`, each with its settings."""

    @property
    def answers(self) -> Mapping[str, Any]:
        """What it was asked for before in this call and brings now, by the names of the questions. Untrusted."""

    @property
    def kept(self) -> Any:
        """What `ask` was to keep when this was asked; None in the first round."""

    async def progress(self, done: float, total: float | None = None, message: str = "") -> None:
        """Tells how far the call is, if the client wants to know. `done` must grow from one time to the next."""

    def hears(self, level: Level) -> bool:
        """Whether a notice of that level reaches the client."""

    async def opening(self) -> None:
        """To be called before rows leave by notices: returns once the record says that they do. OutboxError."""

    async def notice(self, level: Level, data: Any) -> None:
        """Tells something on the call's own stream, if the client wants notices of that level.

        Returns once it is on its way: a client that reads slowly slows whoever tells it something.
        """

    async def ask(self, questions: Mapping[str, Question], keep: Any = None) -> NoReturn:
        """Ends this round: the client is to answer and to call again, to whichever process.

        `keep`, plain JSON, is sealed, goes by the client and comes back in `kept`; nobody else can read or change
        it, and it is good for this caller and these arguments alone. CapabilityMissing when the client can't be
        asked for one of these.
        """


class _Nobody:
    """Where there is no client: nothing is heard, and nothing can be asked."""

    capabilities: Mapping[str, Any] = {}
    answers: Mapping[str, Any] = {}
    kept: Any = None

    async def progress(self, done: float, total: float | None = None, message: str = "") -> None:
        """Nobody hears it."""

    def hears(self, level: Level) -> bool:
        """Nobody does."""
        return False

    async def opening(self) -> None:
        """Nothing leaves."""

    async def notice(self, level: Level, data: Any) -> None:
        """Nobody hears it."""

    async def ask(self, questions: Mapping[str, Question], keep: Any = None) -> NoReturn:
        """Nobody is there to answer."""
        raise CapabilityMissing(missing(questions, self.capabilities))


NOBODY: Client = _Nobody()


def missing(questions: Mapping[str, Question], capabilities: Mapping[str, Any]) -> list[str]:
    """Which capabilities the questions need beyond those, sorted."""
    needed = {_CAPABILITY_OF[question["method"]] for question in questions.values()}
    return sorted(name for name in needed if capabilities.get(name) is None)


def elicitation(message: str, schema: Mapping[str, Any]) -> Question:
    """Asks the person. `schema` is a flat object's (MCP, Elicitation, "Requested Schema"); never for secrets."""
    return {"method": "elicitation/create", "params": {"mode": "form", "message": message, "requestedSchema": schema}}


def sampling(text: str, max_tokens: int) -> Question:
    """Asks the client's model."""
    said = {"role": "user", "content": {"type": "text", "text": text}}
    return {"method": "sampling/createMessage", "params": {"messages": [said], "maxTokens": max_tokens}}
