"""What a detector knows, as bytes: named arrays behind a header that says what they are (docs/formats/detectors.md)."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import Damage, NewerFormat
from native.checksum import crc32c

MAGIC = b"TGDET\x00\x00"
#: Version 1 is what was written before the univariate detector had weeks; the block itself is the same.
VERSION = 2
#: magic, version, length of the description, CRC-32C of description and arrays
_HEADER = struct.Struct("<7sBII")

Arrays = dict[str, npt.NDArray[Any]]


def encode(kind: str, arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """Return ``arrays``, which are little-endian, as one block of ``kind``."""
    description = json.dumps(
        {"kind": kind, "arrays": [[name, array.dtype.str, list(array.shape)] for name, array in arrays.items()]},
        separators=(",", ":"),
    ).encode()
    # Copied once: what is known of 100,000 series is 145 MB.
    parts = [memoryview(description)]
    parts += [np.ascontiguousarray(array).reshape(-1).view(np.uint8).data for array in arrays.values()]
    checksum = 0
    for part in parts:
        checksum = crc32c(part, checksum)
    return b"".join([_HEADER.pack(MAGIC, VERSION, len(description), checksum), *parts])


def decode(kind: str, data: bytes | memoryview, path: str) -> Arrays:
    """Return the arrays of a block; raises Damage where it is not one of ``kind``, NewerFormat for a later version.

    ``path`` is where it comes from, for the message.
    """
    view = memoryview(data)
    if len(view) < _HEADER.size:
        raise _damage(path, f"got {len(view)} bytes, want at least {_HEADER.size}")
    magic, version, length, checksum = _HEADER.unpack_from(view)
    if magic != MAGIC:
        raise _damage(path, "it does not begin like one")
    if version > VERSION:
        raise NewerFormat(f"cannot read detector state: got version {version}, want at most {VERSION}", path=path)
    body = view[_HEADER.size :]
    if version < 1 or length > len(body) or crc32c(body) != checksum:
        raise _damage(path, "its checksum is wrong")
    description = json.loads(bytes(body[:length]))
    if description["kind"] != kind:
        raise _damage(path, f"got one of {description['kind']!r}, want {kind!r}")
    arrays: Arrays = {}
    offset = length
    for name, dtype, shape in description["arrays"]:
        count = int(np.prod(shape, dtype=np.int64))
        bytes_of = count * np.dtype(dtype).itemsize
        if offset + bytes_of > len(body):
            raise _damage(path, f"array {name!r} ends beyond it")
        arrays[name] = np.frombuffer(body, dtype, count, offset).reshape(shape).copy()
        offset += bytes_of
    if offset != len(body):
        raise _damage(path, f"{len(body) - offset} bytes are left over")
    return arrays


def _damage(path: str, why: str) -> Damage:
    return Damage(f"cannot read detector state: {why}", path=path)
