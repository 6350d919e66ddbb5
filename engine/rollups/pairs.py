"""Sets of (tag set, bucket): what a flush replaces, and how it is divided into parts that are near in time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine.errors import Bug
from engine.model.rows import Int32Array, Int64Array
from native.rollup import select_buckets, touched_buckets

#: Buckets further apart than this go into parts of their own: a statement of its own costs about as much as reading
#: past two row groups of 122,880 rows, which is all that lies between at 10,000 series.
GAP_BUCKETS = 16
#: ... but not more often than this, the widest gaps first.
MAX_GAPS = 63


@dataclass(frozen=True, slots=True)
class Pairs:
    """Distinct pairs.  ``tagset_ids``: int32[n]; ``buckets``: int64[n], bucket starts in nanoseconds."""

    tagset_ids: Int32Array
    buckets: Int64Array

    def __len__(self) -> int:
        return len(self.buckets)

    @staticmethod
    def of_table(table: pa.Table | pa.RecordBatch, width_ns: int) -> Pairs:
        """Read ``tagset_id`` int32 and ``bucket`` int64, starts of buckets; raises Bug for anything else."""
        want = {"tagset_id": pa.int32(), "bucket": pa.int64()}
        got = {name: table.schema.field(name).type for name in table.schema.names}
        if got != want or any(table.column(name).null_count for name in want):
            raise Bug(f"cannot flush rollups: got dirty pairs with columns {got}, want {want} without nulls")
        tagset_ids, buckets = (table.column(name).to_numpy() for name in want)
        if len(buckets) and (buckets % width_ns).any():
            odd = int(buckets[np.flatnonzero(buckets % width_ns)[0]])
            raise Bug(f"cannot flush rollups: got dirty bucket {odd} ns, want a multiple of {width_ns}")
        return Pairs(*touched_buckets(tagset_ids, buckets, width_ns))

    def widened(self, width_ns: int) -> Pairs:
        """Return the wider buckets that hold these, sorted by (tag set, bucket)."""
        return Pairs(*touched_buckets(self.tagset_ids, self.buckets, width_ns))

    def where(self, mask: npt.NDArray[np.bool_]) -> Pairs:
        """Return the pairs that ``mask`` selects; this very object when that is all of them."""
        return self if mask.all() else Pairs(self.tagset_ids[mask], self.buckets[mask])

    def cover(self, tagset_ids: Int32Array, times: Int64Array, width_ns: int) -> bool:
        """Return whether each (tag set, time) falls into one of these pairs, which are sorted by (tag set, bucket)."""
        used = touched_buckets(tagset_ids, times, width_ns)
        return bool(select_buckets(*used, width_ns, self.tagset_ids, self.buckets).all())

    def parts(self, width_ns: int, most: int) -> Iterator[Pairs]:
        """Yield the pairs in parts of at most ``most``, from old to new, without wide gaps in time inside a part."""
        if not len(self):
            return
        # Stable: within a bucket the tag sets keep ascending, so that a part of a bucket is a range of series.
        order = np.argsort(self.buckets, kind="stable")
        buckets = self.buckets[order]
        steps = np.diff(buckets) // width_ns
        gaps = np.flatnonzero(steps > GAP_BUCKETS)
        if len(gaps) > MAX_GAPS:
            gaps = np.sort(gaps[np.argsort(steps[gaps], kind="stable")[-MAX_GAPS:]])
        bounds = [0, *(gaps + 1).tolist(), len(order)]
        for start, end in pairwise(bounds):
            for first in range(start, end, most):
                chosen = order[first : min(first + most, end)]
                yield Pairs(self.tagset_ids[chosen], self.buckets[chosen])
