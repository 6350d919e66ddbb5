"""Statements whose rows are looked up ahead answer as those that read every file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from engine.clock import NS_PER_HOUR, NS_PER_MINUTE, NS_PER_SECOND, ManualClock
from engine.config import Config, Query, Retention
from engine.config_units import Duration
from engine.query.lastpoint import newest_only
from engine.runtime import Engine
from tests.arrow_rows import rows_of

NOW_NS = 1_700_000_000 * NS_PER_SECOND // NS_PER_HOUR * NS_PER_HOUR
CONFIG = Config(retention=Retention(raw=Duration.parse("30d")), query=Query(in_process=True))
HOSTS = 30


def lines(rng: np.random.Generator, hours: range, *, hosts: int = HOSTS) -> bytes:
    """Lines of two measurements; some fields are missing, some hosts stop early, NaN is among the values."""
    found = []
    for hour in hours:
        for host in range(hosts):
            if host % 7 == 3 and hour > -2:
                continue
            for minute in range(0, 60, 7):
                time_ns = NOW_NS + hour * NS_PER_HOUR + minute * NS_PER_MINUTE + host
                fields = [f"busy={int(rng.integers(0, 99))}"]
                if rng.random() < 0.5:
                    fields.append(f"idle={rng.integers(0, 9999) / 100}")
                zone = f",zone=z{host % 3}" if host % 5 else ""
                found.append(f"cpu,host=h{host}{zone} {','.join(fields)} {time_ns}")
        found.append(f"mem,host=h1 used={hour + 100} {NOW_NS + hour * NS_PER_HOUR}")
    return "\n".join(found).encode()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    directory = str(tmp_path_factory.mktemp("found") / "data")
    rng = np.random.default_rng(5)
    clock = ManualClock(NOW_NS + NS_PER_HOUR)
    with Engine.open(directory, CONFIG, clock=clock) as first:
        first.submit_lines(lines(rng, range(-8, -3))).result(30)
    with Engine.open(directory, CONFIG, clock=clock) as opened:
        opened.submit_lines(lines(rng, range(-3, 1), hosts=HOSTS - 4)).result(30)
        # Late ones, among them corrections of sealed rows.
        opened.submit_lines(lines(rng, range(-5, -4), hosts=6)).result(30)
        yield opened


SOME_TIME = "TIMESTAMP '2023-11-14 18:00:00'"
NARROW = (
    "SELECT * FROM cpu WHERE host = 'h2' ORDER BY time",
    f"SELECT time, busy FROM cpu WHERE host IN ('h4', 'h5') AND time >= {SOME_TIME} ORDER BY time, busy",
    f"SELECT host, zone, count(*), sum(idle) FROM cpu WHERE host = 'h5' AND time < {SOME_TIME} GROUP BY ALL",
    "SELECT count(*) FROM cpu WHERE host = 'nowhere'",
    "SELECT count(*), count(idle) FROM cpu WHERE zone IS NULL AND host = 'h5'",
    "SELECT c.time, c.busy, m.used FROM cpu c JOIN mem m ON c.time = m.time WHERE c.host = 'h1' AND m.host = 'h1'",
    "SELECT (SELECT max(busy) FROM cpu WHERE host = 'h1'), (SELECT min(busy) FROM cpu WHERE host = 'h2')",
    "SELECT metric, labels, value, time FROM samples WHERE labels['host'] = 'h8' ORDER BY ALL",
    "SELECT max(busy) FROM cpu WHERE host = 'h1' AND (time > '2023-11-14T20:00:00Z' OR busy > 90)",
)
NEWEST = (
    "SELECT max(time) AS t, host, arg_max(busy, time) AS busy, arg_max(idle, time) FROM cpu GROUP BY host ORDER BY 2",
    "SELECT host, latest(idle, time) AS idle, max(time) AS at FROM cpu GROUP BY host ORDER BY 1",
    f"SELECT host, max(time) FROM cpu WHERE time >= {SOME_TIME} GROUP BY host ORDER BY host",
    "SELECT host, max(time) AS seen FROM cpu GROUP BY host HAVING max(time) < '2023-11-14T21:00:00Z' ORDER BY host",
    "SELECT c.zone, max(c.time), round(max_by(c.busy, c.time) / 10, 1) FROM cpu c WHERE zone = 'z1' AND host > 'h1'"
    " GROUP BY c.zone, host ORDER BY max(c.time), 3",
    "SELECT upper(zone) AS z, max(time) FROM cpu WHERE host > 'h2' GROUP BY z ORDER BY z NULLS FIRST LIMIT 2",
    "SELECT max(time) FROM cpu",
    "SELECT latest(used, time) FROM mem WHERE host = 'h1'",
)
OTHERS = (
    "SELECT max(time) FROM cpu WHERE busy > 5",
    "SELECT max(time) FROM cpu WHERE time < '2023-11-14T20:00:00Z'",
    "SELECT max(time), count(*) FROM cpu",
    "SELECT max(busy) FROM cpu",
    "SELECT arg_max(busy, idle) FROM cpu",
    "SELECT arg_max(busy, time, 2) FROM cpu",
    "SELECT max(time), min(time) FROM cpu",
    "SELECT max(time) FILTER (WHERE busy > 5) FROM cpu",
    "SELECT busy, max(time) FROM cpu GROUP BY busy ORDER BY ALL",
    "SELECT time_bucket(INTERVAL '1 hour', time) AS t, max(time) FROM cpu GROUP BY t ORDER BY t",
    "SELECT a.host, max(a.time) FROM cpu a JOIN cpu b USING (host) GROUP BY a.host ORDER BY 1",
    "SELECT host, max(time) FROM (SELECT * FROM cpu WHERE busy > 5) GROUP BY host ORDER BY host",
    "SELECT host, max(time) OVER () FROM cpu ORDER BY ALL LIMIT 3",
    "SELECT max(time) AS busy FROM cpu GROUP BY busy ORDER BY ALL",
    "SELECT host, zone, max(time) FROM cpu GROUP BY ROLLUP (host, zone) ORDER BY ALL",
    "SELECT DISTINCT max(time) FROM cpu",
    "SELECT max(time) FROM cpu TABLESAMPLE 50% (bernoulli, 1)",
    "SELECT host FROM cpu GROUP BY host ORDER BY host",
    "SELECT max(value) FROM samples",
    "WITH cpu AS (SELECT max(time) AS time FROM mem) SELECT max(time) FROM cpu",
    "SELECT max(time) FROM cpu UNION ALL SELECT max(time) FROM mem",
    "SELECT max(time) FROM cpu WHERE host IN (SELECT host FROM mem)",
)


def both_ways(engine: Engine, sql: str) -> tuple[list[dict[str, object]], int, int]:
    """Return the answer, and how many rows were read with and without looking up ahead."""
    ahead = engine.sql(sql)
    found, engine.exports._found = engine.exports._found, None
    try:
        whole = engine.sql(sql)
    finally:
        engine.exports._found = found
    assert ahead.table.schema == whole.table.schema
    rows = rows_of(ahead.table)
    assert repr(rows) == repr(rows_of(whole.table))
    return rows, int(ahead.metadata["rows_read"]), int(whole.metadata["rows_read"])


@pytest.mark.parametrize("sql", NARROW)
def test_few_series_are_looked_up(engine: Engine, sql: str) -> None:
    _, ahead, whole = both_ways(engine, sql)
    assert ahead < whole or whole == 0


@pytest.mark.parametrize("sql", NEWEST)
def test_newest_samples_are_looked_up(engine: Engine, sql: str) -> None:
    assert engine.link.needed(sql).tables[0].newest
    rows, ahead, whole = both_ways(engine, sql)
    assert rows
    assert ahead < whole


@pytest.mark.parametrize("sql", OTHERS)
def test_what_may_need_older_samples_reads_them(engine: Engine, sql: str) -> None:
    assert not any(table.newest for table in engine.link.needed(sql).tables)
    if "SAMPLE" not in sql:
        both_ways(engine, sql)


def test_a_newest_sample_that_is_no_number_is_left_out(tmp_path: Path) -> None:
    with Engine.open(str(tmp_path / "data"), CONFIG, clock=ManualClock(NOW_NS)) as opened:
        text = b"load 5 %d\nload NaN %d\n" % ((NOW_NS - NS_PER_MINUTE) // 10**6, NOW_NS // 10**6)
        opened.submit_prometheus_text(text).result(30)
        sql = "SELECT latest(value, time) AS v, arg_max(value, time) AS raw FROM prometheus"
        assert opened.link.needed(sql).tables[0].skips_nan
        assert repr(both_ways(opened, sql)[0]) == "[{'v': 5.0, 'raw': nan}]"


def test_many_rows_of_one_series_are_left_to_the_query_process(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.query.foundrows.MAX_FOUND_ROWS", 10)
    _, ahead, whole = both_ways(engine, "SELECT * FROM cpu WHERE host = 'h2' ORDER BY time")
    assert ahead == whole


@pytest.mark.parametrize("sql", ["SELECT * FROM cpu WHERE host = 'h2' ORDER BY time", "SELECT max(time) FROM cpu"])
def test_many_cells_are_left_to_the_query_process(engine: Engine, monkeypatch: pytest.MonkeyPatch, sql: str) -> None:
    monkeypatch.setattr("engine.query.foundrows.MAX_FOUND_CELLS", 20)
    _, ahead, whole = both_ways(engine, sql)
    assert ahead == whole


def test_a_plan_is_used_once_and_only_for_its_statement(engine: Engine) -> None:
    database = engine.link._database()  # type: ignore[attr-defined]
    needed = engine.link.needed("SELECT max(time) FROM cpu")
    assert database._plans.take(needed.plan, ("SELECT 1", (), ())) is None
    plan = database._plans.take(needed.plan, ("SELECT max(time) FROM cpu", (), ()))
    assert newest_only(plan.statement, plan.relations) is not None
    assert database._plans.take(needed.plan, ("SELECT max(time) FROM cpu", (), ())) is None
