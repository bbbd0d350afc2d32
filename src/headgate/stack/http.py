"""The readiness check of the servers that speak HTTP."""

from __future__ import annotations

from http.client import HTTPConnection, HTTPException

from headgate.stack.ports import LOOPBACK


def answers_ok(port: int, path: str) -> bool:
    """Whether GET `path` on loopback is answered with 200. Never goes through a proxy."""
    connection = HTTPConnection(LOOPBACK, port, timeout=2)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except HTTPException:
        return False
    finally:
        connection.close()
