"""Log files: their names and their header (docs/formats/wal.md, "File").

A file is called after the first sequence number it may hold, as 16 hexadecimal digits, so that names sort
as the log was written.  The header repeats that number; its form is the same in every version.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from engine.disk.filesystem import FileSystem
from native.checksum import crc32c

MAGIC = b"TGWAL\x00\x00"
VERSION = 1
HEADER_BYTES = 20
SUFFIX = ".wal"
FRAME_BATCH = 1  # kind of a frame whose payload is a batch (engine.wal.payload)

_HEADER = struct.Struct("<7sBQI")
_NAME_DIGITS = 16


@dataclass(slots=True)
class WalFile:
    """A log file: no frame in it has a sequence below ``first_sequence``."""

    first_sequence: int
    path: str
    size_bytes: int


def path_of(directory: str, first_sequence: int) -> str:
    return f"{directory}/{first_sequence:0{_NAME_DIGITS}x}{SUFFIX}"


def list_files(fs: FileSystem, directory: str) -> list[WalFile]:
    """Return the log files of a directory, oldest first; files set aside have other names."""
    files = []
    for name in fs.listdir(directory):
        digits = name.removesuffix(SUFFIX)
        if name == digits or len(digits) != _NAME_DIGITS or digits.strip("0123456789abcdef"):
            continue
        path = f"{directory}/{name}"
        files.append(WalFile(int(digits, 16), path, fs.size(path)))
    return sorted(files, key=lambda file: file.first_sequence)


def encode_header(first_sequence: int, version: int = VERSION) -> bytes:
    checked = MAGIC + struct.pack("<BQ", version, first_sequence)
    return checked + struct.pack("<I", crc32c(checked))


def newer_version(data: memoryview) -> int | None:
    """Return the version of an intact header of a later version than this program knows, else None."""
    if len(data) < HEADER_BYTES:
        return None
    magic, version, _, checksum = _HEADER.unpack_from(data)
    intact = magic == MAGIC and crc32c(data[: HEADER_BYTES - 4]) == checksum
    return int(version) if intact and version > VERSION else None
