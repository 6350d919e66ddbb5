"""One detector for one subject with many metrics: which rows are unlike normal ones, which columns are to blame.

Fitted on rows that are known to be normal; then rows are judged one after the other.  Four measures of a row, each
in units of what it reaches in normal rows and smoothed over some rows, are combined (sources: docs/detectors.md):

- *beyond*: how far columns lie outside of what 98 of 100 normal rows have;
- *again*: how far outside they have been again and again lately, each time for a moment perhaps
  (``engine.detection.recurrence``);
- *broken*: what is left of a row after its projection on the directions in which normal rows vary;
- *restless*: how strange each column is against its own past (``engine.detection.univariate``), which goes on learning.

A column's contribution is its distance from its own last hour or so, in a scale that keeps quiet columns from shouting.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from engine.clock import NS_PER_DAY
from engine.detection import snapshot
from engine.detection.periods import day_rows
from engine.detection.recurrence import no_stretches, recurring
from engine.detection.snapshot import Arrays
from engine.detection.univariate import UnivariateDetector
from engine.errors import BadRequest, Damage
from engine.model.rows import Float64Array, Int64Array

KIND = "multivariate"

LEAST_TRAIN_ROWS = 10
#: A column's ordinary range is all but this share of the normal rows on either side.
OUTSIDE = 0.01
#: Beyond the range the distance from its edge to the middle is the unit, and this part of the middle column's deviation
#: at least: one that hardly varied is not judged by the hair.
FLOOR = 0.3
#: Columns that are farther out count as this.
FARTHEST = 10.0
FINE_FLOOR = 0.01
CONTRIBUTION_FLOOR = 1.0
#: Larger values count as this: their squares can still be added.
LARGEST = 1e100
FINE_FARTHEST = 20.0
EXPLAINED = 0.9
#: Strangeness above this counts as this.
MOST_STRANGE = 10.0
#: Rows over which beyond, again, broken and restless are averaged, and what they weigh.
WINDOWS = np.array([6.0, 1.0, 6.0, 20.0])
WEIGHTS = np.array([2.0, 1.0, 0.5, 1.75])
#: Added to a measure's unit: in normal rows some never show.
LEAST_UNIT = 0.01
RECENT_ROWS = 60.0
#: The score is a half where the combined measure is this many times what one normal row in a thousand exceeds.
MARGIN = 2.0
#: Rows of training that only settle the averages.
SETTLING = 500
DEFAULT_STEP_NS = 300 * 1_000_000_000
#: Arrays without which a state is of no use.
NAMES = frozenset(
    {
        *("middle", "low", "high", "edge", "mean", "fine_scale", "contribution_scale", "directions"),
        *("recent", "stretches", "measures", "units", "half", "seen", "clock", "columns"),
    }
)


@dataclass(frozen=True, slots=True)
class JudgedRows:
    """``scores`` float64[n] in [0, 1], and ``contributions`` float64[n, k]: larger is likelier to blame."""

    scores: Float64Array
    contributions: Float64Array


class MultivariateDetector:
    """Judges the rows of one subject; made by :meth:`fit`."""

    def __init__(self, model: Arrays, columns: UnivariateDetector) -> None:
        self._model, self._columns = model, columns

    @classmethod
    def fit(cls, rows: Float64Array, times: Int64Array | None = None) -> Self:
        """Return a detector that takes ``rows`` float64[n, k] for normal; raises BadRequest for fewer than ten rows.

        Without ``times`` int64[n] (ns) the rows' own daily repetition is looked for, and rows are taken to be 5 minutes
        apart where there is none.
        """
        detector, _ = cls.fit_and_judge(rows, times)
        return detector

    @classmethod
    def fit_and_judge(cls, rows: Float64Array, times: Int64Array | None = None) -> tuple[Self, JudgedRows]:
        """Fit, and return what the detector says about the rows that it was fitted on."""
        if len(rows) < LEAST_TRAIN_ROWS:
            raise BadRequest(f"cannot learn what is normal: got {len(rows)} rows, want at least {LEAST_TRAIN_ROWS}")
        detector = cls(_model_of(rows, times), UnivariateDetector(rows.shape[1]))
        measures, contributions = detector._measure(rows, times)
        settled = measures[min(SETTLING, len(rows) // 4) :]
        units = np.quantile(settled, 0.99, axis=0) + LEAST_UNIT
        # In few rows nothing recurs.
        units[1] = max(units[1], units[0])
        detector._model["units"] = units
        ordinary = float(np.quantile(detector._combine(settled), 0.999))
        detector._model["half"] = np.array([MARGIN * ordinary + 1e-9])
        return detector, JudgedRows(detector._score(measures), contributions)

    def advance(self, times: Int64Array | None, rows: Float64Array) -> JudgedRows:
        """Judge rows, then learn them, in this order."""
        measures, contributions = self._measure(rows, times)
        return JudgedRows(self._score(measures), contributions)

    def score(self, times: Int64Array | None, rows: Float64Array) -> Float64Array:
        """Return what :meth:`advance` would, without learning."""
        return self.clone().advance(times, rows).scores

    def learn(self, times: Int64Array | None, rows: Float64Array) -> None:
        self.advance(times, rows)

    def clone(self) -> Self:
        return type(self)({name: array.copy() for name, array in self._model.items()}, self._columns.clone())

    def to_bytes(self) -> bytes:
        columns = np.frombuffer(self._columns.to_bytes(), np.uint8)
        return snapshot.encode(KIND, {**self._model, "columns": columns})

    @classmethod
    def from_bytes(cls, data: bytes | memoryview, path: str = "bytes") -> Self:
        arrays = snapshot.decode(KIND, data, path)
        missing = sorted(NAMES - set(arrays))
        if missing:
            raise Damage(f"cannot read detector state: array {missing[0]!r} is missing", path=path)
        columns = UnivariateDetector.from_bytes(arrays.pop("columns").tobytes(), path)
        return cls(arrays, columns)

    # --- measures

    def _measure(self, rows: Float64Array, times: Int64Array | None) -> tuple[Float64Array, Float64Array]:
        """Return the four smoothed measures, float64[n, 4], and the contributions; learns the rows."""
        from native.kernels.smoothing import follow

        model = self._model
        seen, width = int(model["seen"][0]), rows.shape[1]
        if times is None:
            times = model["clock"][0] + model["clock"][1] * np.arange(1, len(rows) + 1, dtype=np.int64)
        whole = np.where(np.isfinite(rows), np.clip(rows, -LARGEST, LARGEST), model["middle"])
        recent = np.empty_like(whole)
        before = model["recent"].copy()
        follow(whole, np.full(width, 1 / RECENT_ROWS), seen, model["recent"], recent)
        recent = np.vstack([before if seen else whole[:1], recent[:-1]])
        contributions = np.abs(whole - recent) / model["contribution_scale"]
        above = (whole - model["high"]) / model["edge"][1]
        beyond = np.clip(np.maximum(above, (model["low"] - whole) / model["edge"][0]), 0.0, FARTHEST)
        fine = np.clip((whole - model["mean"]) / model["fine_scale"], -FINE_FARTHEST, FINE_FARTHEST)
        raw = np.empty((len(rows), 4))
        raw[:, 0] = beyond.mean(axis=1)
        raw[:, 1] = recurring(beyond, seen, model["stretches"]).mean(axis=1)
        raw[:, 2] = np.abs(fine - (fine @ model["directions"].T) @ model["directions"]).mean(axis=1)
        raw[:, 3] = self._restless(rows, times)
        measures = np.empty_like(raw)
        follow(raw, 1 / WINDOWS, seen, model["measures"], measures)
        model["seen"] += len(rows)
        if len(rows):
            model["clock"][0] = times[-1]
        return measures, contributions

    def _restless(self, rows: Float64Array, times: Int64Array) -> Float64Array:
        count, width = rows.shape
        subjects = np.tile(np.arange(width, dtype=np.int64), count)
        scores = self._columns.advance(subjects, np.repeat(times, width), rows.ravel()).scores.reshape(count, width)
        # Back from the score to the strangeness behind it; an alarm is as strange as can be.
        most = 0.5 * MOST_STRANGE / (MOST_STRANGE + 4.0)
        held = np.minimum(scores, most)
        restless: Float64Array = (4.0 * held / (0.5 - held)).mean(axis=1)
        return restless

    def _combine(self, measures: Float64Array) -> Float64Array:
        # The square keeps what is ordinary, below its unit, from adding up beside what is not.
        combined: Float64Array = 0.5 * np.log1p((measures / self._model["units"]) ** 2) @ WEIGHTS
        return combined

    def _score(self, measures: Float64Array) -> Float64Array:
        combined = self._combine(measures)
        scores: Float64Array = combined / (combined + self._model["half"])
        return scores


def _model_of(rows: Float64Array, times: Int64Array | None) -> Arrays:
    """Return what normal rows are like, and a state that has seen none."""
    count, width = rows.shape
    finite = np.isfinite(rows)
    known = np.where(finite, np.clip(rows, -LARGEST, LARGEST), np.nan)
    empty = ~finite.any(axis=0)
    known[:, empty] = 0.0
    middle, mean = np.nanmedian(known, axis=0), np.nanmean(known, axis=0)
    deviation = np.nanstd(known, axis=0)
    unit = _units(known, middle)
    varying = deviation > 0
    usual = unit * (float(np.median((deviation / unit)[varying])) if varying.any() else 0.01)
    fine_scale = deviation + FINE_FLOOR * usual
    whole = np.where(np.isnan(known), middle, known)
    fine = np.clip((whole - mean) / fine_scale, -FINE_FARTHEST, FINE_FARTHEST)
    values, directions = np.linalg.eigh(fine.T @ fine / count - np.outer(fine.mean(axis=0), fine.mean(axis=0)))
    shares = np.cumsum(np.maximum(values[::-1], 0)) / max(float(np.maximum(values, 0).sum()), 1e-12)
    kept = min(int(np.searchsorted(shares, EXPLAINED)) + 1, width)
    low, high = np.quantile(whole, [OUTSIDE, 1 - OUTSIDE], axis=0)
    return {
        "middle": middle,
        "low": low,
        "high": high,
        "edge": np.array([middle - low, high - middle]) + FLOOR * usual,
        "mean": mean,
        "fine_scale": fine_scale,
        "contribution_scale": deviation + CONTRIBUTION_FLOOR * usual,
        "directions": np.ascontiguousarray(directions[:, ::-1][:, :kept].T),
        "recent": np.zeros(width),
        "stretches": no_stretches(width),
        "measures": np.zeros(4),
        "seen": np.zeros(1, np.int64),
        "clock": np.array([0, _step_ns(whole, times)], np.int64),
    }


def _units(known: Float64Array, middle: Float64Array) -> Float64Array:
    """Return a size for each column that makes columns of different units comparable: the range that it had.

    A column that never moved has its level for a size, and one that was always zero the middle one of the others.
    Columns that all lie between 0 and 1 are shares of something: they have one unit already.
    """
    if np.nanmin(known) >= 0 and np.nanmax(known) <= 1:
        return np.ones_like(middle)
    sizes = np.nanmax(known, axis=0) - np.nanmin(known, axis=0)
    sizes = np.where(sizes > 0, sizes, np.abs(middle))
    units: Float64Array = np.where(sizes > 0, sizes, np.median(sizes[sizes > 0]) if (sizes > 0).any() else 1.0)
    return units


def _step_ns(rows: Float64Array, times: Int64Array | None) -> int:
    if times is not None and len(times) > 1:
        return int(np.median(np.diff(times)))
    period = day_rows(rows)
    return NS_PER_DAY // period if period else DEFAULT_STEP_NS
