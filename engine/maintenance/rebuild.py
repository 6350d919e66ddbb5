"""Rebuilding the tiers: what to do when the rollup database lacks what the log no longer holds.

That is so when the database was lost or replaced by an older copy.  Every bucket of the sealed samples is marked, and
the next flush recomputes it; what is older than raw retention cannot come back.
"""

from __future__ import annotations

import logging

from engine.disk.filesystem import FileSystem
from engine.errors import Damage
from engine.query.connection import DAMAGED_SUFFIX
from engine.query.samples import SampleStore
from engine.rollups.dirty import DirtyBuckets

ROLLUP_FILE = "rollups.duckdb"
#: The directory of its packs.
PACKS = "rollups"
LOG = logging.getLogger("tidegauge.rollups")


def set_aside_files(fs: FileSystem, root: str) -> list[str]:
    """Return a sentence for each damaged rollup file that a start has renamed and nobody has removed since."""
    return [
        "a damaged rollup database was set aside; the tiers were recomputed as far as raw samples are kept"
        f" ({root}/{name})"
        for name in fs.listdir(root)
        if name.startswith(PACKS) and DAMAGED_SUFFIX in name
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
