"""What ``/metrics`` shows of an engine's parts, read when somebody asks."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING

from engine.delivery.outbox import STATES
from engine.errors import TidegaugeError
from engine.maintenance.catalogue import LIMITS, WARN_SHARE
from engine.rollups.store import TierStats
from engine.rollups.tiers import TIERS
from native.slabs import kept_bytes

if TYPE_CHECKING:
    from engine.runtime.engine import Engine

LOG = logging.getLogger("tidegauge")
#: The tiers are asked for their sizes at most this often.
TIER_FIGURES_SECONDS = 10.0


def show(engine: Engine) -> None:
    """Let the engine's vitals show its parts."""
    tiers = _TierFigures(engine)
    watch = engine.vitals.watch
    watch("tag_sets", "Tag sets in the catalogue", lambda: engine.catalog.native.tagset_count)
    watch("tag_sets_in_use", "Tag sets that count towards the limits", lambda: engine.catalog.native.in_use_count)
    watch("tag_sets_in_files", "Tag sets that take no memory", lambda: engine.catalog.native.frozen_count)
    watch("catalogue_bytes", "Memory of the catalogue", lambda: engine.catalog.native.memory_bytes)
    watch("series_bytes", "Memory of newest times and values", lambda: engine.hot.series_nbytes)
    for setting in LIMITS:
        text = f"Share of ingest.{setting} that is used; from {WARN_SHARE:g} on the log warns"
        watch(f"limit_used_{setting}", text, partial(_limit_used, engine, setting))
    watch("tables", "Tables in the catalogue", lambda: engine.catalog.native.table_count)
    watch("hot_rows", "Rows in memory that no segment holds yet", engine.hot.held_rows)
    watch("hot_bytes", "Memory of the hot store", lambda: engine.hot.nbytes)
    watch("memory_kept_bytes", "Memory that is kept for bodies and blocks to come", kept_bytes)
    watch("late_rows_waiting", "Late rows that wait to be sealed with others", lambda: engine.sealer.waiting_rows)
    watch("wal_bytes", "Bytes of log on disk", lambda: engine.wal.bytes_on_disk)
    watch(
        "recovery_pending_bytes",
        "Bytes of log that are still to be replayed",
        lambda: engine.recovery.pending_bytes,
    )
    watch("deletions_active", "Deletions that readers still have to observe", lambda: len(engine.samples.deletions))
    watch("segments_with_deleted_rows", "Segments yet to be rewritten", engine.deleter.waiting_segments)
    watch("segments", "Sealed segments", lambda: len(engine.samples.segments()))
    watch("segment_bytes", "Bytes of sealed segments", lambda: sum(meta.bytes for meta in engine.samples.segments()))
    watch("ingest_queue_bytes", "Body bytes waiting to be committed", lambda: engine.pipeline.held_bytes)
    for tier in TIERS:
        watch(f"{tier.name}_rows", f"Rows (series, bucket) in {tier.name}", partial(tiers.rows, tier.name))
        watch(f"{tier.name}_bytes", f"Packed bytes of {tier.name}", partial(tiers.bytes, tier.name))
    watch("column_cache_bytes", "Memory of decoded columns of segments", lambda: engine.samples.columns.nbytes)
    watch("tier_cache_bytes", "Memory of rows of tiers that queries read lately", lambda: engine.tiers.cache.nbytes)
    watch("tier_cache_hits", "Chunks of tiers that queries found there", lambda: engine.tiers.cache.hits)
    watch("tier_cache_misses", "Chunks of tiers that were read for them", lambda: engine.tiers.cache.misses)
    watch("rollup_pending_rows", "Rows whose buckets wait to be recomputed", lambda: engine.dirty.pending_rows)
    watch("rollup_parts_lost", "Parts of tiers that could not be read", lambda: engine.lost_rollups.parts)
    watch(
        "rollup_unreadable_buckets",
        "Buckets left as they were, their segment being damaged",
        lambda: engine.dirty.unreadable_buckets,
    )
    watch("disk_free_bytes", "Free bytes where the data directory is", engine.guard.free_bytes)
    watch("disk_reserve_bytes", "Free bytes below which writes are refused", lambda: engine.guard.reserve_bytes)
    watch("disk_low", "1 while writes are refused for lack of space", lambda: engine.guard.low)
    watch("disk_low_times", "How often writes have been refused for lack of space", lambda: engine.guard.times_low)
    watch("query_process_starts", "Query processes started", lambda: engine.link.counters().starts)
    watch("query_process_kills", "Query processes killed for a statement", lambda: engine.link.counters().kills)
    watch("query_process_deaths", "Query processes that ended on their own", lambda: engine.link.counters().deaths)
    for state in STATES:
        watch(f"notifications_{state}", f"Notifications that are {state}", partial(_notifications, engine, state))
    watch("notifications_held_back", "Alerts that owe a notification", engine.alerts.count_owed)
    watch("detection_series", "Series that are judged against their own past", lambda: engine.finder.series)
    watch("detection_subjects", "Hosts and services judged as wholes", lambda: engine.subject_finder.count)
    watch("detection_subjects_bytes", "Memory of what is known of them", lambda: engine.subject_finder.nbytes)
    watch("detection_subjects_left_out", "Hosts and services without room", lambda: engine.subject_finder.left_out)
    watch("detection_left_out", "Series that detection has no room for", lambda: engine.finder.left_out)
    watch("bottlenecks_left_out", "Series that bottlenecks did not read", partial(_bottlenecks_left_out, engine))
    watch("rules", "Rules that are evaluated", lambda: len(engine.rule_watch.rules))


class _TierFigures:
    """The sizes of the tiers as of some seconds ago at most."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._asked_at: float | None = None
        self._known: dict[str, TierStats] = {}

    def rows(self, tier: str) -> float:
        found = self._figures().get(tier)
        return 0.0 if found is None else float(found.rows)

    def bytes(self, tier: str) -> float:
        found = self._figures().get(tier)
        return 0.0 if found is None else float(found.bytes)

    def _figures(self) -> dict[str, TierStats]:
        now = self._engine.clock.monotonic()
        if self._asked_at is None or not 0 <= now - self._asked_at < TIER_FIGURES_SECONDS:
            self._asked_at = now
            try:
                self._known = {each.tier: each for each in self._engine.tier_stats()}
            except TidegaugeError as error:
                LOG.warning("cannot tell the size of the tiers: %s", error)
        return self._known


def _bottlenecks_left_out(engine: Engine) -> float:
    latest = engine.bottleneck_finder.latest
    return 0.0 if latest is None else float(latest.left_out)


def _limit_used(engine: Engine, setting: str) -> float:
    return engine.keeper.shares()[setting]


def _notifications(engine: Engine, state: str) -> float:
    return engine.outbox.counts()[state]
