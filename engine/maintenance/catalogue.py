"""Upkeep of the catalogue: tag sets move into files, idle ones leave memory, and the limits follow what is in use."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from engine.catalog.cardinality import Counted, count
from engine.catalog.catalog import Catalog
from engine.clock import NS_PER_HOUR, NS_PER_MINUTE, Clock
from engine.config import Ingest
from engine.hot.store import HotStore
from engine.model.matchers import Matcher
from engine.query.memory import release_unused
from engine.vitals import Vitals
from native.tagcolumns import tables_of

LOG = logging.getLogger("tidegauge.catalogue")
SETTLE_NS = NS_PER_MINUTE
#: How often unused memory is given back: many new tag sets, flushes and seals leave much of it.
RELEASE_NS = NS_PER_MINUTE // 4
#: From this share of a limit on people are warned.
WARN_SHARE = 0.9
#: The settings of ``ingest`` that limit the catalogue.
LIMITS = ("max_tag_sets", "max_tag_sets_per_table", "max_new_tag_sets_per_hour", "max_tables")


class CatalogueKeeper:
    """The upkeep of one engine's catalogue; callable from any thread."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        hot: HotStore,
        ingest: Ingest,
        vitals: Vitals,
        clock: Clock,
        judged_for_ns: int = 0,
    ) -> None:
        """``judged_for_ns``: for how long alerts look at a value; no tag set is idle before that."""
        self._catalog, self._hot, self._ingest = catalog, hot, ingest
        self._vitals, self._clock = vitals, clock
        self._idle_after_ns = max(int(ingest.idle_after), judged_for_ns)
        self._lock = threading.Lock()
        self._settled_ns: int | None = None
        self._released_ns = clock.now_ns()
        self._warned: set[str] = set()
        #: (time, tag sets known then), one a minute for an hour and a bit.
        self._known: deque[tuple[int, int]] = deque()
        self.settle()

    def run(self) -> None:
        """Freeze what has come together; once a minute forget idle tag sets and settle the limits."""
        self._catalog.freeze()
        now_ns = self._clock.now_ns()
        if self._settled_ns is None or not 0 <= now_ns - self._settled_ns < SETTLE_NS:
            forgotten = self._hot.forget_idle(now_ns - self._idle_after_ns)
            self._vitals.retained.labels("idle_tag_sets").inc(forgotten)
            self.settle()
        if not 0 <= now_ns - self._released_ns < RELEASE_NS:
            self._released_ns = now_ns
            release_unused()
        self._warn()

    def settle(self) -> None:
        """Tell the native catalogue what is in use and what is new."""
        with self._lock:
            now_ns = self._settled_ns = self._clock.now_ns()
            self._known.append((now_ns, self._catalog.native.tagset_count))
            while len(self._known) > 1 and self._known[1][0] <= now_ns - NS_PER_HOUR:
                self._known.popleft()
            self._catalog.native.settle_tagsets(self._hot.counts_in_use(), self._known[0][1])

    @property
    def new_within_the_hour(self) -> int:
        with self._lock:
            return self._catalog.native.tagset_count - self._known[0][1]

    def shares(self) -> dict[str, float]:
        """Return how much of each limit is used, by the name of its setting; of tables the fullest counts."""
        native, ingest = self._catalog.native, self._ingest
        by_table = self._hot.counts_in_use()
        return {
            "max_tag_sets": native.in_use_count / ingest.max_tag_sets,
            "max_tag_sets_per_table": (int(by_table.max()) if len(by_table) else 0) / ingest.max_tag_sets_per_table,
            "max_new_tag_sets_per_hour": self.new_within_the_hour / ingest.max_new_tag_sets_per_hour,
            "max_tables": native.table_count / ingest.max_tables,
        }

    def _warn(self) -> None:
        for setting, share in self.shares().items():
            if share < WARN_SHARE:
                self._warned.discard(setting)
            elif setting not in self._warned:
                self._warned.add(setting)
                LOG.warning("%.0f %% of ingest.%s is used; GET /v1/cardinality shows by what", 100 * share, setting)

    def cardinality(self, top: int, matchers: Sequence[Matcher] = ()) -> dict[str, Any]:
        """Return totals, limits and the largest tables, labels and pairs, as ``GET /v1/cardinality`` answers them.

        With matchers, the same of the tag sets that satisfy them, without what tells of the others.
        """
        native, ingest = self._catalog.native, self._ingest
        in_use = [self._hot.tagsets_in_use(table_id)[1] for table_id in self._hot.table_ids()]
        active = np.sort(np.concatenate(in_use)) if in_use else np.empty(0, np.int32)
        total = native.tagset_count
        with self._lock:
            since_ns, hour_ago = self._known[0]
        new = np.arange(hour_ago, total, dtype=np.int32)
        if matchers:
            active, new = (ids[self._catalog.accepts(ids, matchers)] for ids in (active, new))
            known = self._catalog.matching(matchers)
            return {
                "tag_sets": {
                    "known": len(known),
                    "in_use": len(active),
                    "idle": len(known) - len(active),
                    "new": len(new),
                    "new_since_ns": since_ns,
                },
                "tables": len(np.unique(tables_of(native, known))),
                "top": _shown(count(self._catalog, active, top)),
                "growth": _shown(count(self._catalog, new, top)),
            }
        return {
            "tag_sets": {
                "known": total,
                "in_use": native.in_use_count,
                "idle": total - native.in_use_count,
                "in_files": native.frozen_count,
                "new": len(new),
                "new_since_ns": since_ns,
            },
            "tables": native.table_count,
            "limits": {setting: getattr(ingest, setting) for setting in LIMITS},
            "headroom": dict(zip(("tag_sets", "new_tag_sets_this_hour"), native.tagset_headroom, strict=True)),
            "used": {setting: round(share, 6) for setting, share in self.shares().items()},
            "top": _shown(count(self._catalog, active, top)),
            "growth": _shown(count(self._catalog, new, top)),
        }


def _shown(counted: Counted) -> dict[str, Any]:
    return {
        "tables": [{"table": table, "tag_sets": number} for table, number in counted.tables],
        "labels": [{"label": label, "values": number} for label, number in counted.labels],
        "pairs": [{"label": label, "value": value, "tag_sets": number} for label, value, number in counted.pairs],
    }
