"""Functions over series in SQL, against slow twins in Python, in the locked database that statements run in."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.errors import BadQuery
from engine.query.database import Database
from engine.query.sources import SqlRequest
from tests.oracles.rollup import rise

BASE_NS = 1_700_000_000_000_000_000
Sample = tuple[int, float | None]


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    database = Database(None, threads=1)
    yield database
    database.close()


def run(database: Database, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    answer = database.sql(SqlRequest(sql=sql, parameters=list(parameters)))
    columns = pa.ipc.open_stream(answer.stream).read_all().to_pydict()
    return list(zip(*columns.values(), strict=True))


def rows_of(samples: Sequence[Sample]) -> str:
    """Return a relation (time, value) as text; times are microseconds from a fixed one."""
    rows = ", ".join(f"({at}, {'NULL' if value is None else repr(str(value))})" for at, value in [*samples, (0, None)])
    return (
        f"(SELECT make_timestamp_ns({BASE_NS} + micros::BIGINT * 1000) AS time, value::DOUBLE AS value"
        f" FROM (VALUES {rows}) given(micros, value))"
    )


finite = st.one_of(st.integers(-1000, 1000).map(float), st.floats(-1e9, 1e9))
values = st.one_of(finite, st.none(), st.just(math.nan))
series = st.dictionaries(st.integers(1, 10**7), values, max_size=30).map(lambda found: list(found.items()))


@given(series)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_counters_are_those_of_the_twin(database: Database, samples: list[Sample]) -> None:
    found = run(
        database,
        "SELECT increase(value, time) a, rate(value, time) b, delta(value, time) c, latest(value, time) d,"
        f" earliest(value, time) e FROM {rows_of(samples)}",
    )
    known = sorted((at, value) for at, value in samples if value is not None and not math.isnan(value))
    if not known:
        assert found == [(None,) * 5]
        return
    total = 0.0
    for (_, before), (_, after) in pairwise(known):
        total += rise(after, before)
    seconds = (known[-1][0] - known[0][0]) / 1e6
    increase, rate, delta, latest, earliest = found[0]
    assert increase == pytest.approx(total, rel=1e-12, abs=1e-6)
    assert rate == (None if seconds == 0 else pytest.approx(total / seconds, rel=1e-9, abs=1e-6))
    assert (delta, latest, earliest) == (known[-1][1] - known[0][1], known[-1][1], known[0][1])


def test_a_counter_that_starts_again_counts_from_zero(database: Database) -> None:
    samples = [(0, 10.0), (1_000_000, 14.0), (2_000_000, 3.0), (3_000_000, 3.0), (4_000_000, 5.0)]
    assert run(
        database, f"SELECT increase(value, time) a, rate(value, time) b, delta(value, time) c FROM {rows_of(samples)}"
    ) == [(9.0, 2.25, -5.0)]


@pytest.mark.parametrize("function", ["increase", "rate"])
def test_mixed_series_are_refused_rather_than_added(database: Database, function: str) -> None:
    with pytest.raises(BadQuery, match="cannot run SQL: got two samples of one time, want the samples of one series"):
        run(database, f"SELECT {function}(value, time) FROM {rows_of([(1, 1.0), (2, 2.0), (2, 3.0)])}")


@given(series)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_gaps_are_filled_as_the_twin_fills_them(database: Database, samples: list[Sample]) -> None:
    samples = [(at, None if value is None or math.isnan(value) else value) for at, value in samples]
    whole = f"SELECT *, 'x' AS host, 1 AS one FROM {rows_of(samples)}"
    # A second series in between must not be seen by the first.
    both = f"({whole} UNION ALL SELECT time + INTERVAL 1 MICROSECOND, 77.0, 'y', 1 FROM ({whole}))"
    found = run(
        database,
        "SELECT a, b, c FROM (SELECT time, host, locf(value, time, host) a, interpolate(value, time, host) b,"
        f" interpolate(value, time, (host, one)) c FROM {both}) WHERE host = 'x' ORDER BY time",
    )
    alone = run(database, f"SELECT locf(value, time) a, interpolate(value, time) b FROM ({whole}) ORDER BY time")
    ordered = sorted([(0, None), *samples], key=lambda sample: sample[0])
    assert [row[:2] for row in found] == alone
    for number, (at, value) in enumerate(ordered):
        before = next(((t, v) for t, v in reversed(ordered[: number + 1]) if v is not None), None)
        after = next(((t, v) for t, v in ordered[number:] if v is not None), None)
        assert found[number][0] == (before[1] if before else None)
        if value is not None:
            want: Any = value
        elif before is None or after is None:
            want = None
        else:
            want = before[1] + (after[1] - before[1]) * (at - before[0]) / (after[0] - before[0])
            want = pytest.approx(want, rel=1e-9, abs=1e-6)
        assert found[number][1] == want
        assert found[number][2] == want


@pytest.mark.parametrize(
    ("width", "start", "end"),
    [
        ("5 minutes", "2026-03-01T00:03:00Z", "2026-03-01 00:20"),
        ("1 hour", "2026-02-28 23:59:59.999999", "2026-03-02"),
        ("1 month", "2026-01-20", "2026-05-02"),
        ("7 days", "2026-01-20", "2026-05-02"),
        ("1 second", "2026-01-20", "2026-01-20"),
        ("1 second", "2026-01-21", "2026-01-20"),
    ],
)
def test_buckets_without_gaps_are_those_of_time_bucket(database: Database, width: str, start: str, end: str) -> None:
    found = run(database, f"SELECT bucket FROM time_bucket_gapfill(INTERVAL '{width}', $1, $2)", [start, end])
    fine = run(
        database,
        f"SELECT DISTINCT time_bucket(INTERVAL '{width}', CAST($1 AS TIMESTAMP) + seconds * INTERVAL 1 SECOND) AS b"
        " FROM range(greatest(0, ceil(epoch(CAST($2 AS TIMESTAMP) - CAST($1 AS TIMESTAMP))))::BIGINT) r(seconds)"
        " ORDER BY b",
        [start, end],
    )
    assert found == fine


def test_a_series_of_buckets_that_is_too_long_is_refused(database: Database) -> None:
    for width in ("1 microsecond", "0 seconds"):
        with pytest.raises(BadQuery, match="makes more than 10000000 buckets"):
            run(database, f"SELECT * FROM time_bucket_gapfill(INTERVAL '{width}', now() - INTERVAL 1 DAY, now())")


def plot(samples: list[tuple[int, float]], points: int) -> list[tuple[int, float]]:
    """Largest triangle, three buckets (Steinarsson, 2013): slow twin."""
    if points >= len(samples):
        return samples
    every = (len(samples) - 2) / (points - 2)
    kept = [samples[0]]
    for bucket in range(points - 2):
        first, last = int(bucket * every) + 1, int((bucket + 1) * every) + 1
        following = samples[last : min(int((bucket + 2) * every) + 1, len(samples))]
        x = sum(each[0] for each in following) / len(following)
        y = sum(each[1] for each in following) / len(following)
        a = kept[-1]
        areas = [abs((a[0] - x) * (one[1] - a[1]) - (a[0] - one[0]) * (y - a[1])) for one in samples[first:last]]
        kept.append(samples[first + areas.index(max(areas))])
    return [*kept, samples[-1]]


@given(
    st.dictionaries(st.integers(1, 10**6), st.integers(-1000, 1000).map(float), min_size=3, max_size=80),
    st.integers(3, 30),
)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_points_for_a_plot_are_those_of_the_twin(database: Database, samples: dict[int, float], points: int) -> None:
    sql = (
        "SELECT (epoch_ns(x) - $1) // 1000 AS x, y FROM (SELECT unnest(lttb(time, value, $2), recursive := true)"
        f" FROM {rows_of(list(samples.items()))})"
    )
    if duckdb.__version__.startswith("1."):
        with pytest.raises(BadQuery, match="lttb needs DuckDB 2"):
            run(database, sql, [BASE_NS, points])
        return
    assert run(database, sql, [BASE_NS, points]) == plot(sorted(samples.items()), points)


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("increase(value)", "does not support the supplied arguments"),
        ("increase('x', time)", "Could not convert string 'x' to DOUBLE"),
        ("increase(value, time) FILTER (WHERE value > 0)", "is a Macro Function"),
        ("locf(locf(value, time), time)", "cannot be nested"),
        ("tidegauge_rise(value)", "function 'tidegauge_rise' is not allowed"),
    ],
)
def test_wrong_use_is_answered_with_a_sentence(database: Database, expression: str, said: str) -> None:
    with pytest.raises(BadQuery, match=r"^cannot run SQL: [^\n]*$") as caught:
        run(database, f"SELECT {expression} FROM {rows_of([(1, 1.0)])}")
    assert said in caught.value.message
