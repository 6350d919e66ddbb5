"""Statements rewritten to a tier answer as they do over samples; the others are left alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.catalog.callers import Caller
from engine.clock import NS_PER_DAY, NS_PER_HOUR, NS_PER_MINUTE, NS_PER_SECOND, ManualClock
from engine.config import Config, Query, Retention
from engine.config_units import Duration
from engine.model.matchers import parse_matchers
from engine.runtime import Engine, SqlResult

#: 2023-11-14 22:00:00.
NOW_NS = 1_700_000_000 * NS_PER_SECOND // NS_PER_HOUR * NS_PER_HOUR
CONFIG = Config(retention=Retention(raw=Duration.parse("5d")), query=Query(in_process=True))


def lines(rng: np.random.Generator, count: int, first_ns: int, last_ns: int) -> bytes:
    found = []
    for time_ns in np.sort(rng.integers(first_ns, last_ns, count)).tolist():
        host = int(rng.integers(0, 9))
        names = ["busy", "idle", "User"][: int(rng.integers(1, 4))] if host else ["User"]
        fields = ",".join(f"{name}={int(rng.integers(-500, 500)) / 4}" for name in names)
        zone = f",zone=z{host % 3}" if host % 4 else ""
        found.append(f"cpu,host=h{host}{zone} {fields} {time_ns // NS_PER_SECOND * NS_PER_SECOND}")
    return "\n".join(found).encode()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    directory = str(tmp_path_factory.mktemp("rewriting") / "data")
    rng = np.random.default_rng(11)
    clock = ManualClock(NOW_NS)
    with Engine.open(directory, CONFIG, clock=clock) as first:
        first.submit_lines(lines(rng, 4_000, NOW_NS - 4 * NS_PER_DAY, NOW_NS - NS_PER_HOUR)).result(30)
    with Engine.open(directory, CONFIG, clock=clock) as opened:
        opened.submit_lines(lines(rng, 1_000, NOW_NS - 2 * NS_PER_HOUR, NOW_NS)).result(30)
        opened.submit_lines(lines(rng, 500, NOW_NS - NS_PER_DAY, NOW_NS)).result(30)
        opened.submit_lines(b"cpu,host=h4 Idle2=7 %d" % (NOW_NS - NS_PER_MINUTE)).result(30)
        opened.delete_series(parse_matchers('host="h7"'), end_ns=NOW_NS - 2 * NS_PER_DAY - 7 * NS_PER_MINUTE)
        opened.submit_prometheus_text(b"load 5 %d" % (NOW_NS // 10**6)).result(30)
        yield opened


@pytest.fixture(autouse=True)
def _always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.runtime.analyst.RAW_ROWS_PREFERRED_IN_SQL", -1)


def over_samples(engine: Engine, sql: str, parameters: list[Any], caller: Caller | None = None) -> SqlResult:
    config, engine.config = engine.config, Config(retention=CONFIG.retention, query=Query(rewrite_to_tiers=False))
    try:
        return engine.sql(sql, parameters, *([caller] if caller else []))
    finally:
        engine.config = config


def assert_same(engine: Engine, sql: str, parameters: list[Any] | None = None, caller: Caller | None = None) -> str:
    """Compare both ways and return the tier that was read."""
    rewritten = engine.sql(sql, parameters or [], *([caller] if caller else []))
    plain = over_samples(engine, sql, parameters or [], caller)
    assert plain.metadata["tier"] == "raw"
    assert rewritten.table.schema == plain.table.schema
    assert rewritten.metadata["fresh_to"] == plain.metadata["fresh_to"]
    left, right = (
        sorted(
            (list(row.values()) for row in each.table.to_pylist()),
            key=lambda row: repr([None if isinstance(cell, float) else cell for cell in row]),
        )
        for each in (rewritten, plain)
    )
    assert len(left) == len(right)
    for mine, theirs in zip(left, right, strict=True):
        for cell, other in zip(mine, theirs, strict=True):
            if isinstance(cell, float) and isinstance(other, float):
                assert math.isclose(cell, other, rel_tol=1e-9, abs_tol=1e-9), (mine, theirs)
            else:
                assert cell == other, (mine, theirs)
    return str(rewritten.metadata["tier"])


def moment(time_ns: int) -> str:
    return np.datetime_as_string(np.datetime64(time_ns // NS_PER_SECOND, "s")).replace("T", " ")


BUCKETS = {
    "time_bucket(INTERVAL '1 minute', time)": NS_PER_MINUTE,
    "time_bucket(INTERVAL 7 MINUTE, cpu.time)": NS_PER_MINUTE,
    "time_bucket(INTERVAL '10 minutes', time)": 5 * NS_PER_MINUTE,
    "date_trunc('hour', time)": NS_PER_HOUR,
    "time_bucket(to_hours(6), time)": NS_PER_HOUR,
    "date_trunc('day', time)": NS_PER_DAY,
    "date_trunc('month', time)": NS_PER_DAY,
    "time_bucket(INTERVAL '3 days', time)": NS_PER_DAY,
}
AGGREGATES = [
    f"{name}({field})"
    for name in ("avg", "sum", "min", "max", "count", "mean")
    for field in ("busy", "cpu.idle", '"User"', "Idle2")
]
WIDTHS = [NS_PER_MINUTE, 5 * NS_PER_MINUTE, 15 * NS_PER_MINUTE, NS_PER_HOUR, NS_PER_DAY]


@st.composite
def statements(draw: st.DrawFn) -> tuple[str, str]:
    """A statement, and the coarsest tier that it allows."""
    start_ns = NOW_NS - draw(st.integers(1, 4 * 24 * 60)) * NS_PER_MINUTE
    unit = draw(st.sampled_from(WIDTHS))
    start_ns = max(start_ns // unit * unit, (NOW_NS - 4 * NS_PER_DAY) // NS_PER_DAY * NS_PER_DAY)
    conditions = [f"time >= TIMESTAMP '{moment(start_ns)}'"]
    allowed = [width for width in WIDTHS if start_ns % width == 0]
    if draw(st.booleans()):
        end_ns = (start_ns + draw(st.integers(0, 3 * 24 * 60)) * NS_PER_MINUTE) // unit * unit
        conditions.append(f"'{moment(end_ns)}Z' > time")
        allowed = [width for width in allowed if end_ns % width == 0]
    conditions += draw(st.sampled_from([[], ["zone = 'z1'"], ["host IN ('h1', 'h4', 'h7')"], ["upper(zone) <> 'Z2'"]]))
    keys = draw(st.lists(st.sampled_from([*BUCKETS, "host", "zone", "lower(host)"]), unique=True, max_size=3))
    for key in keys:
        if key in BUCKETS:
            allowed = [width for width in allowed if BUCKETS[key] % width == 0]
    values = draw(st.lists(st.sampled_from(AGGREGATES), min_size=1, max_size=4))
    if draw(st.booleans()):
        values.append(f"round({values[0]} * 2, 3) - 1")
    items = [f"{key} AS k{number}" for number, key in enumerate(keys)]
    items += [f"{value} AS v{number}" for number, value in enumerate(values)]
    sql = f"SELECT {', '.join(items)} FROM cpu WHERE {' AND '.join(conditions)}"
    if keys:
        sql += f" GROUP BY {', '.join(f'k{number}' for number in range(len(keys)))}"
    if draw(st.booleans()):
        sql += f" HAVING count({draw(st.sampled_from(['busy', 'idle']))}) > {draw(st.integers(0, 3))}"
    if draw(st.booleans()):
        sql += f" ORDER BY {'k0, ' if keys else ''}max(busy) DESC"
    names = ["rollup_1m", "rollup_5m", "rollup_15m", "rollup_1h", "rollup_1d"]
    return sql, names[WIDTHS.index(max(allowed))]


@given(statements())
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rewritten_statements_answer_the_same(engine: Engine, drawn: tuple[str, str]) -> None:
    sql, tier = drawn
    assert assert_same(engine, sql) == tier


SINCE = f"time >= TIMESTAMP '{moment(NOW_NS - 3 * NS_PER_HOUR)}'"


@pytest.mark.parametrize(
    ("sql", "parameters"),
    [
        (f"SELECT host, max(busy), MIN(cpu.idle), avg(busy) FROM cpu WHERE {SINCE} GROUP BY host", []),
        (
            f"SELECT c.host, max(c.busy) - min(c.busy) AS span FROM cpu c WHERE c.{SINCE} GROUP BY 1 ORDER BY 2",
            [],
        ),
        (f"SELECT CASE WHEN avg(busy) > 0 THEN 'up' ELSE host END AS s FROM cpu WHERE {SINCE} GROUP BY host", []),
        ("SELECT count(busy) FROM cpu WHERE time >= $1 AND host = $2", [moment(NOW_NS - 3 * NS_PER_HOUR), "h4"]),
        (f"SELECT count(busy) AS n FROM cpu WHERE {SINCE} AND host = 'nowhere'", []),
        (f"SELECT host, count(busy) AS n FROM cpu WHERE {SINCE} AND host = 'nowhere' GROUP BY host", []),
        (f"SELECT host, sum(idle2) FROM cpu WHERE {SINCE} GROUP BY host ORDER BY sum(busy), host", []),
    ],
)
def test_forms_that_are_rewritten(engine: Engine, sql: str, parameters: list[Any]) -> None:
    assert assert_same(engine, sql, parameters) == "rollup_1h"


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT max(busy) FROM cpu",
        f"SELECT max(busy) FROM cpu WHERE {SINCE} AND busy > 5",
        f"SELECT count(*) FROM cpu WHERE {SINCE}",
        f"SELECT max(time) FROM cpu WHERE {SINCE}",
        f"SELECT max(busy + idle) AS m FROM cpu WHERE {SINCE}",
        f"SELECT sum(busy) FILTER (WHERE busy > 0) AS s FROM cpu WHERE {SINCE}",
        f"SELECT count(DISTINCT busy) AS n FROM cpu WHERE {SINCE}",
        f"SELECT median(busy) FROM cpu WHERE {SINCE}",
        f"SELECT max(busy) - 1 FROM cpu WHERE {SINCE}",
        f"SELECT busy, max(idle) FROM cpu WHERE {SINCE} GROUP BY busy",
        f"SELECT time, max(idle) FROM cpu WHERE {SINCE} GROUP BY time",
        f"SELECT time_bucket(INTERVAL '30 seconds', time) AS t, max(busy) FROM cpu WHERE {SINCE} GROUP BY t",
        f"SELECT time_bucket(INTERVAL '1h', time, INTERVAL '7m') AS t, max(busy) FROM cpu WHERE {SINCE} GROUP BY t",
        f"SELECT date_trunc('second', time) AS t, max(busy) FROM cpu WHERE {SINCE} GROUP BY t",
        f"SELECT max(busy) FROM cpu WHERE {SINCE} AND time < TIMESTAMP '2023-11-14 21:00:30'",
        f"SELECT max(busy) FROM cpu WHERE {SINCE} AND time <= TIMESTAMP '2023-11-14 21:00:00'",
        f"SELECT max(busy) FROM cpu WHERE {SINCE} OR host = 'h1'",
        f"SELECT max(busy) FROM cpu WHERE {SINCE} AND extract(minute FROM time) < 30",
        "SELECT max(busy) FROM cpu WHERE time >= date_trunc('hour', now()) - INTERVAL '3 hours'",
        f"SELECT max(busy) FROM (SELECT * FROM cpu WHERE {SINCE})",
        f"SELECT max(a.busy) FROM cpu a JOIN cpu b USING (time, host) WHERE a.{SINCE}",
        f"SELECT max(busy) OVER () FROM cpu WHERE {SINCE}",
        f"SELECT max(value) FROM prometheus WHERE {SINCE}",
        f"SELECT max(value) FROM samples WHERE {SINCE} AND metric = 'cpu_busy'",
        f"SELECT first(busy) FROM cpu WHERE {SINCE}",
        f"EXPLAIN SELECT max(busy) FROM cpu WHERE {SINCE}",
    ],
)
def test_what_a_tier_may_answer_otherwise_is_left_alone(engine: Engine, sql: str) -> None:
    assert engine.link.needed(sql).tier == ""
    assert engine.sql(sql).metadata["tier"] == "raw"


def test_samples_that_are_no_longer_kept_do_not_come_back(engine: Engine) -> None:
    start_ns = (NOW_NS - 6 * NS_PER_DAY) // NS_PER_DAY * NS_PER_DAY
    sql = f"SELECT count(busy) AS n FROM cpu WHERE time >= TIMESTAMP '{moment(start_ns)}'"
    assert engine.link.needed(sql).tier == "rollup_1d"
    assert engine.sql(sql).metadata["tier"] == "raw"


def test_few_samples_are_read_themselves(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.runtime.analyst.RAW_ROWS_PREFERRED_IN_SQL", 100_000)
    assert engine.sql(f"SELECT max(busy) FROM cpu WHERE {SINCE}").metadata["tier"] == "raw"


def test_a_limited_caller_sees_no_more_of_a_tier(engine: Engine) -> None:
    caller = Caller("one", parse_matchers('zone="z1"'))
    sql = f"SELECT host, count(busy), max(busy) FROM cpu WHERE {SINCE} GROUP BY host"
    assert assert_same(engine, sql, caller=caller) == "rollup_1h"
    rows = engine.sql(sql, [], caller).table.to_pylist()
    assert {row["host"] for row in rows} == {"h1", "h7"}


def test_line_protocol_holds_no_nan(engine: Engine) -> None:
    result = engine.submit_lines(b"cpu,host=h1 busy=NaN %d" % NOW_NS).result(30)
    assert result.samples == 0
