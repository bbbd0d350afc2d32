"""What every bench prints: one JSON line per subject, then one of ratios."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def milliseconds(seconds: Sequence[float]) -> dict[str, float]:
    """Median and 99th percentile of samples in seconds, in milliseconds."""
    ordered = sorted(seconds)
    return {
        "p50_ms": round(statistics.median(ordered) * 1000, 3),
        "p99_ms": round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))] * 1000, 3),
    }


def line(subject: str, **values: Any) -> dict[str, Any]:
    """Prints one subject's line, and answers it."""
    said = {"subject": subject, **values}
    print(json.dumps(said), flush=True)
    return said


def ratios(**values: float) -> None:
    """Prints the ratios, last."""
    print(json.dumps({"ratios": {name: round(value, 3) for name, value in values.items()}}), flush=True)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and its threads so far (where there is a /proc)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_mib(pid: int) -> int:
    """Memory of a process (where there is a /proc)."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(fields["VmRSS"].split()[0]) >> 10
