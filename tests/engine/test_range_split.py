"""Range queries over tiers and raw samples together, against polars over everything that was sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest

from engine.clock import NS_PER_DAY, NS_PER_HOUR, NS_PER_MINUTE, NS_PER_SECOND, ManualClock
from engine.config import Config, Query, Retention, Rollups
from engine.config_units import Duration
from engine.model.matchers import parse_matchers
from engine.query import cells, planning, prompt
from engine.query.range import LOOKBACK_NS, RangeAnswer, RangeQuery
from engine.runtime import Engine
from tests.engine.test_engine_rollups import CONFIG as PLAIN
from tests.engine.test_engine_rollups import NOW_NS, Twin, random_batch

CONFIG = msgspec.structs.replace(PLAIN, rollups=Rollups(counters=("cpu_*",)))

START_NS = NOW_NS - 3 * NS_PER_DAY
STEPS_NS = (7 * NS_PER_SECOND * 60, 90 * NS_PER_SECOND * 60, NS_PER_HOUR, 6 * NS_PER_HOUR, NS_PER_DAY, 100 * NS_PER_DAY)
AGGREGATES = {
    "avg": pl.col("value").mean(),
    "sum": pl.col("value").sum(),
    "min": pl.col("value").min(),
    "max": pl.col("value").max(),
    "count": pl.len().cast(pl.Float64),
    "first": pl.col("value").first(),
    "last": pl.col("value").last(),
    "increase": pl.col("rise").sum(),
    "rate": pl.col("rise").sum(),
}
Found = dict[tuple[str, str], dict[int, float]]


@pytest.fixture(autouse=True)
def _nothing_is_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prompt, "MAX_CELLS", 0)


@pytest.fixture(params=[(0, 0, 0), (0, 50, 20), (100, 400, 10**6)])
def eager(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let tiers be read for few samples, be flushed for none, some or all that are not in them, and threads help."""
    monkeypatch.setattr(cells, "CELLS_FOR_THREADS", request.param[0])
    preferred, beside, flush = request.param
    monkeypatch.setattr(planning, "RAW_SAMPLES_PREFERRED", preferred)
    monkeypatch.setattr(planning, "RAW_SAMPLES_BESIDE_KEPT", min(beside, preferred))
    monkeypatch.setattr(planning, "RAW_SAMPLES_BEFORE_FLUSH", flush)


def found_by(answer: RangeAnswer, by: tuple[str, ...] | None) -> Found:
    found: Found = {}
    for line in answer.series:
        key = (line.metric, line.labels.get("host", "") if by != () else "")
        assert key not in found
        found[key] = dict(zip(line.times.tolist(), line.values.tolist(), strict=True))
    return found


def expected_by(latest: pl.DataFrame, query: RangeQuery) -> Found:
    host = pl.lit("") if query.by == () else pl.col("host")
    previous = pl.col("value").shift(1).over("table", "host", "field")
    rise = pl.when(pl.col("value") >= previous).then(pl.col("value") - previous).otherwise(pl.col("value"))
    frame = (
        latest.filter(pl.col("time") >= query.start_ns - LOOKBACK_NS)
        .sort("host", "time")
        .with_columns(rise=pl.when(previous.is_null()).then(0.0).otherwise(rise))
        .with_columns(metric=pl.col("table") + "_" + pl.col("field"), line=host)
        .filter(pl.col("metric").is_in(query.metrics))
        .filter(pl.col("time").is_between(query.start_ns, query.end_ns, closed="left"))
        .filter(pl.col("host").map_elements(lambda each: all(m.accepts(each) for m in query.matchers), pl.Boolean))
        .with_columns(step=(pl.col("time") - query.start_ns).floordiv(query.step_ns) * query.step_ns + query.start_ns)
        .group_by("metric", "line", "step", maintain_order=True)
        .agg(AGGREGATES[query.aggregate].alias("value"))
    )
    found: Found = {}
    for metric, line, step, value in frame.rows():
        rate = query.aggregate == "rate"
        found.setdefault((metric, line), {})[step] = value / (query.step_ns / NS_PER_SECOND) if rate else value
    return found


def random_query(rng: np.random.Generator) -> RangeQuery:
    """Return a query whose range and steps begin and end anywhere, or at whole hours."""
    unit = (NS_PER_SECOND, NS_PER_HOUR)[int(rng.integers(2))]
    start = (START_NS + int(rng.integers(-3, 26)) * NS_PER_HOUR + int(rng.integers(0, 3600)) * NS_PER_SECOND) // unit
    end = start + max(1, int(rng.integers(1, 30 * 3600)) * NS_PER_SECOND // unit)
    aggregate = list(AGGREGATES)[int(rng.integers(len(AGGREGATES)))]
    ways: tuple[tuple[str, ...] | None, ...] = (None, ("host",), ())
    return RangeQuery(
        "cpu_x",
        start * unit,
        end * unit,
        STEPS_NS[int(rng.integers(len(STEPS_NS)))],
        aggregate,
        parse_matchers(("", 'host="h1"', 'host=~"h[12]"')[int(rng.integers(3))]),
        # Which series' sample is the first of several is theirs to tell.
        ways[int(rng.integers(2 if aggregate in ("first", "last") else 3))],
        ((), ("cpu_y", "disk_z"))[int(rng.integers(2))],
    )


def check(engine: Engine, twin: Twin, rng: np.random.Generator, used: set[str], queries: int = 4) -> None:
    latest = twin.latest()
    for _ in range(queries):
        query = random_query(rng)
        answer = engine.query(query)
        assert found_by(answer, query.by) == expected_by(latest, query), query
        used |= {query.aggregate, *answer.sources} if len(answer.sources) > 1 else set()
        assert answer.rows_read == sum(answer.sources.values())
        inside = latest.filter(
            pl.col("time").is_between(query.start_ns, query.end_ns, closed="left"),
            (pl.col("table") + "_" + pl.col("field")).is_in(query.metrics),
            pl.col("host").map_elements(lambda each: all(m.accepts(each) for m in query.matchers), pl.Boolean),  # noqa: B023
        )
        assert answer.fresh_to_ns == inside["time"].max()


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("seed", range(2))
def test_whatever_is_read_from_where_the_answer_is_that_of_the_samples(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    clock, twin, used = ManualClock(NOW_NS), Twin(), set[str]()
    data = str(tmp_path / "data")
    engine = Engine.open(data, CONFIG, clock=clock)
    try:
        for _ in range(12):
            engine.submit_lines(random_batch(rng, START_NS, twin)).result(30)
            match int(rng.integers(6)):
                case 0:
                    engine.flush_rollups()
                case 1:
                    engine.sealer.seal()
                case 2:
                    engine.flush_rollups(due_only=True)
                case 3:
                    engine.close()
                    engine = Engine.open(data, CONFIG, clock=clock)
                case 4:
                    host = f"h{int(rng.integers(3))}"
                    engine.delete_series(parse_matchers(f'host="{host}"'), start_ns=START_NS, end_ns=START_NS + 10**13)
                    twin.sent = [
                        each for each in twin.sent if each[1] != host or each[2] >= START_NS + 10**13
                    ]  # fmt: skip
                case _:
                    pass
            check(engine, twin, rng, used)
        assert planning.RAW_SAMPLES_PREFERRED > 0 or used >= {"raw", "rollup_1h", "increase", "last", "sum"}
    finally:
        engine.close()


@pytest.mark.usefixtures("eager")
def test_samples_that_are_only_in_tiers_still_count(tmp_path: Path) -> None:
    """Raw samples are kept for a day, hours for ever: whole hours before that are answered from the tier alone."""
    config = Config(
        retention=Retention(raw=Duration.parse("1d"), rollup_1h=Duration(0), rollup_1d=Duration(0)),
        query=Query(in_process=True),
    )
    clock, twin = ManualClock(NOW_NS), Twin()
    start_ns = NOW_NS // NS_PER_DAY * NS_PER_DAY - 12 * NS_PER_HOUR
    lines = []
    for minute in range(0, 36 * 60, 7):
        time_ns = start_ns + minute * NS_PER_MINUTE
        twin.sent.append(("cpu", "h1", time_ns, "x", float(minute)))
        lines.append(f"cpu,host=h1 x={minute}i {time_ns}")
    with Engine.open(str(tmp_path / "data"), config, clock=clock) as engine:
        clock.set_ns(start_ns + 23 * NS_PER_HOUR)
        engine.submit_lines("\n".join(each for each in lines if int(each.rsplit(" ", 1)[1]) < clock.now_ns()).encode())
        engine.submit_lines(b"").result(30)
        twin.sent = [each for each in twin.sent if each[2] < clock.now_ns()]
        clock.set_ns(start_ns + 30 * NS_PER_HOUR)
        engine.retainer.run()
        for step_ns in (NS_PER_HOUR, 2 * NS_PER_HOUR, 100 * NS_PER_DAY):
            query = RangeQuery("cpu_x", start_ns, start_ns + 24 * NS_PER_HOUR, step_ns, "sum")
            answer = engine.query(query)
            assert found_by(answer, None) == expected_by(twin.latest(), query)
            assert (answer.tier, answer.reason) == ("rollup_1h", None)
        ragged = engine.query(RangeQuery("cpu_x", start_ns + 7, start_ns + 24 * NS_PER_HOUR, 100 * NS_PER_DAY, "sum"))
        assert ragged.reason is not None
        assert "are no longer kept" in ragged.reason


def test_a_tier_is_read_where_files_would_have_to_be_decoded_for_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "RAW_SAMPLES_BESIDE_KEPT", 10)
    hour_ns = NOW_NS // NS_PER_HOUR * NS_PER_HOUR - 5 * NS_PER_HOUR
    lines = [
        f"cpu,host={host} x={second}i {hour_ns + second * NS_PER_SECOND}"
        for host in "ab"
        for second in range(0, 3600, 9)
    ]
    query = RangeQuery("cpu_x", hour_ns, hour_ns + NS_PER_HOUR, NS_PER_HOUR, "max", parse_matchers('host="a"'))
    with Engine.open(str(tmp_path / "data"), CONFIG, clock=ManualClock(NOW_NS)) as engine:
        engine.submit_lines("\n".join(lines).encode()).result(30)
        engine.flush_rollups()
        assert engine.query(query).sources == {"raw": 400}
        engine.sealer.seal()
        # What has just been sealed is still there as it was.
        assert engine.query(query).sources == {"raw": 400}
    with Engine.open(str(tmp_path / "data"), CONFIG, clock=ManualClock(NOW_NS)) as engine:
        answer = engine.query(query)
        assert answer.sources == {"rollup_1h": 1}
        assert answer.series[0].values.tolist() == [3591.0]


def test_an_answer_says_what_it_is_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "RAW_SAMPLES_PREFERRED", 0)
    monkeypatch.setattr(planning, "RAW_SAMPLES_BESIDE_KEPT", 0)
    hour_ns = NOW_NS // NS_PER_HOUR * NS_PER_HOUR - 5 * NS_PER_HOUR
    sent = [(hour_ns + minute * NS_PER_MINUTE, minute) for minute in range(180)]
    asked: list[Any] = []
    with Engine.open(str(tmp_path / "data"), CONFIG, clock=ManualClock(NOW_NS)) as engine:
        engine.submit_lines("\n".join(f"cpu,host=a x={value}i {time}" for time, value in sent).encode()).result(30)
        engine.flush_rollups()
        read = engine.tiers.cache._rows
        monkeypatch.setattr(engine.tiers.cache, "_rows", lambda *given: asked.append(given) or read(*given))
        query = RangeQuery("cpu_x", hour_ns, hour_ns + 180 * NS_PER_MINUTE - 30 * NS_PER_SECOND, 10**15, "sum")
        answer = engine.query(query)
        assert answer.series[0].values.tolist() == [float(sum(value for _, value in sent))]
        assert answer.sources == {"rollup_1h": 2, "rollup_15m": 3, "rollup_5m": 2, "rollup_1m": 4, "raw": 1}
        assert (answer.tier, answer.rows_read, answer.fresh_to_ns) == ("rollup_1h", 12, sent[-1][0])
        # Again, nobody is asked; and after a late sample its minute is raw, with what is kept around it.
        assert len(asked) == 4
        assert engine.query(query).sources == answer.sources
        assert (len(asked), engine.tiers.cache.hits) == (4, 4)
        engine.submit_lines(f"cpu,host=a x=1000i {sent[20][0]}".encode()).result(30)
        late = engine.query(query)
        assert late.series[0].values.tolist() == [float(sum(value for _, value in sent) - 20 + 1000)]
        assert late.sources["raw"] == 2
        engine.flush_rollups()
        assert engine.query(query).series[0].values.tolist() == late.series[0].values.tolist()
        assert engine.tiers.cache.nbytes > 0
        engine.delete_series(parse_matchers('host="a"'), start_ns=hour_ns, end_ns=hour_ns + NS_PER_HOUR)
        assert engine.query(query).series[0].values.tolist() == [float(sum(value for _, value in sent[60:]))]
