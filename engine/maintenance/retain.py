"""Retention: raw samples by table, rollup tiers by tier, each no shorter than what it is made from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager

from engine.clock import NS_PER_MINUTE, Clock
from engine.config import Retention
from engine.ingest.admission import Admission
from engine.query.samples import SampleStore
from engine.rollups.tiers import TIERS
from engine.segments.layout import SegmentMeta
from engine.segments.manifest import ManifestStore
from engine.vitals import Vitals


class Retainer:
    """Removes what has outlived its retention.

    A segment goes as a whole, when its newest row is too old; until then its rows that are too old are hidden from
    every reader, and dropped when it is rewritten for another reason.
    """

    def __init__(
        self,
        *,
        retention: Retention,
        admission: Admission,
        samples: SampleStore,
        manifest: ManifestStore,
        exclusive: Callable[[], AbstractContextManager[None]],
        retain_rollups: Callable[[Mapping[str, int]], int],
        vitals: Vitals,
        clock: Clock,
    ) -> None:
        self._retention, self._admission = retention, admission
        self._samples, self._manifest = samples, manifest
        self._exclusive = exclusive
        self._retain_rollups, self._vitals, self._clock = retain_rollups, vitals, clock

    def run(self) -> None:
        now_ns = self._clock.now_ns()
        self.hide()
        for table_id in {meta.table_id for meta in self._samples.segments()}:
            cutoff = self._raw_cutoff(now_ns, table_id)
            expired = [meta for meta in self._samples.segments(table_id) if meta.max_time_ns < cutoff]
            if expired:
                self._drop(table_id, expired)
        removed = self._retain_rollups(self.tier_cutoffs(now_ns))
        self._vitals.retained.labels("rollup_rows").inc(removed)

    def hide(self) -> None:
        """Let nobody see rows that are too old, whether their segment can go yet or not."""
        now_ns = self._clock.now_ns()
        tables = {meta.table_id for meta in self._samples.segments()} | set(self._samples.hot.table_ids())
        for table_id in tables:
            dropped = self._samples.forget_before(table_id, self._raw_cutoff(now_ns, table_id))
            self._vitals.retained.labels("hot_rows").inc(dropped)

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
        """Return the time before which each tier's rows go; tiers kept for ever, and those above them, are left out."""
        cutoffs: dict[str, int] = {}
        cutoff = self._admission.oldest_ns(now_ns)
        for tier in TIERS:
            kept_ns = int(getattr(self._retention, tier.name))
            if not kept_ns:
                break
            cutoff = min(cutoff, now_ns - kept_ns)
            if cutoff > 0:
                cutoffs[tier.name] = cutoff
        return cutoffs

    def _delete(self, meta: SegmentMeta) -> None:
        self._manifest.delete_file(meta)
