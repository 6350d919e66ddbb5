"""Following the log while it is being written: every frame that is on disk, in order and each once.

Recovery reads the old log this way, and behind it what writers add meanwhile.  The log has been checked and repaired
before (:mod:`engine.wal.reader`), so damage seen here is new: a disk that answers differently the second time.
"""

from __future__ import annotations

from engine.disk.filesystem import FileSystem, storage_error
from engine.wal.layout import HEADER_BYTES, WalFile
from engine.wal.reader import WalDamage, WalFrame, WalReport, set_aside
from engine.wal.writer import WalWriter
from native.frames import FRAME_HEADER_BYTES, scan_frames

#: How much is read at a time; a longer frame is read whole.
CHUNK_BYTES = 4 << 20


class WalTail:
    """The position of one reader behind ``writer``; one thread at a time.

    ``next_sequence``: the first frame that has not been handed out.  What is damaged is added to ``report``.
    """

    def __init__(
        self,
        fs: FileSystem,
        writer: WalWriter,
        *,
        after_sequence: int,
        report: WalReport,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        self._fs, self._writer, self._report = fs, writer, report
        self._chunk_bytes = chunk_bytes
        self.next_sequence = after_sequence + 1
        self._path = ""
        self._offset = HEADER_BYTES
        self._expected = 0  # the sequence that the frame at the offset must have

    def read(self) -> list[WalFrame]:
        """Return the next frames, at least one; none when all that is on disk has been handed out.

        Sequences that no file holds are passed over: the check before has reported them.  Raises DiskFull or
        Unavailable when the disk does not allow reading; the position is then as before.
        """
        while True:
            files, end = self._writer.durable()
            if self.next_sequence >= end:
                return []
            file, following = _holding(files, self.next_sequence)
            if file is None:
                self.next_sequence = end if following is None else following
                continue
            if file.path != self._path:
                self._path, self._offset, self._expected = file.path, HEADER_BYTES, file.first_sequence
            try:
                frames = self._frames_of(file, end if following is None else following)
            except OSError as error:
                raise storage_error("read log", error, file.path) from error
            if frames:
                return frames

    def _frames_of(self, file: WalFile, before: int) -> list[WalFrame]:
        """Return frames of one file below sequence ``before``; none moves the position to ``before``."""
        size = self._chunk_bytes
        while self._offset < file.size_bytes and self._expected < before:
            rest = file.size_bytes - self._offset
            data = memoryview(self._fs.read_range(file.path, self._offset, min(size, rest)))
            found, end, status = scan_frames(data)
            frames = []
            for kind, sequence, start, stop in found:
                if sequence != self._expected or self._expected >= before:
                    end, status = start - FRAME_HEADER_BYTES, "bad_sequence"
                    break
                self._expected += 1
                if sequence >= self.next_sequence:
                    frame_offset = self._offset + start - FRAME_HEADER_BYTES
                    frames.append(WalFrame(kind, sequence, data[start:stop], file.path, frame_offset))
            self._offset += end
            if frames:
                self.next_sequence = self._expected
                return frames
            if end == 0 and status == "torn" and size < rest:
                size = min(4 * size, rest)
            elif end == 0 or status == "bad_sequence":
                break
        if self._offset < file.size_bytes and self._expected < before:
            before = self._damaged(file)
        self.next_sequence = max(self.next_sequence, before)
        return []

    def _damaged(self, file: WalFile) -> int:
        """Report and keep what cannot be read any more; return the first sequence that another file holds."""
        copy = set_aside(self._fs, file.path, self._fs.read(file.path))
        # Frames to come must not go behind the damage, where nobody would find them.
        self._writer.roll()
        files, end = self._writer.durable()
        _, following = _holding(files, file.first_sequence)
        before = end if following is None else following
        self._report.damage.append(WalDamage(file.path, self._offset, "changed", copy))
        self._report.missing.append((max(self._expected, self.next_sequence), before - 1))
        return before


def _holding(files: list[WalFile], sequence: int) -> tuple[WalFile | None, int | None]:
    """Return the file that may hold a sequence, None when all begin later, and where the one after it begins."""
    holding: WalFile | None = None
    for file in files:
        if file.first_sequence > sequence:
            return holding, file.first_sequence
        holding = file
    return holding, None
