"""A piece of a file, small enough for one request, and where in the file it came from."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from api.cli import WrongUse

if TYPE_CHECKING:
    import pyarrow as pa

#: Format -> suffixes by which it is recognised, once ``.gz``, ``.zst`` and the like are taken off.
SUFFIXES = {
    "lp": (".lp", ".line", ".influx", ".txt"),
    "prom": (".prom", ".metrics", ".openmetrics"),
    "csv": (".csv",),
    "parquet": (".parquet", ".pq"),
    "arrow": (".arrow", ".feather", ".ipc", ".arrows"),
}
#: Suffixes of compressed text that can be read.
COMPRESSED = (".gz", ".zst", ".bz2", ".lz4")


@dataclass(frozen=True, slots=True)
class Place:
    """How far into a file everything before has been read.

    ``offset`` counts bytes of decompressed text, or rows of a table.  ``line`` is the number of lines (rows) before
    it, for messages.
    """

    offset: int = 0
    line: int = 0


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that never reached the server.  ``line`` counts from 1 as an editor does."""

    line: int
    cause: str
    message: str


@dataclass(frozen=True, slots=True)
class Piece:
    """What one request carries: text, or the rows of one table.

    ``lines``: for each line or row of the request where it stands in the file, from 1.  ``end``: the place behind it.
    ``read_bytes``: how much of the file on disk had been read by then, for the progress.
    """

    data: bytes | pa.Table
    lines: Sequence[int]
    end: Place
    read_bytes: int
    bad: tuple[BadRow, ...] = ()


def format_of(path: str) -> str:
    """Return the format that a file's name tells; raises WrongUse when it tells none."""
    name = os.path.basename(path).lower()
    for suffix in COMPRESSED:
        name = name.removesuffix(suffix)
    for form, suffixes in SUFFIXES.items():
        if name.endswith(suffixes):
            return form
    known = ", ".join(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)
    raise WrongUse(f"cannot tell the format of {path}: use --format, or a name that ends in one of {known}")
