"""How much each metric of an incident deviates from normal, in which rows, and how well that fits the symptom.

For each column a robust centre and scale of the normal rows; for each abnormal row the deviation in the bad direction
on a logarithmic scale, damped where normal rows often are as far out; then the mean over the rows in which the symptom
shows less what the other rows have as well, so that a level that differs all the time counts for little.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.detection.semantics import SYMPTOMS, Kind, Metric

Float64Array = npt.NDArray[np.float64]

#: A deviation below this many scales is no evidence.
GATE = 2.0
#: Least scale: this share of the standard deviation, of the level; and for success rates so many percentage points.
SCALE_OF_SD, SCALE_OF_LEVEL, SUCCESS_POINTS = 0.5, 0.05, 0.5
#: Latencies have a few values far out in normal times too; beyond this quantile on either side they add no spread.
LATENCY_TAIL = 0.02
#: What a deviation in the other direction counts: falling usage, and falling traffic.
FALLING, FALLING_TRAFFIC = 0.5, 0.8
#: The logarithm is cut here: beyond e^8 scales more is no more telling.
LARGEST = 8.0
#: How much of what shows without the symptom too is taken off.
BACKGROUND = 0.5
#: What one unit of evidence of each kind is worth.
WORTH = {
    Kind.SUCCESS: 1.2,
    Kind.ERROR: 1.2,
    Kind.LATENCY: 0.9,
    Kind.CPU: 1.2,
    Kind.MEMORY: 0.25,
    Kind.RESOURCE: 0.8,
    Kind.TRAFFIC: 0.3,
    Kind.OTHER: 0.5,
}
_TWO_SIDED = frozenset({Kind.RESOURCE, Kind.TRAFFIC, Kind.OTHER})


@dataclass(frozen=True, slots=True)
class Evidence:
    """``strength``: float64[k], 0 for none.  ``first_row``: int64[k], the first abnormal row in which the column has
    moved, -1 for none.  ``expected``, ``found``: float64[k], the normal level and the one while the symptom shows.
    """

    strength: Float64Array
    first_row: npt.NDArray[np.int64]
    expected: Float64Array
    found: Float64Array


def weigh(metrics: Sequence[Metric], normal: Float64Array, abnormal: Float64Array, entry: str | None) -> Evidence:
    """Return the evidence of each column; ``normal`` [n, k] and ``abnormal`` [m, k] may hold NaN for "not reported"."""
    with warnings.catch_warnings():
        # A column without a single value is no evidence, and numpy need not say so.
        warnings.simplefilter("ignore", RuntimeWarning)
        deviations = _deviations(metrics, normal, abnormal)
        known = np.isfinite(deviations)
        rows = _logarithms(metrics, np.where(known, deviations, 0.0))
        rows *= _rarity(normal, abnormal)
        rows[~known] = 0.0
        shows = _symptom(metrics, rows, entry)
        strength = _contrast(rows, known, shows)
        strength *= np.sqrt(np.minimum(1.0, 2.0 * np.isfinite(normal).mean(axis=0)))
        strength *= np.array([WORTH[metric.kind] for metric in metrics])
        # Noise reaches past the gate now and then: a metric has moved when half of its largest deviation is reached.
        deviating = (rows > 0) & (rows >= 0.5 * rows.max(axis=0, initial=0.0))
        first = np.where(deviating.any(axis=0), deviating.argmax(axis=0), -1)
        return Evidence(strength, first, np.nanmedian(normal, axis=0), _weighted_mean(abnormal, shows))


def _deviations(metrics: Sequence[Metric], normal: Float64Array, abnormal: Float64Array) -> Float64Array:
    """Return (value - centre) / scale of the abnormal rows; success rates as percent of failures."""
    normal, abnormal = normal.copy(), abnormal.copy()
    floor = np.zeros(len(metrics))
    for at, metric in enumerate(metrics):
        if metric.kind is Kind.SUCCESS:
            top = max(_most(normal[:, at]), _most(abnormal[:, at]))
            full = 100.0 if top > 1.5 else 1.0
            for values in (normal, abnormal):
                values[:, at] = (full - values[:, at]) * (100.0 / full)
            floor[at] = SUCCESS_POINTS
    ordered = _Ordered(normal)
    centre = ordered.quantile(0.5)
    apart = _Ordered(np.abs(normal - centre)).quantile(0.5)
    scale = np.maximum(1.4826 * apart, (ordered.quantile(0.75) - ordered.quantile(0.25)) / 1.349)
    latencies = np.array([metric.kind is Kind.LATENCY for metric in metrics])
    cut = np.clip(normal, ordered.quantile(LATENCY_TAIL), ordered.quantile(1.0 - LATENCY_TAIL))
    scale = np.maximum(scale, SCALE_OF_SD * np.nanstd(np.where(latencies, cut, normal), axis=0))
    scale = np.maximum(np.maximum(scale, SCALE_OF_LEVEL * np.abs(centre)), floor)
    # A column that has always been zero: its own size tells, the most that the other rows had or now have.
    usual = _Ordered(np.abs(normal)).quantile(0.9)
    now = np.nanmax(np.abs(abnormal), axis=0) / 20.0 + 1e-12
    scale = np.where(scale > 0, scale, np.where(usual > 0, usual, now))
    deviations: Float64Array = (abnormal - centre) / scale
    return deviations


def _most(values: Float64Array) -> float:
    known = values[np.isfinite(values)]
    return float(known.max()) if len(known) else 0.0


def _logarithms(metrics: Sequence[Metric], deviations: Float64Array) -> Float64Array:
    bad = deviations.copy()
    for at, metric in enumerate(metrics):
        if metric.kind in (Kind.SUCCESS, Kind.ERROR):
            continue
        falling = FALLING_TRAFFIC if metric.kind in _TWO_SIDED else FALLING
        bad[:, at] = np.maximum(bad[:, at], -falling * bad[:, at])
    logarithms: Float64Array = np.minimum(LARGEST, np.log1p(np.maximum(0.0, bad - GATE)))
    return logarithms


def _rarity(normal: Float64Array, abnormal: Float64Array) -> Float64Array:
    """Return for each cell how rare it is among the normal rows: 1 when none is as far out, towards 0 when most are."""
    as_far = np.empty(abnormal.shape)
    for at, row in enumerate(abnormal):
        as_far[at] = np.minimum((normal >= row).sum(axis=0), (normal <= row).sum(axis=0))
    known = np.isfinite(normal).sum(axis=0)
    rarity = np.log((known + 1) / (as_far + 1)) / np.log(np.maximum(known, 1) + 1)
    clipped: Float64Array = np.clip(np.where(known > 0, rarity, 1.0), 0.0, 1.0)
    return clipped


class _Ordered:
    """Columns in order, so that several quantiles of each take one sort; NaN for a column without a value."""

    def __init__(self, values: Float64Array) -> None:
        self._values = np.sort(values, axis=0)
        self._last = np.isfinite(values).sum(axis=0) - 1

    def quantile(self, share: float) -> Float64Array:
        """Return the quantile of each column, between two values in proportion."""
        place = np.maximum(self._last, 0) * share
        below = np.floor(place).astype(np.int64)
        above = np.minimum(below + 1, np.maximum(self._last, 0))
        low, high = (np.take_along_axis(self._values, at[None, :], axis=0)[0] for at in (below, above))
        quantile: Float64Array = low + (high - low) * (place - below)
        return quantile


def _symptom(metrics: Sequence[Metric], rows: Float64Array, entry: str | None) -> Float64Array:
    """Return how much the symptom shows in each abnormal row, at most 1; in all of them alike where it is not known."""
    service = None if entry is None else entry.rpartition("/")[0]
    seen = [at for at, metric in enumerate(metrics) if metric.service == service and metric.kind in SYMPTOMS]
    profile = rows[:, seen].max(axis=1) if seen else np.zeros(len(rows))
    most = profile.max(initial=0.0)
    shows: Float64Array = profile / most if most > 0 else np.ones(len(rows))
    return shows


def _contrast(rows: Float64Array, known: npt.NDArray[np.bool_], shows: Float64Array) -> Float64Array:
    """Return the mean while the symptom shows, less a part of the mean while it does not."""
    during, apart = shows[:, None] * known, (1.0 - shows)[:, None] * known
    mean = (during * rows).sum(axis=0) / np.maximum(during.sum(axis=0), 1e-9)
    background = (apart * rows).sum(axis=0) / np.maximum(apart.sum(axis=0), 1e-9)
    enough = apart.sum(axis=0) > 0.5
    present = during.sum(axis=0) / max(float(shows.sum()), 1e-9)
    contrast: Float64Array = np.maximum(0.0, mean - BACKGROUND * background * enough) * np.sqrt(present)
    return contrast


def _weighted_mean(values: Float64Array, weights: Float64Array) -> Float64Array:
    known = np.isfinite(values)
    total = np.where(known, values, 0.0) * weights[:, None]
    mean: Float64Array = total.sum(axis=0) / np.maximum((weights[:, None] * known).sum(axis=0), 1e-9)
    return np.where(known.any(axis=0), mean, np.nan)
