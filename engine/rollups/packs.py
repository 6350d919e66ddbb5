"""Pack files: immutable files that hold the bytes of parts, named by number; the rollup database says which count.

A pack is written and synced before the transaction that names it commits, and removed after the one that no longer
does, once nobody reads who began before.  What a crash leaves behind unnamed is removed at the next start.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from engine.errors import Damage

SUFFIX = ".pack"
DAMAGED_SUFFIX = ".damaged"
MAGIC = b"TGTP\x02\0\0\0"
_VERSION_AT = 4


def pack_directory(database_path: str) -> str:
    """Return where the packs of a rollup database are: ``rollups`` for ``rollups.duckdb``."""
    return os.path.splitext(database_path)[0]


class Packs:
    """The pack files of one rollup database; callable from any thread.  Without a directory they are in memory."""

    def __init__(self, directory: str | None) -> None:
        self._directory = directory
        self._memory: dict[int, bytes] = {}
        self._lock = threading.Lock()
        self._epoch = 0
        self._readers: dict[int, int] = {}
        self._doomed: list[tuple[int, int]] = []

    def set_aside(self) -> str | None:
        """Give the directory a name that nothing looks for when packs are in it, and return that name."""
        if self._directory is None or not self.sizes():
            return None
        number, name = 1, self._directory + DAMAGED_SUFFIX
        while os.path.exists(name):
            number += 1
            name = f"{self._directory}{DAMAGED_SUFFIX}.{number}"
        os.rename(self._directory, name)
        return name

    def keep_aside(self, number: int) -> None:
        """Keep the bytes of a damaged pack under a name that nothing looks for, beyond its removal."""
        path = self.path(number)
        if self._directory is not None and os.path.exists(path) and not os.path.exists(path + DAMAGED_SUFFIX):
            os.link(path, path + DAMAGED_SUFFIX)

    def is_newer(self, number: int) -> bool:
        """Return whether a newer version of the program has written a pack."""
        try:
            [start] = self.read(number, [(0, len(MAGIC))])
        except (Damage, KeyError):
            return False
        return start[:_VERSION_AT] == MAGIC[:_VERSION_AT] and start[_VERSION_AT] > MAGIC[_VERSION_AT]

    def path(self, number: int) -> str:
        return "" if self._directory is None else os.path.join(self._directory, f"{number:012d}{SUFFIX}")

    def sizes(self) -> dict[int, int]:
        """Return the bytes of each pack that is there, named or not."""
        if self._directory is None:
            return {number: len(data) for number, data in self._memory.items()}
        found = {}
        for name in os.listdir(self._directory) if os.path.isdir(self._directory) else ():
            stem, suffix = os.path.splitext(name)
            if suffix == SUFFIX and stem.isdigit():
                found[int(stem)] = os.path.getsize(os.path.join(self._directory, name))
        return found

    def write(self, number: int, chunks: Sequence[bytes]) -> None:
        """Write a pack and see to it that it is on disk; :data:`MAGIC` comes first."""
        if self._directory is None:
            self._memory[number] = b"".join((MAGIC, *chunks))
            return
        os.makedirs(self._directory, exist_ok=True)
        # A file of a crash, or a link: what has the name is not written into.
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path(number))
        with open(self.path(number), "xb") as file:
            file.write(MAGIC)
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())

    def sync(self) -> None:
        """See to it that the names of new packs are on disk."""
        if self._directory is not None and os.path.isdir(self._directory):
            descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def read(self, number: int, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return the bytes of (offset, length) each; raises Damage when they are not there."""
        if self._directory is None:
            data = self._memory[number]
            return [data[offset : offset + length] for offset, length in ranges]
        path = self.path(number)
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise Damage(f"cannot read rollups: {error.strerror}", path=path) from None
        try:
            found = [os.pread(descriptor, length, offset) for offset, length in ranges]
        finally:
            os.close(descriptor)
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
            elif os.path.exists(self.path(number)):
                os.unlink(self.path(number))
