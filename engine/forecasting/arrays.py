"""Forecasts of arrays that somebody has: the call behind ``tidegauge.lab.forecast``, with the server's forecaster."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from engine.errors import BadRequest
from engine.forecasting.forecast import forecast as forecast_column
from engine.model.rows import Int64Array


def forecast(
    values: npt.ArrayLike,
    horizon: int,
    *,
    season: int = 7,
    start: int | np.datetime64 | None = None,
    step_seconds: float = 86_400,
) -> dict[str, npt.NDArray[Any]]:
    """Forecast ``horizon`` steps behind a series of values at equal distances, NaN where one is missing.

    ``season``: steps of the short repetition (7 for days, 24 for hours, 1 for none).  Returns float64[horizon] each of
    ``mean``, ``lo80``, ``hi80``, ``lo95`` and ``hi95``: the middle, and intervals made to hold 80 % and 95 % of what
    comes.  With ``start``, the time of the first value (ns since 1970, or a datetime64), also ``times`` int64[horizon].
    The same values give the same forecast.  Raises BadRequest for arrays of other kinds or shapes, fewer than three
    values, or a horizon, season or step that cannot be.
    """
    column: npt.NDArray[Any] = np.asarray(values)
    if column.ndim != 1 or column.dtype.kind not in "iufb":
        raise BadRequest(f"cannot forecast values: got {column.dtype}{list(column.shape)}, want float64[n]")
    found = forecast_column(column.astype(np.float64), int(horizon), season=int(season), step_seconds=step_seconds)
    answer: dict[str, npt.NDArray[Any]] = {
        "mean": found.mean,
        "lo80": found.lo80,
        "hi80": found.hi80,
        "lo95": found.lo95,
        "hi95": found.hi95,
    }
    if start is not None:
        answer["times"] = times_behind(start, len(column), int(horizon), step_seconds)
    return answer


def times_behind(start: int | np.datetime64, rows: int, horizon: int, step_seconds: float) -> Int64Array:
    """Return the times (ns) of the ``horizon`` steps behind ``rows`` values, the first of which was at ``start``."""
    begin = int(start.astype("datetime64[ns]").astype(np.int64)) if isinstance(start, np.datetime64) else int(start)
    step_ns = round(step_seconds * 1e9)
    return begin + step_ns * np.arange(rows, rows + horizon, dtype=np.int64)
