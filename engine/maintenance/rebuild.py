"""Rebuilding the tiers: what to do when the rollup database lacks what the log no longer holds.

That is so when the database was lost or replaced by an older copy: every bucket of the sealed samples is marked, and
the next flush recomputes it.  When only a part of it cannot be read, its range alone is marked.  What is older than raw
retention cannot come back.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from engine.clock import NS_PER_DAY
from engine.disk.aside import is_aside
from engine.disk.filesystem import FileSystem
from engine.errors import Damage, LostRollups
from engine.query.samples import SampleStore
from engine.rollups.dirty import DirtyBuckets

ROLLUP_FILE = "rollups.duckdb"
#: The directory of its packs.
PACKS = "rollups"
LOG = logging.getLogger("tidegauge.rollups")


def set_aside_files(fs: FileSystem, root: str) -> list[str]:
    """Return a sentence for each damaged rollup file that has been renamed and nobody has removed since."""
    said = [
        "a damaged rollup database was set aside; the tiers were recomputed as far as raw samples are kept"
        f" ({root}/{name})"
        for name in fs.listdir(root)
        if name.startswith(PACKS) and is_aside(name)
    ]
    packs = f"{root}/{PACKS}"
    return said + [
        f"parts of the tiers could not be read and were made again as far as samples are kept ({packs}/{name})"
        for name in (fs.listdir(packs) if fs.exists(packs) else ())
        if is_aside(name)
    ]


def mark_missing(samples: SampleStore, dirty: DirtyBuckets, *, watermark: int, wal_floor: int) -> int:
    """Mark every sealed bucket when the tiers end before the log begins; return how many segments were marked.

    ``watermark``: the sequence that the tiers include; ``wal_floor``: the last one that the log may lack.
    """
    if watermark >= wal_floor:
        return 0
    segments = samples.segments()
    LOG.warning(
        "the rollup database ends at sequence %d, the log begins after %d: recomputing the tiers from %d segments",
        watermark,
        wal_floor,
        len(segments),
    )
    with samples.reading():
        for meta in segments:
            try:
                rows = samples.read(meta, meta.start_ns, meta.end_ns, field_ids=())
            except Damage as error:
                LOG.error("the tiers lack what a segment had: %s", error.message)
                continue
            dirty.mark(meta.table_id, wal_floor, rows.tagset_ids, rows.times)
    return len(segments)


class LostRanges:
    """Ranges of the narrowest tier that have been given up, until they are marked to be made again.

    ``sequence``: what the log may lack at most; ``raw_since_ns(table_id)``: how far back raw samples are kept;
    ``all_back``: whether every raw sample can be seen, which is not so while the log is being replayed.
    """

    def __init__(
        self,
        samples: SampleStore,
        dirty: DirtyBuckets,
        *,
        table_ids: Callable[[], Sequence[int]],
        sequence: Callable[[], int],
        raw_since_ns: Callable[[int], int],
        all_back: Callable[[], bool],
    ) -> None:
        self._samples, self._dirty, self._table_ids = samples, dirty, table_ids
        self._sequence, self._raw_since_ns, self._all_back = sequence, raw_since_ns, all_back
        self._ranges: list[list[int]] = []
        #: How many parts have been given up.
        self.parts = 0

    @property
    def waiting(self) -> bool:
        """Whether there are ranges that are not marked yet: the tiers then include less than they have been given."""
        return bool(self._ranges)

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Note what is lost while the tiers are being changed inside."""
        try:
            yield
        except LostRollups as error:
            self.parts += max(1, len(error.lost))
            self._ranges += error.lost
            raise

    def mark(self) -> int:
        """Mark the buckets of these ranges that raw samples can give; return how many rows these are."""
        rows = 0
        while self._ranges and self._all_back():
            number, first, last, start_ns, end_ns = self._ranges[0]
            tagset_ids = np.arange(first, last + 1, dtype=np.int32)
            for table_id in self._table_ids() if number < 0 else [number]:
                # Minutes of a day that has lost others for good would make its wider buckets partial ones.
                since_ns = -(-self._raw_since_ns(table_id) // NS_PER_DAY) * NS_PER_DAY
                found = self._samples.gather(table_id, max(start_ns, since_ns), end_ns, tagset_ids, ())
                self._dirty.mark(table_id, self._sequence(), found.tagset_ids, found.times)
                rows += len(found)
            del self._ranges[0]
        return rows
