"""What the forecaster reaches on public series, where these are at hand; docs/forecasting.md has the whole table."""

from __future__ import annotations

import json

import numpy as np
import polars as pl

from tests.engine.detection.test_bars import SHARED, needs_data, scorer
from tidegauge import lab


def series_of(table: str) -> dict[str, np.ndarray]:
    assert SHARED is not None
    frame = pl.read_parquet(SHARED / f"data/forecast/{table}.parquet").sort("series", "timestamp")
    return {
        str(name): rows["value"].cast(pl.Float64).fill_null(float("nan")).to_numpy()
        for (name,), rows in frame.group_by(["series"], maintain_order=True)
    }


@needs_data
def test_days() -> None:
    rows = scorer("forecast").evaluate(series_of("daily"), lambda h, ahead, season, *_: lab.forecast(h, ahead))
    found = scorer("forecast").summary(rows)
    for horizon, mase, msis in ((30, 1.00, 8.8), (90, 0.92, 7.3), (180, 0.96, 7.9), (365, 1.13, 11.8)):
        assert found[horizon]["mase"] <= mase
        assert found[horizon]["msis95"] <= msis
        assert 0.77 <= found[horizon]["cov80"] <= 0.90
        assert 0.92 <= found[horizon]["cov95"] <= 0.98


@needs_data
def test_hours_of_the_m4_competition() -> None:
    assert SHARED is not None
    meta = json.loads((SHARED / "data/forecast/m4_hourly.json").read_text())

    def method(history: np.ndarray, ahead: int, season: int, *_: object) -> dict[str, np.ndarray]:
        return lab.forecast(history, ahead, season=season, step_seconds=3600)

    rows = scorer("forecast").evaluate_m4(series_of("m4_hourly"), meta, method)
    assert np.mean([row["mase"] for row in rows]) <= 1.03
    assert np.mean([row["smape"] for row in rows]) <= 7.1
    assert np.mean([row["msis95"] for row in rows]) <= 7.0
