"""A question to a server that is ready to be sent: whoever asks is called with the reply, and needs no task to wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import msgspec

T = TypeVar("T")


class Question(msgspec.Struct, Generic[T], frozen=True):
    """What is sent, and what its reply says. Sending it twice asks twice."""

    send: Callable[[Callable[[Any], None]], bool]
    """Sends it now, and calls what it is given once, in this event loop and later: with the reply, or with what says
    that there is none. What is called must not raise. False where it can't be sent now; then nobody is called."""
    read: Callable[[Any], T]
    """What such a reply says. Raises where there is none, and where it says something else."""
