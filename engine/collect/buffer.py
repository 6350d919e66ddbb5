"""Batches that wait on disk while the server is away: bounded, in order, the oldest dropped and counted.

One file a batch, named by its number in 16 hexadecimal digits, so that names sort by age.  A file appears
whole or not at all.  One process at a time: the directory is locked.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from engine.disk.filesystem import FileSystem

_NAME = re.compile(r"([0-9a-f]{16})\.lp")
_LOCK_NAME = "lock"


@dataclass(frozen=True, slots=True)
class Lost:
    """What did not fit: batches, their lines and their bytes."""

    batches: int = 0
    lines: int = 0
    size_bytes: int = 0

    def __add__(self, other: Lost) -> Lost:
        return Lost(self.batches + other.batches, self.lines + other.lines, self.size_bytes + other.size_bytes)

    def __bool__(self) -> bool:
        return self.batches > 0


class DiskBuffer:
    """A queue of line-protocol batches in ``directory``, at most ``limit_bytes`` of them.

    Raises OSError when the directory cannot be used, Unavailable when another process uses it.
    """

    def __init__(self, filesystem: FileSystem, directory: str, *, limit_bytes: int) -> None:
        self._filesystem = filesystem
        self._directory = directory
        self._limit_bytes = limit_bytes
        filesystem.makedirs(directory)
        self._lock = filesystem.lock(f"{directory}/{_LOCK_NAME}")
        # Other names are none of ours: the lock, and what a crash left of a file that was being written.
        names = [name for name in filesystem.listdir(directory) if _NAME.fullmatch(name)]
        self._sizes = {name: filesystem.size(self._path(name)) for name in sorted(names)}
        self.size_bytes = sum(self._sizes.values())
        self._next = int(max(self._sizes, default="0")[:16], 16) + 1
        self.lost = Lost()

    def __len__(self) -> int:
        return len(self._sizes)

    def append(self, body: bytes) -> Lost:
        """Keep ``body``, dropping the oldest batches as far as needed; return what was lost by it.

        A batch larger than the whole buffer is lost itself.  When the disk is full, or fails, the batch is
        lost and the OSError raised; ``lost`` counts it.
        """
        here = Lost()
        if len(body) > self._limit_bytes:
            here = _lost(body)
        else:
            while self.size_bytes + len(body) > self._limit_bytes:
                name, oldest = self._oldest()
                here += _lost(oldest)
                self.remove(name)
        self.lost += here
        if len(body) <= self._limit_bytes:
            name = f"{self._next:016x}.lp"
            try:
                self._filesystem.write_atomic(self._path(name), [body])
            except OSError:
                self.lost += _lost(body)
                raise
            self._sizes[name] = len(body)
            self.size_bytes += len(body)
            self._next += 1
        return here

    def oldest(self) -> tuple[str, bytes] | None:
        """Return the name and the body of the batch to send next, None when nothing waits."""
        return self._oldest() if self._sizes else None

    def remove(self, name: str) -> None:
        """Forget a batch that has been delivered, or never can be.

        After a crash of the machine it may come back and be sent again, which changes nothing: its samples
        have the same series and times.
        """
        self.size_bytes -= self._sizes.pop(name)
        self._filesystem.remove(self._path(name))

    def close(self) -> None:
        self._lock.release()

    def _oldest(self) -> tuple[str, bytes]:
        name = next(iter(self._sizes))
        return name, self._filesystem.read(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._directory}/{name}"


def _lost(body: bytes) -> Lost:
    return Lost(1, body.count(b"\n"), len(body))
