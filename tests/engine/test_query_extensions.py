"""``forecast`` and ``anomaly_score`` in SQL: what they answer is what the library answers, alone and in the worker."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from engine.config import Query
from engine.errors import BadQuery
from engine.query.database import Database
from engine.query.link import ProcessLink
from engine.query.sources import SqlRequest
from engine.runtime.engine import SQL_EXTENSIONS
from native.catalogue import Catalogue
from tests.arrow_rows import rows_of
from tidegauge import lab

DAY_NS = 86_400_000_000_000
START_NS = 20_000 * DAY_NS


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    database = Database(None, threads=1, extensions=SQL_EXTENSIONS)
    yield database
    database.close()


def run(database: Any, sql: str, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
    answer = database.sql(SqlRequest(sql=sql, parameters=list(parameters)))
    return rows_of(pa.ipc.open_stream(answer.stream).read_all())


def relation(values: Sequence[float | None], *, step_ns: int = DAY_NS, host: str = "a") -> str:
    rows = ", ".join(
        f"(make_timestamp_ns({START_NS + index * step_ns}), {text}::DOUBLE, '{host}')"
        for index, text in enumerate("NULL" if value is None else repr(value) for value in values)
    )
    return f"(SELECT * FROM (VALUES {rows}) given(time, value, host))"


VALUES = [float(value) for value in 50 + np.random.default_rng(3).normal(size=60)]


def test_a_forecast_is_the_librarys(database: Database) -> None:
    found = run(database, f"SELECT unnest(forecast(value, time, 14), recursive := true) FROM {relation(VALUES)}")
    expected = lab.forecast(VALUES, 14, start=START_NS)
    assert list(found[0]) == ["time", "mean", "lo80", "hi80", "lo95", "hi95"]
    assert [row["time"] for row in found] == expected["times"].tolist()
    for name in ("mean", "lo80", "hi80", "lo95", "hi95"):
        assert [row[name] for row in found] == expected[name].tolist()


def test_each_group_is_a_series_of_its_own_and_gaps_are_gaps(database: Database) -> None:
    other = [value * 2 if index != 10 else None for index, value in enumerate(VALUES)]
    both = f"{relation(VALUES)} UNION ALL FROM {relation(other, host='b')}"
    found = run(
        database,
        "FROM (SELECT host, unnest(forecast(value, time, 3, 1), recursive := true) FROM"
        f" (FROM {both}) GROUP BY host) ORDER BY host, time",
    )
    gaps = [np.nan if value is None else value for value in other]
    for host, values in (("a", VALUES), ("b", gaps)):
        expected = lab.forecast(values, 3, season=1)["hi95"].tolist()
        assert [row["hi95"] for row in found if row["host"] == host] == expected


def test_too_few_samples_give_null(database: Database) -> None:
    assert run(database, f"SELECT forecast(value, time, 3) AS f FROM {relation([1.0, None, 2.0])}") == [{"f": None}]
    assert run(database, f"SELECT anomaly_score(value, time) AS s FROM {relation([None])}") == [{"s": None}]
    nothing = f"SELECT forecast(value, time, 3) AS f FROM {relation(VALUES)} WHERE value < 0"
    assert run(database, nothing) == [{"f": None}]


def test_scores_are_the_librarys(database: Database) -> None:
    values = [float(index % 10) for index in range(300)]
    found = run(
        database,
        f"SELECT unnest(anomaly_score(value, time), recursive := true) FROM {relation(values, step_ns=DAY_NS // 24)}",
    )
    times = START_NS + DAY_NS // 24 * np.arange(300)
    assert [row["value"] for row in found] == values
    assert [row["score"] for row in found] == lab.score_series(times, values).tolist()


@pytest.mark.parametrize(
    ("expression", "sentence"),
    [
        ("forecast(value, time, 0)", "got horizon 0"),
        ("forecast(value, time, 3, 0)", "got season 0"),
        ("forecast(value, time, 'soon')", "soon"),
    ],
)
def test_wrong_use_is_told_without_a_traceback(database: Database, expression: str, sentence: str) -> None:
    with pytest.raises(BadQuery) as caught:
        run(database, f"SELECT {expression} FROM {relation(VALUES)}")
    assert sentence in caught.value.message
    assert "Python" not in caught.value.message
    assert ".py" not in caught.value.message


def test_mixed_series_and_uneven_times_are_told(database: Database) -> None:
    twice = f"(FROM {relation(VALUES)} UNION ALL FROM {relation(VALUES)})"
    for expression in ("forecast(value, time, 3)", "anomaly_score(value, time)"):
        with pytest.raises(BadQuery, match="group by what tells series apart"):
            run(database, f"SELECT {expression} FROM {twice}")
    uneven = f"(SELECT time + to_hours(CASE WHEN value > 51 THEN 11 ELSE 0 END) AS time, value FROM {relation(VALUES)})"
    with pytest.raises(BadQuery, match="aggregate to equal steps first"):
        run(database, f"SELECT forecast(value, time, 3) FROM {uneven}")


def test_parts_are_not_for_statements(database: Database) -> None:
    with pytest.raises(BadQuery, match="tidegauge_forecast_of"):
        run(database, "SELECT tidegauge_forecast_of([1], [1.0], 1, 1)")


def test_the_worker_has_them_within_its_address_space() -> None:
    link = ProcessLink(None, Query(), Catalogue(), threads=1, extensions=SQL_EXTENSIONS)
    try:
        sql = f"SELECT len(forecast(value, time, 5)) AS f, len(anomaly_score(value, time)) AS s FROM {relation(VALUES)}"
        assert run(link, sql) == [{"f": 5, "s": 60}]
        assert link.counters().starts == 1
    finally:
        link.close()
