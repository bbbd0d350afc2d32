"""A client at the other end of a pipe: what stdio is, without a process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import mcp_types as types
from mcp import Client
from mcp.shared.memory import create_client_server_memory_streams

from headgate.server.stdio import serve_pipe
from tests.unit.server.house import House


@asynccontextmanager
async def pipe_into(house: House) -> AsyncIterator[tuple[Any, Any]]:
    """The client's ends of a pipe behind which the house is served, until it is closed."""
    async with create_client_server_memory_streams() as (client_ends, (read, write)):
        serving = asyncio.create_task(serve_pipe(house.rooms, read, write))
        try:
            yield client_ends
        finally:
            await client_ends[1].aclose()
            await asyncio.wait_for(serving, 60)
            await house.rooms.settle()


def client_of(house: House, mode: str = "auto", **more: Any) -> Client:
    """The official client on such a pipe."""
    me = types.Implementation(name="laptop", version="2")
    return Client(pipe_into(house), mode=mode, client_info=me, **more)
