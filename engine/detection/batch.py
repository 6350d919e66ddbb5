"""Detection over arrays that somebody has: the calls behind ``tidegauge.lab``, with the server's detectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

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
