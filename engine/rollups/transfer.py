"""Pieces of a flush as bytes, for the way to the query process.

u32 header length | header (JSON) | arrays, each padded to a multiple of 8 bytes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.rollups.bins import Bins
from engine.rollups.pairs import Pairs
from engine.rollups.rows import SHARED_NAMES, TierRows
from engine.rollups.store import Piece
from native.tiers import VALUE_NAMES

_ROWS = ("tagset_ids", "times", *SHARED_NAMES, *VALUE_NAMES, "increases")


def pieces_to_buffers(pieces: Sequence[Piece]) -> list[bytes | memoryview]:
    """Return buffers that make up the bytes of these pieces; arrays are not copied where they are contiguous."""
    arrays: list[npt.NDArray[Any]] = []
    header = []

    def put(array: npt.NDArray[Any]) -> list[Any]:
        arrays.append(np.ascontiguousarray(array))
        return [array.dtype.str, list(array.shape)]

    for piece in pieces:
        rows = piece.rows
        header.append(
            {
                "table_id": piece.table_id,
                "field_ids": rows.field_ids,
                "counters": rows.counters,
                "rows": [put(getattr(rows, name)) for name in _ROWS],
                "pairs": [put(piece.pairs.tagset_ids), put(piece.pairs.buckets)],
                "histograms": [
                    [number, put(bins.offsets), put(bins.bins), put(bins.counts)]
                    for number, bins in rows.histograms.items()
                ],
            }
        )
    head = json.dumps(header).encode()
    head += b" " * (-(len(head) + 4) % 8)
    buffers: list[bytes | memoryview] = [len(head).to_bytes(4, "little") + head]
    for array in arrays:
        if array.nbytes:
            buffers.append(array.data.cast("B"))
            buffers.append(bytes(-array.nbytes % 8))
    return [buffer for buffer in buffers if len(buffer)]


def pieces_from_bytes(data: bytes | bytearray | memoryview) -> list[Piece]:
    """Return the pieces; their arrays are views of ``data``."""
    view = memoryview(data)
    size = int.from_bytes(view[:4], "little")
    offset = 4 + size

    def take(described: list[Any]) -> npt.NDArray[Any]:
        nonlocal offset
        dtype, shape = np.dtype(described[0]), tuple(described[1])
        count = int(np.prod(shape))
        array = np.frombuffer(view, dtype, count, offset) if count else np.empty(0, dtype)
        offset += (count * dtype.itemsize + 7) // 8 * 8
        return array.reshape(shape)

    pieces = []
    for each in json.loads(bytes(view[4:offset])):
        lines = dict(zip(_ROWS, [take(described) for described in each["rows"]], strict=True))
        pairs = Pairs(*[take(described) for described in each["pairs"]])
        histograms = {
            int(number): Bins(take(offsets), take(bins), take(counts))
            for number, offsets, bins, counts in each["histograms"]
        }
        rows = TierRows(
            field_ids=tuple(each["field_ids"]), counters=tuple(each["counters"]), histograms=histograms, **lines
        )
        pieces.append(Piece(each["table_id"], rows, pairs))
    return pieces
