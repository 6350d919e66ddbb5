"""``forecast`` in SQL: the forecaster over the samples that a statement has collected."""

from __future__ import annotations

import duckdb
import numpy as np
import pyarrow as pa

from engine.errors import BadRequest
from engine.forecasting.arrays import times_behind
from engine.forecasting.forecast import Forecast, forecast
from engine.forecasting.grid import places
from engine.forecasting.history import LEAST_VALUES
from engine.forecasting.seasons import usual_season
from engine.model.rows import Float64Array, Int64Array

_PATHS = ("mean", "lo80", "hi80", "lo95", "hi95")
POINT = pa.struct([("time", pa.timestamp("ns")), *((name, pa.float64()) for name in _PATHS)])
_RESULT = f'STRUCT("time" TIMESTAMP_NS, {", ".join(f"{name} DOUBLE" for name in _PATHS)})[]'
_ARRAYS = (
    "list_transform(tidegauge_ordered(value, ts), lambda sample: epoch_ns(sample.t)),"
    " list_transform(tidegauge_ordered(value, ts), lambda sample: sample.v)"
)
_CALL = f"tidegauge_forecast_of({_ARRAYS}, CAST(steps AS BIGINT), CAST("


def register(connection: duckdb.DuckDBPyConnection) -> None:
    """Define ``forecast(value, time, steps[, season])``, an aggregate that gives a list of points."""
    connection.create_function(
        "tidegauge_forecast_of",
        forecasts,
        ["BIGINT[]", "DOUBLE[]", "BIGINT", "BIGINT"],
        _RESULT,
        type="arrow",
        null_handling="special",
    )
    connection.execute(
        f"CREATE MACRO forecast(value, ts, steps) AS {_CALL}NULL AS BIGINT)),"
        f" (value, ts, steps, season) AS {_CALL}season AS BIGINT))"
    )


def forecasts(
    times: pa.ChunkedArray, values: pa.ChunkedArray, steps: pa.ChunkedArray, seasons: pa.ChunkedArray
) -> pa.Array:
    """Return the points of each series, list<:data:`POINT`>: NULL where it has fewer than three samples.

    ``times`` list<int64> (ns, in order), ``values`` list<float64>; a season that is NULL is the usual one.
    """
    offsets: list[int | None] = []
    found: list[tuple[Int64Array, Forecast]] = []
    end = 0
    for at, known, ahead, season in zip(times, values, steps.to_pylist(), seasons.to_pylist(), strict=True):
        if ahead is None or not at.is_valid or len(at.values) < LEAST_VALUES:
            offsets.append(None)
            continue
        offsets.append(end)
        found.append(_forecast(at.values.to_numpy(), known.values.to_numpy(), ahead, season))
        end += ahead
    points = pa.StructArray.from_arrays(
        [_joined([ahead for ahead, _ in found], np.int64).cast(pa.timestamp("ns"))]
        + [_joined([getattr(paths, name) for _, paths in found], np.float64) for name in _PATHS],
        fields=list(POINT),
    )
    return pa.ListArray.from_arrays(pa.array([*offsets, end], pa.int32()), points)


def _forecast(times: Int64Array, values: Float64Array, steps: int, season: int | None) -> tuple[Int64Array, Forecast]:
    if (np.diff(times) == 0).any():
        raise BadRequest(
            "cannot forecast: got two samples of one time, want the samples of one series: group by what tells series"
            " apart"
        )
    step_ns, rows = places(times, "the samples")
    column = np.full(int(rows[-1]) + 1, np.nan)
    column[rows] = values
    step_seconds = step_ns / 1e9
    ahead = forecast(
        column, steps, season=usual_season(step_seconds) if season is None else season, step_seconds=step_seconds
    )
    return times_behind(int(times[0]), len(column), steps, step_seconds), ahead


def _joined(parts: list[np.ndarray], dtype: type) -> pa.Array:
    return pa.array(np.concatenate([np.empty(0, dtype), *parts]))
