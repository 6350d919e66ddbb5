"""Which rows may enter: not too old for their table, not too far ahead of the clock, within the catalogue's limits."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.catalog.cardinality import widest_label
from engine.catalog.catalog import Catalog
from engine.clock import NS_PER_MINUTE, Clock
from engine.config import Ingest, Retention, TableRetention
from engine.ingest.batch import Batch, Refusal
from engine.model.rows import Rows
from engine.model.times import time_text

#: How long it is remembered which label of a table has the most values.
OFFENDER_NS = NS_PER_MINUTE
#: Causes of a refusal for which that is said.
TAG_SET_CAUSES = frozenset({"tag_set_limit", "table_tag_set_limit", "tag_set_rate_limit"})
FOR_EVER_NS = np.iinfo(np.int64).min // 2


class Admission:
    """The limits of one engine, asked by every decoder.  Called from the decoding thread only."""

    def __init__(self, catalog: Catalog, ingest: Ingest, retention: Retention, clock: Clock) -> None:
        self.catalog = catalog
        self.ingest = ingest
        self.clock = clock
        catalog.native.limit_tagsets(
            max_tagsets=ingest.max_tag_sets,
            max_table_tagsets=ingest.max_tag_sets_per_table,
            max_hourly_tagsets=ingest.max_new_tag_sets_per_hour,
        )
        self._retention = retention
        self._raw_ns: dict[int, int] = {}
        self._offenders: dict[int, tuple[int, str]] = {}
        self._longest_raw_ns = max(
            (
                int(retention.raw if raw is None else raw) or -FOR_EVER_NS
                for raw in (retention.raw, *(table.raw for table in retention.tables))
            ),
        )

    def tag_set_refusal(self, table_id: int) -> tuple[str, str] | None:
        """Return (cause, sentence) when no new tag set of the table may be defined, None when one may."""
        cause = self.catalog.native.may_define_tagset(table_id)
        if not cause:
            return None
        limit = {
            "tag_set_limit": f"{self.ingest.max_tag_sets} tag sets are in use (ingest.max_tag_sets)",
            "table_tag_set_limit": f"{self.ingest.max_tag_sets_per_table} tag sets of the table are in use"
            " (ingest.max_tag_sets_per_table)",
            "tag_set_rate_limit": f"{self.ingest.max_new_tag_sets_per_hour} tag sets are new within an hour"
            " (ingest.max_new_tag_sets_per_hour)",
        }[cause]
        return cause, f"{limit} and this one is new{self.offender(table_id)}"

    def offender(self, table_id: int) -> str:
        """Return what to look at when a table has too many tag sets, as the end of a sentence."""
        if table_id < 0 or table_id >= self.catalog.native.table_count:
            return ""
        now_ns = self.clock.now_ns()
        known = self._offenders.get(table_id)
        if known is None or not 0 <= now_ns - known[0] < OFFENDER_NS:
            table = self.catalog.table_name(table_id)
            words = f"; table {table!r} has {int(self.catalog.native.tagset_counts()[table_id])} tag sets"
            widest = widest_label(self.catalog, table_id)
            if widest is not None:
                words += f", and its label {widest[0]!r} has the most values ({widest[1]} among the newest)"
            known = self._offenders[table_id] = (now_ns, words)
        return known[1]

    def raw_retention_ns(self, table_id: int) -> int:
        """Return how long raw rows of a table are kept; a very large number for ever."""
        known = self._raw_ns.get(table_id)
        if known is None:
            entry = self.table_retention(table_id)
            raw = self._retention.raw if entry is None or entry.raw is None else entry.raw
            known = self._raw_ns[table_id] = int(raw) or -FOR_EVER_NS
        return known

    def table_retention(self, table_id: int) -> TableRetention | None:
        """Return the entry of the configuration that a table goes by, None where it goes by the general settings."""
        name = self.catalog.table_name(table_id)
        return next((each for each in self._retention.tables if fnmatch.fnmatchcase(name, each.match)), None)

    def kept_ns(self, table_id: int) -> int | None:
        """Return how long raw rows of a table are kept, None for ever."""
        kept = self.raw_retention_ns(table_id)
        return None if kept == -FOR_EVER_NS else kept

    def oldest_ns(self, now_ns: int, table_id: int | None = None) -> int:
        """Return the oldest time admitted now: of one table, or of any."""
        return now_ns - (self._longest_raw_ns if table_id is None else self.raw_retention_ns(table_id))

    def newest_ns(self, now_ns: int) -> int:
        return now_ns + int(self.ingest.max_future)

    def admitted_text(self, now_ns: int, table_id: int | None = None) -> str:
        """Return what times are admitted now, for the sentence of a refusal."""
        oldest, newest = time_text(self.oldest_ns(now_ns, table_id)), time_text(self.newest_ns(now_ns))
        return f"nanoseconds from {oldest} to {newest}"

    def add(
        self,
        batch: Batch,
        table_id: int,
        rows: Rows,
        positions: npt.NDArray[np.integer[Any]] | Sequence[int],
        now_ns: int,
        unit: str,
        samples: int | None = None,
    ) -> None:
        """Add the rows that are neither too old nor too new to ``batch`` and refuse the others.

        ``positions``: where each row stood in the request, from 1; ``unit`` names that ("line", "row");
        ``samples``: how many cells of ``rows`` hold a sample, if that is known.
        """
        oldest, newest = self.oldest_ns(now_ns, table_id), self.newest_ns(now_ns)
        if len(rows) and (int(rows.times.min()) < oldest or int(rows.times.max()) > newest):
            too_old, too_new = rows.times < oldest, rows.times > newest
            samples = None
            where = np.asarray(positions)
            wanted = f"{self.admitted_text(now_ns, table_id)} (table {self.catalog.table_name(table_id)!r})"
            for cause, mask in (("too_old", too_old), ("too_far_in_future", too_new)):
                for index in np.flatnonzero(mask).tolist():
                    message = (
                        f"cannot store {unit} {int(where[index])}: got time {int(rows.times[index])}, want {wanted}"
                    )
                    batch.refuse(Refusal(int(where[index]), cause, message), keep=self.ingest.max_reported_lines)
            rows = rows.take(~(too_old | too_new))
        if len(rows):
            batch.tables.append((table_id, rows))
            batch.rows += len(rows)
            batch.samples += rows.sample_count() if samples is None else samples
