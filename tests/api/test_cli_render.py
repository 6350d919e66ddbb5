"""Rows as text and files: exact tables, CSV and JSON, and round trips through the binary formats."""

from __future__ import annotations

import io
import json
import math

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import csv, parquet

from api.cli.render import render_arrow, render_csv, render_json, render_parquet, render_table

TIME = 1_767_323_045_600_000_000  # 2026-01-02T03:04:05.6Z
TABLE = pa.table(
    {
        "time": pa.array([TIME, None], pa.timestamp("ns", "UTC")),
        "host": pa.array(["a", "bb"]).dictionary_encode(),
        "value": pa.array([1.5, math.nan]),
        "n": pa.array([None, -12], pa.int64()),
        "up": [True, None],
        "labels": pa.array([[("k", "v")], None], pa.map_(pa.string(), pa.string())),
    }
)


def test_table_is_aligned_with_numbers_to_the_right() -> None:
    assert render_table(TABLE, seconds=0.0123) == (
        "time                    host  value     n  up    labels\n"
        "----------------------  ----  -----  ----  ----  ---------\n"
        '2026-01-02T03:04:05.6Z  a       1.5  NULL  true  {"k":"v"}\n'
        "NULL                    bb      NaN   -12  NULL  NULL\n"
        "2 rows (12 ms)\n"
    )


def test_table_of_no_and_of_one_row() -> None:
    assert render_table(TABLE.select(["n"]).slice(0, 0), seconds=12.34) == "n\n-\n0 rows (12.3 s)\n"
    assert render_table(TABLE.select(["n"]).slice(1, 1), seconds=0).endswith("1 row (0 ms)\n")


def test_rows_beyond_the_limit_are_left_out_and_counted() -> None:
    text = render_table(pa.table({"n": list(range(30))}), seconds=0, max_rows=10)
    assert text.count("\n") == 13
    assert text.endswith("10 of 30 rows shown (0 ms); another --format gives all of them\n")


def test_nothing_in_a_value_reaches_the_terminal_as_a_command() -> None:
    text = render_table(
        pa.table({"a\x1b[2J": ["\x1b]0;x\x07", "tab\tend\r", "line 1\nline 2"], "n": [1, 2, 3]}), seconds=0
    )
    assert text == (
        "a\\x1b[2J      n\n"
        "------------  -\n"
        "\\x1b]0;x\\x07  1\n"
        "tab\\tend\\r    2\n"
        "line 1        3\n"
        "line 2\n"
        "3 rows (0 ms)\n"
    )


def test_wide_characters_keep_the_columns_aligned() -> None:
    lines = render_table(pa.table({"name": ["潮位", "e\u0301", "abcd"], "n": [1, 2, 3]}), seconds=0).splitlines()
    assert lines[2:5] == ["潮位  1", "e\u0301     2", "abcd  3"]


def test_csv_reads_back() -> None:
    text = render_csv(TABLE)
    assert text.decode() == (
        '"time","host","value","n","up","labels"\n'
        '"2026-01-02T03:04:05.6Z","a",1.5,,"true","{""k"":""v""}"\n'
        ',"bb",nan,-12,,\n'
    )
    assert csv.read_csv(io.BytesIO(text))["n"].to_pylist() == [None, -12]


def test_json_reads_back() -> None:
    assert json.loads(render_json(TABLE)) == [
        {"time": "2026-01-02T03:04:05.6Z", "host": "a", "value": 1.5, "n": None, "up": True, "labels": {"k": "v"}},
        {"time": None, "host": "bb", "value": None, "n": -12, "up": None, "labels": None},
    ]
    assert render_json(TABLE.slice(0, 0)) == b"[]\n"


def test_nested_and_rare_types_have_a_text() -> None:
    table = pa.table(
        {
            "list": pa.array([[1.5, math.inf], None], pa.list_(pa.float64())),
            "struct": pa.array([{"a": 1, "b": None}, None], pa.struct({"a": pa.int64(), "b": pa.string()})),
            "decimal": pa.array(["1.50", None]).cast(pa.decimal128(5, 2)),
            "bytes": pa.array([b"\x00\xff", None]),
            "day": pa.array([0, None], pa.date32()),
            "infinite": [-math.inf, math.inf],
            "nothing": pa.nulls(2),
        }
    )
    first, second = json.loads(render_json(table))
    assert first == {
        "list": [1.5, None],
        "struct": {"a": 1, "b": None},
        "decimal": "1.50",
        "bytes": "00ff",
        "day": "1970-01-01",
        "infinite": None,
        "nothing": None,
    }
    assert set(second.values()) == {None}
    assert b"-Infinity" in render_table(table, seconds=0).encode()
    assert render_csv(table).splitlines()[1].startswith(b'"[1.5,null]","{""a"":1,""b"":null}"')


@pytest.mark.parametrize("column", ["time", "host", "value", "n", "up", "labels"])
def test_binary_formats_keep_every_value(column: str) -> None:
    table = TABLE.select([column])
    with pa.ipc.open_stream(render_arrow(table)) as reader:
        assert str(reader.read_all()) == str(table)
    # str() because a NaN equals nothing.
    assert str(parquet.read_table(io.BytesIO(render_parquet(table)))[0]) == str(table[0])


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.none() | st.text(max_size=6), st.none() | st.floats(), st.none() | st.integers(-(2**63), 2**63 - 1)
        ),
        max_size=5,
    )
)
def test_json_is_what_python_reads_back(rows: list[tuple[str | None, float | None, int | None]]) -> None:
    columns = list(zip(*rows, strict=True)) if rows else [(), (), ()]
    table = pa.table(
        {
            "s": pa.array(columns[0], pa.string()),
            "f": pa.array(columns[1], pa.float64()),
            "i": pa.array(columns[2], pa.int64()),
        }
    )
    finite = [(s, f if f is not None and math.isfinite(f) else None, i) for s, f, i in rows]
    assert [(row["s"], row["f"], row["i"]) for row in json.loads(render_json(table))] == finite
    lines = render_table(table, seconds=0).splitlines()
    assert lines[-1].startswith(f"{len(rows)} row")
