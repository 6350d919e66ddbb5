"""Quantiles of groups of samples: exact from raw samples, within a known relative error from histograms.

The quantile q of n samples is the one at rank floor(q * (n - 1)) in ascending order, counted from 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from engine.model.rows import Float64Array, Int64Array
from engine.rollups.bins import Bins, values_of

SHARES = {"p50": 0.5, "p75": 0.75, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p99.9": 0.999}


@dataclass(frozen=True, slots=True)
class GroupedQuantiles:
    """One value for each (group, bucket) with a sample, by group and bucket; int64[n], int64[n], float64[n]."""

    groups: Int64Array
    buckets: Int64Array
    values: Float64Array


def of_samples(groups: Int64Array, buckets: Int64Array, values: Float64Array, share: float) -> GroupedQuantiles:
    """Return the exact quantiles of samples, none of which is NaN."""
    order = np.lexsort((values, buckets, groups))
    groups, buckets, values = groups[order], buckets[order], values[order]
    starts = _starts(groups, buckets)
    counts = np.diff(np.append(starts, len(values)))
    places = starts + _ranks(counts, share)
    return GroupedQuantiles(groups[starts], buckets[starts], values[places])


def of_bins(groups: Int64Array, buckets: Int64Array, bins: Bins, share: float) -> GroupedQuantiles:
    """Return the quantiles of histograms, one a row; those of equal (group, bucket) are added up."""
    order = np.lexsort((buckets, groups))
    starts = _starts(groups[order], buckets[order])
    numbers = np.empty(len(groups), np.int64)
    numbers[order] = np.searchsorted(starts, np.arange(len(groups)), side="right") - 1
    merged = bins.merged(numbers, len(starts))
    total = np.concatenate([np.zeros(1, np.int64), np.cumsum(merged.counts)])
    before = total[merged.offsets[:-1]]
    counts = total[merged.offsets[1:]] - before
    places = np.searchsorted(total[1:], before + _ranks(counts, share), side="right")
    return GroupedQuantiles(groups[order][starts], buckets[order][starts], values_of(merged.bins[places]))


def bins_of_column(column: pa.ChunkedArray) -> Bins | None:
    """Return a column of maps from bin to count as bins; None when a row has no complete histogram."""
    if column.null_count:
        return None
    maps = column.combine_chunks()
    if isinstance(maps, pa.ChunkedArray):
        maps = pa.concat_arrays(maps.chunks) if maps.num_chunks else pa.array([], column.type)
    offsets = maps.offsets.to_numpy().astype(np.int64)
    first, last = (int(offsets[0]), int(offsets[-1])) if len(offsets) else (0, 0)
    keys, items = maps.keys.to_numpy(), maps.items.to_numpy()
    return Bins(offsets - first, keys[first:last].astype(np.int32), items[first:last].astype(np.int64))


def _starts(groups: Int64Array, buckets: Int64Array) -> Int64Array:
    if not len(groups):
        return np.empty(0, np.int64)
    starts: Int64Array = np.flatnonzero(
        np.concatenate([np.ones(1, np.bool_), (groups[1:] != groups[:-1]) | (buckets[1:] != buckets[:-1])])
    )
    return starts


def _ranks(counts: Int64Array, share: float) -> Int64Array:
    ranks: Int64Array = np.floor(share * (counts - 1)).astype(np.int64)
    return ranks
