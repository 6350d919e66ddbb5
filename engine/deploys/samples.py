"""Tests that compare two samples, without any assumption on their distribution.  No randomness: exact or asymptotic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.model.rows import Float64Array

#: Half a width of the normal distribution that holds 95 % on one side.
NORMAL_95 = 1.6448536269514722
#: Neighbouring samples count for this part of themselves at least, however alike they are.
LEAST_SHARE = 0.1

#: Differences between samples that are computed one by one: 32 MiB.
MOST_PAIRS = 1 << 22
HALVINGS = 60


@dataclass(frozen=True, slots=True)
class Superiority:
    """``share``: how often a value of the second sample is above one of the first, ties half; ``p_value``: of at least
    so large a share by chance."""

    share: float
    p_value: float


def superiority(first: Float64Array, second: Float64Array) -> Superiority:
    """Test whether values of ``second`` tend to be larger; unequal spreads and ties are allowed.

    Brunner & Munzel 2000, with the number of samples made smaller where neighbours resemble each other (lag-1
    autocorrelation of ranks: an AR(1)'s effective size).  Where no two values overlap the chance is that of the order.
    """
    n, m = len(first), len(second)
    ranks = midranks(np.concatenate([first, second]))
    ranks_first, ranks_second = ranks[:n], ranks[n:]
    share = float((ranks_second.mean() - ranks_first.mean()) / (n + m) + 0.5)
    size_first, size_second = effective_size(first), effective_size(second)
    own_first, own_second = ranks_first - midranks(first), ranks_second - midranks(second)
    # Placements are shares of the other sample.
    spread_first = float(np.var(own_first / m, ddof=1)) / size_first
    spread_second = float(np.var(own_second / n, ddof=1)) / size_second
    # Even without any overlap the other order of the samples could have come.
    by_order = math.exp(-_log_choose(size_first + size_second, size_first))
    total = spread_first + spread_second
    if total <= 0.0:
        return Superiority(share, by_order if share > 0.5 else 1.0)
    freedom = total**2 / (spread_first**2 / max(size_first - 1.0, 0.5) + spread_second**2 / max(size_second - 1.0, 0.5))
    return Superiority(share, max(student_above((share - 0.5) / math.sqrt(total), freedom), by_order))


def midranks(values: Float64Array) -> Float64Array:
    """Return ranks from 1 on, float64[n]; equal values share the mean of theirs."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    ends = np.r_[starts[1:], len(values)]
    ranks = np.empty(len(values))
    ranks[order] = np.repeat((starts + ends + 1) / 2.0, ends - starts)
    return ranks


def effective_size(values: Float64Array) -> float:
    """Return how many independent samples are worth as much as these: n (1 - r) / (1 + r) of an AR(1)."""
    ranks = midranks(values)
    centred = ranks - ranks.mean()
    square = float(centred @ centred)
    if square <= 0.0 or len(values) < 4:
        return float(len(values))
    alike = float(centred[1:] @ centred[:-1]) / square
    if alike > 1.0 / math.sqrt(len(values)):
        # Short samples look less alike than they are (Kendall 1954).
        alike += (1.0 + 4.0 * alike) / len(values)
    alike = min(max(alike, 0.0), 0.99)
    return max(len(values) * max((1.0 - alike) / (1.0 + alike), LEAST_SHARE), 2.0)


def shift(first: Float64Array, second: Float64Array) -> tuple[float, float, float]:
    """Return by how much ``second`` lies above ``first``, and the ends of what holds the truth in 90 of 100 cases.

    The median of all differences (Hodges & Lehmann 1963); the interval by ranks of these (Moses 1965), of the normal
    approximation.
    """
    n, m = effective_size(first), effective_size(second)
    # As a share of all pairs; the standard deviation of the Mann-Whitney count.
    width = NORMAL_95 * math.sqrt((n + m + 1.0) / (12.0 * n * m))
    low, median, high = difference_quantiles(first, second, (max(0.0, 0.5 - width), 0.5, min(1.0, 0.5 + width)))
    return median, low, high


def difference_quantiles(
    first: Float64Array, second: Float64Array, shares: Sequence[float], *, most_pairs: int = MOST_PAIRS
) -> list[float]:
    """Return quantiles of all differences, of ``second`` less ``first``.

    Beyond ``most_pairs`` they are found by halving the range of values and counting pairs, in memory of the samples
    alone; exact but for a part of 2^-60 of the range.
    """
    if len(first) * len(second) <= most_pairs:
        return [float(each) for each in np.quantile(np.subtract.outer(second, first), shares)]
    ordered, later = np.sort(first), np.sort(second)
    found = []
    for share in shares:
        place, part = divmod(share * (len(first) * len(second) - 1), 1.0)
        below = _difference_at(ordered, later, int(place))
        above = _difference_at(ordered, later, int(place) + 1) if part else below
        found.append(below + part * (above - below))
    return found


def _difference_at(first: Float64Array, second: Float64Array, place: int) -> float:
    """Return the difference with ``place`` smaller ones among all, of sorted samples."""
    low, high = float(second[0] - first[-1]), float(second[-1] - first[0])
    for _ in range(HALVINGS):
        middle = low + 0.5 * (high - low)
        # Of each value of the second sample, those of the first that are at most ``middle`` below it.
        count = len(first) * len(second) - int(np.searchsorted(first, second - middle, "left").sum())
        low, high = (low, middle) if count > place else (middle, high)
    return high


def more_often(first: int, of_first: int, second: int, of_second: int) -> float:
    """Return the chance of so many or more of ``second`` in ``of_second`` when the shares are equal (Fisher 1935)."""
    total, hits = of_first + of_second, first + second
    whole = _log_choose(total, hits)
    highest = min(hits, of_second)
    terms = [
        math.exp(_log_choose(of_second, count) + _log_choose(of_first, hits - count) - whole)
        for count in range(second, highest + 1)
        if hits - count <= of_first
    ]
    return min(1.0, math.fsum(terms))


def more_events(first: Float64Array, second: Float64Array) -> float:
    """Return the chance of so many or more events in ``second`` when both samples have the same rate.

    ``first`` and ``second``: counts.  Given all events, those of the second are binomial (Przyborowski & Wilenski
    1940); where counts vary more than a Poisson process's, events are worth as much less.
    """
    n, m = len(first), len(second)
    spread = max(1.0, _dispersion(first), _dispersion(second))
    events, later = (float(first.sum()) + float(second.sum())) / spread, float(second.sum()) / spread
    if events <= 0.0:
        return 1.0
    return binomial_at_least(later, events, m / (n + m))


def _dispersion(counts: Float64Array) -> float:
    mean = float(counts.mean())
    return float(np.var(counts, ddof=1)) / mean if mean > 0.0 and len(counts) > 1 else 1.0


def binomial_at_least(hits: float, trials: float, chance: float) -> float:
    """Return the chance of at least ``hits`` in ``trials``, both not necessarily whole (by the beta distribution)."""
    if hits <= 0.0:
        return 1.0
    return beta_below(chance, hits, max(trials - hits + 1.0, 1e-9))


def student_above(t: float, freedom: float) -> float:
    """Return the chance of a Student variable above ``t``."""
    tail = 0.5 * beta_below(freedom / (freedom + t * t), freedom / 2.0, 0.5)
    return tail if t >= 0 else 1.0 - tail


def beta_below(x: float, a: float, b: float) -> float:
    """Return the regularised incomplete beta function, by its continued fraction (Lentz; DLMF 8.17.22)."""
    if x <= 0.0:
        return 0.0
    if x >= 1.0:
        return 1.0
    if x > (a + 1.0) / (a + b + 2.0):
        return 1.0 - beta_below(1.0 - x, b, a)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    tiny = 1e-300
    c, d = 1.0, 1.0 / max(1.0 - (a + b) * x / (a + 1.0), tiny)
    result = d
    for k in range(1, 300):
        for factor in (
            k * (b - k) * x / ((a + 2 * k - 1) * (a + 2 * k)),
            -(a + k) * (a + b + k) * x / ((a + 2 * k) * (a + 2 * k + 1)),
        ):
            d = 1.0 / (1.0 + factor * d or tiny)
            c = 1.0 + factor / c or tiny
            result *= c * d
        if abs(c * d - 1.0) < 1e-14:
            break
    return min(1.0, front * result)


def _log_choose(n: float, k: float) -> float:
    return math.lgamma(n + 1.0) - math.lgamma(k + 1.0) - math.lgamma(n - k + 1.0)
