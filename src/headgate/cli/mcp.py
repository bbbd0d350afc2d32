"""`headgate mcp`: the stdio server of a laptop's client. Its arguments are read by hand, as it must start fast."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from headgate.app import App

_FLOW_AFTER_S = 1.0


def run_mcp(words: Sequence[str]) -> int:
    """Serves until the client leaves. The first process of a data folder captures and materializes too."""
    parser = argparse.ArgumentParser(prog="headgate mcp", description="MCP on standard input and output.")
    parser.add_argument("--config", "-c", default="headgate.yaml", help="the config (default: headgate.yaml)")
    options = parser.parse_args(words)

    with _models_built_when_used():
        import headgate.server.stdio  # noqa: F401 - brings the SDK, whose models these are; used by `App.serve_stdio`
        from headgate.app import App
        from headgate.config import load

    with App(load(Path(options.config))) as app:
        asyncio.run(_serve(app))
    return 0


@contextlib.contextmanager
def _models_built_when_used() -> Iterator[None]:
    """Pydantic models that are declared in here get their validators at their first use (pydantic's `defer_build`).

    The SDK declares one for every message of two protocol eras, of which a session uses a few: building all of them
    takes a good part of its import. Nor does pydantic look for plug-ins, which reads every installed package's
    entry points.
    """
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    from pydantic import BaseModel

    before = BaseModel.model_config
    BaseModel.model_config = {**before, "defer_build": True}
    try:
        yield
    finally:
        BaseModel.model_config = before


async def _serve(app: App) -> None:
    """Answers first: the flow's own imports and connections wait until the client has its list of tools.

    So does the garbage collector, which the command has switched off.
    """
    flow = asyncio.get_running_loop().call_later(_FLOW_AFTER_S, _begin, app)
    try:
        await app.serve_stdio()
    finally:
        flow.cancel()


def _begin(app: App) -> None:
    """The flow in a thread, which ends with the process: starting may wait for servers, and answers must not."""
    gc.freeze()  # what is there now stays to the end
    gc.enable()
    threading.Thread(target=app.start_flow_if_free, name="start-flow", daemon=True).start()
