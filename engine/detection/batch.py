"""Detection over arrays that somebody has: the calls behind ``tidegauge.lab``, with the server's detectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from engine.detection.multivariate import MultivariateDetector
from engine.detection.univariate import UnivariateDetector
from engine.errors import BadRequest
from engine.model.rows import Float64Array, Int64Array


def score_series(timestamps: npt.ArrayLike, values: npt.ArrayLike) -> Float64Array:
    """Return how strange each sample of one series is, float64[n] in [0, 1]; from 0.5 on the server notes an anomaly.

    ``timestamps`` int64[n]: ns since 1970, not falling; ``values``: numbers, NaN where one is missing (scores 0).  The
    score of a row depends on rows up to it alone.  Raises BadRequest for arrays of other kinds or shapes.
    """
    times = _times(timestamps)
    column = _numbers(values, 1)
    if len(times) != len(column):
        raise BadRequest(f"cannot score a series: got {len(times)} timestamps and {len(column)} values")
    detector = UnivariateDetector(1)
    return detector.advance(np.zeros(len(times), np.int64), times, column).scores


def score_matrix(
    values: npt.ArrayLike, train_rows: int, timestamps: npt.ArrayLike | None = None
) -> tuple[Float64Array, Float64Array]:
    """Return how strange each row is, float64[n] in [0, 1], and what each column adds, float64[n, k].

    ``values`` [n, k]: a row a time, a column a metric, NaN where one is missing.  Rows before ``train_rows`` (at least
    10) are known to be normal; the scores of later rows depend on them and on rows up to their own.  ``timestamps``
    int64[n] (ns) help to know the hour; without them the daily repetition of the normal rows is looked for.  Raises
    BadRequest for arrays of other kinds or shapes.
    """
    rows = _numbers(values, 2)
    times = None if timestamps is None else _times(timestamps)
    if times is not None and len(times) != len(rows):
        raise BadRequest(f"cannot score rows: got {len(times)} timestamps and {len(rows)} rows")
    if not rows.shape[1]:
        raise BadRequest("cannot score rows: they have no columns")
    if not 0 <= train_rows <= len(rows):
        raise BadRequest(f"cannot score rows: got train_rows {train_rows} of {len(rows)} rows")
    normal, later = (None, None) if times is None else (times[:train_rows], times[train_rows:])
    detector, fitted = MultivariateDetector.fit_and_judge(rows[:train_rows], normal)
    judged = detector.advance(later, rows[train_rows:])
    return (
        np.concatenate([fitted.scores, judged.scores]),
        np.concatenate([fitted.contributions, judged.contributions]),
    )


def _times(timestamps: npt.ArrayLike) -> Int64Array:
    array: npt.NDArray[Any] = np.asarray(timestamps)
    if array.dtype.kind == "M":
        return array.astype("datetime64[ns]").astype(np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise BadRequest(
            f"cannot score a series: got timestamps {array.dtype}{list(array.shape)}, want int64[n] of nanoseconds"
        )
    return array.astype(np.int64)


def _numbers(values: npt.ArrayLike, dimensions: int) -> Float64Array:
    array: npt.NDArray[Any] = np.asarray(values)
    if array.ndim != dimensions or array.dtype.kind not in "iufb":
        want = "[n]" if dimensions == 1 else "[n, k]"
        raise BadRequest(f"cannot score values: got {array.dtype}{list(array.shape)}, want float64{want}")
    return np.ascontiguousarray(array, np.float64)
