"""Text files (line protocol, Prometheus text) cut at line ends, compressed or not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

from api.bulk.pieces import COMPRESSED, Piece, Place
from engine.errors import BadRequest

if TYPE_CHECKING:
    import pyarrow as pa

#: Bytes of text a request.  Larger ones would hold up live writers, whose rows are decoded by the same thread.
PIECE_BYTES = 1 << 20
#: A line longer than this is no line of text; the file is something else.
MAX_LINE_BYTES = 16 << 20


def text_pieces(path: str, start: Place, *, piece_bytes: int = PIECE_BYTES) -> Iterator[Piece]:
    """Yield the file from ``start`` on, in pieces of whole lines of about ``piece_bytes``.

    Raises BadRequest, naming the file, when it cannot be decompressed or has a line beyond ``MAX_LINE_BYTES``.
    """
    with open(path, "rb", buffering=0) as raw:
        source = decompressed(raw, path)
        compressed = source is not raw
        if not compressed:
            raw.seek(start.offset)
        offset, line = (0, 0) if compressed else (start.offset, start.line)
        rest = b""
        while True:
            try:
                read = source.read(piece_bytes)
            except OSError as error:
                raise BadRequest(
                    f"cannot read {path}: it is damaged after byte {offset + len(rest)}: {error}"
                ) from None
            data = bytes(rest + (read or b""))
            cut = data.rfind(b"\n") + 1 if read else len(data)
            if read and not cut and len(data) > MAX_LINE_BYTES:
                raise BadRequest(f"cannot read {path}: line {line + 1} is longer than {MAX_LINE_BYTES} bytes")
            body, rest = data[:cut], data[cut:]
            if body:
                first_line = line + 1
                offset += len(body)
                line += body.count(b"\n") + (not body.endswith(b"\n"))
                # A compressed file cannot be entered in the middle: what was loaded before is read past.
                if offset > start.offset:
                    yield Piece(body, range(first_line, line + 1), Place(offset, line), raw.tell())
            if not read:
                return


def decompressed(raw: IO[bytes], path: str) -> Any:
    """Return what to read from: the file itself, or a decompressing stream over it."""
    suffix = os.path.splitext(path)[1].lower()
    if suffix not in COMPRESSED:
        return raw
    import pyarrow as pa

    codec = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2", ".lz4": "lz4"}[suffix]
    stream: pa.CompressedInputStream = pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), codec)
    return stream
