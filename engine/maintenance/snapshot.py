"""A data directory as of one instant, beside the process that may be writing to it.

A :class:`Shadow` is a temporary directory with the same layout.  Files that never change once they are written
(segments, packs of tiers, files of tag sets, closed files of the log) are kept open, and the shadow has links to the
open files: they can be read even after the owner has removed them, and take no space.  What grows at its end is copied
up to its size at that instant, and databases are copied while nothing changed in them.  So the shadow is what a crash
at that instant would have left, and it is opened by recovery like any other directory.  Nothing is written to the
original, no lock is taken.

The set of files is that of one instant: it is listed before and after, and all is done again when a name or an inode
has changed meanwhile.  The owner writes files before it names them and removes them after it has stopped to, so every
file that the manifest and the rollup database name is in the set.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from engine.disk.real import RealAppendFile, RealFileSystem
from engine.errors import NotFound, Unavailable

PREFIX = "tidegauge-"
ATTEMPTS = 200
#: Between attempts, in seconds.
PAUSE_SECONDS = 0.02
#: The clock of a file's times may be this coarse: a younger change could be followed by one with the same time.
TIME_GRAIN_NS = 20_000_000
#: Descriptors that are left to the program.
SPARE_DESCRIPTORS = 256
_CATALOGUE = "catalog.log"
_LOG = "wal"
_LEFT_OUT = frozenset({"LOCK"})
#: Databases that are changed in place, each with the log that belongs to it.
_DATABASES = {"rollups.duckdb": ("rollups.duckdb.wal",), "control.sqlite": ("control.sqlite-wal",)}
#: Of a database's reader, made again by whoever opens it.
_INDEX = "control.sqlite-shm"
_TEMPORARY = (".tmp", ".partial")


class _Changed(Exception):
    """The directory has changed while it was looked at."""


class ShadowFileSystem(RealFileSystem):
    """The machine's file system, that never writes through a link: a linked file becomes a copy first."""

    def open_append(self, path: str) -> RealAppendFile:
        _own(path)
        return super().open_append(path)

    def truncate(self, path: str, size: int) -> None:
        _own(path)
        super().truncate(path, size)


def _own(path: str) -> None:
    if os.path.islink(path):
        copy = f"{path}.own"
        shutil.copyfile(path, copy)
        os.replace(copy, path)


@dataclass(frozen=True, slots=True)
class _Entry:
    inode: int
    device: int


class Shadow:
    """The temporary directory; ``close`` removes it and lets go of the files."""

    def __init__(self, path: str, descriptors: list[int]) -> None:
        self.path = path
        self.fs = ShadowFileSystem()
        self._descriptors = descriptors
        self._closing = threading.Lock()

    def close(self) -> None:
        """Remove everything; harmless when repeated."""
        with self._closing:
            descriptors, self._descriptors = self._descriptors, []
        shutil.rmtree(self.path, ignore_errors=True)
        for descriptor in descriptors:
            os.close(descriptor)


def take(root: str, *, sleep: Callable[[float], None] = time.sleep, attempts: int = ATTEMPTS) -> Shadow:
    """Return a shadow of the data directory ``root``.

    Raises NotFound when there is none, Unavailable when it cannot be read, has more files than may be open, or
    changes so fast that no instant can be caught.
    """
    root = os.path.abspath(root)
    _check(root)
    _remove_abandoned(tempfile.gettempdir())
    for _ in range(attempts):
        try:
            return _shadow_of(root)
        except (_Changed, FileNotFoundError):
            sleep(PAUSE_SECONDS)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise Unavailable(
                    f"cannot open {root} read-only: it has more files than this process may have open;"
                    " raise the limit (ulimit -n)"
                ) from None
            raise Unavailable(f"cannot open {root} read-only: {error.strerror or error} ({error.filename})") from None
    raise Unavailable(f"cannot open {root} read-only: its files change too fast to catch an instant; try again")


def _check(root: str) -> None:
    try:
        names = os.listdir(root)
    except OSError as error:
        raise NotFound(f"cannot open {root} read-only: {error.strerror or error}") from None
    if not any(name == _CATALOGUE or name.startswith("manifest-") for name in names):
        raise NotFound(f"cannot open {root} read-only: it is no data directory")


def _listing(root: str) -> dict[str, _Entry]:
    """Return the regular files below ``root`` by relative path."""
    found = {}
    for directory, folders, names in os.walk(root):
        folders.sort()
        for name in names:
            path = os.path.join(directory, name)
            relative = os.path.relpath(path, root)
            if relative in _LEFT_OUT or relative == _INDEX or name.endswith(_TEMPORARY):
                continue
            state = os.stat(path, follow_symlinks=False)
            found[relative] = _Entry(state.st_ino, state.st_dev)
    return found


def _shadow_of(root: str) -> Shadow:
    before = _listing(root)
    _allow_descriptors(len(before))
    descriptors: list[int] = []
    path = tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-")
    try:
        databases = {*_DATABASES, *(log for logs in _DATABASES.values() for log in logs)}
        logs = sorted(name for name in before if os.path.dirname(name) == _LOG)
        growing = [*logs[-1:], *([_CATALOGUE] if _CATALOGUE in before else [])]
        opened: dict[str, int] = {}
        for name in before:
            if name not in databases:
                opened[name] = os.open(os.path.join(root, name), os.O_RDONLY | os.O_CLOEXEC)
                descriptors.append(opened[name])
        for folder in {os.path.dirname(name) for name in before}:
            os.makedirs(os.path.join(path, folder), exist_ok=True)
        for database, belonging in _DATABASES.items():
            _copy_at_rest(root, path, (database, *belonging))
        # The log before the catalogue, which then defines all that the log names.
        sizes = {name: os.fstat(opened[name]).st_size for name in growing}
        if _listing(root) != before:
            raise _Changed
        for name, descriptor in opened.items():
            target = os.path.join(path, name)
            if name in sizes:
                _copy_prefix(descriptor, target, sizes[name])
            else:
                os.symlink(f"/proc/{os.getpid()}/fd/{descriptor}", target)
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        for descriptor in descriptors:
            os.close(descriptor)
        raise
    return Shadow(path, descriptors)


def _copy_at_rest(root: str, path: str, names: tuple[str, ...]) -> None:
    """Copy the files of a database; raises _Changed when one of them changed meanwhile or just before."""
    before = _states(root, names)
    now_ns = time.time_ns()
    if any(state is not None and now_ns - state[3] < TIME_GRAIN_NS for state in before):
        raise _Changed
    for name, state in zip(names, before, strict=True):
        if state is not None:
            shutil.copyfile(os.path.join(root, name), os.path.join(path, name))
    if _states(root, names) != before:
        raise _Changed


def _states(root: str, names: tuple[str, ...]) -> list[tuple[int, int, int, int] | None]:
    found: list[tuple[int, int, int, int] | None] = []
    for name in names:
        try:
            state = os.stat(os.path.join(root, name))
        except FileNotFoundError:
            found.append(None)
        else:
            found.append((state.st_ino, state.st_size, state.st_ctime_ns, state.st_mtime_ns))
    return found


def _copy_prefix(descriptor: int, target: str, size: int) -> None:
    with open(target, "wb") as file:
        for part in _parts(descriptor, size):
            file.write(part)


def _parts(descriptor: int, size: int) -> Iterator[bytes]:
    offset = 0
    while offset < size and (part := os.pread(descriptor, min(1 << 20, size - offset), offset)):
        offset += len(part)
        yield part


def _allow_descriptors(count: int) -> None:
    """Raise this process's own limit of open files to what the system allows it, where it needs that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = len(os.listdir("/proc/self/fd")) + count + SPARE_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and wanted > soft:
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, allowed), hard))


def _remove_abandoned(parent: str) -> None:
    """Remove the shadows of processes that ended without doing so."""
    for name in os.listdir(parent):
        owner = name.removeprefix(PREFIX).partition("-")[0]
        if name.startswith(PREFIX) and owner.isdigit() and not os.path.exists(f"/proc/{owner}"):
            shutil.rmtree(os.path.join(parent, name), ignore_errors=True)
