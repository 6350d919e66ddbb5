"""Answers as JSON, CSV, Arrow and Parquet: exact texts, and round trips through other readers."""

from __future__ import annotations

import csv
import io
import json
import math
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import BadRequest
from engine.query.database import Database
from engine.query.results import CONVERTED_CELLS, ENCODED_ROWS, render, sql_type, table_of
from engine.query.sources import SqlRequest


def as_json(table: pa.Table, **metadata: Any) -> dict[str, Any]:
    return json.loads(render(table, "json", metadata), parse_float=Decimal)


def json_values(array: pa.Array) -> list[Any]:
    body = as_json(pa.table({"x": array}))
    assert body["row_count"] == len(array) == len(body["rows"])
    return [row[0] for row in body["rows"]]


def csv_rows(table: pa.Table) -> list[list[str]]:
    return list(csv.reader(io.StringIO(render(table, "csv", {}).decode(), newline="")))


def test_json_is_exactly_this() -> None:
    table = pa.table(
        {
            "time": pa.array([0, 1_500_000_000], pa.timestamp("ns")),
            "host": ["a", None],
            "value": [0.1, -0.0],
            "labels": pa.array([[("dc", "x")], []], pa.map_(pa.string(), pa.string())),
        }
    )
    assert render(table, "json", {"tier": "raw", "rows": "not overwritten"}) == (
        b'{"columns":[{"name":"time","type":"TIMESTAMP_NS"},{"name":"host","type":"VARCHAR"},'
        b'{"name":"value","type":"DOUBLE"},{"name":"labels","type":"MAP(VARCHAR, VARCHAR)"}],'
        b'"rows":[["1970-01-01T00:00:00.000Z","a",0.1,{"dc":"x"}],["1970-01-01T00:00:01.500Z",null,-0.0,{}]],'
        b'"row_count":2,"tier":"raw"}'
    )


def test_csv_is_exactly_this() -> None:
    table = pa.table(
        {
            "time": pa.array([0, None], pa.timestamp("ns")),
            "host, name": ['say "hi"\n', ""],
            "value": [float("nan"), 1e300],
            "labels": pa.array([[("dc", "x")], None], pa.map_(pa.string(), pa.string())),
            "count": pa.array([None, 5], pa.int64()),
        }
    )
    assert render(table, "csv", {}) == (
        b'"time","host, name","value","labels","count"\n'
        b'"1970-01-01T00:00:00Z","say ""hi""\n","NaN","{""dc"":""x""}",\n'
        b',"","1e+300",,5\n'
    )


@pytest.mark.parametrize(
    ("unit", "ticks", "shown"),
    [
        ("ns", [0, 10**9], ["1970-01-01T00:00:00Z", "1970-01-01T00:00:01Z"]),
        ("ns", [0, 10**6], ["1970-01-01T00:00:00.000Z", "1970-01-01T00:00:00.001Z"]),
        ("ns", [0, 10**3], ["1970-01-01T00:00:00.000000Z", "1970-01-01T00:00:00.000001Z"]),
        ("ns", [0, 1], ["1970-01-01T00:00:00.000000000Z", "1970-01-01T00:00:00.000000001Z"]),
        ("ns", [-1, None], ["1969-12-31T23:59:59.999999999Z", None]),
        ("ns", [1_700_000_000_123_456_789], ["2023-11-14T22:13:20.123456789Z"]),
        ("us", [1_700_000_000_000_000], ["2023-11-14T22:13:20Z"]),
        ("us", [1], ["1970-01-01T00:00:00.000001Z"]),
        ("ms", [1], ["1970-01-01T00:00:00.001Z"]),
        ("s", [1], ["1970-01-01T00:00:01Z"]),
        ("us", [(1 << 63) - 1, -(1 << 63) + 1], ["infinity", "-infinity"]),
        ("ns", [], []),
        ("ns", [None], [None]),
    ],
)
@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin"])
def test_times_have_the_digits_they_need(unit: str, ticks: list[Any], shown: list[Any], zone: str | None) -> None:
    array = pa.array(ticks, pa.timestamp(unit, zone))
    assert json_values(array) == shown
    assert csv_rows(pa.table({"x": array}))[1:] == [[""] if text is None else [text] for text in shown]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.datetimes(datetime(1700, 1, 1), datetime(2250, 1, 1)), min_size=1, max_size=20))
def test_times_are_those_that_went_in(times: list[datetime]) -> None:
    array = pa.array(times, pa.timestamp("us")).cast(pa.timestamp("ns"))
    read = [datetime.fromisoformat(text) for text in json_values(array)]
    assert read == [time.replace(tzinfo=UTC) for time in times]


@pytest.mark.parametrize(
    ("array", "values"),
    [
        (
            pa.array([1.5, None, float("nan"), float("inf"), float("-inf")]),
            [Decimal("1.5"), None, "NaN", "+Inf", "-Inf"],
        ),
        (
            pa.array([9007199254740993, -(1 << 63), (1 << 63) - 1, None]),
            [9007199254740993, -(1 << 63), (1 << 63) - 1, None],
        ),
        (pa.array([(1 << 64) - 1], pa.uint64()), [(1 << 64) - 1]),
        (pa.array([True, False, None]), [True, False, None]),
        (pa.array([Decimal("1.50"), None], pa.decimal128(20, 2)), [Decimal("1.50"), None]),
        (pa.array([Decimal(10) ** 37], pa.decimal128(38, 0)), [10**37]),
        (pa.array(["é", "", None, '"\\']), ["é", "", None, '"\\']),
        (pa.array(["a", None, "b"]).dictionary_encode(), ["a", None, "b"]),
        (pa.array([b"\x00\xff", None]), ["AP8=", None]),
        (pa.array([[1, None], None, []], pa.list_(pa.int32())), [[1, None], None, []]),
        (pa.array([[1, 2], [3, 4]], pa.list_(pa.int32(), 2)), [[1, 2], [3, 4]]),
        (pa.array([{"a": 1, "b": [float("nan")]}, None]), [{"a": 1, "b": ["NaN"]}, None]),
        (pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int64())), [{"k": 1}, None]),
        (pa.array([[(5, [1])]], pa.map_(pa.int32(), pa.list_(pa.int32()))), [{"5": [1]}]),
        (pa.array([0, None], pa.date32()), ["1970-01-01", None]),
        (pa.array([3_600_500_000], pa.time64("us")), ["01:00:00.500000"]),
        (pa.nulls(2), [None, None]),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_json_values(array: pa.Array, values: list[Any]) -> None:
    assert json_values(array) == values
    # A slice of a larger array has offsets of its own.
    doubled = pa.concat_arrays([array, array])
    assert json_values(doubled.slice(1, len(array))) == (values + values)[1 : 1 + len(array)]
    assert json_values(pa.chunked_array([array, array]).combine_chunks()) == values + values


@pytest.mark.parametrize(
    ("interval", "shown"),
    [
        ((0, 0, 0), "PT0S"),
        ((14, -3, 4_500_000_000), "P1Y2M-3DT4.5S"),
        ((-14, 0, 0), "P-1Y-2M"),
        ((0, 1, 0), "P1D"),
        ((0, 0, -1), "PT-0.000000001S"),
        ((0, 0, 3_600_000_000_000), "PT3600S"),
    ],
)
def test_intervals_are_iso_durations(interval: tuple[int, int, int], shown: str) -> None:
    assert json_values(pa.array([interval, None], pa.month_day_nano_interval())) == [shown, None]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=30))
def test_doubles_come_back_bit_for_bit(values: list[float]) -> None:
    table = pa.table({"x": values})
    bits = np.array(values).view(np.int64).tolist()
    read = json.loads(render(table, "json", {}))["rows"]
    assert np.array([float(row[0]) for row in read]).view(np.int64).tolist() == bits
    assert np.array([float(row[0]) for row in csv_rows(table)[1:]]).view(np.int64).tolist() == bits


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(st.none(), st.text(st.characters(codec="utf-8"), max_size=8)), min_size=1, max_size=20))
def test_texts_come_back(values: list[str | None]) -> None:
    table = pa.table({"x": pa.array(values, pa.string()), "n": range(len(values))})
    assert [row[0] for row in as_json(table)["rows"]] == values
    # Python's reader takes a carriage return inside quotes as it is, and an empty field for an empty text.
    assert [row[0] for row in csv_rows(table)[1:]] == [value or "" for value in values]


def test_every_type_of_duckdb_is_written_without_loss() -> None:
    database = Database(None, threads=1)
    sql = (
        "SELECT 170141183460469231731687303715884105727::HUGEINT AS hugeint, sum(i) AS total,"
        " 340282366920938463463374607431768211455::UHUGEINT AS uhugeint, 1.50::DECIMAL(38, 2) AS decimal,"
        " '123456789012345678901234567890123456789012345678901'::BIGNUM AS bignum, '101'::BIT AS bit,"
        " TIMETZ '10:00:00+01' AS timetz, {'a': [5::UHUGEINT]} AS nested, TIMESTAMPTZ '2026-01-01 00:00:00Z' AS tz,"
        " 'x'::ENUM ('x', 'y') AS enum, 0.1::FLOAT AS float, 200::UTINYINT AS utinyint,"
        " '6f1c2f5e-0000-4000-8000-000000000001'::UUID AS uuid, '{\"a\": 1}'::JSON AS json, NULL AS nothing,"
        " TIMESTAMP_NS '2026-01-01 00:00:00.000000001' AS at FROM range(3) t(i)"
    )
    try:
        table = table_of(database.sql(SqlRequest(sql=sql)))
    finally:
        database.close()
    body = as_json(table)
    assert dict(zip((column["name"] for column in body["columns"]), body["rows"][0], strict=True)) == {
        "hugeint": 170141183460469231731687303715884105727,
        "total": 3,
        "uhugeint": "340282366920938463463374607431768211455",
        "decimal": Decimal("1.50"),
        "bignum": "123456789012345678901234567890123456789012345678901",
        "bit": "101",
        "timetz": "10:00:00+01",
        "nested": "{'a': [5]}",
        "tz": "2026-01-01T00:00:00Z",
        "enum": "x",
        "float": Decimal("0.10000000149011612"),
        "utinyint": 200,
        "uuid": "6f1c2f5e-0000-4000-8000-000000000001",
        "json": '{"a": 1}',
        "nothing": None,
        "at": "2026-01-01T00:00:00.000000001Z",
    }
    for form in ("csv", "arrow", "parquet"):
        assert render(table, form, {})


@pytest.mark.parametrize(
    ("type_", "name"),
    [
        (pa.int64(), "BIGINT"),
        (pa.timestamp("ns"), "TIMESTAMP_NS"),
        (pa.timestamp("us"), "TIMESTAMP"),
        (pa.timestamp("us", "UTC"), "TIMESTAMP WITH TIME ZONE"),
        (pa.map_(pa.string(), pa.list_(pa.float64())), "MAP(VARCHAR, DOUBLE[])"),
        (pa.struct([("a", pa.int32()), ("b", pa.decimal128(5, 2))]), "STRUCT(a INTEGER, b DECIMAL(5,2))"),
        (pa.dictionary(pa.int8(), pa.string()), "VARCHAR"),
        (pa.list_(pa.int8(), 3), "TINYINT[3]"),
        (pa.null(), "NULL"),
    ],
)
def test_types_have_their_sql_names(type_: pa.DataType, name: str) -> None:
    assert sql_type(type_) == name


def test_columns_of_the_same_name_are_all_kept() -> None:
    table = pa.table([pa.array([1]), pa.array([2])], names=["a", "a"])
    assert as_json(table)["rows"] == [[1, 2]]
    assert csv_rows(table) == [["a", "a"], ["1", "2"]]
    assert pa.ipc.open_stream(render(table, "arrow", {})).read_all().equals(table)


def test_arrow_and_parquet_keep_the_table_and_its_description() -> None:
    table = pa.table(
        {
            "time": pa.array([1_000, None], pa.timestamp("ns")),
            "labels": pa.array([[("a", "b")], []], pa.map_(pa.string(), pa.string())),
            "value": [math.pi, float("nan")],
        }
    )
    arrow = pa.ipc.open_stream(render(table, "arrow", {"tier": "raw"})).read_all()
    parquet = pq.read_table(io.BytesIO(render(table, "parquet", {"tier": "raw"})))
    for read in (arrow, parquet):
        assert read.schema.equals(table.schema)
        assert str(read.to_pylist()) == str(table.to_pylist())
        assert json.loads(read.schema.metadata[b"tidegauge"]) == {"tier": "raw"}


def test_parquet_has_intervals_as_text() -> None:
    table = pa.table({"i": pa.array([(0, 1, 0)], pa.month_day_nano_interval())})
    assert pq.read_table(io.BytesIO(render(table, "parquet", {}))).to_pylist() == [{"i": "P1D"}]


def test_csv_can_be_read_by_duckdb(tmp_path) -> None:
    times = [datetime(2026, 1, 1) + timedelta(seconds=index) for index in range(100)]
    table = pa.table({"time": times, "host": [f"h{index}" for index in range(100)], "v": np.arange(100) / 8})
    path = tmp_path / "answer.csv"
    path.write_bytes(render(table, "csv", {}))
    with duckdb.connect() as connection:
        read = connection.execute(
            "SELECT count(*), max(v), max(time::TIMESTAMP) FROM read_csv(?)", [str(path)]
        ).fetchall()
    assert read == [(100, 99 / 8, times[-1])]


def test_no_rows_are_an_answer_too() -> None:
    table = pa.table({"time": pa.array([], pa.timestamp("ns")), "m": pa.array([], pa.map_(pa.string(), pa.string()))})
    assert as_json(table) == {
        "columns": [{"name": "time", "type": "TIMESTAMP_NS"}, {"name": "m", "type": "MAP(VARCHAR, VARCHAR)"}],
        "rows": [],
        "row_count": 0,
    }
    assert render(table, "csv", {}) == b'"time","m"\n'


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(BadRequest, match="cannot answer as 'xml': want one of json, objects, csv, arrow, parquet"):
        render(pa.table({"a": [1]}), "xml", {})


def test_rows_are_encoded_a_few_at_a_time_and_look_as_if_at_once() -> None:
    count = 2 * ENCODED_ROWS + 1
    moments = pa.array([at * 10**9 + (at == 9_000) for at in range(3 * CONVERTED_CELLS)], pa.timestamp("ns"))
    for rows in (0, 1, ENCODED_ROWS, ENCODED_ROWS + 1, count):
        table = pa.table({"i": pa.array(range(rows), pa.int64()), "t": pa.array(["x"] * rows, pa.string())})
        told = json.loads(render(table, "json", {"rows": 5, "elapsed_seconds": 1.5}))
        assert list(told) == ["columns", "rows", "row_count", "elapsed_seconds"]
        assert told["rows"] == [[at, "x"] for at in range(rows)]
        assert told["row_count"] == rows
        assert json.loads(render(table, "objects", {})) == [{"i": at, "t": "x"} for at in range(rows)]
    # One time that needs nine digits gives nine to all of its column.
    texts = json.loads(render(pa.table({"t": moments}), "json", {}))["rows"]
    assert {len(text) for (text,) in texts} == {len("1970-01-01T00:00:00.000000000Z")}
    assert texts[9_000] == ["1970-01-01T02:30:00.000000001Z"]
