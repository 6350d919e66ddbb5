"""Definitions as ``catalog.log`` keeps them: deflated where that is shorter (docs/formats/catalogue.md, version 2)."""

from __future__ import annotations

import zlib

#: Version 1: definitions as they are.  Version 2: u8 2, u32 length of the definitions, a zlib stream of them.
PACKED_VERSION = 2
_HEAD_BYTES = 5
Bytes = bytes | memoryview


def pack_definitions(definitions: bytes) -> bytes:
    """Return what to write for definitions: themselves, or packed when that is shorter."""
    packed = bytes([PACKED_VERSION]) + len(definitions).to_bytes(4, "little") + zlib.compress(definitions, 6)
    return packed if len(packed) < len(definitions) else definitions


def unpack_definitions(payload: Bytes) -> Bytes:
    """Return the definitions in a payload; raises ValueError when it is not what packing made."""
    if not len(payload) or payload[0] != PACKED_VERSION:
        return payload
    length = int.from_bytes(payload[1:_HEAD_BYTES], "little")
    stream = zlib.decompressobj()
    try:
        definitions = stream.decompress(payload[_HEAD_BYTES:], length + 1)
    except zlib.error as error:
        raise ValueError(f"packed definitions cannot be unpacked: {error}") from None
    if len(definitions) != length or not stream.eof or stream.unused_data:
        raise ValueError(
            f"packed definitions have {len(definitions)} bytes or more, want {length} and nothing behind them"
        )
    return definitions
