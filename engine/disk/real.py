"""The operating system's file system; ``engine.disk.filesystem`` says what each operation promises."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
from collections.abc import Sequence

from engine.disk.filesystem import Bytes
from engine.errors import Unavailable

_MAX_PARTS = 512  # parts handed to one writev(2); systems allow at least 1,024 in practice and 16 by the standard
_TEMPORARY_SUFFIX = ".tmp"
_FILE_MODE = 0o640
_DIRECTORY_MODE = 0o750


def _sync_dir(path: str) -> None:
    descriptor = os.open(path or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, parts: Sequence[Bytes]) -> int:
    """Write every part however often the system stops half way; return the number of bytes."""
    waiting = [memoryview(part).cast("B") for part in parts if len(part)]
    first = total = 0
    while first < len(waiting):
        written = os.writev(descriptor, waiting[first : first + _MAX_PARTS])
        total += written
        while first < len(waiting) and written >= len(waiting[first]):
            written -= len(waiting[first])
            first += 1
        if written:
            waiting[first] = waiting[first][written:]
    return total


def _pread_all(descriptor: int, offset: int, size: int) -> bytes:
    """Return what there is of a range however often the system stops half way."""
    data = os.pread(descriptor, size, offset)
    if len(data) in (0, size):
        return data
    return data + _pread_all(descriptor, offset + len(data), size - len(data))


class RealAppendFile:
    """A descriptor opened with O_APPEND."""

    def __init__(self, path: str) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC
        self._unsynced_name_in: str | None = None
        try:
            self._descriptor = os.open(path, flags)
        except FileNotFoundError:
            self._descriptor = os.open(path, flags | os.O_CREAT, _FILE_MODE)
            self._unsynced_name_in = os.path.dirname(path)
        self._position = os.fstat(self._descriptor).st_size

    @property
    def position(self) -> int:
        return self._position

    def write(self, data: Bytes) -> None:
        self.writev([data])

    def writev(self, parts: Sequence[Bytes]) -> None:
        try:
            self._position += _write_all(self._descriptor, parts)
        except BaseException:
            self._position = os.fstat(self._descriptor).st_size
            raise

    def sync(self) -> None:
        os.fdatasync(self._descriptor)
        if self._unsynced_name_in is not None:
            _sync_dir(self._unsynced_name_in)
            self._unsynced_name_in = None

    def close(self) -> None:
        os.close(self._descriptor)


class RealLock:
    """A lock file held with flock(2), which ends with the process however that ends; it names the process."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, _FILE_MODE)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._descriptor, 32, 0).decode("ascii", "replace").strip()
            os.close(self._descriptor)
            directory = os.path.dirname(path) or "."
            raise Unavailable(
                f"cannot open data directory {directory}: it is in use by"
                f" {f'process {holder}' if holder else 'another process'}"
            ) from None
        except BaseException:
            os.close(self._descriptor)
            raise
        os.truncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Give the lock up.  The file stays, or two processes could lock two files of one name."""
        os.close(self._descriptor)


class RealFileSystem:
    """Files as the operating system keeps them."""

    def makedirs(self, path: str) -> None:
        if os.path.isdir(path):
            return
        parent = os.path.dirname(os.path.abspath(path))
        self.makedirs(parent)
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, _DIRECTORY_MODE)
        _sync_dir(parent)

    def exists(self, path: str) -> bool:
        return os.path.exists(path)

    def listdir(self, path: str) -> list[str]:
        return sorted(os.listdir(path))

    def size(self, path: str) -> int:
        return os.stat(path).st_size

    def open_append(self, path: str) -> RealAppendFile:
        return RealAppendFile(path)

    def read(self, path: str) -> bytes:
        with open(path, "rb") as file:
            return file.read()

    def read_range(self, path: str, offset: int, size: int) -> bytes:
        return self.read_ranges(path, [(offset, size)])[0]

    def read_ranges(self, path: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            found = [os.pread(descriptor, size, offset) for offset, size in ranges]
            if sum(map(len, found)) < sum(size for _, size in ranges):
                found = [_pread_all(descriptor, offset, size) for offset, size in ranges]
            return found
        finally:
            os.close(descriptor)

    def map(self, path: str) -> memoryview:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if os.fstat(descriptor).st_size == 0:  # mmap(2) refuses to map nothing
                return memoryview(b"")
            return memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))
        finally:
            os.close(descriptor)

    def write_file_synced(self, path: str, parts: Sequence[Bytes], *, sync_name: bool = True) -> None:
        self._write_new(path, parts)
        if sync_name:
            _sync_dir(os.path.dirname(path))

    def write_atomic(self, path: str, parts: Sequence[Bytes]) -> None:
        temporary = path + _TEMPORARY_SUFFIX
        self._write_new(temporary, parts)
        self.rename(temporary, path)

    def rename(self, old: str, new: str) -> None:
        os.rename(old, new)
        _sync_dir(os.path.dirname(new))
        if os.path.dirname(old) != os.path.dirname(new):
            _sync_dir(os.path.dirname(old))

    def link(self, path: str, name: str) -> None:
        os.link(path, name)
        _sync_dir(os.path.dirname(name))

    def remove(self, path: str) -> None:
        os.unlink(path)

    def truncate(self, path: str, size: int) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.ftruncate(descriptor, size)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def sync_dir(self, path: str) -> None:
        _sync_dir(path)

    def sync_file(self, path: str) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)
        _sync_dir(os.path.dirname(path))

    def free_bytes(self, path: str) -> int:
        state = os.statvfs(path)
        return state.f_bavail * state.f_frsize

    def lock(self, path: str) -> RealLock:
        return RealLock(path)

    def _write_new(self, path: str, parts: Sequence[Bytes]) -> None:
        """Write and sync a file of this name, new in every case; remove it again when that fails."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _FILE_MODE)
        try:
            _write_all(descriptor, parts)
            os.fsync(descriptor)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(path)
            raise
        finally:
            os.close(descriptor)
