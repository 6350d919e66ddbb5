"""Pack files: immutable files that hold the bytes of parts, named by number; the rollup database says which count.

A pack is written and synced before the transaction that names it commits, and removed after the one that no longer
does, once nobody reads who began before.  What a crash leaves behind unnamed is removed at the next start.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from engine.disk.aside import DAMAGED_SUFFIX, name_aside
from engine.disk.filesystem import FileSystem, storage_error
from engine.disk.real import RealFileSystem
from engine.errors import Damage

LOG = logging.getLogger("tidegauge.rollups")
SUFFIX = ".pack"
MAGIC = b"TGTP\x02\0\0\0"
_VERSION = slice(4, 8)
#: Of the process or the machine: they say nothing about the file.
_SHORTAGES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


def pack_directory(database_path: str) -> str:
    """Return where the packs of a rollup database are: ``rollups`` for ``rollups.duckdb``."""
    return os.path.splitext(database_path)[0]


def newer_header(header: bytes) -> bool:
    """Return whether a pack that begins so was written by a newer version of the program."""
    version, known = (int.from_bytes(each[_VERSION], "little") for each in (header, MAGIC))
    return header.startswith(MAGIC[: _VERSION.start]) and version > known


class Packs:
    """The pack files of one rollup database; callable from any thread.  Without a directory they are in memory.

    Raises DiskFull or Unavailable for what the disk refuses.
    """

    def __init__(self, directory: str | None, fs: FileSystem | None = None) -> None:
        """``fs``: the file system of the directory, the machine's own by default."""
        self._directory = directory
        self._fs = fs if fs is not None else RealFileSystem()
        self._memory: dict[int, bytes] = {}
        self._lock = threading.Lock()
        self._epoch = 0
        self._readers: dict[int, int] = {}
        self._doomed: list[tuple[int, int]] = []

    def set_aside(self) -> str | None:
        """Give the directory a name that nothing looks for when packs are in it, and return that name."""
        if self._directory is None or not self.sizes():
            return None
        name = name_aside(self._directory, self._fs.exists)
        try:
            self._fs.rename(self._directory, name)
        except OSError as error:
            raise storage_error("set rollups aside", error, self._directory) from None
        return name

    def keep_aside(self, number: int) -> None:
        """Keep the bytes of a damaged pack under a name that nothing looks for, beyond its removal."""
        path, name = self.path(number), self.path(number) + DAMAGED_SUFFIX
        if self._directory is not None and self._fs.exists(path) and not self._fs.exists(name):
            try:
                self._fs.link(path, name)
            except OSError as error:
                raise storage_error("keep damaged rollups", error, path) from None

    def is_newer(self, number: int) -> bool:
        """Return whether a newer version of the program has written a pack."""
        try:
            [start] = self.read(number, [(0, len(MAGIC))])
        except (Damage, KeyError):
            return False
        return newer_header(start)

    def path(self, number: int) -> str:
        return "" if self._directory is None else os.path.join(self._directory, f"{number:012d}{SUFFIX}")

    def sizes(self) -> dict[int, int]:
        """Return the bytes of each pack that is there, named or not."""
        if self._directory is None:
            return {number: len(data) for number, data in self._memory.items()}
        found = {}
        try:
            for name in self._fs.listdir(self._directory) if self._fs.exists(self._directory) else ():
                stem, suffix = os.path.splitext(name)
                if suffix == SUFFIX and stem.isdigit():
                    # One that is no longer named may be removed meanwhile.
                    with suppress(FileNotFoundError):
                        found[int(stem)] = self._fs.size(os.path.join(self._directory, name))
        except OSError as error:
            raise storage_error("list rollups", error, self._directory) from None
        return found

    def write(self, number: int, chunks: Sequence[bytes]) -> None:
        """Write a pack and see to it that its content is on disk; :data:`MAGIC` comes first."""
        if self._directory is None:
            self._memory[number] = b"".join((MAGIC, *chunks))
            return
        try:
            self._fs.makedirs(self._directory)
            self._fs.write_file_synced(self.path(number), (MAGIC, *chunks), sync_name=False)
        except OSError as error:
            raise storage_error("write rollups", error, self.path(number)) from None

    def sync(self) -> None:
        """See to it that the names of new packs are on disk."""
        if self._directory is not None:
            try:
                self._fs.sync_dir(self._directory)
            except OSError as error:
                raise storage_error("write rollups", error, self._directory) from None

    def read(self, number: int, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return the bytes of (offset, length) each; raises Damage when the disk does not have them."""
        if self._directory is None:
            data = self._memory[number]
            return [data[offset : offset + length] for offset, length in ranges]
        path = self.path(number)
        try:
            found = self._fs.read_ranges(path, ranges)
        except OSError as error:
            if error.errno in _SHORTAGES:
                raise storage_error("read rollups", error, path) from None
            raise Damage(f"cannot read rollups: {error.strerror}", path=path) from None
        for data, (offset, length) in zip(found, ranges, strict=True):
            if len(data) != length:
                raise Damage("cannot read rollups: the file ends too early", path=path, offset=offset)
        return found

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Keep every pack that is named now from being removed."""
        with self._lock:
            epoch = self._epoch
            self._readers[epoch] = self._readers.get(epoch, 0) + 1
        try:
            yield
        finally:
            with self._lock:
                self._readers[epoch] -= 1
                if not self._readers[epoch]:
                    del self._readers[epoch]
            self._sweep()

    def remove(self, numbers: Sequence[int]) -> None:
        """Remove packs that are no longer named, as soon as no reader is left from before."""
        with self._lock:
            self._doomed += [(self._epoch, number) for number in numbers]
            self._epoch += 1
        self._sweep()

    def _sweep(self) -> None:
        with self._lock:
            oldest = min(self._readers, default=self._epoch + 1)
            ready = [number for epoch, number in self._doomed if epoch < oldest]
            self._doomed = [(epoch, number) for epoch, number in self._doomed if epoch >= oldest]
        for number in ready:
            if self._directory is None:
                self._memory.pop(number, None)
            else:
                self._discard(number)

    def _discard(self, number: int) -> None:
        try:
            with suppress(FileNotFoundError):
                self._fs.remove(self.path(number))
        except OSError as error:
            # Whoever has changed or read tiers is done with it; the file goes at the next start.
            LOG.warning("%s", storage_error("remove rollups", error, self.path(number)))
