"""The tiers of an engine follow its samples: flushes, deletions, retention, and what a start finds them to lack."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from engine.errors import LostRollups, TidegaugeError
from engine.maintenance.rebuild import mark_missing
from engine.model.rows import Int32Array
from engine.rollups.store import Piece
from engine.rollups.tiers import QUIET_NS

if TYPE_CHECKING:
    from engine.runtime.engine import Engine

LOG = logging.getLogger("tidegauge")


class Upkeep:
    """Changes the tiers of one engine; callable from any thread once the engine is open."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._checking = threading.Lock()
        self._flushing = threading.Lock()
        self._rollups_checked = False

    def flush(self, *, due_only: bool = False) -> int:
        """Bring the tiers up to date with what is visible; return how many 1m rows were written.

        ``due_only``: as the background does it, see :meth:`engine.rollups.dirty.DirtyBuckets.flush_due`.
        """
        engine = self._engine
        try:
            self._check_rollups()
            # One at a time: a flush that has read its samples before a deletion must not write them after it.
            with self._flushing, engine.samples.unhidden():
                engine.lost_rollups.mark()
                # While samples are still coming back it cannot be told what is left of a range.
                deletions = () if engine.recovery.active else engine.deleter.catch_up_tiers()
                # The tiers have followed a deletion once what it has marked is flushed, all of it.
                due_only = due_only and not deletions
                written = engine.dirty.flush_due(engine.clock.now_ns()) if due_only else engine.dirty.flush()
                engine.deleter.tiers_have_followed(deletions)
        except LostRollups:
            # Each time there is less of the damaged file left that counts.
            return self.flush(due_only=due_only)
        except BaseException:
            engine.vitals.rollup_flushes.labels("failed").inc()
            raise
        if written:
            engine.vitals.rollup_flushes.labels("done").inc()
            engine.vitals.rollup_buckets.inc(written)
        return written

    def _check_rollups(self) -> None:
        """Once after the start: mark what a lost or older rollup database lacks."""
        with self._checking:
            if not self._rollups_checked:
                engine = self._engine
                floor = engine.manifest.current.wal_floor
                mark_missing(
                    engine.samples,
                    engine.dirty,
                    watermark=engine.link.watermark() if floor else 0,
                    wal_floor=floor,
                )
                self._rollups_checked = True

    def included(self) -> int:
        """Return through which sequence the tiers have every row; 0 when they cannot be reached."""
        try:
            return self._engine.link.watermark()
        except TidegaugeError as error:
            LOG.warning("cannot tell what the tiers include, so all of the log is rolled up again: %s", error)
            return 0

    def resume(self) -> int:
        """Return through which sequence replayed rows need not be marked."""
        included = self.included()
        if included >= self._engine.wal.next_sequence:
            return 0
        self._engine.dirty.flushed_sequence = max(self._engine.dirty.flushed_sequence, included)
        return included

    def write(self, pieces: Sequence[Piece], sequence: int) -> None:
        """Put pieces into the tiers, which then have every row through ``sequence``."""
        with self._engine.lost_rollups.noted(), self._engine.tiers.changing(flushed=pieces):
            self._engine.link.flush_rollups(pieces, 0 if self._engine.lost_rollups.waiting else sequence)

    def delete(self, table_id: int, tagset_ids: Int32Array, start_ns: int, end_ns: int) -> int:
        """Remove the buckets of tag sets that begin in a time; return how many rows these were."""
        with self._engine.lost_rollups.noted(), self._engine.tiers.changing():
            return self._engine.link.delete_rollups(table_id, tagset_ids, start_ns, end_ns)

    def forget(self, tier: str, table_id: int, before_ns: int) -> int:
        """Remove the buckets of one table and tier before a time; return how many rows these were."""
        with self._engine.lost_rollups.noted(), self._engine.tiers.changing(expired={tier: before_ns}):
            return self._engine.link.forget_rollups(
                tier, table_id, self._engine.catalog.tagset_ids(table_id), before_ns
            )

    def flush_before_expiry(self) -> int:
        """Bring the tiers up to date as far as raw samples are about to expire."""
        # What the background flushes is older than raw retention, unless that is very short.
        retention = self._engine.config.retention
        kept = [retention.raw, *(entry.raw for entry in retention.tables if entry.raw)]
        return self.flush(due_only=min(int(each) for each in kept) >= 2 * QUIET_NS)

    def retain(self, cutoffs: Mapping[str, int]) -> int:
        """Remove from each tier what is before its time (ns); return how many rows these were."""
        with self._engine.lost_rollups.noted(), self._engine.tiers.changing(expired=cutoffs):
            return self._engine.link.retain(cutoffs)

    def lag(self) -> bool:
        """Return whether the tiers have to follow more than samples that are marked."""
        waiting = self._engine.lost_rollups.waiting or any(not each.tiers for each in self._engine.samples.deletions)
        return waiting or not self._rollups_checked
