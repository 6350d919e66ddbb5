"""Appending to the log: one write and one sync for a group of frames, then all of them are on disk.

What the caller may rely on:

- When :meth:`WalWriter.append` returns, its frames survive a crash.
- When it raises, none of them has been acknowledged and the same sequence numbers are used again.  The file
  is given up: after a failed sync the system may believe that pages are clean which never reached the disk,
  so a second sync would prove nothing.  It is cut to what was acknowledged, and the next append starts a new
  file.
- Where cutting fails too, what is left behind does no harm: the next file's name says which sequence begins
  there, and the reader takes nothing from an older file from that number on.
- Files go only whole, oldest first, and never the one being written.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from threading import Lock

from engine.clock import Clock, SystemClock
from engine.disk.filesystem import AppendFile, FileSystem, storage_error
from engine.errors import Bug, Unavailable
from engine.wal.layout import HEADER_BYTES, WalFile, encode_header, list_files, path_of

SEGMENT_BYTES = 64 * 1024 * 1024
_SEQUENCE_IN_FRAME = slice(9, 17)


class WalWriter:
    """The one writer of a log directory.  Its methods may be called from several threads.

    ``next_sequence``: the number the next frame carries, above everything recovery has read.
    ``segment_bytes``: a file that would grow beyond this gets a successor; a single larger group still goes
    into one file.
    """

    def __init__(
        self,
        fs: FileSystem,
        directory: str,
        *,
        next_sequence: int,
        segment_bytes: int = SEGMENT_BYTES,
        clock: Clock | None = None,
    ) -> None:
        self._fs = fs
        self._directory = directory
        self._next_sequence = next_sequence
        self._segment_bytes = segment_bytes
        self._clock = clock or SystemClock()
        self._lock = Lock()
        self._active: AppendFile | None = None  # writes to the last of _files
        self._closed = False
        self.last_commit_seconds = 0.0
        #: Bytes of frames appended since the log was opened.
        self.appended_bytes = 0
        try:
            fs.makedirs(directory)
            self._files = list_files(fs, directory)
        except OSError as error:
            raise storage_error("open log", error, directory) from error
        for file in self._files:
            if file.first_sequence >= next_sequence and file.size_bytes > HEADER_BYTES:
                raise Bug(
                    f"cannot open log: got a file with frames from sequence {file.first_sequence}, want none"
                    f" from {next_sequence} on, which is to be written next ({file.path})"
                )

    @property
    def next_sequence(self) -> int:
        """The sequence number the next appended frame must carry."""
        return self._next_sequence

    @property
    def newest_file_sequence(self) -> int:
        """The first sequence of the newest file; 0 without any."""
        with self._lock:
            return self._files[-1].first_sequence if self._files else 0

    def durable(self) -> tuple[list[WalFile], int]:
        """Return the files with the sizes up to which they are on disk, and the next sequence; a copy."""
        with self._lock:
            files = [WalFile(file.first_sequence, file.path, file.size_bytes) for file in self._files]
            return files, self._next_sequence

    @property
    def bytes_on_disk(self) -> int:
        """The size of all log files; files set aside as damaged are not counted."""
        return sum(file.size_bytes for file in self._files)

    def append(self, frames: Sequence[bytes]) -> None:
        """Write ``frames`` and return once they are on disk.

        They carry the sequences ``next_sequence``, ``next_sequence + 1``, ...  Raises DiskFull or
        Unavailable, and then none of the frames counts.
        """
        if not frames:
            return
        with self._lock:
            if self._closed:
                raise Unavailable(f"cannot append to log: got a closed log, want an open one ({self._directory})")
            self._check_sequences(frames)
            size_bytes = sum(map(len, frames))
            if self._active is not None and self._files[-1].size_bytes + size_bytes > self._segment_bytes:
                self._close_active()
            started = self._clock.monotonic()
            try:
                if self._active is None:
                    self._start_file(frames)
                else:
                    self._active.writev(frames)
                    self._active.sync()
            except OSError as error:
                path = self._files[-1].path if self._active is not None else self._directory
                self._abandon()
                raise storage_error("append to log", error, path) from error
            except BaseException:
                self._abandon()
                raise
            self.last_commit_seconds = self._clock.monotonic() - started
            self._files[-1].size_bytes += size_bytes
            self.appended_bytes += size_bytes
            self._next_sequence += len(frames)

    def roll(self) -> None:
        """Let the next append start a new file, so that :meth:`drop_through` may remove the present one."""
        with self._lock:
            self._close_active()

    def drop_through(self, sequence: int) -> int:
        """Remove the files all of whose frames have sequences up to ``sequence``; return how many.

        Oldest first, so that a crash half way leaves no gap.  Raises DiskFull or Unavailable; what was
        removed by then stays removed.
        """
        removed = 0
        with self._lock:
            try:
                while self._files and not (len(self._files) == 1 and self._active is not None):
                    following = self._files[1].first_sequence if len(self._files) > 1 else self._next_sequence
                    if following - 1 > sequence:
                        break
                    with contextlib.suppress(FileNotFoundError):
                        self._fs.remove(self._files[0].path)
                    del self._files[0]
                    removed += 1
                if removed:
                    self._fs.sync_dir(self._directory)
            except OSError as error:
                raise storage_error("remove log files", error, self._directory) from error
        return removed

    def close(self) -> None:
        """Close the file; further appends raise Unavailable."""
        with self._lock:
            self._close_active()
            self._closed = True

    def _check_sequences(self, frames: Sequence[bytes]) -> None:
        for sequence, frame in enumerate(frames, self._next_sequence):
            got = int.from_bytes(frame[_SEQUENCE_IN_FRAME], "little")
            if got != sequence:
                raise Bug(f"cannot append to log: got a frame with sequence {got}, want {sequence}")

    def _start_file(self, frames: Sequence[bytes]) -> None:
        """Create the file that begins at ``next_sequence``; bring header, frames and name to disk at once."""
        path = path_of(self._directory, self._next_sequence)
        while self._files and self._files[-1].first_sequence >= self._next_sequence:
            # Left by a start that failed or by a crash before the first frame: none was acknowledged.
            # It is not written to again, since a new file carries no forgotten sync error.
            with contextlib.suppress(FileNotFoundError):
                self._fs.remove(self._files[-1].path)
            del self._files[-1]
        self._active = self._fs.open_append(path)
        self._files.append(WalFile(self._next_sequence, path, 0))
        header = encode_header(self._next_sequence)
        self._active.writev([header, *frames])
        self._active.sync()
        self._files[-1].size_bytes = len(header)

    def _abandon(self) -> None:
        """Give up the file after a failure, cut to what was acknowledged if the disk still allows that."""
        if self._active is None:
            return
        with contextlib.suppress(OSError):
            self._active.close()
        self._active = None
        file = self._files[-1]
        try:
            if file.size_bytes == 0:
                self._fs.remove(file.path)
                del self._files[-1]
            else:
                self._fs.truncate(file.path, file.size_bytes)
        except OSError:
            with contextlib.suppress(OSError):
                file.size_bytes = self._fs.size(file.path)

    def _close_active(self) -> None:
        if self._active is not None:
            with contextlib.suppress(OSError):  # everything in it is synced
                self._active.close()
            self._active = None
