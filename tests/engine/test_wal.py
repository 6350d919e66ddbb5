from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.clock import ManualClock
from engine.disk.filesystem import Bytes, FileSystem
from engine.disk.real import RealFileSystem
from engine.errors import BadRequest, Bug, Damage, DiskFull, Unavailable
from engine.model.rows import Rows
from engine.wal import payload as payload_module
from engine.wal.layout import HEADER_BYTES, encode_header, list_files, path_of
from engine.wal.payload import decode_batch, pack_tables
from engine.wal.payload import encode_batch as with_definitions
from engine.wal.reader import WalReport, read_wal
from engine.wal.writer import WalWriter
from native.columns import ABSENT
from native.frames import encode_frame
from tests.filesystems import (
    FailingFileSystem,
    FullFileSystem,
    MemoryFileSystem,
    RecordingFileSystem,
    broken_disk,
    no_space,
)

DIR = "data/wal"


def encode_batch(definitions: bytes, tables: Sequence[tuple[int, Rows]]) -> list[Bytes]:
    return with_definitions(definitions, pack_tables(tables))


def text_of(sequence: int) -> bytes:
    return b"payload of frame %d" % sequence


def frame_of(sequence: int, text: bytes | None = None) -> bytes:
    return encode_frame(1, sequence, [text_of(sequence) if text is None else text])


FRAME_BYTES = len(frame_of(1))


def append(writer: WalWriter, count: int = 1) -> None:
    """Append a group of ``count`` frames."""
    first = writer.next_sequence
    writer.append([frame_of(sequence) for sequence in range(first, first + count)])


def read(fs: FileSystem, after_sequence: int = 0, *, repair: bool = True) -> tuple[list[tuple[int, bytes]], WalReport]:
    report = WalReport()
    frames = [
        (frame.sequence, bytes(frame.payload))
        for frame in read_wal(fs, DIR, after_sequence=after_sequence, report=report, repair=repair)
    ]
    assert report.frames == len(frames)
    assert report.payload_bytes == sum(len(payload) for _, payload in frames)
    return frames, report


def sequences(fs: FileSystem, after_sequence: int = 0) -> list[int]:
    """Read the log, check each payload and return the sequences."""
    frames, _ = read(fs, after_sequence)
    assert all(payload == text_of(sequence) for sequence, payload in frames)
    return [sequence for sequence, _ in frames]


def log_of(files: list[int], fs: MemoryFileSystem | None = None) -> MemoryFileSystem:
    """Return a file system with a log of so many frames in each file."""
    fs = fs or MemoryFileSystem()
    writer = WalWriter(fs, DIR, next_sequence=1)
    for count in files:
        for _ in range(count):
            append(writer)
        writer.roll()
    writer.close()
    return fs


# Writing and reading back


def test_frozen_bytes_of_a_file() -> None:
    fs = log_of([2])
    assert fs.listdir(DIR) == ["0000000000000001.wal"]
    header = bytes.fromhex("544757414c000001" + "0100000000000000" + "b5606876")
    assert encode_header(1) == header
    assert fs.read(path_of(DIR, 1)) == header + frame_of(1) + frame_of(2)


def test_round_trip_on_a_real_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fs = RealFileSystem()
    writer = WalWriter(fs, DIR, next_sequence=1, segment_bytes=200)
    for count in (1, 3, 2, 5, 1):
        append(writer, count)
    writer.close()
    frames, report = read(fs)
    assert frames == [(sequence, text_of(sequence)) for sequence in range(1, 13)]
    assert (report.files, report.last_sequence, report.clean, report.sentences()) == (4, 12, True, [])
    assert writer.bytes_on_disk == sum(fs.size(file.path) for file in list_files(fs, DIR))


def test_frames_say_where_they_are() -> None:
    fs = log_of([2, 1])
    frames = list(read_wal(fs, DIR, after_sequence=0))
    assert [(frame.kind, frame.sequence, frame.path, frame.offset) for frame in frames] == [
        (1, 1, path_of(DIR, 1), HEADER_BYTES),
        (1, 2, path_of(DIR, 1), HEADER_BYTES + FRAME_BYTES),
        (1, 3, path_of(DIR, 3), HEADER_BYTES),
    ]
    assert frames[0].payload.readonly


def test_an_empty_or_missing_log() -> None:
    fs = MemoryFileSystem()
    fs.makedirs(DIR)
    assert read(fs) == ([], WalReport())
    with pytest.raises(Unavailable, match=r"cannot read log: got 'No such file or directory'"):
        read(MemoryFileSystem())


def test_reading_starts_after_the_sequence_asked_for() -> None:
    fs = log_of([3, 3, 3])
    for after in range(10):
        frames, report = read(fs, after)
        assert [sequence for sequence, _ in frames] == list(range(after + 1, 10))
        assert report.files == {0: 3, 1: 3, 2: 3, 3: 2, 4: 2, 5: 2}.get(after, 1)
        assert (report.last_sequence, report.clean) == (9, True)


def test_more_frames_than_are_listed_at_once() -> None:
    fs = MemoryFileSystem()
    writer = WalWriter(fs, DIR, next_sequence=1)
    append(writer, 5000)
    assert sequences(fs) == list(range(1, 5001))


def test_a_full_file_gets_a_successor_but_a_group_stays_together() -> None:
    fs = MemoryFileSystem()
    writer = WalWriter(fs, DIR, next_sequence=1, segment_bytes=HEADER_BYTES + 2 * FRAME_BYTES)
    append(writer)
    append(writer)
    append(writer)  # beyond the size: a new file
    append(writer, 5)  # larger than a whole file: still one file
    append(writer)
    assert [file.first_sequence for file in list_files(fs, DIR)] == [1, 3, 4, 9]
    assert sequences(fs) == list(range(1, 10))


def test_a_group_is_one_write_and_one_sync() -> None:
    fs = RecordingFileSystem(MemoryFileSystem())
    writer = WalWriter(fs, DIR, next_sequence=1)
    path = path_of(DIR, 1)
    fs.operations.clear()
    append(writer, 100)
    assert fs.operations == [("open_append", path), ("write", path), ("sync", path)]
    fs.operations.clear()
    append(writer, 100)
    assert fs.operations == [("write", path), ("sync", path)]
    fs.operations.clear()
    writer.append([])
    assert fs.operations == []
    assert writer.next_sequence == 201


def test_the_time_of_a_commit_is_measured_on_the_clock_given() -> None:
    clock = ManualClock()

    def slow(operation: str, path: str) -> None:
        if operation == "sync":
            clock.advance(0.25)

    writer = WalWriter(FailingFileSystem(MemoryFileSystem(), slow), DIR, next_sequence=1, clock=clock)
    assert writer.last_commit_seconds == 0
    append(writer)
    assert writer.last_commit_seconds == pytest.approx(0.25)


def test_writing_goes_on_after_a_restart() -> None:
    fs = MemoryFileSystem()
    for _ in range(3):
        _, report = read(fs) if fs.exists(DIR) else ([], WalReport())
        writer = WalWriter(fs, DIR, next_sequence=report.last_sequence + 1)
        append(writer, 2)
        writer.close()
    assert sequences(fs) == [1, 2, 3, 4, 5, 6]


def test_appending_to_a_closed_log() -> None:
    writer = WalWriter(MemoryFileSystem(), DIR, next_sequence=1)
    writer.close()
    with pytest.raises(Unavailable, match="cannot append to log: got a closed log"):
        append(writer)


def test_frames_must_follow_each_other() -> None:
    writer = WalWriter(MemoryFileSystem(), DIR, next_sequence=5)
    for wrong in ([4], [6], [5, 5], [5, 7]):
        with pytest.raises(Bug, match=r"got a frame with sequence \d, want \d"):
            writer.append([frame_of(sequence) for sequence in wrong])
    append(writer)
    assert writer.next_sequence == 6


def test_a_log_that_goes_further_is_not_overwritten() -> None:
    fs = log_of([3, 2])
    with pytest.raises(Bug, match=r"got a file with frames from sequence 4, want none from 3 on"):
        WalWriter(fs, DIR, next_sequence=3)


# Removing


def test_drop_through_removes_whole_files_only() -> None:
    kept = {0: 9, 2: 9, 3: 6, 5: 6, 6: 3, 8: 3, 9: 0, 99: 0}
    for through, frames in kept.items():
        fs = log_of([3, 3, 3])
        writer = WalWriter(fs, DIR, next_sequence=10)
        assert writer.drop_through(through) == (9 - frames) // 3
        assert sequences(fs, 9 - frames) == list(range(10 - frames, 10))
        assert writer.bytes_on_disk == sum(fs.size(file.path) for file in list_files(fs, DIR))


def test_drop_through_never_takes_the_file_being_written() -> None:
    fs = MemoryFileSystem()
    writer = WalWriter(fs, DIR, next_sequence=1)
    append(writer, 3)
    assert writer.drop_through(100) == 0
    writer.roll()
    assert writer.drop_through(2) == 0
    assert writer.drop_through(3) == 1
    append(writer)
    assert fs.listdir(DIR) == ["0000000000000004.wal"]
    assert sequences(fs, 3) == [4]


def test_removed_files_are_gone_after_a_crash() -> None:
    fs = log_of([2, 2, 2])
    writer = WalWriter(fs, DIR, next_sequence=7)
    writer.drop_through(4)
    assert all(fs.crash(Random(seed)).listdir(DIR) == ["0000000000000005.wal"] for seed in range(20))


def test_a_crash_while_removing_leaves_no_gap() -> None:
    fs = log_of([2, 2, 2])
    failing = FailingFileSystem(fs, lambda operation, _: broken_disk() if operation == "sync_dir" else None)
    writer = WalWriter(failing, DIR, next_sequence=7)
    with pytest.raises(Unavailable, match="cannot remove log files"):
        writer.drop_through(4)
    found = set()
    for seed in range(50):
        frames, report = read(fs.crash(Random(seed)), 4)
        assert ([sequence for sequence, _ in frames], report.clean) == ([5, 6], True)
        found.add(tuple(fs.crash(Random(seed)).listdir(DIR)))
    assert len(found) == 3


def test_removing_goes_on_where_it_failed() -> None:
    fs = log_of([2, 2, 2])
    broken = [path_of(DIR, 3)]
    failing = FailingFileSystem(
        fs, lambda operation, path: broken_disk() if operation == "remove" and path in broken else None
    )
    writer = WalWriter(failing, DIR, next_sequence=7)
    with pytest.raises(Unavailable, match="cannot remove log files"):
        writer.drop_through(6)
    broken.clear()
    assert writer.drop_through(6) == 2
    assert fs.listdir(DIR) == []


# Damage


@dataclass(frozen=True)
class Case:
    """What is done to a log of three files of three frames, and what must be found."""

    damage: Callable[[MemoryFileSystem], None]
    remaining: list[int]
    causes: tuple[tuple[str, str, int], ...] = ()  # file name, cause, offset
    missing: tuple[tuple[int, int], ...] = ()
    torn_bytes: int = 0
    abandoned_bytes: int = 0


FIRST, SECOND, THIRD = (path_of(DIR, sequence) for sequence in (1, 4, 7))
START = [HEADER_BYTES + index * FRAME_BYTES for index in range(4)]  # of each frame in a file, and its end


def edit(path: str, change: Callable[[bytearray], object]) -> Callable[[MemoryFileSystem], None]:
    def apply(fs: MemoryFileSystem) -> None:
        data = bytearray(fs.read(path))
        change(data)
        fs.write_file_synced(path, [data])

    return apply


def overwrite(path: str, offset: int, new: bytes) -> Callable[[MemoryFileSystem], None]:
    return edit(path, lambda data: data.__setitem__(slice(offset, offset + len(new)), new))


def cut(path: str, size: int) -> Callable[[MemoryFileSystem], None]:
    return lambda fs: fs.truncate(path, size)


def extend(path: str, tail: bytes) -> Callable[[MemoryFileSystem], None]:
    return edit(path, lambda data: data.extend(tail))


def put(path: str, *parts: bytes) -> Callable[[MemoryFileSystem], None]:
    return lambda fs: fs.write_file_synced(path, parts)


def remove(path: str) -> Callable[[MemoryFileSystem], None]:
    return lambda fs: fs.remove(path)


def several(*damages: Callable[[MemoryFileSystem], None]) -> Callable[[MemoryFileSystem], None]:
    def apply(fs: MemoryFileSystem) -> None:
        for damage in damages:
            damage(fs)

    return apply


ALL = list(range(1, 10))
CASES = {
    "no_damage": Case(lambda fs: None, ALL),
    "torn_last_record": Case(cut(THIRD, START[3] - 1), ALL[:-1], torn_bytes=FRAME_BYTES - 1),
    "torn_last_header": Case(cut(THIRD, START[2] + 5), ALL[:-1], torn_bytes=5),
    "last_file_ends_between_frames": Case(cut(THIRD, START[2]), ALL[:-1]),
    "zero_filled_tail": Case(extend(THIRD, bytes(4096)), ALL, torn_bytes=4096),
    "zeros_instead_of_the_last_frame": Case(
        overwrite(THIRD, START[2], bytes(FRAME_BYTES)), ALL[:-1], torn_bytes=FRAME_BYTES
    ),
    "zeros_then_a_frame_in_the_newest_file": Case(
        overwrite(THIRD, START[1], bytes(FRAME_BYTES)), ALL[:7], ((THIRD, "bad_checksum", START[1]),)
    ),
    "torn_frame_then_intact_ones_in_the_newest_file": Case(
        overwrite(THIRD, START[1], struct.pack("<I", 1 << 20)), ALL[:7], ((THIRD, "frames_follow", START[1]),)
    ),
    "bad_checksum_of_the_last_frame": Case(
        overwrite(THIRD, START[3] - 1, b"?"), ALL[:8], ((THIRD, "bad_checksum", START[2]),)
    ),
    "bad_checksum_in_the_middle": Case(
        overwrite(SECOND, START[1] + 30, b"?"),
        [1, 2, 3, 4, 7, 8, 9],
        ((SECOND, "bad_checksum", START[1]),),
        ((5, 6),),
    ),
    "bad_length": Case(
        overwrite(SECOND, START[2], struct.pack("<I", 1 << 30)),
        [1, 2, 3, 4, 5, 7, 8, 9],
        ((SECOND, "bad_length", START[2]),),
        ((6, 6),),
    ),
    "length_beyond_the_end_of_an_older_file": Case(
        overwrite(FIRST, START[0], struct.pack("<I", 1 << 20)), ALL[3:], ((FIRST, "torn", START[0]),), ((1, 3),)
    ),
    "older_file_torn": Case(
        cut(SECOND, START[3] - 1),
        [1, 2, 3, 4, 5, 7, 8, 9],
        ((SECOND, "torn", START[2]),),
        ((6, 6),),
    ),
    "older_file_ends_between_frames": Case(cut(SECOND, START[2]), [1, 2, 3, 4, 5, 7, 8, 9], (), ((6, 6),)),
    "frame_repeated": Case(extend(THIRD, frame_of(9)), ALL, ((THIRD, "bad_sequence", START[3]),)),
    "frame_left_out": Case(
        edit(SECOND, lambda data: data.__delitem__(slice(START[1], START[2]))),
        [1, 2, 3, 4, 7, 8, 9],
        ((SECOND, "bad_sequence", START[1]),),
        ((5, 6),),
    ),
    "flipped_bit_in_header": Case(overwrite(SECOND, 9, b"\x80"), ALL, ((SECOND, "bad_header", 0),)),
    "flipped_bit_in_header_of_the_newest": Case(overwrite(THIRD, 0, b"t"), ALL, ((THIRD, "bad_header", 0),)),
    "header_and_first_frame_damaged": Case(
        overwrite(SECOND, 19, b"????"), [1, 2, 3, 7, 8, 9], ((SECOND, "bad_header", 0),), ((4, 6),)
    ),
    "file_under_another_name": Case(
        lambda fs: fs.rename(SECOND, path_of(DIR, 5)),
        [1, 2, 3, 7, 8, 9],
        ((path_of(DIR, 5), "bad_header", 0),),
        ((4, 6),),
    ),
    "not_a_log_file": Case(
        edit(SECOND, lambda data: data.__setitem__(slice(None), b"hello")),
        [1, 2, 3, 7, 8, 9],
        ((SECOND, "bad_header", 0),),
        ((4, 6),),
    ),
    "missing_middle_file": Case(remove(SECOND), [1, 2, 3, 7, 8, 9], (), ((4, 6),)),
    "missing_first_file": Case(remove(FIRST), ALL[3:], (), ((1, 3),)),
    "two_gaps": Case(
        several(remove(FIRST), overwrite(SECOND, START[2] + 20, b"?")),
        [4, 5, 7, 8, 9],
        ((SECOND, "bad_checksum", START[2]),),
        ((1, 3), (6, 6)),
    ),
    "empty_newest_file": Case(put(path_of(DIR, 10)), ALL),
    "newest_file_with_half_a_header": Case(put(path_of(DIR, 10), encode_header(10)[:11]), ALL, torn_bytes=11),
    "newest_file_with_half_a_header_and_zeros": Case(
        put(path_of(DIR, 10), encode_header(10)[:11], bytes(100)), ALL, torn_bytes=111
    ),
    "newest_file_with_a_header_only": Case(put(path_of(DIR, 10), encode_header(10)), ALL),
    "empty_older_file": Case(cut(SECOND, 0), [1, 2, 3, 7, 8, 9], ((SECOND, "bad_header", 0),), ((4, 6),)),
    "failed_append_left_a_frame": Case(extend(SECOND, frame_of(7, b"failed")), ALL, abandoned_bytes=23),
    "failed_append_left_half_a_frame": Case(extend(SECOND, frame_of(7, b"failed")[:10]), ALL, abandoned_bytes=10),
    "stale_copies_of_damage": Case(
        several(
            put(SECOND + ".damaged", b"an earlier one"),
            put(FIRST + ".damaged", frame_of(1)),
            overwrite(SECOND, START[1] + 30, b"?"),
        ),
        [1, 2, 3, 4, 7, 8, 9],
        ((SECOND, "bad_checksum", START[1]),),
        ((5, 6),),
    ),
    "other_files_in_the_directory": Case(
        several(
            *(put(f"{DIR}/{name}", b"?") for name in ("notes.txt", "0000000000000004.wal.tmp", "4.wal")),
            put(f"{DIR}/000000000000000G.wal", b"?"),
        ),
        ALL,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_damage(name: str) -> None:
    case = CASES[name]
    fs = log_of([3, 3, 3])
    case.damage(fs)
    before = {path: fs.read(f"{DIR}/{path}") for path in fs.listdir(DIR)}

    # Looking only: the same is found, nothing is changed.
    looked, seen = read(fs, repair=False)
    assert {path: fs.read(f"{DIR}/{path}") for path in fs.listdir(DIR)} == before
    assert all(damage.set_aside is None for damage in seen.damage)

    frames, report = read(fs)
    assert frames == looked
    assert [sequence for sequence, _ in frames] == case.remaining
    assert all(payload == text_of(sequence) for sequence, payload in frames)
    assert [(damage.path, damage.cause, damage.offset) for damage in report.damage] == list(case.causes)
    assert report.missing == list(case.missing)
    assert report.torn_bytes == case.torn_bytes
    assert report.abandoned_bytes == case.abandoned_bytes
    assert report.clean == (not case.causes and not case.missing)
    words = "\n".join(report.sentences())
    assert all(f"({path}, offset {offset})" in words for path, _, offset in case.causes)
    assert all(f"sequences {first} to {last}" in words for first, last in case.missing)

    # Nothing is thrown away unseen: a damaged file is kept as it was.
    for damage in report.damage:
        assert damage.set_aside is not None
        assert fs.read(damage.set_aside) == before[damage.path.removeprefix(DIR + "/")]
    for path in before:
        if ".damaged" in path:
            assert fs.read(f"{DIR}/{path}") == before[path]

    # What was repaired is read again as it is now, and writing goes on.
    again, second = read(fs)
    assert again == frames
    assert second.damage == []
    assert second.missing == report.missing
    assert (second.torn_bytes, second.abandoned_bytes) == (0, 0)
    writer = WalWriter(fs, DIR, next_sequence=max(second.last_sequence, report.last_sequence) + 1)
    append(writer, 2)
    first_new = writer.next_sequence - 2
    assert [sequence for sequence, _ in read(fs)[0]] == [*case.remaining, first_new, first_new + 1]


@pytest.mark.parametrize("size", range(HEADER_BYTES + 2 * FRAME_BYTES, HEADER_BYTES + 3 * FRAME_BYTES))
def test_torn_at_every_byte_of_the_last_frame(size: int) -> None:
    fs = log_of([3, 3])
    fs.truncate(SECOND, size)
    frames, report = read(fs)
    assert [sequence for sequence, _ in frames] == [1, 2, 3, 4, 5]
    assert (report.clean, report.torn_bytes) == (True, size - START[2])
    assert report.last_sequence == 5
    assert fs.size(SECOND) == START[2]
    if report.torn_bytes:
        assert report.sentences() == [
            f"log repaired: cut {report.torn_bytes} unacknowledged bytes from the end ({SECOND})"
        ]


@pytest.mark.parametrize("size", range(HEADER_BYTES))
def test_a_header_torn_at_every_byte(size: int) -> None:
    fs = log_of([3, 1])
    fs.truncate(SECOND, size)
    assert sequences(fs) == [1, 2, 3]
    assert fs.listdir(DIR) == ["0000000000000001.wal"]


@pytest.mark.parametrize("offset", range(HEADER_BYTES + 2 * FRAME_BYTES))
def test_a_flipped_bit_anywhere_is_noticed_and_hands_out_no_wrong_frame(offset: int) -> None:
    broken_frame = (offset - HEADER_BYTES) // FRAME_BYTES  # negative: the header, which costs no frame
    remaining = [1, 2, 3, 4] if broken_frame < 0 else [*[1, 2][:broken_frame], 3, 4]
    for bit in range(8):
        fs = log_of([2, 2])
        overwrite(FIRST, offset, bytes([fs.read(FIRST)[offset] ^ 1 << bit]))(fs)
        frames, report = read(fs)
        assert frames == [(sequence, text_of(sequence)) for sequence in remaining]
        assert len(report.damage) == 1


def test_a_newer_version_is_refused_by_name_and_left_alone() -> None:
    fs = log_of([3, 3])
    overwrite(SECOND, 0, encode_header(4, version=2))(fs)
    before = fs.read(SECOND)
    with pytest.raises(Damage) as caught:
        read(fs)
    assert str(caught.value) == (
        f"cannot read log: got version 2, want 1; it was written by a newer version ({SECOND}, offset 7)"
    )
    assert fs.read(SECOND) == before
    assert fs.listdir(DIR) == ["0000000000000001.wal", "0000000000000004.wal"]


def test_a_gap_that_is_not_asked_for_is_not_reported() -> None:
    fs = log_of([3, 3, 3])
    fs.remove(SECOND)
    assert read(fs, 6)[1].missing == []
    assert read(fs, 5)[1].missing == [(6, 6)]
    assert read(fs, 3)[1].missing == [(4, 6)]


def test_setting_aside_needs_room_and_changes_nothing_without() -> None:
    fs = log_of([3, 3])
    overwrite(FIRST, START[1] + 30, b"?")(fs)
    before = fs.read(FIRST)
    full = FullFileSystem(fs, fs.used_bytes())
    with pytest.raises(DiskFull, match="cannot read log: got 'No space left on device'"):
        read(full)
    assert fs.read(FIRST) == before


def test_a_file_that_cannot_be_read() -> None:
    fs = log_of([3, 3])
    failing = FailingFileSystem(
        fs, lambda operation, path: broken_disk() if (operation, path) == ("read", SECOND) else None
    )
    with pytest.raises(Unavailable, match="cannot read log: got 'Input/output error'"):
        read(failing)


# Failing disks


def test_a_full_disk() -> None:
    fs = FullFileSystem(MemoryFileSystem(), 4 * FRAME_BYTES)
    writer = WalWriter(fs, DIR, next_sequence=1)
    append(writer, 2)
    with pytest.raises(DiskFull, match=r"cannot append to log: got 'No space left on device'.*0001\.wal"):
        append(writer, 3)
    assert (writer.next_sequence, writer.bytes_on_disk) == (3, HEADER_BYTES + 2 * FRAME_BYTES)
    with pytest.raises(DiskFull):
        append(writer, 3)
    assert fs.listdir(DIR) == ["0000000000000001.wal"]
    fs.capacity_bytes = 100 * FRAME_BYTES
    append(writer, 3)
    assert sequences(fs) == [1, 2, 3, 4, 5]
    assert writer.drop_through(2) == 1


def test_a_failed_sync_is_not_retried_on_the_same_file() -> None:
    inner = MemoryFileSystem()
    failures = [None, broken_disk()]
    recording = RecordingFileSystem(
        FailingFileSystem(inner, lambda operation, _: failures.pop(0) if operation == "sync" and failures else None)
    )
    writer = WalWriter(recording, DIR, next_sequence=1)
    append(writer)
    recording.operations.clear()
    with pytest.raises(Unavailable, match="cannot append to log: got 'Input/output error', want a working disk"):
        append(writer)
    append(writer)
    assert recording.operations == [
        ("write", FIRST),
        ("sync", FIRST),
        ("close", FIRST),
        ("truncate", FIRST),
        ("open_append", path_of(DIR, 2)),
        ("write", path_of(DIR, 2)),
        ("sync", path_of(DIR, 2)),
    ]


def test_a_frame_that_failed_does_not_come_back_when_cutting_fails_too() -> None:
    inner = MemoryFileSystem()
    broken: set[str] = set()
    fs = FailingFileSystem(inner, lambda operation, _: broken_disk() if operation in broken else None)
    writer = WalWriter(fs, DIR, next_sequence=1)
    append(writer)
    broken |= {"sync", "truncate", "remove", "close"}
    with pytest.raises(Unavailable):
        writer.append([frame_of(2, b"failed"), frame_of(3, b"failed too")])
    with pytest.raises(Unavailable):
        writer.append([frame_of(2, b"failed in a new file")])
    broken.clear()
    append(writer, 2)
    assert inner.size(FIRST) > HEADER_BYTES + FRAME_BYTES
    frames, report = read(inner)
    assert frames == [(sequence, text_of(sequence)) for sequence in (1, 2, 3)]
    assert report.clean
    assert report.abandoned_bytes > 0
    assert report.sentences() == [f"log repaired: cut {report.abandoned_bytes} bytes of appends that had failed"]


def test_an_interrupted_append_is_given_up_like_a_failed_one() -> None:
    inner = MemoryFileSystem()
    failures: list[BaseException | None] = [None, KeyboardInterrupt()]
    fs = FailingFileSystem(
        inner,
        lambda operation, _: failures.pop(0) if operation == "write" and failures else None,
        written_before_failing=lambda size: size // 2,
    )
    writer = WalWriter(fs, DIR, next_sequence=1)
    append(writer)
    with pytest.raises(KeyboardInterrupt):
        append(writer)
    append(writer)
    assert sequences(inner) == [1, 2]


# Crashes and failures at random: what was acknowledged is read back, in order, each once


def recovered(fs: MemoryFileSystem, acknowledged: dict[int, bytes]) -> int:
    """Read the log as recovery does and compare with what was acknowledged; return the next sequence."""
    frames, report = read(fs)
    found = [sequence for sequence, _ in frames]
    assert found == list(range(1, len(found) + 1)), "in order, each once, no gap"
    assert len(found) >= len(acknowledged), "nothing acknowledged is lost"
    texts = dict(frames)
    assert all(texts[sequence] == text for sequence, text in acknowledged.items())
    assert report.missing == []
    for sequence, text in frames:  # what had been written but not acknowledged is now part of the log
        acknowledged.setdefault(sequence, text)
    return len(found) + 1


ALIVE = {"makedirs", "listdir", "size", "open_append", "write"}
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 4)),
        st.tuples(st.just("large"), st.integers(1, 2)),
        st.tuples(st.just("roll"), st.just(0)),
        st.tuples(st.just("restart"), st.just(0)),
        st.tuples(st.just("crash"), st.integers(0, 2**32)),
        st.tuples(st.just("torn"), st.integers(0, 2**32)),
    ),
    max_size=30,
)


@given(steps=STEPS)
@settings(max_examples=200, deadline=None)
def test_crashes_lose_nothing_acknowledged_and_double_nothing(steps: Any) -> None:
    fs = MemoryFileSystem()
    acknowledged: dict[int, bytes] = {}
    writer = WalWriter(fs, DIR, next_sequence=1, segment_bytes=250)
    for attempt, (step, number) in enumerate(steps):
        if step in ("append", "large", "torn"):
            size = 300 if step == "large" else 10
            count = 2 if step == "torn" else number
            group = {writer.next_sequence + index: b"attempt %d " % attempt + bytes(size) for index in range(count)}
            frames = [frame_of(sequence, text) for sequence, text in group.items()]
            if step == "torn":  # the power fails between write and sync
                failing = FailingFileSystem(fs, lambda operation, _: None if operation in ALIVE else broken_disk())
                doomed = WalWriter(failing, DIR, next_sequence=writer.next_sequence, segment_bytes=250)
                with pytest.raises(Unavailable):
                    doomed.append(frames)
                fs = fs.crash(Random(number))
            else:
                writer.append(frames)
                acknowledged |= group
        elif step == "roll":
            writer.roll()
        elif step == "crash":
            fs = fs.crash(Random(number))
        if step in ("crash", "torn", "restart"):
            following = recovered(fs, acknowledged)
            writer = WalWriter(fs, DIR, next_sequence=following, segment_bytes=250)
    recovered(fs, acknowledged)


FAILING_OPERATIONS = ["write", "sync", "truncate", "remove", "close", "open_append"]


@given(
    steps=st.lists(
        st.tuples(st.integers(1, 3), st.sets(st.sampled_from(FAILING_OPERATIONS)), st.integers(0, 100)),
        max_size=15,
    ),
    full=st.booleans(),
    seed=st.none() | st.integers(0, 2**32),
)
@settings(max_examples=300, deadline=None)
def test_failing_disks_lose_nothing_acknowledged_and_double_nothing(steps: Any, full: bool, seed: int | None) -> None:
    inner = MemoryFileSystem()
    broken: set[str] = set()
    share = [0]
    fs = FailingFileSystem(
        inner,
        lambda operation, _: (no_space() if full else broken_disk()) if operation in broken else None,
        written_before_failing=lambda size: size * share[0] // 100,
    )
    writer = WalWriter(fs, DIR, next_sequence=1, segment_bytes=250)
    acknowledged: dict[int, bytes] = {}
    raised: set[type] = set()
    for attempt, (count, failing, percent) in enumerate(steps):
        broken.clear()
        broken |= failing
        share[0] = percent
        group = {writer.next_sequence + index: b"attempt %d" % attempt for index in range(count)}
        try:
            writer.append([frame_of(sequence, text) for sequence, text in group.items()])
        except (DiskFull, Unavailable) as error:
            raised.add(type(error))
        else:
            acknowledged |= group
        assert writer.next_sequence == len(acknowledged) + 1
    assert raised <= {DiskFull if full else Unavailable}
    broken.clear()
    append(writer)
    acknowledged[writer.next_sequence - 1] = text_of(writer.next_sequence - 1)
    found = inner if seed is None else inner.crash(Random(seed))
    frames, report = read(found)
    assert dict(frames) == acknowledged
    assert len(frames) == len(acknowledged)
    assert report.clean


# Payloads


def rows_of(count: int, fields: tuple[int, ...], seed: int = 1) -> Rows:
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 1000, (len(fields), count)) / 10
    values[rng.random(values.shape) < 0.2] = ABSENT
    return Rows(
        np.arange(count, dtype=np.int32) % 7,
        1_700_000_000_000_000_000 + np.arange(count, dtype=np.int64) * 10**9,
        fields,
        values,
    )


def assert_same_rows(got: Rows, want: Rows) -> None:
    assert got.field_ids == want.field_ids
    assert np.array_equal(got.tagset_ids, want.tagset_ids)
    assert np.array_equal(got.times, want.times)
    assert np.array_equal(
        np.ascontiguousarray(got.values).view(np.uint64), np.ascontiguousarray(want.values).view(np.uint64)
    )


@given(
    definitions=st.binary(max_size=20),
    tables=st.lists(
        st.tuples(
            st.integers(0, 2**32 - 1), st.integers(0, 30), st.sets(st.integers(0, 65535), max_size=4).map(sorted)
        ),
        max_size=4,
    ),
)
@settings(max_examples=100, deadline=None)
def test_batches_round_trip(definitions: bytes, tables: list[tuple[int, int, list[int]]]) -> None:
    batch = [(table_id, rows_of(count, tuple(fields), count)) for table_id, count, fields in tables]
    payload = b"".join(encode_batch(definitions, batch))
    got_definitions, got = decode_batch(payload)
    assert got_definitions == definitions
    assert [table_id for table_id, _ in got] == [table_id for table_id, _ in batch]
    for (_, got_rows), (_, rows) in zip(got, batch, strict=True):
        assert_same_rows(got_rows, rows)


def test_frozen_bytes_of_a_batch() -> None:
    rows = Rows(
        np.array([4, 4, 6], np.int32),
        np.array([10**9, 2 * 10**9, 10**9], np.int64),
        (0, 258),
        np.array([[1.5, 2.0, 1.0], [ABSENT, ABSENT, 7.0]]),
    )
    want = (
        "03000000" + b"def".hex() + "01000000"
        "09000000" + "03000000" + "02000000" + "0000" + "0201"
        "1108000002"  # tag sets: 4 + (0, 0, 2)
        "21" + "80a8d6b907" + "8094ebdc03" + "000100"  # times: 1e9 + (0, 1, 0) x 1e9
        "91" + "11" + "14" + "050a00"  # tenths: 10 + (5, 10, 0)
        "a0" + "04" + "010e"  # the third cell: 7
    )  # fmt: skip
    assert b"".join(encode_batch(b"def", [(9, rows)])).hex() == want
    definitions, [(table_id, got)] = decode_batch(bytes.fromhex(want))
    assert (bytes(definitions), table_id) == (b"def", 9)
    assert_same_rows(got, rows)


def test_rows_in_any_layout_can_be_logged() -> None:
    rows = rows_of(50, (1, 2, 3))
    for selector in (rows.tagset_ids == 3, slice(10, 20), slice(0, 40, 3), slice(0, 0)):
        part = rows.take(selector)
        _, [(_, got)] = decode_batch(b"".join(encode_batch(b"", [(1, part)])))
        assert_same_rows(got, part)


def test_decoded_rows_do_not_hold_on_to_the_payload() -> None:
    data = bytearray(b"".join(encode_batch(b"d", [(1, rows_of(9, (1,)))])))
    definitions, [(_, rows)] = decode_batch(data)
    definitions.release()
    data.clear()  # a buffer that is still viewed refuses this
    assert_same_rows(rows, rows_of(9, (1,)))


PAYLOAD = b"".join(encode_batch(b"definitions", [(1, rows_of(20, (1, 2))), (5, rows_of(3, (0,)))]))


@pytest.mark.parametrize("size", range(len(PAYLOAD)))
def test_payloads_cut_at_every_byte(size: int) -> None:
    with pytest.raises(ValueError, match=r"cannot (decode batch|unpack a column): got .*, want .*offset \d+"):
        decode_batch(PAYLOAD[:size])


def decode_or_refuse(data: bytes) -> None:
    try:
        definitions, tables = decode_batch(data)
    except ValueError:
        return
    again = b"".join(encode_batch(definitions, tables))
    assert decode_batch(again)[0] == definitions


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_damaged_payloads_are_decoded_or_refused(data: st.DataObject) -> None:
    payload = bytearray(PAYLOAD)
    for _ in range(data.draw(st.integers(1, 3))):
        bit = data.draw(st.integers(0, 8 * len(payload) - 1))
        payload[bit // 8] ^= 1 << bit % 8
    decode_or_refuse(bytes(payload))


@given(payload=st.binary(max_size=60))
@settings(max_examples=200, deadline=None)
def test_random_payloads_are_decoded_or_refused(payload: bytes) -> None:
    decode_or_refuse(payload)
    decode_or_refuse(struct.pack("<IIIII", 0, 1, 1, len(payload), 1) + b"\x00\x00" + payload)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (struct.pack("<II", 5, 0), r"got 4 bytes, want 5 of definitions \(offset 4\)"),
        (struct.pack("<III", 0, 0, 0), r"got 4 bytes more, want none \(offset 8\)"),
        (struct.pack("<II", 0, 1), r"got 0 bytes, want 12 \(offset 8\)"),
        (struct.pack("<IIIII", 0, 1, 1, 0, 2), r"got 0 bytes, want 4 of field numbers \(offset 20\)"),
        (
            struct.pack("<IIIIIHH", 0, 1, 1, 0, 2, 3, 3),
            r"got field numbers out of order, want ascending \(offset 20\)",
        ),
        (
            struct.pack("<IIIII", 0, 1, 1, 1 << 27, 0) + bytes.fromhex("0100" * 2),
            r"got 134217728 rows of 0 fields, want at most 134217728 cells in all and 65536 fields \(offset 8\)",
        ),
        (struct.pack("<IIIII", 0, 1, 1, 0, 65537) + bytes(2 * 65537 + 2), r"rows of 65537 fields, want at most"),
    ],
)
def test_payload_complaints_say_what_and_where(payload: bytes, message: str) -> None:
    with pytest.raises(ValueError, match="cannot decode batch: .*" + message):
        decode_batch(payload)


def test_a_batch_that_no_frame_can_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payload_module, "MAX_BATCH_CELLS", 100)
    with pytest.raises(BadRequest, match=r"got \d+ cells, want at most 100; send smaller batches"):
        encode_batch(b"", [(1, rows_of(20, (1, 2, 3)))])
    monkeypatch.setattr(payload_module, "MAX_BATCH_CELLS", 10_000)
    monkeypatch.setattr(payload_module, "MAX_PAYLOAD_BYTES", 50)
    with pytest.raises(BadRequest, match=r"got \d+ bytes, want at most 50; send smaller batches"):
        encode_batch(b"definitions", [(1, rows_of(20, (1, 2, 3)))])
