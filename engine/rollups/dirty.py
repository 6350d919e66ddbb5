"""Which 1m buckets must be recomputed, and their recomputation.

Every appended row marks its (tag set, minute).  A flush recomputes the marked buckets wholly from the de-duplicated raw
samples, wherever these are, so that late, repeated and corrected samples need no case of their own; the store replaces
the buckets and carries the change up the tiers.  A flush that fails keeps its marks for the next one.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from engine.clock import NS_PER_HOUR, NS_PER_MINUTE
from engine.errors import Damage
from engine.model.rows import Int32Array, Int64Array, Rows
from native.rollup import BucketColumns, aggregate, select_buckets, touched_buckets

LOG = logging.getLogger("tidegauge.rollups")

Collect = Callable[[int, int, int, Int32Array], Rows]
FlushBuckets = Callable[[pa.Table, pa.Table, int], None]

#: Buckets are recomputed a window at a time, so that one flush never reads more raw rows than a window holds.
WINDOW_NS = 2 * NS_PER_HOUR
#: Marks are condensed to unique buckets when more rows than this are waiting.
CONDENSE_ROWS = 1_000_000


@dataclass(slots=True)
class _Marks:
    """Rows of one table whose buckets are marked; arrays in order of arrival."""

    tagset_ids: list[Int32Array]
    times: list[Int64Array]
    rows: int = 0


class DirtyBuckets:
    """The marks of one engine and the flush that clears them."""

    def __init__(self, collect: Collect, flush: FlushBuckets) -> None:
        """``collect(table_id, start_ns, end_ns, tagset_ids)`` gives raw rows; ``flush`` stores buckets durably."""
        self._collect, self._flush = collect, flush
        self._marks: dict[int, _Marks] = {}
        self._sequence = 0
        self._lock = threading.Lock()
        self._flushing = threading.Lock()
        self.flushed_sequence = 0
        #: Buckets left as they were because a segment that they need is damaged.
        self.unreadable_buckets = 0

    def mark(self, table_id: int, sequence: int, tagset_ids: Int32Array, times: Int64Array) -> None:
        """Mark the buckets of rows that have just become visible."""
        with self._lock:
            marks = self._marks.setdefault(table_id, _Marks([], []))
            marks.tagset_ids.append(tagset_ids)
            marks.times.append(times)
            marks.rows += len(times)
            if marks.rows > CONDENSE_ROWS:
                unique_ids, buckets = touched_buckets(
                    np.concatenate(marks.tagset_ids), np.concatenate(marks.times), NS_PER_MINUTE
                )
                marks.tagset_ids, marks.times, marks.rows = [unique_ids], [buckets], len(buckets)
            self._sequence = max(self._sequence, sequence)

    @property
    def pending_rows(self) -> int:
        with self._lock:
            return sum(marks.rows for marks in self._marks.values())

    def flush(self) -> int:
        """Recompute and store every marked bucket; return how many 1m rows were written.

        When it returns, the tiers hold everything that was visible when it was called.
        """
        with self._flushing:
            with self._lock:
                taken, self._marks = self._marks, {}
                sequence = self._sequence
            if not taken and sequence <= self.flushed_sequence:
                return 0
            try:
                written = self._write(taken, sequence)
            except BaseException:
                with self._lock:
                    for table_id, marks in taken.items():
                        newer = self._marks.get(table_id)
                        if newer is not None:
                            marks.tagset_ids += newer.tagset_ids
                            marks.times += newer.times
                            marks.rows += newer.rows
                        self._marks[table_id] = marks
                raise
            self.flushed_sequence = sequence
            return written

    def _write(self, taken: dict[int, _Marks], sequence: int) -> int:
        columns: list[BucketColumns] = []
        dirty_ids: list[Int32Array] = []
        dirty_times: list[Int64Array] = []
        for table_id, marks in taken.items():
            tagset_ids, buckets = touched_buckets(
                np.concatenate(marks.tagset_ids), np.concatenate(marks.times), NS_PER_MINUTE
            )
            left = np.zeros(len(buckets), np.bool_)
            windows = buckets // WINDOW_NS
            for window in np.unique(windows).tolist():
                chosen = windows == window
                try:
                    columns.append(self.recompute(table_id, tagset_ids[chosen], buckets[chosen]))
                except Damage as error:
                    # What is stored of them is the best there is, and the other buckets must not wait for them.
                    LOG.error("%d rollup buckets stay as they are: %s", int(chosen.sum()), error.message)
                    left |= chosen
                    self.unreadable_buckets += int(chosen.sum())
            tagset_ids, buckets = tagset_ids[~left], buckets[~left]
            dirty_ids.append(tagset_ids)
            dirty_times.append(buckets)
        buckets_table = bucket_table(columns)
        dirty = pa.table(
            {
                "tagset_id": np.concatenate(dirty_ids) if dirty_ids else np.empty(0, np.int32),
                "bucket": np.concatenate(dirty_times) if dirty_times else np.empty(0, np.int64),
            }
        )
        self._flush(buckets_table, dirty, sequence)
        return int(buckets_table.num_rows)

    def recompute(self, table_id: int, tagset_ids: Int32Array, buckets: Int64Array) -> BucketColumns:
        """Return the 1m rows of these (tag set, bucket) pairs, which are sorted and of one table."""
        rows = self._collect(table_id, int(buckets.min()), int(buckets.max()) + NS_PER_MINUTE, np.unique(tagset_ids))
        if len(rows):
            rows = rows.take(select_buckets(rows.tagset_ids, rows.times, NS_PER_MINUTE, tagset_ids, buckets))
        return aggregate(
            rows.tagset_ids,
            rows.times,
            np.ascontiguousarray(rows.values),
            np.array(rows.field_ids, np.int32),
            NS_PER_MINUTE,
        )


def bucket_table(parts: list[BucketColumns]) -> pa.Table:
    """Return bucket columns as one Arrow table with the tiers' column names (docs/formats/rollups.md)."""
    names = {
        "series_id": "series_ids",
        "time": "times",
        "count": "counts",
        "sum": "sums",
        "min": "mins",
        "max": "maxs",
        "first": "firsts",
        "last": "lasts",
        "first_time": "first_times",
        "last_time": "last_times",
    }
    if not parts:
        empty = np.empty(0, np.float64)
        integers = {"series_id", "time", "count", "first_time", "last_time"}
        return pa.table({name: empty.astype(np.int64) if name in integers else empty for name in names})
    return pa.table(
        {name: np.concatenate([getattr(part, attribute) for part in parts]) for name, attribute in names.items()}
    )
