"""What the engine asks of a file system, and what it may rely on after a crash.

Every part that stores something takes a :class:`FileSystem`.  ``engine.disk.real`` is the machine's own;
tests hand in ones that lose what was not synced, fail on chosen operations, or are full.  Nobody else calls
fsync.

What survives a crash (power loss, kernel panic; a killed process alone loses nothing that was written):

===================== ================================================================================
operation             after a crash
===================== ================================================================================
``AppendFile.write``  any prefix of what was written since the last sync, perhaps with zeros behind it
``AppendFile.sync``   everything written before, and the name of a file that was created by opening it
``write_file_synced`` all of it and its name (or after ``sync_dir``) once it has returned, else any part of it
``write_atomic``      the old content or the new, never a mixture; the new once it has returned
``rename``            the old name or the new, never neither; the new once it has returned
``link``              both names once it has returned, else the old one and perhaps the new
``remove``            the file may come back until ``sync_dir``
``truncate``          the old size or the new; the new once it has returned
``makedirs``          the directories exist once it has returned
===================== ================================================================================

Paths are ``str``.  Failures are :class:`OSError` with an errno, as the operating system gives them; the
parts above turn them into errors of :mod:`engine.errors` with :func:`storage_error`, since they know what
was being done.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Protocol

from engine.errors import DiskFull, TidegaugeError, Unavailable

Bytes = bytes | bytearray | memoryview

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class AppendFile(Protocol):
    """A file that grows at its end.  One thread at a time."""

    @property
    def position(self) -> int:
        """The file's size in bytes, after all that was written so far."""

    def write(self, data: Bytes) -> None:
        """Append all of ``data``; after an error any prefix of it may have been written."""

    def writev(self, parts: Sequence[Bytes]) -> None:
        """Append all ``parts`` in order, in as few system calls as the system allows."""

    def sync(self) -> None:
        """Return once everything written is on disk.  After an error nothing is known of any of it, ever."""

    def close(self) -> None:
        """Close without syncing."""


class Lock(Protocol):
    """A held lock."""

    def release(self) -> None: ...


class FileSystem(Protocol):
    """Files and directories; the module's docstring says what each operation leaves after a crash."""

    def makedirs(self, path: str) -> None:
        """Create the directory and its missing parents; nothing happens when it exists."""

    def exists(self, path: str) -> bool: ...

    def listdir(self, path: str) -> list[str]:
        """Return the names in a directory, sorted."""

    def size(self, path: str) -> int:
        """Return a file's size in bytes."""

    def open_append(self, path: str) -> AppendFile:
        """Open a file for appending, creating it when it is missing."""

    def read(self, path: str) -> bytes:
        """Return a file's content."""

    def read_range(self, path: str, offset: int, size: int) -> bytes:
        """Return ``size`` bytes of a file from ``offset`` on, fewer where it ends before."""

    def read_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return the same for each (offset, size), all of one file even when its name is given to another meanwhile."""

    def map(self, path: str) -> memoryview:
        """Return a read-only view of a file's content that the system reads on demand.

        The file may be removed or renamed meanwhile, but must not be truncated.
        """

    def write_file_synced(self, path: str, parts: Sequence[Bytes], *, sync_name: bool = True) -> None:
        """Create or replace a file; to be used for names that nobody looks for before this has returned.

        Without ``sync_name`` its content is on disk then, its name once ``sync_dir`` has returned: one for many files.
        """

    def write_atomic(self, path: str, parts: Sequence[Bytes]) -> None:
        """Create or replace a file through ``<path>.tmp``: a reader finds the old or the new content."""

    def rename(self, old: str, new: str) -> None:
        """Give a file another name, replacing a file of that name; or a directory one that nothing has."""

    def link(self, path: str, name: str) -> None:
        """Give a file a second name, which nothing has."""

    def remove(self, path: str) -> None:
        """Remove a file."""

    def truncate(self, path: str, size: int) -> None:
        """Cut a file to ``size`` bytes."""

    def sync_dir(self, path: str) -> None:
        """Return once all names created, changed and removed in a directory are on disk."""

    def sync_file(self, path: str) -> None:
        """Return once a file's content and name are on disk, whoever wrote them.

        A process that ended between writing and syncing leaves what its successor reads and a power cut takes away.
        """

    def free_bytes(self, path: str) -> int:
        """Return how many bytes can still be stored on the device that holds ``path``."""

    def lock(self, path: str) -> Lock:
        """Take the lock file ``path``; raises Unavailable naming the process that holds it."""


def storage_error(action: str, error: OSError, path: str) -> TidegaugeError:
    """Return what to raise for a failed operation: DiskFull without space (or quota), else Unavailable.

    ``action`` reads "append to log"; the message says what the system answered and where.
    """
    reason = error.strerror or str(error) or type(error).__name__
    if error.errno in _FULL:
        return DiskFull(f"cannot {action}: got {reason!r}, want free disk space ({path})", retry_after_seconds=10)
    return Unavailable(f"cannot {action}: got {reason!r}, want a working disk ({path})")
