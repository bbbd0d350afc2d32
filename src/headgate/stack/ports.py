"""Free loopback ports, picked once and kept in a server's folder."""

from __future__ import annotations

import json
import secrets
import socket
from collections.abc import Iterable, Sequence
from pathlib import Path

from headgate.errors import StackError

LOOPBACK = "127.0.0.1"
# Below every system's range for outgoing connections: there, a client's own socket could sit on the port
# of a server that was killed and is about to start again.
LOWEST, HIGHEST = 20_000, 32_000


def keep_ports(file: Path, names: Sequence[str]) -> dict[str, int]:
    """The ports of `file`; names that it lacks are given free ones, and written to it."""
    ports: dict[str, int] = json.loads(file.read_text()) if file.exists() else {}
    missing = [name for name in names if name not in ports]
    for name in missing:
        ports[name] = free_port(taken=ports.values())
    if missing:
        file.write_text(json.dumps(ports))
    return ports


def free_port(taken: Iterable[int] = ()) -> int:
    """A port of 127.0.0.1 that nothing listens on now, and that is not in `taken`."""
    others = set(taken)
    for _ in range(200):
        port = LOWEST + secrets.randbelow(HIGHEST - LOWEST)
        if port not in others and is_free(port):
            return port
    raise StackError("There is no free port on 127.0.0.1.")


def is_free(port: int) -> bool:
    """Whether a server could listen on `port` now (connections that linger after one do not count)."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
