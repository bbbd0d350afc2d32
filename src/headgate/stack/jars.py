"""The Java programs of the stack, as locked sets of Maven artifacts.

`jars.lock.toml` names every artifact of a set with its size and SHA-256. What is not in the cache is
fetched through `jgo`, checked, and only then put there; what is in the cache is checked at each use. So a
second start touches no network, and a changed file is never run.
"""

from __future__ import annotations

import hashlib
import importlib
import logging
import tarfile
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from headgate.errors import MissingExtra, StackError
from headgate.stack.account import Account, cache_folder, make_public
from headgate.stack.base import Progress, exclusive, silent

LOCK_FILE = Path(__file__).with_name("jars.lock.toml")
FETCHERS = 6
ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Jar:
    """One locked artifact."""

    coordinates: str  # group:artifact:version, or group:artifact:version:classifier:packaging
    size: int
    sha256: str

    @property
    def file_name(self) -> str:
        """Its file's name, with the group, since two groups may use one artifact name."""
        group, artifact, version, classifier, packaging = self.parts
        return f"{group}.{artifact}-{version}{classifier and '-' + classifier}.{packaging}"

    @property
    def parts(self) -> tuple[str, str, str, str, str]:
        """Group, artifact, version, classifier (or nothing) and packaging."""
        fields = self.coordinates.split(":")
        group, artifact, version = fields[:3]
        classifier, packaging = fields[3:] or ("", "jar")
        return group, artifact, version, classifier, packaging


Fetch = Callable[[Jar, Path], Path]


def class_path(set_name: str, progress: Progress = silent, *, account: Account | None = None) -> list[Path]:
    """The verified jars of a locked set, fetched first where the cache lacks them.

    `progress` hears of what is fetched, and of nothing else. Raises StackError when a jar is not the
    locked one or can't be fetched, MissingExtra when `jgo` is needed and not installed.
    """
    return obtain(locked(set_name), cache_folder(account) / "jars", progress)


def unpacked(set_name: str, progress: Progress = silent, *, account: Account | None = None) -> Path:
    """The folder into which the one archive of a locked set was unpacked, once. Raises like `class_path`."""
    (jar,) = locked(set_name)
    target = cache_folder(account) / "programs" / f"{set_name}-{jar.sha256[:16]}"
    if not target.exists():
        (archive,) = obtain([jar], cache_folder(account) / "jars", progress)
        _unpack(archive, target)
    return target


def locked(set_name: str, lock_file: Path = LOCK_FILE) -> list[Jar]:
    """The artifacts of a set, in the order of its class path."""
    jars = tomllib.loads(lock_file.read_text())[set_name]["jars"]
    return [Jar(name, facts["size"], facts["sha256"]) for name, facts in jars.items()]


def obtain(jars: Sequence[Jar], cache: Path, progress: Progress = silent, fetch: Fetch | None = None) -> list[Path]:
    """The files of `jars` in `cache`, every one checked against its locked sum.

    Safe to call from several processes at once: one fetches, the others wait and find.
    """
    make_public(cache)
    if any(not (cache / jar.file_name).exists() for jar in jars):
        with exclusive(cache / ".lock"):
            missing = [jar for jar in jars if not (cache / jar.file_name).exists()]
            _fetch_all(missing, cache, progress, fetch or _fetch_by_jgo)
    files = [cache / jar.file_name for jar in jars]
    with ThreadPoolExecutor(FETCHERS) as pool:
        list(pool.map(_verify, jars, files))
    return files


def _verify(jar: Jar, file: Path) -> None:
    if file.stat().st_size == jar.size:
        with file.open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() == jar.sha256:
                return
    raise StackError(
        f"{file} is not the {jar.coordinates} that jars.lock.toml names (its SHA-256 or size differs), so it is "
        "not run. Delete the file to fetch it anew; if that fails too, trust neither file nor mirror."
    )


def _fetch_all(missing: Sequence[Jar], cache: Path, progress: Progress, fetch: Fetch) -> None:
    if not missing:
        return
    size = sum(jar.size for jar in missing) / 1e6
    progress(f"fetching {size:.0f} MB of Java archives ({len(missing)} files), once")
    with tempfile.TemporaryDirectory(dir=cache, prefix=".new-") as staging:

        def bring(jar: Jar) -> None:
            fetched = fetch(jar, Path(staging))
            _verify(jar, fetched)
            fetched.chmod(0o644)
            fetched.replace(cache / jar.file_name)

        with ThreadPoolExecutor(FETCHERS) as pool:
            list(pool.map(bring, missing))
    progress(f"fetched {size:.0f} MB of Java archives")


def _fetch_by_jgo(jar: Jar, staging: Path) -> Path:
    """Fetch one artifact into `staging`, from Maven's own repository and those in the user's jgo settings."""
    context = _maven_context(staging)
    group, artifact, version, classifier, packaging = jar.parts
    wanted = context.project(group, artifact).at_version(version).artifact(classifier, packaging)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return Path(wanted.resolve())
        except (OSError, RuntimeError) as error:  # requests' errors are OSErrors, jgo's own are RuntimeErrors
            if attempt == ATTEMPTS:
                raise StackError(
                    f"{jar.coordinates} can't be fetched. Is there a way to the Maven repository? Behind a "
                    "private CA, name it in REQUESTS_CA_BUNDLE; a mirror goes into jgo's settings file."
                ) from error
            wanted.cached_path.unlink(missing_ok=True)  # a cut download
            time.sleep(attempt)
    raise AssertionError("unreachable")


def _maven_context(repository: Path | None) -> Any:
    maven, settings = _jgo("jgo.maven"), _jgo("jgo.config").GlobalSettings.load()
    logging.getLogger("jgo").setLevel(logging.ERROR)  # the sums that count are checked here
    context = maven.MavenContext(repo_cache=repository or settings.repo_cache, timeout=60)
    context.remote_repos.update(settings.repositories)
    return context


def _jgo(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtra("stack", "jgo") from error


def _unpack(archive: Path, target: Path) -> None:
    make_public(target.parent)
    staging = Path(tempfile.mkdtemp(dir=target.parent, prefix=".new-"))
    staging.chmod(0o755)
    with tarfile.open(archive) as packed:
        # Python before 3.11.4 has no filters, and this archive's sum was checked.
        packed.extraction_filter = getattr(tarfile, "data_filter", lambda member, path: member)
        packed.extractall(staging)  # noqa: S202 – see above
    try:
        staging.rename(target)
    except OSError as error:
        if not target.exists():  # else another process was first; its copy is as good
            raise StackError(f"{archive.name} could not be unpacked into the cache.") from error


# --- for maintainers: how the lock file is made ----------------------------------------------------


def relock(lock_file: Path = LOCK_FILE) -> None:
    """Resolve the roots of every set anew and rewrite the lock file. Takes a minute and the network."""
    sets: Mapping[str, Any] = tomllib.loads(lock_file.read_text())
    heading = lock_file.read_text().split("\n\n", 1)[0]
    sections = [_locked_section(name, content["roots"]) for name, content in sets.items()]
    lock_file.write_text("\n\n".join([heading, *sections]) + "\n")


def _locked_section(name: str, roots: Sequence[str]) -> str:
    lines = [f"[{name}]", "roots = [", *(f'  "{root}",' for root in roots), "]", "", f"[{name}.jars]"]
    for artifact in _resolve(roots):
        parts = [artifact.groupId, artifact.artifactId, artifact.version]
        if artifact.classifier or artifact.packaging != "jar":
            parts += [artifact.classifier, artifact.packaging]
        content = Path(artifact.resolve()).read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        lines.append(f'"{":".join(parts)}" = {{size = {len(content)}, sha256 = "{digest}"}}')
    return "\n".join(lines)


def _resolve(roots: Sequence[str]) -> Iterable[Any]:
    if len(roots) == 1 and len(roots[0].split(":")) == 5:  # one archive, which brings its own dependencies
        group, artifact, version, classifier, packaging = roots[0].split(":")
        return [_maven_context(None).project(group, artifact).at_version(version).artifact(classifier, packaging)]
    found: Iterable[Any] = _jgo("jgo").resolve("+".join(roots))
    return found
