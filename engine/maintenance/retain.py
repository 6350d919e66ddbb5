"""Retention: raw samples by table, rollup tiers by tier, each no shorter than what it is made from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager

from engine.clock import NS_PER_MINUTE, Clock
from engine.config import Retention, TableRetention
from engine.ingest.admission import Admission
from engine.query.samples import SampleStore
from engine.rollups.tiers import TIER_OF_NAME, TIERS, tier_above
from engine.segments.layout import SegmentMeta
from engine.segments.manifest import ManifestStore
from engine.vitals import Vitals


class Retainer:
    """Removes what has outlived its retention.

    A segment goes as a whole, when its newest row is too old; until then its rows that are too old are hidden from
    every reader.
    """

    def __init__(
        self,
        *,
        retention: Retention,
        admission: Admission,
        samples: SampleStore,
        manifest: ManifestStore,
        exclusive: Callable[[], AbstractContextManager[None]],
        flush: Callable[[], object],
        retain_rollups: Callable[[Mapping[str, int]], int],
        forget_rollups: Callable[[str, int, int], int],
        vitals: Vitals,
        clock: Clock,
    ) -> None:
        """``retain_rollups(cutoffs)`` removes rows of all tables by tier, ``forget_rollups(tier, table_id, before_ns)``
        of one table; both return how many.
        """
        self._retention, self._admission = retention, admission
        self._samples, self._manifest = samples, manifest
        self._exclusive, self._flush, self._forget_rollups = exclusive, flush, forget_rollups
        #: By table and tier, the time before which rows have been removed since the start.
        self._forgotten: dict[tuple[int, str], int] = {}
        self._retain_rollups, self._vitals, self._clock = retain_rollups, vitals, clock

    def run(self) -> None:
        # Rows must be in the tiers before they go; while the tiers cannot be reached, nothing does.
        self._flush()
        now_ns = self._clock.now_ns()
        self.hide()
        for table_id in self._tables():
            cutoff = self._raw_cutoff(now_ns, table_id)
            self._vitals.retained.labels("hot_rows").inc(self._samples.hot.drop(table_id, cutoff))
            expired = [meta for meta in self._samples.segments(table_id) if meta.max_time_ns < cutoff]
            if expired:
                self._drop(table_id, expired)
        general = self.tier_cutoffs(now_ns)
        removed = self._retain_rollups(general) + self._retain_tables(now_ns, general)
        self._vitals.retained.labels("rollup_rows").inc(removed)

    def hide(self) -> None:
        """Let nobody see rows that are too old, whether they can go yet or not."""
        now_ns = self._clock.now_ns()
        for table_id in self._tables():
            self._samples.hide_before(table_id, self._raw_cutoff(now_ns, table_id))

    def _tables(self) -> set[int]:
        return {meta.table_id for meta in self._samples.segments()} | set(self._samples.hot.table_ids())

    def _drop(self, table_id: int, expired: Sequence[SegmentMeta]) -> None:
        with self._exclusive():
            # One that was replaced meanwhile goes at the next run, in its new form.
            expired = [meta for meta in expired if meta in self._samples.segments(table_id)]
            if expired:
                self._manifest.commit(remove=expired)
                self._samples.swap(table_id, (), expired, (), (), self._delete)
                self._vitals.retained.labels("segments").inc(len(expired))

    def _raw_cutoff(self, now_ns: int, table_id: int) -> int:
        """Return the time before which raw rows go: whole minutes, as a late sample has its whole minute recomputed."""
        return self._admission.oldest_ns(now_ns, table_id) // NS_PER_MINUTE * NS_PER_MINUTE

    def tier_cutoffs(self, now_ns: int) -> dict[str, int]:
        """Return the time before which each tier's rows go, of whatever table; tiers with a table that keeps them for
        ever, and those above them, are left out.
        """
        every = [self._cutoffs(now_ns, each) for each in (None, *self._retention.tables)]
        return {
            tier.name: min(each[tier.name] for each in every) for tier in TIERS if all(tier.name in e for e in every)
        }

    def _cutoffs(self, now_ns: int, entry: TableRetention | None) -> dict[str, int]:
        """Return the cutoffs of tables that go by ``entry``; no tier is kept shorter than what it is made from."""
        cutoffs: dict[str, int] = {}
        cutoff = now_ns
        for name in ("raw", *(tier.name for tier in TIERS)):
            own = None if entry is None else getattr(entry, name)
            kept_ns = int(getattr(self._retention, name) if own is None else own)
            if not kept_ns:
                break
            cutoff = min(cutoff, now_ns - kept_ns)
            if name != "raw" and cutoff > 0:
                cutoffs[name] = cutoff
        return cutoffs

    def _retain_tables(self, now_ns: int, general: Mapping[str, int]) -> int:
        """Remove the rows of tables that keep a tier for a shorter time than others do; return how many."""
        removed = 0
        for table_id in range(self._admission.catalog.native.table_count):
            entry = self._admission.table_retention(table_id)
            for name, cutoff_ns in self._cutoffs(now_ns, entry).items():
                tier = TIER_OF_NAME[name]
                # As for all tables: a bucket of the tier above has all the rows it is made from or none.
                before_ns = (tier_above(tier) or tier).floor(cutoff_ns)
                if before_ns > max(general.get(name, 0), self._forgotten.get((table_id, name), 0)):
                    removed += self._forget_rollups(name, table_id, before_ns)
                    self._forgotten[table_id, name] = before_ns
        return removed

    def _delete(self, meta: SegmentMeta) -> None:
        self._manifest.delete_file(meta)
