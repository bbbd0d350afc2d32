"""The baseline anew: the suite against the Python SDK's own everything-server, run stateless.

    python -m tests.conformance.theirs python-sdk/examples/servers/everything-server/mcp_everything_server/server.py

The file is that of the SDK's repository at the commit that `baseline.json` names; the SDK is the one installed here.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from headgate.stack.ports import LOOPBACK, free_port, is_free
from tests.conformance.suite import Outcome, baseline, run_suite, whole
from tests.ways.deployment import until

REVISIONS = ("2026-07-28", "2025-11-25")
_RUN = """
import runpy, sys
server = runpy.run_path(sys.argv[1])["mcp"]
server.run(transport="streamable-http", port=int(sys.argv[2]), stateless_http=True)
"""


def main(file: Path) -> int:
    """Prints what their server fails; 1 unless that is what the baseline says."""
    differs = False
    with _serving(file) as url:
        for revision in REVISIONS:
            found, noted = _failures(run_suite(url, whole(revision))), _noted(revision)
            print(f"{revision}: {found or 'nothing fails'}{'' if found == noted else f'; the baseline has {noted}'}")
            differs |= found != noted
    return int(differs)


@contextmanager
def _serving(file: Path) -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-c", _RUN, str(file), str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: not is_free(port), lambda: _assert_runs(process))
        yield f"http://{LOOPBACK}:{port}/mcp"
    finally:
        process.terminate()
        process.wait()


def _assert_runs(process: subprocess.Popen[bytes]) -> None:
    assert process.poll() is None, "their server ended before it served: is it server.py of everything-server?"


def _failures(outcomes: dict[str, Outcome]) -> dict[str, list[str]]:
    return {name: list(each.failed) for name, each in outcomes.items() if each.failed}


def _noted(revision: str) -> dict[str, list[str]]:
    """What fails by the baseline: on both servers, and on theirs alone."""
    both = baseline()["failures"].get(revision, {}) | baseline()["only_theirs"].get(revision, {})
    return {name: sorted(both[name]["checks"]) for name in sorted(both)}


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
