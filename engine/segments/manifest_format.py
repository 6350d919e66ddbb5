"""One version of the manifest: the object, and the bytes of its file (docs/formats/manifest.md)."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

import msgspec

from engine.errors import Damage, NewerFormat
from engine.segments.deletions import Deletion
from engine.segments.layout import SegmentMeta
from native.checksum import crc32c

#: 1 had no deletions; it is still read.
MANIFEST_FORMAT = 2
_CHECKSUM_LINE = re.compile(rb"crc32c ([0-9a-f]{8})\n")
_CHECKSUM_LINE_BYTES = 16


class _AnyManifest(msgspec.Struct):
    """The part of a manifest that every version of the format has."""

    format: int


class _ManifestBody(msgspec.Struct, kw_only=True):
    """The first line of a manifest file, as JSON."""

    format: int
    version: int
    next_sequence: int
    wal_floor: int
    segments: tuple[SegmentMeta, ...]
    deletions: tuple[Deletion, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """One version of the truth; immutable.

    ``segments`` are ordered by table number and start.  Segment files to come have a sequence of at least
    ``next_sequence``.  All rows with a log sequence of at most ``wal_floor`` are in ``segments``, but for those that
    ``deletions`` have removed.
    """

    version: int = 0
    next_sequence: int = 1
    wal_floor: int = 0
    segments: tuple[SegmentMeta, ...] = ()
    deletions: tuple[Deletion, ...] = ()
    _by_table: dict[int, tuple[SegmentMeta, ...]] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self._by_table:
            return
        grouped: dict[int, list[SegmentMeta]] = {}
        for meta in self.segments:
            grouped.setdefault(meta.table_id, []).append(meta)
        self._by_table.update((table_id, tuple(metas)) for table_id, metas in grouped.items())

    def files(self) -> frozenset[str]:
        """Return the files that count, relative to the data directory."""
        return self._files

    @cached_property
    def _files(self) -> frozenset[str]:
        return frozenset(meta.file for meta in self.segments)

    def tables(self) -> dict[int, tuple[SegmentMeta, ...]]:
        """Return the segments by table, in a mapping of the caller's own."""
        return dict(self._by_table)

    def of_table(self, table_id: int) -> tuple[SegmentMeta, ...]:
        """Return a table's segments in order of time; their ranges are disjoint."""
        return self._by_table.get(table_id, ())

    def overlapping(self, table_id: int, start_ns: int, end_ns: int) -> tuple[SegmentMeta, ...]:
        """Return the table's segments whose range meets ``[start_ns, end_ns)``, in order of time."""
        metas = self.of_table(table_id)
        first = bisect_left(metas, start_ns + 1, key=lambda meta: meta.end_ns)
        last = bisect_left(metas, end_ns, key=lambda meta: meta.start_ns)
        return metas[first:last]


def encode_manifest(manifest: Manifest) -> bytes:
    """Return a manifest file: JSON on one line, then a line with the CRC-32C of the first line and its
    end.
    """
    body = msgspec.json.encode(
        _ManifestBody(
            format=MANIFEST_FORMAT,
            version=manifest.version,
            next_sequence=manifest.next_sequence,
            wal_floor=manifest.wal_floor,
            segments=manifest.segments,
            deletions=manifest.deletions,
        )
    )
    body += b"\n"
    return body + b"crc32c %08x\n" % crc32c(body)


def decode_manifest(data: bytes, path: str) -> Manifest:
    """Return the manifest in a file's bytes; raises Damage with ``path``, NewerFormat for a newer format."""
    body, line = data[:-_CHECKSUM_LINE_BYTES], data[-_CHECKSUM_LINE_BYTES:]
    match = _CHECKSUM_LINE.fullmatch(line)
    if not match:
        raise Damage("cannot read manifest: it does not end in a checksum", path=path, offset=len(body))
    if crc32c(body) != int(match[1], 16):
        raise Damage(f"cannot read manifest: got checksum {crc32c(body):08x}, want {int(match[1], 16):08x}", path=path)
    try:
        version = msgspec.json.decode(body, type=_AnyManifest).format
        if version > MANIFEST_FORMAT:
            raise NewerFormat(
                f"cannot read manifest: got format {version}, want at most {MANIFEST_FORMAT};"
                " it was written by a newer version",
                path=path,
            )
        decoded = msgspec.json.decode(body, type=_ManifestBody)
    except msgspec.MsgspecError as error:
        raise Damage(f"cannot read manifest: {error}", path=path) from None
    problem = overlap_in(decoded.segments)
    if problem:
        raise Damage(f"cannot read manifest: {problem}", path=path)
    return Manifest(decoded.version, decoded.next_sequence, decoded.wal_floor, decoded.segments, decoded.deletions)


def overlap_in(segments: Iterable[SegmentMeta]) -> str | None:
    """Return what is wrong with a list of segments that should be ordered, disjoint per table, and all
    different.
    """
    previous: SegmentMeta | None = None
    files: set[str] = set()
    for meta in segments:
        if meta.start_ns >= meta.end_ns:
            return f"{meta.file} has an empty range"
        if meta.file in files:
            return f"{meta.file} is listed twice"
        files.add(meta.file)
        if previous is not None and (meta.table_id, meta.start_ns) < (previous.table_id, previous.start_ns):
            return f"{meta.file} is listed out of order"
        if previous is not None and previous.table_id == meta.table_id and previous.end_ns > meta.start_ns:
            return f"{meta.file} overlaps {previous.file}"
        previous = meta
    return None
