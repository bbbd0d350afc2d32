"""Runs the rings of tests, three processes at once: most of `tests/ways` waits for servers, while others compute.

    python -m tests.rings [what pytest takes]

The first process is seen as it goes; what the others said follows, with their summaries. Tests on real servers that
failed beside all that are tried once more, alone, if they are few: a deadline that others' load has broken is no fault,
and is named in the last lines nonetheless. With paths among the words, or with one that only one process may act on
(`--pdb`), it is one run of pytest as ever.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, NamedTuple

BESIDE = ("fuzz", "policy_commands", "wheel")
"""The ways that the second process goes, after the other rings, so that all end at about the same time."""
THIRD = (
    "clients", "debezium", "debezium_mariadb", "debezium_restarts", "demo", "mysql_pipeline", "mysql_servers",
    "mysql_sessions", "partitions", "pipeline_life", "postgres_source", "push", "record", "record_registry",
    "record_touched", "replicas", "scale_out", "schema_changes", "slow_client", "slow_clients", "stack", "staleness",
    "state_machine", "strangers", "two_tenants", "verify",
)  # fmt: skip
"""Those of the third one."""
MOST_AGAIN = 5
"""So many tests may fail beside others' load and be tried again: where more do, it is no accident."""
_ON_SERVERS = ("tests/ways/", "tests/contracts/", "tests/docs/", "tests/unit/connections/")
_FAILED, _NONE_CHOSEN = 1, 5
"""pytest's codes where tests failed, and where `-k` leaves no test."""
_ALONE = frozenset({"--pdb", "--trace", "-s", "--collect-only", "--lf", "--ff", "--sw"})


class _Share(NamedTuple):
    """What one process runs."""

    name: str
    paths: Sequence[str]


def main(words: Sequence[str]) -> int:
    """0 when all tests passed; else the first code that says why not."""
    if _ALONE.intersection(words) or any(_is_path(word) for word in words):
        return subprocess.call(_pytest(words))
    with tempfile.TemporaryDirectory() as folder:
        caches = [Path(folder, str(number)) for number in range(len(_shares()))]
        codes = _run_all(words, caches)
        code = _code_of(codes)
        failed = [test for cache in caches for test in failures_in(cache)]
    if set(codes) <= {0, _NONE_CHOSEN, _FAILED} and may_be_tried_again(failed):
        return _try_again(failed)
    return code


def _shares() -> Sequence[_Share]:
    second, third = _ways(BESIDE), _ways(THIRD)
    return (
        _Share("most of tests/ways", ["tests/ways", *(f"--ignore={path}" for path in (*second, *third))]),
        _Share("the other rings", ["tests/unit", "tests/contracts", "tests/docs", *second]),
        _Share("the rest of tests/ways", third),
    )


def _run_all(words: Sequence[str], caches: Sequence[Path]) -> list[int]:
    """The code of each share."""
    shares = _shares()
    with ExitStack() as opened:
        said: list[IO[str] | None] = [None, *(opened.enter_context(tempfile.TemporaryFile("w+")) for _ in shares[1:])]
        running = [
            subprocess.Popen(_pytest([*share.paths, "-o", f"cache_dir={cache}", *words]), stdout=output, stderr=output)
            for share, cache, output in zip(shares, caches, said, strict=True)
        ]
        codes = [process.wait() for process in _all_ended(running)]
        for output in said[1:]:
            assert output is not None
            output.seek(0)
            print(output.read(), flush=True)
    for share, code in zip(shares, codes, strict=True):
        print(f"{share.name}: {_outcome(code)}", flush=True)
    return codes


def _all_ended(running: Sequence[subprocess.Popen[bytes]]) -> Sequence[subprocess.Popen[bytes]]:
    try:
        for process in running:
            process.wait()
    except KeyboardInterrupt:
        for process in running:
            process.wait()  # it has got the same signal, and stops its servers
        raise
    return running


def failures_in(cache: Path) -> list[str]:
    """The tests that failed, as pytest has noted them there."""
    noted = cache / "v" / "cache" / "lastfailed"
    return sorted(json.loads(noted.read_text())) if noted.is_file() else []


def may_be_tried_again(failed: Sequence[str]) -> bool:
    """Whether these are few, and all wait for servers. What can't be read at all has no `::`."""
    return 0 < len(failed) <= MOST_AGAIN and all(t.startswith(_ON_SERVERS) and "::" in t for t in failed)


def _try_again(failed: Sequence[str]) -> int:
    print("once more, alone:", *failed, sep="\n  ", flush=True)
    code = subprocess.call(_pytest(failed))
    print(f"failed beside the others, and alone {_outcome(code)}:", *failed, sep="\n  ", flush=True)
    return code


def _code_of(codes: Sequence[int]) -> int:
    bad = [code for code in codes if code not in (0, _NONE_CHOSEN)]
    if bad:
        return bad[0]
    return 0 if 0 in codes else _NONE_CHOSEN


def _ways(names: Sequence[str]) -> list[str]:
    return [f"tests/ways/test_{name}.py" for name in names]


def _is_path(word: str) -> bool:
    return not word.startswith("-") and Path(word.partition("::")[0]).exists()


def _pytest(words: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "pytest", *words]


def _outcome(code: int) -> str:
    return {0: "passed", _NONE_CHOSEN: "none chosen"}.get(code, "failed")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
