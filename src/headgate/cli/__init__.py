"""The command `headgate`. The one room that prints.

Each command imports what it needs when it runs, so that `headgate mcp` starts as fast as it can.
"""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Sequence

from headgate.errors import HeadgateError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and answers the exit code. An error of ours is one sentence, without a trace."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if words[:1] == ["mcp"]:
            gc.disable()  # what is imported is no garbage, and looking for some takes a tenth of the start
            try:
                from headgate.cli.mcp import run_mcp

                return run_mcp(words[1:])
            finally:
                gc.enable()
        from headgate.cli.commands import run

        return run(words)
    except HeadgateError as error:
        print(f"headgate: {error.message}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
