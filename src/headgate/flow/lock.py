"""The data folder's lock: one process captures and materializes on the embedded default."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import IO

from headgate.errors import DataFolderLocked


class FolderLock:
    """Held from `take` to `release`, or to the end of the process, however it ends."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "lock"
        self._file: IO[str] | None = None

    def take(self) -> None:
        """Takes the lock, or raises DataFolderLocked when a living process has it."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = self._path.open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            file.close()
            raise DataFolderLocked(
                f"Another process (pid {holder}) captures and materializes in this data folder: "
                "stop it, or name another folder (data:)."
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        self._file = file

    def release(self) -> None:
        """Lets go. Idempotent."""
        if self._file is not None:
            self._file.close()
            self._file = None
