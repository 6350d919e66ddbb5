"""Where each tag set that is in use stands in its table's arrays.

Numbers of tag sets only rise, so arrays by number would grow with every name there has ever been.  The numbers of tag
sets that are in use together were mostly given together: pages of 256 numbers hold their places, and a page of which
none is in use is not kept.
"""

from __future__ import annotations

import numpy as np

from engine.model.rows import Int32Array
from native.arrival import find_places

PAGE_BITS = 8
_PAGE = 1 << PAGE_BITS


class Places:
    """A map from tag sets (numbers from 0) to places (int32, from 0).  One thread at a time."""

    def __init__(self) -> None:
        self._directory: Int32Array = np.full(16, -1, np.int32)
        self._pages: Int32Array = np.full((4, _PAGE), -1, np.int32)
        self._used = 0

    @property
    def nbytes(self) -> int:
        return self._directory.nbytes + self._pages.nbytes

    def of(self, tagset_ids: Int32Array) -> tuple[Int32Array, int]:
        """Return the place of each tag set, -1 where it has none, and how many have none."""
        return find_places(tagset_ids, self._directory, self._pages)

    def assign(self, tagset_ids: Int32Array, places: Int32Array) -> None:
        """Give tag sets that have none their places."""
        if not len(tagset_ids):
            return
        needed = (int(tagset_ids.max()) >> PAGE_BITS) + 1
        if needed > len(self._directory):
            grown = np.full(max(needed, len(self._directory) * 5 // 4), -1, np.int32)
            grown[: len(self._directory)] = self._directory
            self._directory = grown
        pages = tagset_ids >> PAGE_BITS
        new = np.unique(pages[self._directory[pages] < 0])
        end = self._used + len(new)
        if end > len(self._pages):
            more = np.full((max(end, len(self._pages) * 5 // 4 + 1), _PAGE), -1, np.int32)
            more[: self._used] = self._pages[: self._used]
            self._pages = more
        self._directory[new] = np.arange(self._used, end, dtype=np.int32)
        self._used = end
        self._pages[self._directory[pages], tagset_ids & (_PAGE - 1)] = places
