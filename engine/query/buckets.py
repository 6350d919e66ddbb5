"""Buckets of series: count, sum, minimum, maximum, first, last and increase of the samples of each (series, time).

They come from raw samples or from a tier, sorted by (series, time), and are merged into wider ones or over series.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine.clock import NS_PER_SECOND
from engine.model.rows import Float64Array, Int64Array, Rows
from engine.rollups.long import INCREASE, NAMES
from native.rollup import BucketColumns, aggregate
from native.sorting import sort_order


@dataclass(slots=True)
class Buckets:
    """Bucket columns sorted by (series, time), whichever source they come from."""

    series_ids: Int64Array
    times: Int64Array
    counts: Int64Array
    sums: Float64Array
    mins: Float64Array
    maxs: Float64Array
    firsts: Float64Array
    lasts: Float64Array
    last_times: Int64Array
    increases: Float64Array


def buckets_of_rows(rows: Rows, width_ns: int, start_ns: int) -> Buckets:
    """Return the buckets of sorted rows, counted from ``start_ns``; the series are numbered by tag set and field."""
    field_ids = np.array(rows.field_ids, np.int32)
    return _of_columns(
        aggregate(rows.tagset_ids, rows.times, np.ascontiguousarray(rows.values), field_ids, width_ns, start_ns)
    )


def aggregate_values(buckets: Buckets, name: str, width_ns: int) -> Float64Array:
    """Return one aggregate of each bucket; ``width_ns`` is what a rate is taken over."""
    match name:
        case "avg":
            return buckets.sums / buckets.counts
        case "sum":
            return buckets.sums
        case "min":
            return buckets.mins
        case "max":
            return buckets.maxs
        case "count":
            return buckets.counts.astype(np.float64)
        case "first":
            return buckets.firsts
        case "last":
            return buckets.lasts
        case "increase":
            return buckets.increases
        case _:
            return buckets.increases / (width_ns / NS_PER_SECOND)


def _of_columns(columns: BucketColumns) -> Buckets:
    return Buckets(
        columns.series_ids,
        columns.times,
        columns.counts,
        columns.sums,
        columns.mins,
        columns.maxs,
        columns.firsts,
        columns.lasts,
        columns.last_times,
        columns.increases,
    )


def with_boundaries(buckets: Buckets, start_ns: int) -> Buckets:
    """Add to each bucket the step from the series' previous sample, and drop the look-back before ``start_ns``."""
    same = np.r_[False, buckets.series_ids[1:] == buckets.series_ids[:-1]]
    previous = np.r_[np.nan, buckets.lasts[:-1]]
    step = buckets.firsts - previous
    step = np.where(step >= 0, step, buckets.firsts)
    # A series' very first sample adds nothing: what it counted before is unknown.
    increases = buckets.increases + np.where(same, step, 0.0)
    return take_buckets(
        Buckets(
            buckets.series_ids,
            buckets.times,
            buckets.counts,
            buckets.sums,
            buckets.mins,
            buckets.maxs,
            buckets.firsts,
            buckets.lasts,
            buckets.last_times,
            increases,
        ),
        buckets.times >= start_ns,
    )


def take_buckets(buckets: Buckets, chosen: npt.NDArray[np.bool_] | Int64Array) -> Buckets:
    return Buckets(*(getattr(buckets, name)[chosen] for name in Buckets.__slots__))


def _is_sorted(groups: Int64Array, times: Int64Array) -> bool:
    later = (groups[1:] > groups[:-1]) | ((groups[1:] == groups[:-1]) & (times[1:] >= times[:-1]))
    return bool(later.all())


def merge_buckets(buckets: Buckets, groups: Int64Array, times: Int64Array) -> Buckets:
    """Merge bucket rows with equal (group, time); sums are added in the order given."""
    if not len(times):
        return buckets
    ordered = buckets
    if not _is_sorted(groups, times):
        # Only numbers of lines come in another order, and there are fewer of those than rows.
        order = sort_order(groups.astype(np.int32), np.ascontiguousarray(times))
        ordered, groups, times = take_buckets(buckets, order), groups[order], times[order]
    starts = np.flatnonzero(np.concatenate(([True], (groups[1:] != groups[:-1]) | (times[1:] != times[:-1]))))
    ends = np.append(starts[1:], len(times)) - 1
    return Buckets(
        groups[starts],
        times[starts],
        np.add.reduceat(ordered.counts, starts),
        np.add.reduceat(ordered.sums, starts),
        np.minimum.reduceat(ordered.mins, starts),
        np.maximum.reduceat(ordered.maxs, starts),
        ordered.firsts[starts],
        ordered.lasts[ends],
        np.maximum.reduceat(ordered.last_times, starts),
        np.add.reduceat(ordered.increases, starts),
    )


def buckets_of_table(table: pa.Table) -> Buckets:
    """Return bucket columns from a tier's rows, sorted by (series, time); increases are 0 where they are no column."""
    series_ids, times, counts, sums, mins, maxs, firsts, lasts, _first_times, last_times = (
        table.column(name).to_numpy() for name in NAMES
    )
    counted = INCREASE in table.column_names
    found = Buckets(
        series_ids.astype(np.int64, copy=False),
        times.astype(np.int64, copy=False),
        counts.astype(np.int64, copy=False),
        sums.astype(np.float64, copy=False),
        mins.astype(np.float64, copy=False),
        maxs.astype(np.float64, copy=False),
        firsts.astype(np.float64, copy=False),
        lasts.astype(np.float64, copy=False),
        last_times.astype(np.int64, copy=False),
        table.column(INCREASE).to_numpy() if counted else np.zeros(len(times), np.float64),
    )
    if _is_sorted(found.series_ids, found.times):
        return found
    return take_buckets(found, np.lexsort((found.times, found.series_ids)))
