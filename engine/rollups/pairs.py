"""Sets of (tag set, bucket) of one table: what a flush replaces."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.errors import Bug
from engine.model.rows import Int32Array, Int64Array
from engine.rollups.rows import TierRows
from native.rollup import select_buckets, touched_buckets


@dataclass(frozen=True, slots=True)
class Pairs:
    """Distinct pairs sorted by (tag set, bucket).  ``tagset_ids``: int32[n]; ``buckets``: int64[n], starts in ns."""

    tagset_ids: Int32Array
    buckets: Int64Array

    def __len__(self) -> int:
        return len(self.buckets)

    @staticmethod
    def of(tagset_ids: Int32Array, buckets: Int64Array, width_ns: int) -> Pairs:
        """Take starts of buckets in any order; raises Bug for times between them."""
        if len(buckets) and (buckets % width_ns).any():
            odd = int(buckets[np.flatnonzero(buckets % width_ns)[0]])
            raise Bug(f"cannot flush rollups: got dirty bucket {odd} ns, want a multiple of {width_ns}")
        return Pairs(*touched_buckets(tagset_ids, buckets, width_ns))

    def widened(self, width_ns: int) -> Pairs:
        """Return the wider buckets that hold these."""
        return Pairs(*touched_buckets(self.tagset_ids, self.buckets, width_ns))

    def where(self, mask: npt.NDArray[np.bool_]) -> Pairs:
        """Return the pairs that ``mask`` selects; this very object when that is all of them."""
        return self if mask.all() else Pairs(self.tagset_ids[mask], self.buckets[mask])

    def inside(self, wider: Pairs, width_ns: int) -> npt.NDArray[np.bool_]:
        """Return which of these lie in one of the pairs ``wider``, which are ``width_ns`` wide."""
        return select_buckets(self.tagset_ids, self.buckets, width_ns, wider.tagset_ids, wider.buckets)

    def cover(self, rows: TierRows, width_ns: int) -> bool:
        """Return whether each of the sorted rows falls into one of these pairs."""
        return bool(select_buckets(rows.tagset_ids, rows.times, width_ns, self.tagset_ids, self.buckets).all())

    def chunks(self, most: int) -> Iterator[Pairs]:
        """Yield the pairs, at most ``most`` at a time and each tag set's together where that is possible."""
        start = 0
        while start < len(self):
            end = min(start + most, len(self))
            if end < len(self):
                whole = int(np.searchsorted(self.tagset_ids, self.tagset_ids[end], side="left"))
                end = whole if whole > start else end
            yield Pairs(self.tagset_ids[start:end], self.buckets[start:end])
            start = end
