"""Tiers equal their recomputation from de-duplicated samples: shuffled, late, repeated, corrected, over restarts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from engine.clock import NS_PER_DAY, NS_PER_HOUR, NS_PER_MINUTE, NS_PER_SECOND, ManualClock
from engine.config import Config, Query, Retention
from engine.config_units import Duration
from engine.runtime import Engine

NOW_NS = 1_700_000_000 * NS_PER_SECOND
WIDTHS_NS = {
    "rollup_1m": NS_PER_MINUTE,
    "rollup_5m": 5 * NS_PER_MINUTE,
    "rollup_15m": 15 * NS_PER_MINUTE,
    "rollup_1h": NS_PER_HOUR,
    "rollup_1d": NS_PER_DAY,
}
CONFIG = Config(retention=Retention(raw=Duration.parse("30d")), query=Query(in_process=True))
Sample = tuple[str, str, int, str, float]


class Twin:
    """All samples ever sent, in order; the obvious answer to everything."""

    def __init__(self) -> None:
        self.sent: list[Sample] = []

    def latest(self) -> pl.DataFrame:
        schema = {"table": pl.String, "host": pl.String, "time": pl.Int64, "field": pl.String, "value": pl.Float64}
        frame = pl.DataFrame(self.sent, schema=schema, orient="row")
        return frame.unique(["table", "host", "time", "field"], keep="last", maintain_order=True)

    def tier(self, width_ns: int) -> list[tuple[Any, ...]]:
        frame = (
            self.latest()
            .sort("time")
            .with_columns(
                bucket=pl.col("time").floordiv(width_ns) * width_ns,
                metric=pl.col("table") + "_" + pl.col("field"),
            )
        )
        grouped = frame.group_by("metric", "host", "bucket", maintain_order=True).agg(
            pl.len().alias("count"),
            pl.col("value").sum().alias("sum"),
            pl.col("value").min().alias("min"),
            pl.col("value").max().alias("max"),
            pl.col("value").first().alias("first"),
            pl.col("value").last().alias("last"),
        )
        return sorted(grouped.rows())


def random_batch(rng: np.random.Generator, start_ns: int, twin: Twin) -> bytes:
    lines = []
    for _ in range(int(rng.integers(1, 60))):
        table = ("cpu", "disk")[int(rng.integers(2))]
        host = f"h{int(rng.integers(3))}"
        if twin.sent and rng.random() < 0.3:
            # Repeat or correct a sample that has been sent before, wherever it is by now.
            table, host, time_ns = twin.sent[int(rng.integers(len(twin.sent)))][:3]
        else:
            time_ns = start_ns + int(rng.integers(0, 26 * 3600)) * NS_PER_SECOND
        fields = {name: int(rng.integers(-100, 100)) for name in ("x", "y", "z") if rng.random() < 0.6} or {"x": 1}
        twin.sent += [(table, host, time_ns, name, float(value)) for name, value in fields.items()]
        lines.append(f"{table},host={host} " + ",".join(f"{n}={v}i" for n, v in fields.items()) + f" {time_ns}")
    return "\n".join(lines).encode()


def tier_rows(engine: Engine, tier: str) -> list[tuple[Any, ...]]:
    table = engine.sql(
        f"SELECT metric, labels['host'], epoch_ns(time), count, sum, min, max, first, last FROM {tier}", []
    ).table
    return sorted(tuple(row.values()) for row in table.to_pylist())


def check(engine: Engine, twin: Twin) -> None:
    for tier, width_ns in WIDTHS_NS.items():
        assert tier_rows(engine, tier) == twin.tier(width_ns), tier
    raw = engine.sql("SELECT metric, labels['host'] AS host, epoch_ns(time) AS time, value FROM samples", []).table
    found = sorted(tuple(row.values()) for row in raw.to_pylist())
    latest = twin.latest().select(pl.col("table") + "_" + pl.col("field"), "host", "time", "value")
    assert found == sorted(latest.rows())


def test_a_lost_rollup_database_is_recomputed_from_the_segments(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    clock, twin = ManualClock(NOW_NS), Twin()
    data = tmp_path / "data"
    with Engine.open(str(data), CONFIG, clock=clock) as engine:
        for _ in range(4):
            engine.submit_lines(random_batch(rng, NOW_NS - 3 * NS_PER_DAY, twin)).result(30)
    for lost in data.glob("rollups.duckdb*"):
        lost.unlink()
    with Engine.open(str(data), CONFIG, clock=clock) as engine:
        engine.submit_lines(random_batch(rng, NOW_NS - 3 * NS_PER_DAY, twin)).result(30)
        check(engine, twin)


@pytest.mark.parametrize("seed", range(4))
def test_tiers_equal_their_recomputation(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    clock, twin = ManualClock(NOW_NS), Twin()
    start_ns = NOW_NS - 3 * NS_PER_DAY
    data = tmp_path / "0"
    engine = Engine.open(str(data), CONFIG, clock=clock)
    try:
        for step in range(14):
            engine.submit_lines(random_batch(rng, start_ns, twin)).result(30)
            match int(rng.integers(6)):
                case 0:
                    engine.flush_rollups()
                case 1:
                    engine.sealer.seal()
                case 2:
                    engine.sealer.seal(finished_only=True)
                case 3:
                    engine.close()
                    engine = Engine.open(str(data), CONFIG, clock=clock)
                case 4:
                    # What the disk holds at this moment is what a kill -9 would leave behind.
                    copy = tmp_path / str(step + 1)
                    shutil.copytree(data, copy)
                    engine.close()
                    data = copy
                    engine = Engine.open(str(data), CONFIG, clock=clock)
                case _:
                    check(engine, twin)
        check(engine, twin)
    finally:
        engine.close()
