"""Reading the log back after a stop of any kind, repairing what a crash may leave and setting damage aside.

The reader tells three things apart (docs/formats/wal.md, "What may be incomplete"):

- A *torn tail*: the newest file ends within a frame and nothing usable follows.  That is a crash between
  write and sync; nothing there was acknowledged, and it is cut off.
- An *abandoned tail*: bytes at the end of an older file that reaches its successor's first sequence without
  them.  An append failed there and its numbers were given again; the bytes are cut off.
- *Damage*: anything else.  The file is copied to ``<name>.damaged``, cut where the damage begins, and reading
  goes on with the next file.  The sequences that are missing in between are reported.  Reading does not pick
  up again behind the damage in the same file: payloads hold bytes that clients choose, and a client could
  have placed something in one that looks like a frame.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from engine.disk.aside import name_aside
from engine.disk.filesystem import Bytes, FileSystem, storage_error
from engine.errors import NewerFormat
from engine.wal.layout import (
    HEADER_BYTES,
    MAGIC,
    VERSION,
    WalFile,
    encode_header,
    list_files,
    newer_version,
)
from native.frames import FRAME_HEADER_BYTES, find_frame, scan_frames

_FRAMES_AT_ONCE = 4096  # bounds the list of frame positions held at a time

_REASONS = {
    "torn": "the file ends within a frame but is not the newest",
    "bad_length": "a frame's length is larger than any frame's",
    "bad_checksum": "a frame's checksum does not match",
    "bad_header": "the file header is not that of a log file of this name",
    "bad_sequence": "a frame's sequence number does not follow the one before",
    "frames_follow": "a frame is cut short but intact frames follow",
    "changed": "the file does not read as it did when it was checked",
    "payload": "a frame is intact but what it holds cannot be decoded",
}


@dataclass(frozen=True, slots=True)
class WalFrame:
    """One intact frame.  ``payload`` is a view into the file's bytes: keeping it keeps those in memory."""

    kind: int
    sequence: int
    payload: memoryview
    path: str
    offset: int


@dataclass(frozen=True, slots=True)
class WalDamage:
    """Damage at ``offset`` of ``path``; ``set_aside``: a copy of the whole file, None when not repairing."""

    path: str
    offset: int
    cause: str  # a key of the causes in docs/formats/wal.md
    set_aside: str | None

    def __str__(self) -> str:
        kept = "" if self.set_aside is None else f"; a copy is kept in {self.set_aside}"
        return f"log damaged: {_REASONS[self.cause]} ({self.path}, offset {self.offset}){kept}"


@dataclass(slots=True)
class WalReport:
    """What reading the log found; complete once the iterator is exhausted."""

    files: int = 0  # files that were read
    frames: int = 0  # frames that were handed out
    payload_bytes: int = 0
    last_sequence: int = 0  # highest number ever given, as far as frames and file names show
    torn_bytes: int = 0
    torn_path: str | None = None
    abandoned_bytes: int = 0
    damage: list[WalDamage] = field(default_factory=list)
    missing: list[tuple[int, int]] = field(default_factory=list)  # first and last sequence of each gap

    @property
    def clean(self) -> bool:
        """Whether nothing acknowledged is seen to be missing; torn and abandoned tails are none of that."""
        return not self.damage and not self.missing

    def sentences(self) -> list[str]:
        """Return what an operator should read, a sentence each; none after an orderly stop."""
        said = [str(damage) for damage in self.damage]
        for first, last in self.missing:
            said.append(f"log frames missing: sequences {first} to {last}")
        if self.torn_path is not None:
            said.append(f"log repaired: cut {self.torn_bytes} unacknowledged bytes from the end ({self.torn_path})")
        if self.abandoned_bytes:
            said.append(f"log repaired: cut {self.abandoned_bytes} bytes of appends that had failed")
        return said


def read_wal(
    fs: FileSystem,
    directory: str,
    *,
    after_sequence: int,
    report: WalReport | None = None,
    repair: bool = True,
) -> Iterator[WalFrame]:
    """Yield the frames with sequences above ``after_sequence``, in order and each once, and fill ``report``.

    One file is held in memory at a time.  With ``repair`` files are cut and set aside as they are passed;
    without, nothing is changed and the report says what would be.  Raises Damage for a file written by a
    newer version of the program (which is left alone), DiskFull or Unavailable when the disk does not allow
    reading or repair.
    """
    report = WalReport() if report is None else report
    reading = _Reading(fs, after_sequence, report, repair)
    try:
        files = list_files(fs, directory)
        for index, file in enumerate(files):
            following = files[index + 1].first_sequence if index + 1 < len(files) else None
            if following is None or following > after_sequence + 1:
                yield from reading.frames_of(file, following)
    except OSError as error:
        raise storage_error("read log", error, directory) from error


class _Reading:
    """State carried from file to file."""

    def __init__(self, fs: FileSystem, after_sequence: int, report: WalReport, repair: bool) -> None:
        self._fs = fs
        self._after = after_sequence
        self._report = report
        self._repair = repair
        self._expected = after_sequence + 1  # lowest sequence not yet seen and not yet reported missing

    def frames_of(self, file: WalFile, following: int | None) -> Iterator[WalFrame]:
        """Yield the frames of one file; ``following``: the next one's first sequence, None for the newest."""
        report = self._report
        if self._repair and following is None:
            # What counts from now on must not go with the next power cut; all before the newest was synced.
            self._fs.sync_file(file.path)
        data = memoryview(self._fs.read(file.path))
        report.files += 1
        report.last_sequence = max(report.last_sequence, file.first_sequence - 1)
        if not self._check_header(file, data, newest=following is None):
            return
        self._note_gap_before(file.first_sequence)
        expected = file.first_sequence
        at, status = HEADER_BYTES, "more"
        while status == "more":
            frames, end, status = scan_frames(data, at, _FRAMES_AT_ONCE)
            for kind, sequence, start, stop in frames:
                if expected == following or sequence != expected:
                    end, status = start - FRAME_HEADER_BYTES, "bad_sequence"
                    break
                expected += 1
                report.last_sequence = max(report.last_sequence, sequence)
                if sequence > self._after:
                    report.frames += 1
                    report.payload_bytes += stop - start
                    yield WalFrame(kind, sequence, data[start:stop], file.path, start - FRAME_HEADER_BYTES)
            at = end
        self._expected = max(self._expected, expected)
        if status != "end":
            self._end_early(file, data, at, status, expected, following)

    def _check_header(self, file: WalFile, data: memoryview, *, newest: bool) -> bool:
        """Return whether frames can be read behind the header."""
        wanted = encode_header(file.first_sequence)
        if data[:HEADER_BYTES] == wanted:
            return True
        version = newer_version(data)
        if version is not None:
            raise NewerFormat(
                f"cannot read log: got version {version}, want {VERSION}; it was written by a newer version",
                path=file.path,
                offset=len(MAGIC),
            )
        if newest and wanted.startswith(bytes(data).rstrip(b"\x00")):
            self._note_torn(file, len(data))
            if self._repair:
                self._fs.remove(file.path)
            return False
        # The header holds nothing that the name does not say, and frames have checksums of their own.
        intact, _, _ = scan_frames(data, min(HEADER_BYTES, len(data)), 1)
        usable = bool(intact) and intact[0][1] == file.first_sequence
        self._set_aside(file, data, 0, "bad_header")
        if self._repair:
            self._fs.write_atomic(file.path, [wanted, data[HEADER_BYTES:] if usable else b""])
        return usable

    def _note_gap_before(self, first_sequence: int) -> None:
        if first_sequence <= self._expected:
            return
        missing = self._report.missing
        gap_start = self._expected
        if missing and missing[-1][1] == gap_start - 1:
            gap_start = missing.pop()[0]
        missing.append((gap_start, first_sequence - 1))
        self._expected = first_sequence

    def _end_early(
        self, file: WalFile, data: memoryview, at: int, status: str, expected: int, following: int | None
    ) -> None:
        """Deal with a file whose bytes from ``at`` on are no frames that count."""
        if expected == following:
            self._report.abandoned_bytes += len(data) - at
        elif following is None and status == "torn":
            highest = expected + len(data) // FRAME_HEADER_BYTES
            behind = find_frame(data, at + 1, expected, highest)
            if behind < 0:
                self._note_torn(file, len(data) - at)
            else:
                self._set_aside(file, data, at, "frames_follow")
        else:
            self._set_aside(file, data, at, status)
        if self._repair:
            self._fs.truncate(file.path, at)

    def _note_torn(self, file: WalFile, size_bytes: int) -> None:
        if size_bytes:
            self._report.torn_bytes += size_bytes
            self._report.torn_path = file.path

    def _set_aside(self, file: WalFile, data: memoryview, offset: int, cause: str) -> None:
        """Report damage and keep a copy of the file under a name that no earlier copy has."""
        copy = set_aside(self._fs, file.path, data) if self._repair else None
        self._report.damage.append(WalDamage(file.path, offset, cause, copy))


def set_aside(fs: FileSystem, path: str, data: Bytes) -> str:
    """Keep ``data``, the content of a log file, under a name that no earlier copy has; return the name."""
    copy = name_aside(path, fs.exists)
    fs.write_atomic(copy, [data])
    return copy
