"""Expected answers, SQL and native requests of the fifteen queries; DuckDB is the oracle."""

from __future__ import annotations

import itertools
from typing import Any
from urllib.parse import parse_qs, urlsplit

import duckdb
import msgspec
import numpy as np
import pyarrow as pa
import pytest

from benchmarks.devops import CPU
from benchmarks.encoding import record_batches
from benchmarks.generator import DataShape, DevopsGenerator
from benchmarks.macro_storage import TIER_SECONDS, expected_tier_rows
from benchmarks.peer_servers import InfluxDB, answer_from_cells
from benchmarks.queries import (
    NO_HOST,
    NS_PER_HOUR,
    QUERY_TYPES,
    Answer,
    ExpectedAnswers,
    Query,
    answer_from_arrow,
    difference,
    make_queries,
)
from benchmarks.query_sql import DUCKDB, prometheus_times, sql_of, utc_text
from benchmarks.tidegauge_queries import Request, native_request

SHAPE = DataShape(hosts=12, steps=3 * 360, values="two-decimals")
RUNS = 3


@pytest.fixture(scope="module")
def database() -> Any:
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    table = pa.Table.from_batches(record_batches(DevopsGenerator(SHAPE), CPU))
    table = table.set_column(0, "time", table["time"].cast(pa.timestamp("us")))
    connection.register("given", table)
    connection.execute("CREATE TABLE cpu AS SELECT * FROM given")
    yield connection
    connection.close()


@pytest.fixture(scope="module")
def expected() -> ExpectedAnswers:
    return ExpectedAnswers(DevopsGenerator(SHAPE))


def all_queries() -> list[Any]:
    queries = make_queries(SHAPE, RUNS)
    return [pytest.param(query, id=f"{name}-{run}") for name in queries for run, query in enumerate(queries[name])]


@pytest.mark.parametrize("query", all_queries())
def test_expected_answers_equal_duckdbs(query: Query, database: Any, expected: ExpectedAnswers) -> None:
    table = database.sql(sql_of(query, DUCKDB)).to_arrow_table()
    want = expected.answer(query)
    assert want.cells > 0 or (query.kind == "high-rows" and query.hosts)
    assert difference(answer_from_arrow(query, table), want) == ""


def test_queries_are_the_same_for_the_same_seed() -> None:
    assert make_queries(SHAPE, RUNS) == make_queries(SHAPE, RUNS)
    assert make_queries(SHAPE, RUNS, seed=8) != make_queries(SHAPE, RUNS)
    assert list(make_queries(SHAPE, 1)) == [described.name for described in QUERY_TYPES]
    assert len(QUERY_TYPES) == 15


def test_windows_are_whole_buckets_inside_the_data() -> None:
    for query in itertools.chain(*make_queries(SHAPE, 20).values()):
        assert SHAPE.start_ns <= query.start_ns < query.end_ns <= SHAPE.end_ns
        assert (query.start_ns - SHAPE.start_ns) % query.bucket_ns == 0
        assert (query.end_ns - query.start_ns) % query.bucket_ns == 0 or query.kind == "last-rows"


def test_data_shorter_than_a_bucket_is_refused() -> None:
    with pytest.raises(ValueError, match="cannot make queries"):
        make_queries(DataShape(steps=10), 1)


def answer_of(times: list[int], hosts: list[int], values: list[list[float]]) -> Answer:
    return Answer(np.array(times, np.int64), np.array(hosts, np.int64), np.array(values, np.float64))


@pytest.mark.parametrize(
    ("got", "sentence"),
    [
        (answer_of([2, 1], [0, 0], [[6.0, 5.0]]), ""),
        (answer_of([1, 2], [0, 0], [[5.0, 6.0 * (1 + 1e-12)]]), ""),
        (answer_of([1], [0], [[5.0]]), "got 1 rows of 1 fields, want 2 of 1"),
        (answer_of([1, 3], [0, 0], [[5.0, 6.0]]), "got time 3 in row 1, want 2"),
        (answer_of([1, 2], [0, 4], [[5.0, 6.0]]), "got host 4 in row 1, want 0"),
        (answer_of([1, 2], [0, 0], [[5.0, 7.0]]), "in field 0, row 1"),
        (answer_of([1, 2], [0, 0], [[5.0, float("nan")]]), "in field 0, row 1"),
    ],
)
def test_difference_names_what_differs(got: Answer, sentence: str) -> None:
    said = difference(got, answer_of([1, 2], [0, 0], [[5.0, 6.0]]))
    assert said == "" if not sentence else sentence in said


def test_native_answers_are_read() -> None:
    query = Query("mean-per-host-hour", ("usage_user",), (), 0, NS_PER_HOUR)
    series = [
        {"metric": "cpu_usage_user", "labels": {"hostname": "host_7"}, "times": [0, 5], "values": [1.5, 2.5]},
        {"metric": "cpu_usage_user", "labels": {"hostname": "host_8"}, "times": [0], "values": [3.5]},
    ]
    raw = msgspec.json.encode({"series": series, "truncated": False, "tier": "raw"})
    answer = Request(query, b"", b"", True).read(raw)
    assert difference(answer, answer_of([0, 0, 5], [7, 8, 7], [[1.5, 3.5, 2.5]])) == ""
    with pytest.raises(RuntimeError, match="truncated"):
        Request(query, b"", b"", True).read(msgspec.json.encode({"series": [], "truncated": True}))


def test_native_answers_of_several_fields_need_the_same_rows() -> None:
    query = Query("max-per-minute", ("usage_user", "usage_idle"), (), 0, NS_PER_HOUR)
    idle = {"metric": "cpu_usage_idle", "labels": {}, "times": [0, 60], "values": [5.0, 6.0]}
    user = {"metric": "cpu_usage_user", "labels": {}, "times": [0, 60], "values": [1.0, 2.0]}
    raw = msgspec.json.encode({"series": [idle, user], "truncated": False})
    answer = Request(query, b"", b"", True).read(raw)
    assert difference(answer, answer_of([0, 60], [NO_HOST, NO_HOST], [[1.0, 2.0], [5.0, 6.0]])) == ""
    raw = msgspec.json.encode({"series": [idle, user | {"times": [0, 30]}], "truncated": False})
    with pytest.raises(RuntimeError, match="different rows"):
        Request(query, b"", b"", True).read(raw)


def test_cells_of_different_rows_are_refused() -> None:
    query = Query("max-per-minute", ("a", "b"), (), 0, 1)
    cells = {"a": {(1, NO_HOST): 1.0}, "b": {(1, NO_HOST): 2.0}}
    assert difference(answer_from_cells(query, cells), answer_of([1], [NO_HOST], [[1.0], [2.0]])) == ""
    with pytest.raises(RuntimeError, match="field b has other rows"):
        answer_from_cells(query, {"a": {(1, NO_HOST): 1.0}, "b": {}})


def test_promql_evaluates_just_before_a_buckets_end() -> None:
    query = Query("max-per-minute", ("usage_user",), (3,), 600 * 10**9, 720 * 10**9)
    assert prometheus_times(query) == (659.999, 719.999, 60.0)


def test_influxql_names_hosts_and_window() -> None:
    text = InfluxDB.influxql(Query("max-per-minute", ("usage_user",), (3, 5), 60, 120))
    assert "(hostname = 'host_3' OR hostname = 'host_5') AND time >= 60 AND time < 120" in text


def test_utc_text_has_microseconds() -> None:
    assert utc_text(1_451_606_400_123_456_000) == "2016-01-01 00:00:00.123456"


def test_expected_tier_rows_count_touched_buckets() -> None:
    rows = expected_tier_rows(SHAPE)
    generator = DevopsGenerator(SHAPE)
    times = np.concatenate([block.times for block in generator.blocks()])
    for tier, seconds in TIER_SECONDS.items():
        touched = {time // (seconds * 10**9) for time in times.tolist()}
        assert rows[tier] == len(touched) * SHAPE.hosts * len(CPU.fields)


class Head:
    def head(self, method: str, target: str, headers: dict[str, str], body_bytes: int | None) -> bytes:
        return target.encode()


def asked_for(query: Query) -> tuple[str, dict[str, list[str]]]:
    target = urlsplit(native_request(Head(), query).head.decode())  # type: ignore[arg-type]
    return target.path, parse_qs(target.query, keep_blank_values=True)


def test_native_request_asks_for_the_window() -> None:
    path, asked = asked_for(Query("max-per-minute", ("usage_user",), (3, 5), 60 * 10**9, 180 * 10**9))
    assert path == "/v1/query"
    assert asked == {
        "metric": ["cpu_usage_user"],
        "match": ['hostname=~"host_3|host_5"'],
        "start": [str(60 * 10**9)],
        "end": [str(180 * 10**9)],
        "step": ["60s"],
        "agg": ["max"],
        "by": [""],
    }


def test_rows_are_asked_for_by_their_condition() -> None:
    path, asked = asked_for(Query("high-rows", ("usage_user", "usage_idle"), (3,), 60 * 10**9, 180 * 10**9))
    assert path == "/v1/rows"
    assert asked == {
        "table": ["cpu"],
        "fields": ["usage_user,usage_idle"],
        "tags": ["hostname"],
        "match": ['hostname="host_3"'],
        "where": ["usage_user>90"],
        "start": [str(60 * 10**9)],
        "end": [str(180 * 10**9)],
    }
    path, asked = asked_for(Query("last-rows", ("usage_user",), (), 0, 180 * 10**9))
    assert (path, asked["last"]) == ("/v1/rows", ["row"])
    assert not {"start", "end", "where"} & set(asked)
