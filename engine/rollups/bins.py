"""Logarithmic histograms: which bin a value falls into, and bins of many buckets kept one behind the other.

Bin ``i`` of positive values holds ``GAMMA**(i-1) < value <= GAMMA**i`` and stands for ``2*GAMMA**i / (GAMMA + 1)``,
which is within (GAMMA-1)/(GAMMA+1) of every value in it: 0.99 % (DDSketch: Masson, Rim, Lee, VLDB 2019).  Negative
values have bins of their own; zero and infinities are exact.  Adding the counts of equal bins merges histograms without
further error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.model.rows import Float64Array, Int32Array, Int64Array

GAMMA = 1.02
LOG_GAMMA = math.log(GAMMA)
#: No quantile that a histogram answers is further from a sample's value than this share of it.
RELATIVE_ERROR = (GAMMA - 1) / (GAMMA + 1)
#: Added to the bins of positive values, so that 0 is left for zero and negative values count downwards.
OFFSET = 40_000
#: Bins of the infinities; finite doubles reach from bin 40,000 - 37,620 to 40,000 + 35,845.
INFINITE_BIN = 2 * OFFSET


def bins_of(values: Float64Array) -> Int32Array:
    """Return int32[n]: the bin of each value, none of which is NaN; bins ascend as values do."""
    magnitude = np.abs(values)
    with np.errstate(divide="ignore", invalid="ignore"):
        exponent = np.ceil(np.log(magnitude) / LOG_GAMMA)
    exponent = np.where(magnitude == 0.0, -OFFSET, np.where(np.isinf(magnitude), OFFSET, exponent))
    positive = (exponent + OFFSET).astype(np.int32)
    return np.where(values < 0.0, -positive, positive).astype(np.int32)


def values_of(bins: npt.NDArray[np.integer]) -> Float64Array:
    """Return float64[n]: what each bin stands for."""
    # From the lower end of the bin, which is in range where the upper end is not.
    exponent = np.abs(bins).astype(np.float64) - OFFSET - 1
    with np.errstate(over="ignore", under="ignore"):
        magnitude = np.exp(exponent * LOG_GAMMA) * (2.0 * GAMMA / (GAMMA + 1.0))
    magnitude = np.where(bins == 0, 0.0, np.where(np.abs(bins) == INFINITE_BIN, np.inf, magnitude))
    return np.where(bins < 0, -magnitude, magnitude)


@dataclass(frozen=True, slots=True)
class Bins:
    """The bins of n buckets: those of bucket i are ``[offsets[i]:offsets[i + 1]]``, ascending and distinct.

    ``offsets``: int64[n + 1]; ``bins``: int32[m]; ``counts``: int64[m], at least 1.
    """

    offsets: Int64Array
    bins: Int32Array
    counts: Int64Array

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @staticmethod
    def empty(rows: int) -> Bins:
        return Bins(np.zeros(rows + 1, np.int64), np.empty(0, np.int32), np.empty(0, np.int64))

    @staticmethod
    def counted(rows: Int64Array, bins: Int32Array, counts: Int64Array, length: int) -> Bins:
        """Add up ``counts`` of equal (row, bin); ``rows``: int64[m], 0 to ``length`` - 1, in any order."""
        if not len(rows):
            return Bins.empty(length)
        key = rows * (4 * OFFSET) + bins + 2 * OFFSET
        order = np.argsort(key, kind="stable")
        key = key[order]
        first = np.flatnonzero(np.r_[True, key[1:] != key[:-1]])
        found_rows = key[first] // (4 * OFFSET)
        found_bins = (key[first] % (4 * OFFSET) - 2 * OFFSET).astype(np.int32)
        offsets = np.searchsorted(found_rows, np.arange(length + 1))
        return Bins(offsets.astype(np.int64), found_bins, np.add.reduceat(counts[order], first))

    def lengths(self) -> Int64Array:
        return np.diff(self.offsets)

    def take(self, index: Int64Array) -> Bins:
        """Return the buckets at these places, in this order."""
        lengths = self.lengths()[index]
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
        places = (
            np.arange(int(offsets[-1])) - np.repeat(offsets[:-1], lengths) + np.repeat(self.offsets[index], lengths)
        )
        return Bins(offsets, self.bins[places], self.counts[places])

    def merged(self, groups: Int64Array, length: int) -> Bins:
        """Return ``length`` buckets, each the sum of those whose place in ``groups`` (int64[n]) is its number."""
        return Bins.counted(np.repeat(groups, self.lengths()), self.bins, self.counts, length)


def concat(parts: list[Bins]) -> Bins:
    """Return the buckets of all parts, one part behind the other."""
    lengths = np.concatenate([part.lengths() for part in parts])
    return Bins(
        np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]),
        np.concatenate([part.bins for part in parts]),
        np.concatenate([part.counts for part in parts]),
    )


def quantile(bins: Int32Array, counts: Int64Array, share: float) -> float:
    """Return the value at rank ``share * (n - 1)``, rounded down, of ascending bins; NaN without any."""
    total = int(counts.sum())
    if not total:
        return math.nan
    rank = math.floor(share * (total - 1))
    place = int(np.searchsorted(np.cumsum(counts), rank, side="right"))
    return float(values_of(bins[place : place + 1])[0])
