"""From sample to decision, as a user would see it: real data in, exact answers out, over a kill -9; alert and decision.

Uses the labelled series of ../shared/data/nab where they are, and the seeded devops data in any case.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.encoding import line_batches
from benchmarks.generator import DataShape, DevopsGenerator
from tests.system.program import Program
from tests.system.receiver import Receiver

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

NAB = Path(__file__).resolve().parents[3] / "shared" / "data" / "nab" / "series.parquet"
SOURCES = ("samples", "rollup_1m", "rollup_5m", "rollup_15m", "rollup_1h", "rollup_1d")
Answer = dict[str, tuple[int, float, float, float]]


def config(hook: str) -> str:
    return f"""
[retention]
raw = "30y"
[watch]
tick = "1s"
default_rules = false
[[channels]]
name = "hook"
url = "{hook}"
[[rules]]
name = "too-hot"
metric = "web_cpu"
op = ">"
threshold = 90
clear = 80
[[scale]]
target = "web"
match = {{ service = "web" }}
min = 2
max = 20
cooldown = "0s"
stabilisation = "0s"
[[scale.signals]]
kind = "cpu"
metric = "web_cpu"
"""


def answers(program: Program, source: str, metric: str, label: str) -> Answer:
    if source == "samples":
        aggregates = "count(*), min(value), max(value), sum(value)"
    else:
        aggregates = "sum(count), min(min), max(max), sum(sum)"
    rows = program.sql(f"SELECT labels['{label}'], {aggregates} FROM {source} WHERE metric = ? GROUP BY 1", metric)
    return {name: (int(count), low, high, total) for name, count, low, high, total in rows}


def check(program: Program, expected: dict[tuple[str, str], Answer]) -> None:
    for (metric, label), series in expected.items():
        for source in SOURCES:
            found = answers(program, source, metric, label)
            assert found.keys() == series.keys(), (source, metric)
            for name, (count, low, high, total) in series.items():
                assert found[name][:3] == (count, low, high), (source, metric, name)
                # Sums of many floats depend on the order of addition in their last bits.
                assert found[name][3] == pytest.approx(total, rel=1e-12, abs=1e-9), (source, metric, name)


def push_nab(program: Program) -> Answer:
    import polars as pl

    frame = pl.read_parquet(NAB)
    for (name,), part in frame.group_by("file", maintain_order=True):
        times = part["timestamp"].cast(pl.Datetime("ns")).cast(pl.Int64)
        lines = [f"nab,file={name} value={value!r} {at}" for at, value in zip(times, part["value"], strict=True)]
        program.write("\n".join(lines))
    kept = frame.unique(["file", "timestamp"], keep="last", maintain_order=True)
    column = pl.col("value").cast(pl.Float64)
    grouped = kept.group_by("file").agg(
        pl.len(), column.min().alias("a"), column.max().alias("b"), column.sum().alias("c")
    )
    return {row[0]: (row[1], row[2], row[3], row[4]) for row in grouped.rows()}


def push_devops_hour(program: Program) -> dict[tuple[str, str], Answer]:
    shape = DataShape(hosts=10, steps=360)
    generator = DevopsGenerator(shape)
    for body in line_batches(DevopsGenerator(shape), 1_000):
        status, answer = program.request("POST", "/write", body)
        assert status == 204, answer
    measurement = shape.measurements[0]
    hosts = generator.tag_columns(measurement)["hostname"]
    aggregates = generator.aggregates()[measurement.name]
    expected = {}
    for index, field in enumerate(measurement.field_names):
        expected[f"cpu_{field}", "hostname"] = {
            host: (
                int(aggregates.count[index, at]),
                float(aggregates.min[index, at]),
                float(aggregates.max[index, at]),
                float(aggregates.sum[index, at]),
            )
            for at, host in enumerate(hosts)
        }
    return expected


def until(condition: Callable[[], Any], what: str, seconds: float = 20.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.1)
    return found


def test_from_sample_to_decision(tmp_path: Path) -> None:
    with Receiver() as receiver:
        data, text = tmp_path / "data", config(receiver.url)
        with Program(data, text) as program:
            expected = push_devops_hour(program)
            if NAB.exists():
                expected["nab_value", "file"] = push_nab(program)
            check(program, expected)
            program.kill()
        with Program(data, text) as program:
            check(program, expected)

            def load(percent: int) -> None:
                program.write("\n".join(f"web,service=web,host=w{at} cpu={percent}" for at in range(4)))

            def desired() -> int:
                return int(program.get("/v1/scale/web")["desired"] or 0)

            load(50)
            until(lambda: desired() == 4, "the decision at normal load")
            broken_at = time.time()
            load(95)
            notified_at, body = receiver.wait(15, event="firing", rule="too-hot", host="w0")
            assert notified_at - broken_at < 10, "a notification leaves within 10 s of the sample"
            assert body["alert"]["value"] == 95
            raised = until(lambda: desired() > 4 and desired(), "the decision rises")
            assert [row[0] for row in program.sql("SELECT DISTINCT state FROM alerts WHERE rule = 'too-hot'")] == [
                "firing"
            ]

            load(20)
            receiver.wait(15, event="resolved", rule="too-hot", host="w0")
            until(lambda: desired() < raised, "the decision goes back")
            assert program.get("/v1/alerts")["alerts"] == []
            assert program.stop() == 0
        with Program(data, text) as program:
            check(program, expected)
            assert {alert["state"] for alert in program.get("/v1/alerts?state=all")["alerts"]} == {"resolved"}


def test_a_sample_is_visible_to_both_paths_once_it_is_acknowledged(tmp_path: Path) -> None:
    with Program(tmp_path / "data") as program:
        for value in range(30):
            program.write(f"fresh,host=a value={value}i")
            assert program.sql("SELECT count(*), max(value) FROM fresh") == [(value + 1, value)]
            answer = program.get("/v1/query?metric=fresh_value&agg=max&step=1h&start=-30m&end=-0s&by=")
            assert max(answer["series"][0]["values"]) == value
            assert program.sql("SELECT sum(count), max(max) FROM rollup_1d WHERE metric = 'fresh_value'") == [
                (value + 1, value)
            ]
        assert json.loads(program.request("GET", "/health/ready")[1])["ready"] is True
