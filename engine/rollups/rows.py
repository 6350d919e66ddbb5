"""Rows of one table and one tier in columns: one row for each (tag set, bucket), as native.tiers makes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from engine.model.rows import Float64Array, Int32Array, Int64Array
from engine.rollups.bins import Bins
from engine.rollups.bins import concat as concat_bins
from native.sorting import is_strictly_sorted, sort_order
from native.tiers import VALUE_NAMES, WideColumns, merge_rows

#: Columns that have one line for all fields where these agree.
SHARED_NAMES = ("counts", "first_times", "last_times")


@dataclass(frozen=True, slots=True)
class TierRows:
    """n rows over the fields ``field_ids`` (ascending); (tag set, bucket) is distinct.

    Columns as in :class:`native.tiers.WideColumns`.  ``counters``: the fields that the lines of ``increases`` belong
    to, ascending, NaN where it is not known; ``histograms``: bins by field, for the fields that have them, complete
    where they hold as many samples as the bucket.
    """

    tagset_ids: Int32Array
    times: Int64Array
    field_ids: tuple[int, ...]
    counts: Int64Array
    first_times: Int64Array
    last_times: Int64Array
    sums: Float64Array
    mins: Float64Array
    maxs: Float64Array
    firsts: Float64Array
    lasts: Float64Array
    counters: tuple[int, ...]
    increases: Float64Array
    histograms: Mapping[int, Bins] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.times)

    @staticmethod
    def of(
        columns: WideColumns,
        field_ids: tuple[int, ...],
        counters: tuple[int, ...] = (),
        histograms: Mapping[int, Bins] | None = None,
    ) -> TierRows:
        """Give native columns their fields' numbers."""
        lines = {name: getattr(columns, name) for name in (*SHARED_NAMES, *VALUE_NAMES, "increases")}
        return TierRows(
            columns.tagset_ids,
            columns.times,
            field_ids,
            counters=counters,
            histograms=histograms or {},
            **lines,
        )

    @staticmethod
    def empty() -> TierRows:
        integers, doubles = np.empty((1, 0), np.int64), np.empty((0, 0), np.float64)
        lines: dict[str, Any] = dict.fromkeys(SHARED_NAMES, integers) | dict.fromkeys(VALUE_NAMES, doubles)
        return TierRows(np.empty(0, np.int32), np.empty(0, np.int64), (), counters=(), increases=doubles, **lines)

    @property
    def alike(self) -> bool:
        """Whether one line of counts and times stands for all fields."""
        return len(self.counts) == 1

    def line(self, name: str, place: int) -> npt.NDArray[Any]:
        """Return one column of the field at ``place`` in ``field_ids``."""
        line: npt.NDArray[Any] = getattr(self, name)[0 if name in SHARED_NAMES and self.alike else place]
        return line

    def series_rows(self) -> int:
        """Return how many (series, bucket) there are."""
        return int(np.count_nonzero(self.counts)) * (len(self.field_ids) if self.alike else 1)

    def newest_times(self) -> Int64Array:
        """Return int64[n]: the time of the newest sample of each row, of whichever field."""
        newest: Int64Array = np.where(self.counts > 0, self.last_times, np.iinfo(np.int64).min).max(axis=0)
        return newest

    def take(self, chosen: npt.NDArray[np.bool_] | Int64Array | slice) -> TierRows:
        """Return the chosen rows, in the order given; a slice gives views except of histograms."""
        if isinstance(chosen, np.ndarray) and chosen.dtype == np.bool_:
            if chosen.all():
                return self
            chosen = np.flatnonzero(chosen)
        names = (*SHARED_NAMES, *VALUE_NAMES, "increases")
        lines: dict[str, Any]
        if isinstance(chosen, slice):
            lines = {name: getattr(self, name)[:, chosen] for name in names}
        else:
            # Not ``[:, chosen]``, which would lay out row after row.
            lines = {name: getattr(self, name).take(chosen, axis=1) for name in names}
        histograms: dict[int, Bins] = {}
        if self.histograms:
            index = np.arange(len(self))[chosen]
            histograms = {number: bins.take(index) for number, bins in self.histograms.items()}
        return replace(
            self, tagset_ids=self.tagset_ids[chosen], times=self.times[chosen], histograms=histograms, **lines
        )

    def sorted(self) -> TierRows:
        """Return the rows by (tag set, bucket)."""
        if is_strictly_sorted(self.tagset_ids, self.times):
            return self.contiguous()
        return self.take(sort_order(self.tagset_ids, self.times)).contiguous()

    def contiguous(self) -> TierRows:
        """Return the same rows with every matrix laid out line after line, as native functions want them."""
        lines: dict[str, Any] = {
            name: np.ascontiguousarray(getattr(self, name)) for name in (*SHARED_NAMES, *VALUE_NAMES, "increases")
        }
        return replace(
            self,
            tagset_ids=np.ascontiguousarray(self.tagset_ids),
            times=np.ascontiguousarray(self.times),
            **lines,
        )

    def merged(self, width_ns: int) -> TierRows:
        """Return the rows of wider buckets; the rows are sorted and contiguous."""
        places = tuple(self.field_ids.index(number) for number in self.counters)
        columns = merge_rows(self, width_ns, places)
        histograms: dict[int, Bins] = {}
        if self.histograms:
            wide = self.times // width_ns
            new = np.r_[True, (self.tagset_ids[1:] != self.tagset_ids[:-1]) | (wide[1:] != wide[:-1])]
            groups = np.cumsum(new[: len(self)]) - 1
            histograms = {number: bins.merged(groups, len(columns.times)) for number, bins in self.histograms.items()}
        return TierRows.of(columns, self.field_ids, self.counters, histograms)


def concat(parts: Iterable[TierRows]) -> TierRows:
    """Return the rows of all parts over the union of their fields, counters and histograms.

    What a part lacks stays visible: the increase of a counter that it did not count is NaN, and a histogram that it did
    not keep holds fewer samples than the bucket has.
    """
    given = [part for part in parts if len(part)]
    if not given:
        return TierRows.empty()
    if len(given) == 1:
        return given[0]
    total = sum(len(part) for part in given)
    field_ids = tuple(sorted({number for part in given for number in part.field_ids}))
    place = {number: index for index, number in enumerate(field_ids)}
    alike = all(part.alike and part.field_ids == field_ids for part in given)

    counters = tuple(sorted({number for part in given for number in part.counters}))
    binned = sorted({number for part in given for number in part.histograms})
    lines: dict[str, npt.NDArray[Any]] = {}
    for name in (*SHARED_NAMES, *VALUE_NAMES):
        count = 1 if alike and name in SHARED_NAMES else len(field_ids)
        lines[name] = np.zeros((count, total), np.int64 if name in SHARED_NAMES else np.float64)
    increases = np.zeros((len(counters), total), np.float64)
    at = 0
    for part in given:
        end = at + len(part)
        for name, matrix in lines.items():
            if len(matrix) == 1 and name in SHARED_NAMES:
                matrix[0, at:end] = getattr(part, name)[0]
                continue
            for index, number in enumerate(part.field_ids):
                matrix[place[number], at:end] = part.line(name, index)
        for index, number in enumerate(counters):
            if number in part.counters:
                increases[index, at:end] = part.increases[part.counters.index(number)]
            elif number in part.field_ids:
                unknown = part.line("counts", part.field_ids.index(number)) > 0
                increases[index, at:end] = np.where(unknown, np.nan, 0.0)
        at = end
    histograms = {
        number: concat_bins([part.histograms.get(number, Bins.empty(len(part))) for part in given]) for number in binned
    }
    return TierRows(
        np.concatenate([part.tagset_ids for part in given]),
        np.concatenate([part.times for part in given]),
        field_ids,
        counters=counters,
        increases=increases,
        histograms=histograms,
        **lines,
    )
