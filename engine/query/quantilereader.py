"""Quantiles of a selection's lines: exact from raw samples, within a bound from the histograms of a tier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from engine.catalog.catalog import Catalog
from engine.model.rows import FIELD_ID_BITS
from engine.query.grouping import lines_of
from engine.query.planning import Tiers
from engine.query.quantiles import GroupedQuantiles, bins_of_column, of_bins, of_samples
from engine.query.samples import SampleStore
from engine.query.selected import Selected
from engine.query.split import Interval
from engine.rollups.long import HISTOGRAM
from engine.rollups.tiers import Tier


class LineQuantiles(NamedTuple):
    """One metric's: ``labels`` of the lines that ``found`` numbers, how many rows were read, the newest time (ns)."""

    metric: str
    labels: list[dict[str, str]]
    found: GroupedQuantiles
    rows: int
    newest_ns: int


class QuantileReader:
    """Reads quantiles of one engine; callable from any thread."""

    def __init__(self, catalog: Catalog, samples: SampleStore, tiers: Tiers | None) -> None:
        self._catalog, self._samples, self._tiers = catalog, samples, tiers

    def read(
        self,
        one: Selected,
        share: float,
        by: Sequence[str] | None,
        whole: Interval,
        step_ns: int,
        tier: Tier | None,
    ) -> list[LineQuantiles] | None:
        """Return the quantiles of each metric, from raw samples where ``tier`` is None.

        None where the tier does not have all histograms.
        """
        if tier is None:
            return self._of_samples(one, share, by, whole, step_ns)
        return self._of_bins(one, share, by, whole, step_ns, tier)

    def _of_samples(
        self, one: Selected, share: float, by: Sequence[str] | None, whole: Interval, step_ns: int
    ) -> list[LineQuantiles]:
        rows = self._samples.collect(one.table_id, *whole, one.narrowed, one.field_ids)
        parts = []
        for field_id, values in zip(rows.field_ids, rows.values, strict=True):
            present = ~np.isnan(values)
            times, tagset_ids = rows.times[present], rows.tagset_ids[present]
            wide = tagset_ids.astype(np.int64) << FIELD_ID_BITS
            labels, groups = lines_of(self._catalog, one.table_id, wide, by)
            found = of_samples(groups, (times - whole[0]) // step_ns, values[present], share)
            parts.append(LineQuantiles(one.metrics[field_id], labels, found, len(times), int(times.max(initial=0))))
        return parts

    def _of_bins(
        self, one: Selected, share: float, by: Sequence[str] | None, whole: Interval, step_ns: int, tier: Tier
    ) -> list[LineQuantiles] | None:
        names = ("series_id", "time", "last_time", HISTOGRAM)
        parts = []
        assert self._tiers is not None
        for field_id, metric in one.metrics.items():
            wanted = (one.tagset_ids.astype(np.int64) << FIELD_ID_BITS) | field_id
            table = self._tiers.rows(tier.name, *whole, wanted, names)
            bins = bins_of_column(table.column(HISTOGRAM))
            if bins is None:
                return None
            labels, groups = lines_of(self._catalog, one.table_id, table.column("series_id").to_numpy(), by)
            steps = (table.column("time").to_numpy() - whole[0]) // step_ns
            newest = int(table.column("last_time").to_numpy().max(initial=0))
            parts.append(LineQuantiles(metric, labels, of_bins(groups, steps, bins, share), table.num_rows, newest))
        return parts
