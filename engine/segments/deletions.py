"""Deletions: which rows do not count any more, although segments or log files still hold them.

A deletion is one entry of the manifest, and that makes it durable: from then on readers leave out its rows, whatever
file they are in, recovery does not bring them back, and each rewriting drops them.  It ends when no listed segment and
no part of the log that recovery would read can hold such a row (docs/formats/manifest.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from engine.model.rows import NEVER_NS, Int32Array, Rows
from engine.segments.layout import SegmentMeta

TagsetRanges = tuple[tuple[int, int], ...]


class Hole(msgspec.Struct, frozen=True, array_like=True):
    """Rows of one table that do not count: those of these tag sets in ``[start_ns, end_ns)``.

    ``tagsets``: ranges of numbers, both ends included, ascending and apart; None for all tag sets.
    """

    start_ns: int
    end_ns: int
    tagsets: TagsetRanges | None = None


class Deletion(msgspec.Struct, frozen=True, kw_only=True):
    """Rows of one table that were deleted; a row that is written again later counts.

    Rows of the log up to sequence ``through`` are meant, and rows in segment files whose sequence is below
    ``before_file``.  ``tiers``: whether the rollup tiers have followed.
    """

    table_id: int
    tagsets: TagsetRanges
    start_ns: int
    end_ns: int
    through: int
    before_file: int
    created_ns: int
    tiers: bool = False

    @property
    def hole(self) -> Hole:
        return Hole(self.start_ns, self.end_ns, self.tagsets)

    def tagset_ids(self) -> Int32Array:
        """Return the tag sets' numbers, int32, ascending."""
        return ids_of(self.tagsets)


def ranges_of(tagset_ids: npt.NDArray[np.int32]) -> TagsetRanges:
    """Return ascending numbers as ranges with both ends included."""
    if not len(tagset_ids):
        return ()
    ends = np.flatnonzero(np.diff(tagset_ids) > 1)
    firsts = tagset_ids[np.r_[0, ends + 1]].tolist()
    lasts = tagset_ids[np.r_[ends, len(tagset_ids) - 1]].tolist()
    return tuple(zip(firsts, lasts, strict=True))


def ids_of(ranges: TagsetRanges) -> Int32Array:
    """Return the numbers in ranges, int32, ascending."""
    parts = [np.arange(first, last + 1, dtype=np.int32) for first, last in ranges]
    return np.concatenate(parts) if parts else np.empty(0, np.int32)


def holes_of(deletions: Iterable[Deletion], meta: SegmentMeta) -> tuple[Hole, ...]:
    """Return the holes that deletions make in a segment."""
    return tuple(each.hole for each in deletions if touches(each, meta))


def touches(deletion: Deletion, meta: SegmentMeta) -> bool:
    """Return whether a segment may hold rows of a deletion."""
    return (
        deletion.table_id == meta.table_id
        and meta.sequence < deletion.before_file
        and meta.min_time_ns < deletion.end_ns
        and meta.max_time_ns >= deletion.start_ns
    )


def hole_mask(rows: Rows, hole: Hole) -> npt.NDArray[np.bool_]:
    """Return which rows lie in a hole."""
    inside: npt.NDArray[np.bool_] = (rows.times >= hole.start_ns) & (rows.times < hole.end_ns)
    if hole.tagsets is not None and not hole.tagsets:
        return np.zeros(len(rows), np.bool_)
    if hole.tagsets is not None:
        firsts = np.array([first for first, _ in hole.tagsets], np.int32)
        lasts = np.array([last for _, last in hole.tagsets], np.int32)
        at = np.searchsorted(firsts, rows.tagset_ids, side="right") - 1
        inside &= (at >= 0) & (rows.tagset_ids <= lasts[at])
    return inside


def without_holes(rows: Rows, holes: Sequence[Hole]) -> Rows:
    """Return the rows outside of all holes; the same object when that is all of them."""
    if not holes or not len(rows):
        return rows
    gone = np.zeros(len(rows), np.bool_)
    for hole in holes:
        gone |= hole_mask(rows, hole)
    return rows.take(~gone) if gone.any() else rows


def surviving(deletions: Iterable[Deletion], table_id: int, rows: Rows, sequence: int) -> Rows:
    """Return the rows of a log frame that no deletion has removed: what replay may bring back."""
    holes = [each.hole for each in deletions if each.table_id == table_id and sequence <= each.through]
    return without_holes(rows, holes)


def still_needed(
    deletions: Iterable[Deletion], segments: Iterable[SegmentMeta], wal_floor: int
) -> tuple[Deletion, ...]:
    """Return the deletions that must be kept: their rows may be in a segment or in the log, or the tiers lack them."""
    kept = []
    metas: list[SegmentMeta] | None = None
    for each in deletions:
        if each.tiers and wal_floor >= each.through:
            metas = list(segments) if metas is None else metas
            if not any(touches(each, meta) for meta in metas):
                continue
        kept.append(each)
    return tuple(kept)


def expired_hole(before_ns: int) -> Hole:
    """Return the hole that retention makes: everything older than ``before_ns``."""
    return Hole(NEVER_NS, before_ns)
