"""The table of engines: medians, growth with data, and our share of the fastest peer's time."""

from __future__ import annotations

from benchmarks.peers import EngineFigures, QueryFigures, comparison_table
from benchmarks.settings import Settings

SHAPE = Settings(hosts=2, hours=1).shape(hosts=1, hours=1, quick_hosts=1, quick_hours=1)


def engine(name: str, seconds: float, **queries: QueryFigures) -> EngineFigures:
    timed = {"lastpoint": QueryFigures(seconds=[seconds] * 3)}
    return EngineFigures(name=name, note="", load_seconds=2.0, queries=timed | queries)


def row_of(table: list[list[str]], title: str) -> list[str]:
    return next(row for row in table if row[0] == title)


def test_each_query_names_its_share_of_the_fastest_peer() -> None:
    wrong = QueryFigures(seconds=[1.5e-6], wrong="got 1 rows")
    unable = QueryFigures(error="cannot be expressed: no joins")
    measured = [
        engine("tidegauge", 0.0025),
        engine("influxdb", 0.0045, **{"high-cpu-all": unable}),
        engine("duckdb", 0.0085, **{"high-cpu-all": wrong}),
    ]
    table = comparison_table(measured, SHAPE)
    assert table[0] == ["", "tidegauge", "influxdb", "duckdb", "to the fastest peer"]
    assert row_of(table, "lastpoint, ms") == [
        "lastpoint, ms",
        "2.500 (2.500)",
        "4.500 (4.500)",
        "8.500 (8.500)",
        "0.56",
    ]
    assert row_of(table, "high-cpu-all, ms")[1:] == ["-", "n/a", "WRONG 0.0015 (0.0015)", "-"]
    assert {len(row) for row in table} == {5}


def test_growth_stands_behind_an_arrow() -> None:
    measured = [engine("tidegauge", 0.0025), engine("influxdb", 0.0045)]
    grown = [engine("tidegauge", 0.0035), engine("influxdb", 0.0405)]
    cells = row_of(comparison_table(measured, SHAPE, grown), "lastpoint, ms")
    assert cells[1:] == ["2.500 (2.500) -> 3.500 (3.500)", "4.500 (4.500) -> 40.50 (40.50)", "0.56 -> 0.09"]
