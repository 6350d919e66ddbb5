"""What is usual and where it leads: numbers of the past, over arrays, that a rule compares the present with."""

from __future__ import annotations

import numpy as np

from engine.alerting.states import Float64Array, Int64Array

#: Pairs of buckets looked at in one go, so that memory stays bounded.
_PAIRS_AT_ONCE = 1 << 21
#: A trend needs values in this many buckets.
LEAST_BUCKETS = 6


def usual(pasts: Float64Array, by: str) -> Float64Array:
    """Return float64[n]: median or mean (``by``) of each row of ``pasts``, float64[n, k].

    NaN stands for no value; a row with fewer values than half of its columns has none.
    """
    counts = np.count_nonzero(~np.isnan(pasts), axis=1)
    if by == "mean":
        found = np.nansum(pasts, axis=1) / np.maximum(counts, 1)
    else:
        found = _medians(pasts)
    return np.where((2 * counts >= pasts.shape[1]) & (counts > 0), found, np.nan)


def compared(values: Float64Array, bases: Float64Array, how: str) -> Float64Array:
    """Return how ``values`` relate to ``bases``: ``difference``, ``ratio`` or ``percent`` above.

    From a base of zero there is neither a ratio nor a percentage: NaN.
    """
    if how == "difference":
        return values - bases
    divisors = np.where(bases == 0, np.nan, bases)
    if how == "ratio":
        return values / divisors
    return 100.0 * (values - bases) / np.abs(divisors)


def slopes(values: Float64Array, times: Int64Array) -> Float64Array:
    """Return float64[n]: how much each row of ``values``, float64[n, k], rises a nanosecond, by Theil and Sen.

    The median of the slopes between all pairs of its values: as many as 29 % of them may be anything.  ``times``
    int64[k].  A row with less than :data:`LEAST_BUCKETS` values, or whose values span less than half of the time
    between the first and the last column, has none (NaN).  Source: P. K. Sen, "Estimates of the regression coefficient
    based on Kendall's tau", JASA 63 (1968).
    """
    count, width = values.shape
    if width < LEAST_BUCKETS:
        return np.full(count, np.nan)
    early, late = np.triu_indices(width, 1)
    apart = (times[late] - times[early]).astype(np.float64)
    found = np.empty(count)
    rows_at_once = max(1, _PAIRS_AT_ONCE // len(apart))
    for start in range(0, count, rows_at_once):
        part = values[start : start + rows_at_once]
        found[start : start + rows_at_once] = _medians((part[:, late] - part[:, early]) / apart)
    known = ~np.isnan(values)
    spans = times[width - 1 - known[:, ::-1].argmax(axis=1)] - times[known.argmax(axis=1)]
    enough = (np.count_nonzero(known, axis=1) >= LEAST_BUCKETS) & (2 * spans >= times[-1] - times[0])
    return np.where(enough, found, np.nan)


def _medians(values: Float64Array) -> Float64Array:
    """Return the median of what is not NaN in each row, NaN where there is nothing."""
    if not values.size:
        return np.full(len(values), np.nan)
    # NaN goes to the end.
    ordered = np.sort(values, axis=1)
    counts = np.count_nonzero(~np.isnan(values), axis=1)
    rows = np.arange(len(values))
    lower, upper = ordered[rows, np.maximum(counts - 1, 0) // 2], ordered[rows, counts // 2]
    with np.errstate(invalid="ignore"):
        # Infinities of both signs have no middle.
        middle: Float64Array = np.where(lower == upper, lower, (lower + upper) / 2)
    return middle
