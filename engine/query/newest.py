"""The newest sample of every field of every tag set, from what is known in memory and from no more files than that
leaves open.

A source (segment or hot block) is reduced to its own newest samples, which are few, and the newest of those wins; of
two at one time the later arrival.  So it does not matter in what order samples came.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.hot.store import BlockView
from engine.model.rows import (
    FOREVER_NS,
    NEVER_NS,
    Float64Array,
    Int32Array,
    Int64Array,
    Rows,
    absent_matrix,
    sort_merge,
)
from engine.query.samples import SampleStore, Snapshot
from engine.segments.layout import SegmentMeta
from native.columns import is_absent

#: Samples of segments reduced to their newest that are kept: 16 MB.
MAX_KEPT_CELLS = 1 << 20


class NotPrompt(Exception):
    """What was asked for cannot be had at once."""


@dataclass(frozen=True, slots=True)
class NewestSamples:
    """``tagset_ids``: int32[n] ascending; ``times``: int64[fields, n], NEVER_NS where there is none; ``values``."""

    tagset_ids: Int32Array
    field_ids: tuple[int, ...]
    times: Int64Array
    values: Float64Array

    def rows(self) -> Rows:
        """Return the rows that hold these samples, sorted by (tag set, time), and no other sample."""
        if not self.field_ids or not len(self.tagset_ids):
            return Rows.empty(self.field_ids)
        owners, times = np.broadcast_to(self.tagset_ids, self.times.shape), self.times
        known = times != NEVER_NS
        keys = np.unique(np.stack([owners[known].astype(np.int64), times[known]], axis=1), axis=0)
        values = absent_matrix(len(self.field_ids), len(keys))
        if len(keys) == len(self.tagset_ids) and bool((times == times[0]).all()):
            values = np.ascontiguousarray(self.values)
        else:
            starts = np.searchsorted(keys[:, 0], self.tagset_ids)
            ends = np.searchsorted(keys[:, 0], self.tagset_ids, side="right")
            for index in range(len(self.field_ids)):
                for place in np.flatnonzero(known[index]).tolist():
                    first, last = int(starts[place]), int(ends[place])
                    row = first + int(np.searchsorted(keys[first:last, 1], times[index, place]))
                    values[index, row] = self.values[index, place]
        return Rows(keys[:, 0].astype(np.int32), np.ascontiguousarray(keys[:, 1]), self.field_ids, values)


class NewestReader:
    """Finds newest samples of one engine; callable from any thread."""

    def __init__(self, samples: SampleStore) -> None:
        self._samples = samples
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[object, ...], NewestSamples] = OrderedDict()
        self._cells = 0

    def newest(
        self,
        table_id: int,
        tagset_ids: Int32Array,
        field_ids: Sequence[int],
        start_ns: int = NEVER_NS,
        *,
        promptly: bool = False,
    ) -> NewestSamples:
        """Return the newest sample at or after ``start_ns`` of each of these fields and tag sets (both ascending).

        ``promptly``: raise NotPrompt where that is not known without reading rows.
        """
        samples, fields = self._samples, tuple(field_ids)
        with samples.reading():
            with samples.hot.lock:
                snapshot = samples.snapshot(table_id, start_ns, FOREVER_NS)
                times, values, unknown = samples.hot.latest_of(table_id, tagset_ids, fields)
            found = NewestSamples(tagset_ids, fields, times, values)
            # What is known in memory is the newest of all that has come since the start, save for what was forgotten.
            below, until_ns = unknown
            for source in _newest_first(snapshot):
                if not (fields and len(tagset_ids)):
                    break
                wanted = (tagset_ids < below) & (times.min(axis=0) < min(source.max_time_ns, until_ns))
                if wanted.any():
                    if promptly:
                        raise NotPrompt
                    self._take(found, source, tagset_ids[wanted])
        old = times < snapshot.start_ns
        times[old] = NEVER_NS
        values[old] = absent_matrix(1, 1)[0, 0]
        return found

    def _take(self, found: NewestSamples, source: SegmentMeta | BlockView, wanted: Int32Array) -> None:
        if isinstance(source, SegmentMeta):
            reduced = self._of_segment(source, found.field_ids)
        else:
            rows = source.rows
            mask = np.isin(rows.tagset_ids, wanted)
            reduced = _reduced(sort_merge(rows.take(mask)), found.field_ids)
        places, inside = _places(found.tagset_ids, reduced.tagset_ids)
        for index in range(len(found.field_ids)):
            newer = inside & (reduced.times[index] > found.times[index, places])
            found.times[index, places[newer]] = reduced.times[index, newer]
            found.values[index, places[newer]] = reduced.values[index, newer]

    def _of_segment(self, meta: SegmentMeta, field_ids: tuple[int, ...]) -> NewestSamples:
        holes = self._samples.holes(meta)
        key = (meta.file, meta.footer_crc32c, holes, field_ids)
        with self._lock:
            known = self._kept.get(key)
            if known is not None:
                self._kept.move_to_end(key)
                return known
        reduced = _reduced(self._samples.read(meta, NEVER_NS, FOREVER_NS, None, field_ids), field_ids)
        with self._lock:
            if reduced.times.size <= MAX_KEPT_CELLS // 4 and key not in self._kept:
                self._kept[key] = reduced
                self._cells += reduced.times.size
                while self._cells > MAX_KEPT_CELLS:
                    _, dropped = self._kept.popitem(last=False)
                    self._cells -= dropped.times.size
        return reduced


def _newest_first(snapshot: Snapshot) -> list[SegmentMeta | BlockView]:
    """Return the sources so that of two with the same key the one that arrived later comes first."""
    segments = sorted((*snapshot.settled, *snapshot.disturbed), key=lambda meta: meta.max_time_ns, reverse=True)
    return [*reversed(snapshot.late), *reversed(snapshot.fresh), *segments]


def _reduced(rows: Rows, field_ids: tuple[int, ...]) -> NewestSamples:
    """Return the newest samples of sorted rows."""
    if not len(rows):
        empty = np.empty((len(field_ids), 0))
        return NewestSamples(np.empty(0, np.int32), field_ids, empty.astype(np.int64), empty)
    starts = np.flatnonzero(np.concatenate(([True], rows.tagset_ids[1:] != rows.tagset_ids[:-1])))
    lasts = np.append(starts[1:], len(rows)) - 1
    times = np.full((len(field_ids), len(starts)), NEVER_NS, np.int64)
    values = absent_matrix(len(field_ids), len(starts))
    for index, field_id in enumerate(field_ids):
        if field_id not in rows.field_ids:
            continue
        column = rows.values[rows.field_ids.index(field_id)]
        absent = is_absent(np.ascontiguousarray(column))
        places = lasts
        if absent[lasts].any():
            present = np.where(absent, -1, np.arange(len(rows)))
            places = np.maximum.reduceat(present, starts)
            # A tag set without a sample has the place of an earlier one, or none.
            places = np.where(places >= starts, places, -1)
        known = places >= 0
        times[index, known] = rows.times[places[known]]
        values[index, known] = column[places[known]]
    return NewestSamples(rows.tagset_ids[starts], field_ids, times, values)


def _places(among: Int32Array, numbers: Int32Array) -> tuple[Int64Array, npt.NDArray[np.bool_]]:
    """Return the place of each number in the ascending ``among``, and which are there at all."""
    places = np.searchsorted(among, numbers)
    if not len(among):
        return places, np.zeros(len(numbers), np.bool_)
    places[places == len(among)] = 0
    return places, among[places] == numbers
