"""The questions of docs/sql-questions.md, asked of known data, and their answers computed again with polars and numpy.

Data come from a seeded generator.  ``now()`` and ``today()`` are replaced by fixed times, so that nothing depends on
the hour of the day at which tests run; that the statements run as they stand is tested as well.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pytest

from engine.clock import ManualClock
from engine.config import Config, Query, Retention
from engine.config_units import Duration
from engine.runtime import Engine
from engine.scaling.policy import ScaleHistory
from tests.api.question_data import (
    DAY,
    HOSTS,
    HOUR,
    INSTANCES,
    NOW,
    NOW_NS,
    TODAY,
    Data,
    lines_of,
    make_data,
    store_alarms,
)

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "sql-questions.md").read_text()
Rows = list[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Question:
    number: int
    title: str
    sql: str
    columns: list[str]


def questions() -> list[Question]:
    found = []
    for number, title, body in re.findall(r"^## (\d+)\. (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE):
        (sql,) = re.findall(r"```sql\n(.*?);\n```", body, re.DOTALL)
        (answer,) = re.findall(r"^Answer: ([^;]*);", body, re.MULTILINE)
        assert re.search("^Fast because ", body, re.MULTILINE), f"question {number} does not say why it is fast"
        found.append(Question(int(number), title, sql, re.findall("`([a-z0-9_]+)`", answer)))
    return found


QUESTIONS = questions()


def test_the_page_has_twenty_questions() -> None:
    assert [question.number for question in QUESTIONS] == list(range(1, 21))
    assert sorted(ORACLES) == list(range(1, 21))


# --- the data, stored


@pytest.fixture(scope="module")
def data() -> Data:
    return make_data()


@pytest.fixture(scope="module")
def engine(data: Data, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    config = Config(retention=Retention(raw=Duration.parse("60d")), query=Query(in_process=True))
    with Engine.open(str(tmp_path_factory.mktemp("questions")), config, clock=ManualClock(NOW_NS)) as engine:
        for table, tags in (("cpu", ["host", "region"]), ("mem", ["host"]), ("disk", ["host", "path"])):
            submit(engine, lines_of(table, getattr(data, table), tags))
        submit(engine, lines_of("web", data.web, ["service", "instance"]))
        submit(engine, lines_of("inventory", data.inventory, ["host", "team"]))
        store_alarms(engine, data.alarms)
        for decision in data.decisions:
            engine.decisions.record([(decision, ScaleHistory())])
        yield engine


def submit(engine: Engine, lines: list[str]) -> None:
    for start in range(0, len(lines), 20_000):
        chunk = lines[start : start + 20_000]
        result = engine.submit_lines("\n".join(chunk).encode()).result(60)
        assert result.rows == len(chunk)


def ask(engine: Engine, sql: str) -> tuple[list[str], Rows]:
    table = engine.sql(sql).table
    frame = pl.DataFrame(pl.from_arrow(table))
    return table.column_names, frame.rows()


def at_fixed_time(sql: str) -> str:
    return sql.replace("now()", f"TIMESTAMP '{NOW}'").replace("today()", f"DATE '{TODAY.date()}'")


# --- the answers, computed without SQL


def rises(values: list[float]) -> float:
    """What a counter rose by: a fall is a restart from zero."""
    return sum(after - before if after >= before else after for before, after in pairwise(values))


def since(frame: pl.DataFrame, start: datetime) -> pl.DataFrame:
    return frame.filter(pl.col("time") >= start).sort("time")


def hourly(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.with_columns(hour=pl.col("time").dt.truncate("1h"))


def above_90_for_5_minutes(data: Data) -> Rows:
    found: Rows = []
    for host in HOSTS:
        rows = data.cpu.filter(pl.col("host") == host).sort("time").select("time", "usage_user").rows()
        stretch: Rows = []
        for at, busy in [*rows, (NOW, 0.0)]:
            if TODAY - DAY <= at < TODAY and busy > 90:
                stretch.append((at, busy))
                continue
            if stretch and stretch[-1][0] - stretch[0][0] > timedelta(minutes=5):
                found.append((host, stretch[0][0], stretch[-1][0], max(busy for _, busy in stretch)))
            stretch = []
    return sorted(found, key=lambda row: (row[1], row[0]))


def p99_by_hour(data: Data) -> Rows:
    grouped = hourly(since(data.web, NOW - 7 * DAY)).group_by("service", "hour").agg("response_time_ms")
    found = []
    for service, hour, values in grouped.rows():
        at_rank = sorted(values)[int(np.floor(0.99 * (len(values) - 1)))]
        found.append((service, hour, pytest.approx(at_rank, rel=0.01)))
    return sorted(found, key=lambda row: row[:2])


def counted(data: Data, start: datetime) -> dict[str, tuple[float, float]]:
    """Return errors and requests of each service."""
    found: dict[str, tuple[float, float]] = {}
    for (service, _), rows in since(data.web, start).group_by("service", "instance"):
        errors, requests = (rises(rows.sort("time")[name].to_list()) for name in ("errors_total", "requests_total"))
        before = found.get(str(service), (0.0, 0.0))
        found[str(service)] = (before[0] + errors, before[1] + requests)
    return found


def share_of_errors(data: Data) -> Rows:
    rows = [(name, errors, all_, errors / all_) for name, (errors, all_) in counted(data, NOW - DAY).items()]
    return sorted(rows, key=lambda row: -row[3])


def movers(data: Data) -> Rows:
    means = {
        key: np.mean(values)
        for *key, values in hourly(data.cpu).group_by("host", "hour").agg("usage_user").rows()
        for key in [tuple(key)]
    }
    rows = []
    for host in HOSTS:
        before, this = means[host, NOW - 169 * HOUR], means[host, NOW - HOUR]
        rows.append((host, before, this, this - before))
    return sorted(rows, key=lambda row: -abs(row[3]))[:5]


def silent(data: Data) -> Rows:
    seen = since(data.cpu, NOW - DAY).group_by("host").agg(pl.col("time").max()).sort("time")
    return seen.filter(pl.col("time") < NOW - timedelta(minutes=10)).rows()


def full_disks(data: Data) -> Rows:
    found = []
    for (host, path), rows in since(data.disk, NOW - DAY).group_by("host", "path"):
        hours = rows["time"].dt.timestamp("ms").to_numpy() / 3_600_000
        slope = np.polyfit(hours - hours[0], rows["used_bytes"].to_numpy(), 1)[0]
        used, total = rows["used_bytes"][-1], rows["total_bytes"][-1]
        if slope > 0:
            found.append((host, path, used / total, pytest.approx((total - used) / slope, rel=1e-4)))
    return sorted(found, key=lambda row: row[3].expected)


def correlations(data: Data) -> Rows:
    joined = since(data.cpu, NOW - 6 * HOUR).join(data.mem, on=["host", "time"])
    rows = [
        (host, float(np.corrcoef(one["usage_user"], one["used_percent"])[0, 1]), len(one))
        for (host,), one in joined.group_by("host")
    ]
    return sorted(rows, key=lambda row: -row[1])


def busiest(data: Data) -> Rows:
    total: dict[datetime, float] = {}
    for (_, _, hour), rows in hourly(since(data.web, NOW - 7 * DAY)).group_by("service", "instance", "hour"):
        total[hour] = total.get(hour, 0.0) + rises(rows.sort("time")["requests_total"].to_list())
    return [max(total.items(), key=lambda pair: pair[1])]


def gaps(data: Data) -> Rows:
    found: Rows = []
    for host in HOSTS:
        at = since(data.cpu.filter(pl.col("host") == host), NOW - 2 * DAY)["time"].to_list()
        found += [(host, before, after) for before, after in pairwise(at) if after - before > timedelta(minutes=5)]
    return sorted(found)


def noise(data: Data) -> Rows:
    recent = [alarm for alarm in data.alarms if alarm.fired <= 7 * 1440]
    rows = []
    for rule in {alarm.rule for alarm in recent}:
        these = [alarm for alarm in recent if alarm.rule == rule]
        lasted = [alarm.fired - alarm.resolved for alarm in these if alarm.resolved is not None]
        rows.append((rule, len(these), len({alarm.host for alarm in these}), float(np.median(lasted))))
    return sorted(rows, key=lambda row: (-row[1], row[0]))


def scalings(data: Data) -> Rows:
    def at(time_ns: int) -> datetime:
        return NOW - timedelta(microseconds=(NOW_NS - time_ns) // 1000)

    rows = [
        (at(one.decided_ns), one.target, one.action, one.current, one.desired, one.reason)
        for one in data.decisions
        if one.action != "hold" and one.decided_ns >= NOW_NS - 86_400 * 10**9
    ]
    return sorted(rows, key=lambda row: row[0], reverse=True)


def largest(data: Data) -> Rows:
    rows = [("cpu_usage_user", len(data.cpu), len(HOSTS))]
    rows += [(f"web_{name}", len(data.web), len(INSTANCES)) for name in data.web.columns[1:4]]
    rows += [(f"disk_{name}", len(data.disk), 3) for name in ("used_bytes", "total_bytes")]
    return sorted(rows, key=lambda row: (-row[1], row[0]))[:5]


def day_over_day(data: Data) -> Rows:
    mean = dict(hourly(data.cpu).group_by("hour").agg(pl.col("usage_user").mean()).rows())
    hours = [TODAY + number * HOUR for number in range(12)]
    return [(hour, mean[hour - DAY], mean[hour], mean[hour] - mean[hour - DAY]) for hour in hours]


def plot(data: Data) -> Rows:
    """Largest triangle, three buckets (Steinarsson, 2013)."""
    rows = since(data.disk.filter(pl.col("host") == "db-1"), NOW - 30 * DAY)
    points = hourly(rows).group_by("hour").agg(pl.col("used_bytes").sort_by("time").last()).sort("hour").rows()
    x, y = (np.array([(at - NOW).total_seconds() for at, _ in points]), np.array([value for _, value in points]))
    every, kept = (len(x) - 2) / 98, [0]
    for bucket in range(98):
        first, last = int(bucket * every) + 1, int((bucket + 1) * every) + 1
        after = slice(last, min(int((bucket + 2) * every) + 1, len(x)))
        a = kept[-1]
        areas = abs(
            (x[a] - x[after].mean()) * (y[first:last] - y[a]) - (x[a] - x[first:last]) * (y[after].mean() - y[a])
        )
        kept.append(first + int(np.argmax(areas)))
    return [points[number] for number in [*kept, len(x) - 1]]


def latest(data: Data) -> Rows:
    newest = since(data.cpu, NOW - HOUR).group_by("host").agg(pl.all().sort_by("time").last()).sort("host")
    return newest.select("host", "usage_user", "time").rows()


def teams(data: Data) -> Rows:
    rows = since(data.cpu, NOW - DAY).join(data.inventory.select("host", "team"), on="host")
    grouped = rows.group_by("team").agg(pl.col("host").n_unique(), pl.col("usage_user").mean())
    return grouped.sort("usage_user", descending=True).rows()


def budget(data: Data) -> Rows:
    found = counted(data, NOW - 7 * DAY).items()
    return sorted(((name, bad, 1 - bad / (all_ * (1 - 0.999))) for name, (bad, all_) in found), key=lambda row: row[2])


def smooth(data: Data) -> Rows:
    rows = since(data.cpu.filter(pl.col("host") == "web-1"), NOW - 3 * HOUR).select("time", "usage_user").rows()
    return [
        (at, busy, np.mean([value for then, value in rows if at - timedelta(minutes=15) <= then <= at]))
        for at, busy in rows
    ]


def first_above(data: Data) -> Rows:
    hot = since(data.cpu, NOW - 7 * DAY).filter(pl.col("usage_user") > 90)
    return hot.group_by("host").agg(pl.col("time").min()).sort("time", "host").rows()


def percent_above(data: Data) -> Rows:
    share = since(data.cpu, NOW - DAY).group_by("host").agg((pl.col("usage_user") > 70).mean() * 100)
    return share.sort(["usage_user", "host"], descending=[True, False]).rows()


ORACLES: dict[int, Callable[[Data], Rows]] = {
    1: above_90_for_5_minutes,
    2: p99_by_hour,
    3: share_of_errors,
    4: movers,
    5: silent,
    6: full_disks,
    7: correlations,
    8: busiest,
    9: gaps,
    10: noise,
    11: scalings,
    12: largest,
    13: day_over_day,
    14: plot,
    15: latest,
    16: teams,
    17: budget,
    18: smooth,
    19: first_above,
    20: percent_above,
}


def near(value: Any) -> Any:
    return pytest.approx(value, rel=1e-9, abs=1e-9) if isinstance(value, float) else value


@pytest.mark.parametrize("question", QUESTIONS, ids=[f"{one.number}" for one in QUESTIONS])
def test_the_answer_is_the_one_computed_without_sql(engine: Engine, data: Data, question: Question) -> None:
    if "lttb" in question.sql and duckdb.__version__.startswith("1."):
        pytest.skip("lttb came with DuckDB 2.0")
    names, rows = ask(engine, at_fixed_time(question.sql))
    want = ORACLES[question.number](data)
    assert names == question.columns
    assert want, "a question without an answer tests nothing"
    assert len(rows) == len(want)
    for got, expected in zip(rows, want, strict=True):
        assert got == tuple(near(value) for value in expected)
    # As it stands, with the real clock.
    assert ask(engine, question.sql)[0] == question.columns
