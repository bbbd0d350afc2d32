"""From the start of a stdio server to its first tools/list answer, beside an echo server of the SDK.

The demo's shop, embedded, captured once before. Runs alternate, so that noise falls on both.

    python bench/cold_start.py [--quick]
"""

from __future__ import annotations

import argparse
import compileall
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measure import cpu_seconds, line, milliseconds, ratios

import headgate

HERE = Path(__file__).parent
PROGRAM = Path(sys.executable).parent / "headgate"
HANDSHAKE = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "bench", "version": "1"},
}


def first_list(command: list[str]) -> tuple[float, float]:
    """Seconds from the start of the process to its list of tools, and of CPU until then."""
    began = time.perf_counter()
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdin is not None
    assert process.stdout is not None
    messages: list[dict[str, object]] = [
        {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": HANDSHAKE},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/list"},
    ]
    for message in messages:
        process.stdin.write(json.dumps(message).encode() + b"\n")
        process.stdin.flush()
        if message.get("id"):
            answer = json.loads(process.stdout.readline())
    took, cpu_s = time.perf_counter() - began, cpu_seconds(process.pid)
    assert answer["result"]["tools"], answer
    process.stdin.close()
    process.wait(30)
    process.stdout.close()
    return took, cpu_s


def main() -> None:
    """Alternates both servers."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="the same on less work")
    runs = 5 if parser.parse_args().quick else 25
    compileall.compile_dir(Path(headgate.__file__).parent, quiet=1)  # as whoever installs a package does
    with tempfile.TemporaryDirectory(prefix="headgate-bench-") as scratch:
        demo = [str(PROGRAM), "demo", "--dir", scratch, "--port", "0", "--for", "6", "--quiet"]
        subprocess.run(demo, check=True, stdout=subprocess.DEVNULL)
        ours = [str(PROGRAM), "mcp", "--config", str(Path(scratch) / "headgate.yaml")]
        peer = [sys.executable, str(HERE / "echo_server.py")]
        pairs = [(first_list(ours), first_list(peer)) for _ in range(runs)]
    mine = said("headgate", [pair[0] for pair in pairs])
    echo = said("sdk echo", [pair[1] for pair in pairs])
    ratios(headgate_over_sdk_echo=mine["p50_ms"] / echo["p50_ms"], of_cpu=mine["cpu_ms"] / echo["cpu_ms"])


def said(subject: str, found: list[tuple[float, float]]) -> dict[str, Any]:
    """A subject's line."""
    cpu_ms = round(statistics.median(cpu_s for _, cpu_s in found) * 1000)
    return line(subject, runs=len(found), **milliseconds([took for took, _ in found]), cpu_ms=cpu_ms)


if __name__ == "__main__":
    main()
