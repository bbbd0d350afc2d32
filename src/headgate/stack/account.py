"""Who the servers run as, and whether that account can reach what they need.

Nothing is ever run as root (PostgreSQL refuses it outright): where root starts a stack, as in most
containers, its servers run as `nobody`. That account must be able to walk to its data folder and to the
programs, so this file also answers where those may lie.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headgate.errors import StackError

SYSTEM_CACHE = Path("/var/cache/headgate")
SYSTEM_DATA = Path("/var/lib/headgate/stack")


@dataclass(frozen=True, slots=True)
class Account:
    """An unprivileged account that root hands its servers to."""

    uid: int
    gid: int


def unprivileged() -> Account | None:
    """The account for the servers when we are root; None when we are an ordinary user already."""
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError as error:
        raise StackError(
            "The servers are never run as root, and there is no account `nobody` to run them as: "
            "start the stack as an ordinary user."
        ) from error
    return Account(entry.pw_uid, entry.pw_gid)


def as_account(account: Account | None) -> dict[str, Any]:
    """The keywords that make `subprocess` run as `account`."""
    if account is None:
        return {}
    return {"user": account.uid, "group": account.gid, "extra_groups": []}


def can_reach(path: Path, account: Account | None) -> bool:
    """Whether `account` may walk to `path` and read it (and enter it, if it is a folder)."""
    if account is None:
        return True
    path = path.resolve()
    return all(_allows(step, account, 0o1) for step in path.parents) and _allows(
        path, account, 0o5 if path.is_dir() else 0o4
    )


def _allows(path: Path, account: Account, wanted: int) -> bool:
    found = path.stat()
    if found.st_uid == account.uid:
        shift = 6
    elif found.st_gid == account.gid:
        shift = 3
    else:
        shift = 0
    return (found.st_mode >> shift) & wanted == wanted


def own_folder(folder: Path, account: Account | None) -> Path:
    """Make `folder`, private to `account`, and return where it really lies.

    Throwaway folders above it are opened for passing through (not for listing). Below any other closed
    folder, such as root's home, the data moves to a system folder and `folder` becomes a link to it.
    """
    if account is None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return folder.resolve()
    folder.parent.mkdir(parents=True, exist_ok=True)
    _open_throwaway(folder)
    if not folder.exists():
        _make(folder, account)
    real = folder.resolve()
    if not _can_pass_to(real.parent, account):
        raise StackError(
            f"{folder} lies below a folder that the account of the servers can't enter: "
            "choose another folder, or remove this one."
        )
    _chown_tree(real, account)
    return real


def _make(folder: Path, account: Account) -> None:
    if folder.is_symlink():
        folder.unlink(missing_ok=True)  # its target was removed
    if _can_pass_to(folder.parent, account):
        folder.mkdir(mode=0o700, exist_ok=True)  # another thread may start the same server
        return
    real = SYSTEM_DATA / hashlib.sha256(str(folder.absolute()).encode()).hexdigest()[:16]
    make_public(real.parent)
    real.mkdir(exist_ok=True)
    real.chmod(0o700)
    try:
        folder.symlink_to(real, target_is_directory=True)
    except FileExistsError:
        pass  # another thread starts the same server, and made the same link


def _can_pass_to(folder: Path, account: Account) -> bool:
    folder = folder.resolve()
    return all(_allows(step, account, 0o1) for step in (folder, *folder.parents))


def _open_throwaway(folder: Path) -> None:
    """Let others pass through the temporary folders above `folder`; a home is never opened."""
    throwaway = Path(tempfile.gettempdir()).resolve()
    for step in folder.absolute().parents:
        if throwaway in step.resolve().parents and not step.stat().st_mode & 0o001:
            step.chmod(step.stat().st_mode | 0o011)


def _chown_tree(folder: Path, account: Account) -> None:
    if folder.stat().st_uid == account.uid:
        return
    for path in (folder, *folder.rglob("*")):
        os.chown(path, account.uid, account.gid, follow_symlinks=False)


def cache_folder(account: Account | None) -> Path:
    """Where downloads and copies are kept: `$XDG_CACHE_HOME/headgate`, else `~/.cache/headgate`.

    For root, whose home is closed to the account of the servers, the system's cache.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "headgate"
    if account is not None:
        nearest = next(step for step in (home, *home.parents) if step.exists())
        if not _can_pass_to(nearest, account):
            home = SYSTEM_CACHE
    make_public(home)
    return home


def make_public(folder: Path) -> None:
    """Make a folder that every account may read, whatever the umask; one that exists is left as it is."""
    missing = [step for step in (folder, *folder.parents) if not step.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for step in missing:
        step.chmod(0o755)


def reachable_tree(base: Path, parts: Sequence[str], name: str, account: Account | None) -> Path:
    """`base` itself if `account` can reach its `parts`; else a copy of those parts in the cache, made once.

    The parts keep their places relative to each other, because programs find their libraries that way.
    """
    if all(can_reach(base / part, account) for part in parts):
        return base
    target = cache_folder(account) / "programs" / name
    if not target.exists():
        _copy_parts(base, parts, target)
    return target


def _copy_parts(base: Path, parts: Sequence[str], target: Path) -> None:
    make_public(target.parent)
    staging = Path(tempfile.mkdtemp(dir=target.parent, prefix=".new-"))
    for part in parts:
        (staging / part).parent.mkdir(parents=True, exist_ok=True)
        if (base / part).is_dir():
            shutil.copytree(base / part, staging / part, symlinks=True)
        else:
            shutil.copy2(base / part, staging / part)
    for path in (staging, *staging.rglob("*")):
        if not path.is_symlink():
            may_run = path.is_dir() or path.stat().st_mode & 0o100
            path.chmod(0o755 if may_run else 0o644)
    try:
        staging.rename(target)
    except OSError:
        shutil.rmtree(staging)  # another process was first; its copy is as good
