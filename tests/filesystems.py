"""File systems for tests: one in memory that can crash, and wrappers that fail, fill up, are slow or keep a record.

``MemoryFileSystem`` holds two states: what a running program sees, and what is on disk.  ``crash`` builds a
new one from the second and an arbitrary part of the difference, within what ``engine.disk.filesystem``
promises: of bytes not synced a prefix, of names not synced the first few changes, in the order in which
they were made.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Sequence
from posixpath import dirname
from random import Random
from typing import TypeVar

from engine.disk.filesystem import AppendFile, Bytes, FileSystem, Lock
from engine.errors import Unavailable

T = TypeVar("T")


def no_space() -> OSError:
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def broken_disk() -> OSError:
    return OSError(errno.EIO, os.strerror(errno.EIO))


class Content:
    """What a file holds: ``data`` as programs see it, ``synced`` as it is on disk for certain."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = bytearray(data)
        self.synced = data

    def sync(self) -> None:
        self.synced = bytes(self.data)

    def after_crash(self, random: Random) -> bytes:
        unsynced = self.data[len(self.synced) :]
        kept = self.synced + bytes(unsynced[: random.randint(0, len(unsynced))])
        if random.random() < 0.25:  # the size reached the disk before the bytes did
            kept += bytes(random.randint(0, len(self.data) - len(kept)))
        return kept


class MemoryAppendFile:
    def __init__(self, fs: MemoryFileSystem, path: str, content: Content, created: bool) -> None:
        self._fs, self._path, self._content, self._created = fs, path, content, created

    @property
    def position(self) -> int:
        return len(self._content.data)

    def write(self, data: Bytes) -> None:
        self._content.data += data

    def writev(self, parts: Sequence[Bytes]) -> None:
        for part in parts:
            self.write(part)

    def sync(self) -> None:
        self._content.sync()
        if self._created:
            self._fs.sync_dir(dirname(self._path))

    def close(self) -> None:
        pass


class MemoryLock:
    def __init__(self, held: set[str], path: str) -> None:
        self._held, self._path = held, path

    def release(self) -> None:
        self._held.discard(self._path)


class MemoryFileSystem:
    """Files in memory; see the module's docstring for :meth:`crash`."""

    def __init__(self) -> None:
        self._files: dict[str, Content] = {}
        self._files_on_disk: dict[str, Content] = {}
        self._unsynced_names: list[tuple[str, str | None, Content]] = []  # (name gone or "", name given, content)
        self._directories = {"", "/"}
        self._locks: set[str] = set()

    def crash(self, random: Random) -> MemoryFileSystem:
        """Return what another machine would find on this one's disk; this one is not changed."""
        names = dict(self._files_on_disk)
        for change in self._unsynced_names[: random.randint(0, len(self._unsynced_names))]:
            self._apply(names, change)
        found = MemoryFileSystem()
        found._directories = set(self._directories)
        found._files = {path: Content(content.after_crash(random)) for path, content in sorted(names.items())}
        found._files_on_disk = dict(found._files)
        return found

    def used_bytes(self) -> int:
        return sum(len(content.data) for content in self._files.values())

    def makedirs(self, path: str) -> None:
        while path not in self._directories:
            self._directories.add(path)
            path = dirname(path)

    def exists(self, path: str) -> bool:
        return path in self._files or path in self._directories

    def listdir(self, path: str) -> list[str]:
        path = path.rstrip("/")
        if path not in self._directories:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        inside = [name for name in (*self._files, *self._directories) if name and dirname(name) == path]
        return sorted(name.rpartition("/")[2] for name in inside)

    def size(self, path: str) -> int:
        return len(self._content(path).data)

    def open_append(self, path: str) -> AppendFile:
        created = path not in self._files
        if created:
            self._link(path, Content())
        return MemoryAppendFile(self, path, self._files[path], created)

    def read(self, path: str) -> bytes:
        return bytes(self._content(path).data)

    def read_range(self, path: str, offset: int, size: int) -> bytes:
        return bytes(self._content(path).data[offset : offset + size])

    def read_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        data = self.read(path)
        return [data[offset : offset + size] for offset, size in ranges]

    def map(self, path: str) -> memoryview:
        return memoryview(self.read(path))

    def write_file_synced(self, path: str, parts: Sequence[Bytes], *, sync_name: bool = True) -> None:
        self._link(path, Content(b"".join(parts)))
        if sync_name:
            self.sync_dir(dirname(path))

    def write_atomic(self, path: str, parts: Sequence[Bytes]) -> None:
        self._link(path + ".tmp", Content(b"".join(parts)))
        self.rename(path + ".tmp", path)

    def rename(self, old: str, new: str) -> None:
        if old in self._directories:
            self._rename_directory(old, new)
            return
        self._change((old, new, self._content(old)))
        self.sync_dir(dirname(new))

    def _rename_directory(self, old: str, new: str) -> None:
        """Directories are there at once and stay; what is in this one moves together."""
        if self.exists(new) or dirname(new) not in self._directories:
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), new)
        inside = [path for path in self._directories if path == old or path.startswith(f"{old}/")]
        self._directories.update(new + path[len(old) :] for path in inside)
        for path in [path for path in self._files if dirname(path) in inside]:
            self._change((path, new + path[len(old) :], self._files[path]))
        for path in inside:
            self.sync_dir(new + path[len(old) :])
        self._directories.difference_update(inside)

    def link(self, path: str, name: str) -> None:
        if self.exists(name):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
        self._link(name, self._content(path))
        self.sync_dir(dirname(name))

    def remove(self, path: str) -> None:
        self._change((path, None, self._content(path)))

    def truncate(self, path: str, size: int) -> None:
        content = self._content(path)
        del content.data[size:]
        content.data += bytes(size - len(content.data))
        content.sync()

    def sync_dir(self, path: str) -> None:
        """Names reach the disk in order, so syncing one directory brings what came before in others too."""
        if path not in self._directories:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        touching = [
            index
            for index, (gone, given, _) in enumerate(self._unsynced_names)
            if path in (dirname(gone) if gone else None, None if given is None else dirname(given))
        ]
        until = touching[-1] + 1 if touching else 0
        for change in self._unsynced_names[:until]:
            self._apply(self._files_on_disk, change)
        del self._unsynced_names[:until]

    def sync_file(self, path: str) -> None:
        self._content(path).sync()
        self.sync_dir(dirname(path))

    def free_bytes(self, path: str) -> int:
        return 1 << 40

    def lock(self, path: str) -> Lock:
        if path in self._locks:
            raise Unavailable(f"cannot open data directory {dirname(path)}: it is in use by process {os.getpid()}")
        self._locks.add(path)
        return MemoryLock(self._locks, path)

    def _content(self, path: str) -> Content:
        if path not in self._files:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return self._files[path]

    def _link(self, path: str, content: Content) -> None:
        if dirname(path) not in self._directories:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        self._change(("", path, content))

    def _change(self, change: tuple[str, str | None, Content]) -> None:
        self._apply(self._files, change)
        self._unsynced_names.append(change)

    @staticmethod
    def _apply(names: dict[str, Content], change: tuple[str, str | None, Content]) -> None:
        gone, given, content = change
        names.pop(gone, None)
        if given is not None:
            names[given] = content


class LayeredAppendFile:
    """A file of a :class:`LayeredFileSystem`: its operations are "write", "sync" and "close"."""

    def __init__(self, fs: LayeredFileSystem, path: str, inner: AppendFile) -> None:
        self._fs, self._path, self._inner = fs, path, inner

    @property
    def position(self) -> int:
        return self._inner.position

    def write(self, data: Bytes) -> None:
        self.writev([data])

    def writev(self, parts: Sequence[Bytes]) -> None:
        self._fs.writing(self._path, b"".join(parts), self._inner)

    def sync(self) -> None:
        self._fs.around("sync", self._path, self._inner.sync)

    def close(self) -> None:
        self._fs.around("close", self._path, self._inner.close)


class LayeredFileSystem:
    """Hands every operation to ``inner`` by way of :meth:`around`, and bytes by way of :meth:`writing`."""

    def __init__(self, inner: FileSystem) -> None:
        self.inner = inner

    def around(self, operation: str, path: str, call: Callable[[], T]) -> T:
        return call()

    def writing(self, path: str, data: bytes, file: AppendFile) -> None:
        self.around("write", path, lambda: file.write(data))

    def makedirs(self, path: str) -> None:
        self.around("makedirs", path, lambda: self.inner.makedirs(path))

    def exists(self, path: str) -> bool:
        return self.around("exists", path, lambda: self.inner.exists(path))

    def listdir(self, path: str) -> list[str]:
        return self.around("listdir", path, lambda: self.inner.listdir(path))

    def size(self, path: str) -> int:
        return self.around("size", path, lambda: self.inner.size(path))

    def open_append(self, path: str) -> AppendFile:
        return LayeredAppendFile(self, path, self.around("open_append", path, lambda: self.inner.open_append(path)))

    def read(self, path: str) -> bytes:
        return self.around("read", path, lambda: self.inner.read(path))

    def read_range(self, path: str, offset: int, size: int) -> bytes:
        return self.around("read_range", path, lambda: self.inner.read_range(path, offset, size))

    def read_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        return self.around("read_ranges", path, lambda: self.inner.read_ranges(path, ranges))

    def map(self, path: str) -> memoryview:
        return self.around("map", path, lambda: self.inner.map(path))

    def write_file_synced(self, path: str, parts: Sequence[Bytes], *, sync_name: bool = True) -> None:
        self.around("write_file_synced", path, lambda: self.inner.write_file_synced(path, parts, sync_name=sync_name))

    def write_atomic(self, path: str, parts: Sequence[Bytes]) -> None:
        self.around("write_atomic", path, lambda: self.inner.write_atomic(path, parts))

    def rename(self, old: str, new: str) -> None:
        self.around("rename", old, lambda: self.inner.rename(old, new))

    def link(self, path: str, name: str) -> None:
        self.around("link", path, lambda: self.inner.link(path, name))

    def remove(self, path: str) -> None:
        self.around("remove", path, lambda: self.inner.remove(path))

    def truncate(self, path: str, size: int) -> None:
        self.around("truncate", path, lambda: self.inner.truncate(path, size))

    def sync_dir(self, path: str) -> None:
        self.around("sync_dir", path, lambda: self.inner.sync_dir(path))

    def sync_file(self, path: str) -> None:
        self.around("sync_file", path, lambda: self.inner.sync_file(path))

    def free_bytes(self, path: str) -> int:
        return self.around("free_bytes", path, lambda: self.inner.free_bytes(path))

    def lock(self, path: str) -> Lock:
        return self.around("lock", path, lambda: self.inner.lock(path))


class RecordingFileSystem(LayeredFileSystem):
    """Keeps (operation, path) of everything that changes something or waits for the disk, in order."""

    QUIET = frozenset({"exists", "listdir", "size", "free_bytes", "read", "read_ranges", "map"})

    def __init__(self, inner: FileSystem) -> None:
        super().__init__(inner)
        self.operations: list[tuple[str, str]] = []

    def around(self, operation: str, path: str, call: Callable[[], T]) -> T:
        if operation not in self.QUIET:
            self.operations.append((operation, path))
        return call()


class FailingFileSystem(LayeredFileSystem):
    """Raises what ``should_fail(operation, path)`` returns before the operation does anything.

    A failing "write" still writes ``written_before_failing(size)`` bytes first.  A failing "sync" leaves open
    whether the bytes reached the disk: :meth:`MemoryFileSystem.crash` decides.
    """

    def __init__(
        self,
        inner: FileSystem,
        should_fail: Callable[[str, str], BaseException | None],
        written_before_failing: Callable[[int], int] = lambda size: 0,
    ) -> None:
        super().__init__(inner)
        self.should_fail = should_fail
        self.written_before_failing = written_before_failing

    def around(self, operation: str, path: str, call: Callable[[], T]) -> T:
        error = self.should_fail(operation, path)
        if error is not None:
            raise error
        return call()

    def writing(self, path: str, data: bytes, file: AppendFile) -> None:
        error = self.should_fail("write", path)
        if error is not None:
            file.write(data[: self.written_before_failing(len(data))])
            raise error
        file.write(data)


class FullFileSystem(LayeredFileSystem):
    """A device of ``capacity_bytes``; what does not fit raises ENOSPC after as much as did."""

    def __init__(self, inner: MemoryFileSystem, capacity_bytes: int) -> None:
        super().__init__(inner)
        self._memory = inner
        self.capacity_bytes = capacity_bytes

    def free_bytes(self, path: str) -> int:
        return max(0, self.capacity_bytes - self._memory.used_bytes())

    def writing(self, path: str, data: bytes, file: AppendFile) -> None:
        room = self.free_bytes(path)
        file.write(data[:room])
        if len(data) > room:
            raise no_space()

    def write_file_synced(self, path: str, parts: Sequence[Bytes], *, sync_name: bool = True) -> None:
        self._require(sum(map(len, parts)))
        super().write_file_synced(path, parts, sync_name=sync_name)

    def write_atomic(self, path: str, parts: Sequence[Bytes]) -> None:
        self._require(sum(map(len, parts)))
        super().write_atomic(path, parts)

    def _require(self, size: int) -> None:
        if size > self.free_bytes(""):
            raise no_space()


class SlowFileSystem(LayeredFileSystem):
    """Operations take as long as the test says, without anybody sleeping.

    ``seconds(operation, path)`` is how long each takes, told to ``advance`` (a ManualClock's); those of :meth:`hold`
    do not return before :meth:`release`, and :meth:`wait_held` returns once one of them is being waited for.
    """

    def __init__(
        self,
        inner: FileSystem,
        seconds: Callable[[str, str], float] = lambda operation, path: 0.0,
        advance: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        super().__init__(inner)
        self._seconds, self._advance = seconds, advance
        self._changed = threading.Condition()
        self._held: set[str] = set()
        self._waiting = 0

    def hold(self, *operations: str) -> None:
        with self._changed:
            self._held.update(operations)

    def release(self) -> None:
        with self._changed:
            self._held.clear()
            self._changed.notify_all()

    def wait_held(self, timeout_seconds: float = 30.0) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self._waiting > 0, timeout_seconds), "nobody came to a held operation"

    def wait_held_or(self, done: threading.Event, timeout_seconds: float = 30.0) -> bool:
        """Wait until a held operation is being waited for, or ``done``; return whether one is."""
        with self._changed:
            # The event does not wake this condition, so it is looked at now and then.
            for _ in range(round(timeout_seconds / 0.02)):
                if self._changed.wait_for(lambda: self._waiting > 0 or done.is_set(), 0.02):
                    return self._waiting > 0
        raise AssertionError("neither done nor at a held operation")

    def around(self, operation: str, path: str, call: Callable[[], T]) -> T:
        self._advance(self._seconds(operation, path))
        with self._changed:
            if operation in self._held:
                self._waiting += 1
                self._changed.notify_all()
                self._changed.wait_for(lambda: operation not in self._held)
                self._waiting -= 1
        return call()
