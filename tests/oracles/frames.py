"""Frames with ``struct``: the format page (docs/formats/wal.md, "Frame") written as code."""

from __future__ import annotations

import struct

from tests.oracles.checksum import crc32c

HEADER = struct.Struct("<IIBQ")
MAX_PAYLOAD_BYTES = 256 * 1024 * 1024

Frame = tuple[int, int, int, int]


def encode_frame(kind: int, sequence: int, parts: list[bytes]) -> bytes:
    payload = b"".join(parts)
    checked = struct.pack("<BQ", kind, sequence) + payload
    return struct.pack("<II", len(payload), crc32c(checked)) + checked


def read_frame(data: bytes, offset: int) -> tuple[Frame | None, str]:
    """Return the frame at ``offset`` or None, and what is the matter."""
    rest = data[offset:]
    if not rest:
        return None, "end"
    if len(rest) < HEADER.size:
        return None, "torn"
    length, checksum, kind, sequence = HEADER.unpack_from(rest)
    if not any(rest):
        return None, "torn"
    if length > MAX_PAYLOAD_BYTES:
        return None, "bad_length"
    if HEADER.size + length > len(rest):
        return None, "torn"
    if crc32c(rest[8 : HEADER.size + length]) != checksum:
        return None, "bad_checksum"
    return (kind, sequence, offset + HEADER.size, offset + HEADER.size + length), "intact"


def scan_frames(data: bytes, offset: int = 0, max_frames: int | None = None) -> tuple[list[Frame], int, str]:
    frames: list[Frame] = []
    while max_frames is None or len(frames) < max_frames:
        frame, status = read_frame(data, offset)
        if frame is None:
            return frames, offset, status
        frames.append(frame)
        offset = frame[3]
    return frames, offset, "end" if offset == len(data) else "more"


def find_frame(data: bytes, offset: int, lowest_sequence: int, highest_sequence: int) -> int:
    for at in range(offset, len(data)):
        frame, _ = read_frame(data, at)
        if frame is not None and lowest_sequence <= frame[1] <= highest_sequence:
            return at
    return -1
