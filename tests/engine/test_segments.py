"""engine.segments: what goes into a segment comes out with its very bits, for us and for any Parquet reader."""

from __future__ import annotations

import base64
import errno
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from random import Random

import duckdb
import msgspec
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from engine.disk.real import RealFileSystem
from engine.errors import Bug, Damage, DiskFull, Unavailable
from engine.model.rows import FOREVER_NS, NEVER_NS, Int32Array, Rows
from engine.segments import classify, footer, writer
from engine.segments.classify import plan_column
from engine.segments.columns import ColumnCache, search_segment
from engine.segments.footer import FooterCache
from engine.segments.layout import (
    FieldColumn,
    SegmentMeta,
    SegmentSpec,
    TagColumn,
    column_names_for,
    segment_file,
    sequence_of_file,
    table_directory,
    time_text,
)
from engine.segments.reader import (
    arrow_schema,
    column_names,
    read_header,
    read_segment,
    segment_path,
    verify_segment,
)
from engine.segments.writer import row_groups, write_segment
from native.columns import ABSENT
from tests.filesystems import FailingFileSystem, FullFileSystem, MemoryFileSystem, broken_disk
from tests.oracles.segments import bits_of, cells_of, kind_of, narrowed, read_as_anyone
from tests.oracles.segments import row_groups as row_groups_oracle

ROOT = "data"
START_NS = 1_700_000_000_000_000_000
SPAN_NS = 7_200_000_000_000
NAMES = {0: "usage", 3: "Rate", 7: "host", 9: "state", 12: "total"}


def from_bits(*patterns: int) -> list[float]:
    return np.array(patterns, np.uint64).view(np.float64).tolist()


NANS = from_bits(
    0x7FF8000000000000, 0xFFF8000000000000, 0x7FF0000000000002, 0x7FF0000000000001,
    0xFFFFFFFFFFFFFFFF, 0x7FF8544944454742,
)  # fmt: skip
EDGES = [0.0, -0.0, 1.0, -1.0, 2.0**53, -(2.0**53), 2.0**53 - 1, 2.0**53 + 2, 2.0**31, -(2.0**31), 2.0**31 - 1]
INFINITIES = [float("inf"), float("-inf")]
COLUMNS = {
    "integers": st.integers(-(2**53), 2**53).map(float),
    "small integers": st.integers(-5, 5).map(float),
    "edges": st.sampled_from(EDGES[2:]),
    "one decimal": st.integers(-(10**6), 10**6).map(lambda i: i / 10),
    "two decimals": st.integers(-(2**53), 2**53).map(lambda i: i / 100),
    "six decimals": st.integers(-(10**9), 10**9).map(lambda i: i / 1e6),
    "any bits": st.integers(0, 2**64 - 1).map(lambda pattern: from_bits(pattern)[0]),
    "special": st.sampled_from([*NANS, *EDGES, *INFINITIES, 31.84]),
    "few levels": st.sampled_from([0.1234567890123, 2 / 3, 1e300]),
}


@st.composite
def rows_of_a_table(draw: st.DrawFn) -> Rows:
    keys = draw(
        st.lists(
            st.tuples(st.integers(0, 6) | st.integers(0, 2**31 - 1), st.integers(0, SPAN_NS - 1)),
            min_size=1,
            max_size=60,
            unique=True,
        )
    )
    keys.sort()
    fields = draw(st.lists(st.tuples(st.sampled_from(sorted(NAMES)), st.sampled_from(sorted(COLUMNS))), max_size=4))
    by_field = dict(fields)
    columns = []
    for field_id in sorted(by_field):
        cell = COLUMNS[by_field[field_id]] | st.just(ABSENT) if draw(st.booleans()) else COLUMNS[by_field[field_id]]
        columns.append(draw(st.lists(cell, min_size=len(keys), max_size=len(keys))))
    return Rows(
        np.array([tagset_id for tagset_id, _ in keys], np.int32),
        np.array([START_NS + offset for _, offset in keys], np.int64),
        tuple(sorted(by_field)),
        np.array(columns, np.float64).reshape(len(by_field), len(keys)),
    )


def tags_of(tagset_ids: Int32Array) -> tuple[list[str], list[list[str | None]]]:
    return ["host", "region"], [
        [f"host_{each}" for each in tagset_ids.tolist()],
        [None if each % 3 == 0 else ("eu", "us")[each % 2] for each in tagset_ids.tolist()],
    ]


def spec_for(rows: Rows, **changes: object) -> SegmentSpec:
    settings_ = {
        "table_id": 4,
        "table": "cpu",
        "start_ns": START_NS,
        "end_ns": START_NS + SPAN_NS,
        "field_names": {field_id: NAMES[field_id] for field_id in rows.field_ids},
        "sequence": 11,
        "sealed_through": 99,
        "created_ns": START_NS + 5,
        "row_group_rows": 16,
    }
    return SegmentSpec(**{**settings_, **changes})  # type: ignore[arg-type]


def regular_rows(tagsets: int = 10, points: int = 20, fields: Sequence[int] = (0, 3)) -> Rows:
    """Rows of a small fleet: field 0 whole numbers, field 3 two decimals, further ones noise."""
    count = tagsets * points
    random = np.random.default_rng(3)
    columns = [np.arange(count, dtype=np.float64) % 17, np.round(np.arange(count) % 89 * 0.01, 2)]
    columns += [random.normal(size=count) for _ in fields[2:]]
    return Rows(
        np.repeat(np.arange(tagsets, dtype=np.int32), points),
        START_NS + np.tile(np.arange(points, dtype=np.int64) * 10_000_000_000, tagsets),
        tuple(fields),
        np.array(columns[: len(fields)]),
    )


def one_column(values: Sequence[float]) -> Rows:
    return Rows(
        np.zeros(len(values), np.int32),
        START_NS + np.arange(len(values), dtype=np.int64),
        (0,),
        np.array([values], np.float64),
    )


# --- rows come back


@settings(max_examples=100, deadline=None)
@given(rows=rows_of_a_table(), row_group_rows=st.sampled_from([1, 3, 16, 1000]))
def test_rows_come_back_with_their_bits(rows: Rows, row_group_rows: int) -> None:
    fs = MemoryFileSystem()
    meta = write_segment(fs, ROOT, spec_for(rows, row_group_rows=row_group_rows), rows, tags_of)
    read = read_segment(fs, ROOT, meta)
    assert cells_of(read) == cells_of(rows)
    assert read.tagset_ids.tolist() == rows.tagset_ids.tolist()
    assert read.times.tolist() == rows.times.tolist()
    assert read.values.flags.c_contiguous
    assert (meta.rows, meta.samples) == (len(rows), rows.sample_count())
    assert (meta.min_time_ns, meta.max_time_ns) == (rows.times.min(), rows.times.max())
    assert meta.bytes == fs.size(f"{ROOT}/{meta.file}")
    kinds = {
        field_id: kind
        for field_id, column in zip(rows.field_ids, rows.values.tolist(), strict=True)
        if (kind := kind_of(column)) is not None
    }
    assert {column.field_id: column.kind for column in meta.columns} == kinds
    verify_segment(fs, ROOT, meta)


@settings(max_examples=100, deadline=None)
@given(rows=rows_of_a_table(), data=st.data())
def test_narrowed_reading_is_reading_and_then_narrowing(rows: Rows, data: st.DataObject) -> None:
    fs = MemoryFileSystem()
    meta = write_segment(fs, ROOT, spec_for(rows, row_group_rows=5), rows, tags_of)
    some_time = st.none() | st.sampled_from(rows.times.tolist()) | st.integers(START_NS - 9, START_NS + SPAN_NS + 9)
    some_tagsets = st.none() | st.lists(
        st.sampled_from(rows.tagset_ids.tolist()) | st.integers(0, 2**31 - 1), max_size=9
    )
    limits = {
        "start_ns": data.draw(some_time),
        "end_ns": data.draw(some_time),
        "tagset_ids": data.draw(some_tagsets),
        "field_ids": data.draw(st.none() | st.lists(st.sampled_from(sorted(NAMES)), max_size=3)),
    }
    read = read_segment(fs, ROOT, meta, **limits, cache=data.draw(st.sampled_from([None, FooterCache()])))
    assert cells_of(read) == narrowed(cells_of(rows), **limits)
    keys = list(zip(read.tagset_ids.tolist(), read.times.tolist(), strict=True))
    assert keys == sorted(keys)
    assert read.field_ids == tuple(sorted(read.field_ids))


@settings(max_examples=100, deadline=None)
@given(rows=rows_of_a_table(), data=st.data(), cache_bytes=st.sampled_from([0, 200, 2_000, 1 << 20]))
def test_searching_by_way_of_kept_columns_is_reading(rows: Rows, data: st.DataObject, cache_bytes: int) -> None:
    fs = MemoryFileSystem()
    meta = write_segment(fs, ROOT, spec_for(rows, row_group_rows=data.draw(st.sampled_from([1, 3, 50]))), rows, tags_of)
    footers, columns = FooterCache(), ColumnCache(cache_bytes)
    for _ in range(3):
        wanted = np.array(sorted(data.draw(st.sets(st.sampled_from([*rows.tagset_ids.tolist(), 10**6])))), np.int32)
        start_ns = data.draw(st.sampled_from([NEVER_NS, *rows.times.tolist()]))
        end_ns = data.draw(st.sampled_from([FOREVER_NS, *rows.times.tolist()]))
        field_ids = data.draw(st.one_of(st.none(), st.sets(st.sampled_from([*rows.field_ids, 77])).map(tuple)))
        expected = read_segment(
            fs, ROOT, meta, start_ns=start_ns, end_ns=end_ns, tagset_ids=wanted, field_ids=field_ids
        )
        found = search_segment(
            fs,
            ROOT,
            meta,
            start_ns=start_ns,
            end_ns=end_ns,
            tagset_ids=wanted,
            field_ids=field_ids,
            footers=footers,
            columns=columns,
        )
        assert (found.field_ids, found.tagset_ids.tolist(), found.times.tolist()) == (
            expected.field_ids,
            expected.tagset_ids.tolist(),
            expected.times.tolist(),
        )
        assert found.values.tobytes() == expected.values.tobytes()
        assert columns.nbytes <= cache_bytes


def test_unknown_fields_are_left_out_and_no_field_gives_the_keys() -> None:
    fs, rows = MemoryFileSystem(), regular_rows()
    meta = write_segment(fs, ROOT, spec_for(rows), rows, tags_of)
    assert read_segment(fs, ROOT, meta, field_ids=[3, 400]).field_ids == (3,)
    keys = read_segment(fs, ROOT, meta, field_ids=[])
    assert (keys.field_ids, keys.values.shape, len(keys)) == ((), (0, len(rows)), len(rows))


def test_a_large_column_of_every_kind_comes_back() -> None:
    """Long enough for several pages, row groups and sampled pieces of a column."""
    random = np.random.default_rng(5)
    count = 50_000
    columns = [
        np.cumsum(random.integers(-2, 3, count)).astype(np.float64),
        random.integers(0, 2**50, count) / 100,
        random.choice(random.normal(size=9), count),
        np.where(random.random(count) < 0.1, ABSENT, random.normal(size=count)),
        random.choice([0.0, 1e6, 123456789.0, 5e8], count),
    ]
    rows = Rows(
        np.repeat(np.arange(50, dtype=np.int32), count // 50),
        START_NS + np.tile(np.arange(count // 50, dtype=np.int64), 50),
        tuple(sorted(NAMES)),
        np.array(columns),
    )
    fs = MemoryFileSystem()
    meta = write_segment(fs, ROOT, spec_for(rows, row_group_rows=20_000), rows, tags_of)
    assert [column.kind for column in meta.columns] == ["integer", "decimal2", "double", "double", "integer"]
    read = read_segment(fs, ROOT, meta)
    assert (read.values.view(np.uint64) == rows.values.view(np.uint64)).all()


# --- what a column is


@pytest.mark.parametrize(
    ("values", "kind", "bits"),
    [
        ([1, 2, ABSENT], "integer", 32),
        ([2.0**31 - 1, -(2.0**31)], "integer", 32),
        ([2.0**31], "integer", 64),
        ([-(2.0**31) - 1], "integer", 64),
        ([2.0**53, -(2.0**53)], "integer", 64),
        ([2.0**53 + 2], "double", 64),
        ([0.0], "integer", 32),
        ([-0.0], "double", 64),
        ([1, -0.0], "double", 64),
        ([0.5, 3], "decimal1", 32),
        ([31.84], "decimal2", 32),
        ([9_999_999.99], "decimal2", 32),
        ([10_000_000.01], "decimal2", 64),
        ([0.000001], "decimal6", 32),
        ([0.0000001], "double", 64),
        ([1 / 3], "double", 64),
        ([float("inf")], "double", 64),
        ([1, NANS[0]], "double", 64),
        ([ABSENT, NANS[2]], "double", 64),
    ],
)
def test_kinds(values: list[float], kind: str, bits: int) -> None:
    plan = plan_column(np.array(values))
    assert plan is not None
    assert (plan.kind, plan.bits) == (kind, bits)
    assert kind_of(values) == kind


def test_a_field_without_samples_gets_no_column() -> None:
    assert plan_column(np.array([ABSENT, ABSENT])) is None
    fs, rows = MemoryFileSystem(), regular_rows()
    rows = Rows(rows.tagset_ids, rows.times, rows.field_ids, np.array([rows.values[0], np.full(len(rows), ABSENT)]))
    meta = write_segment(fs, ROOT, spec_for(rows), rows, tags_of)
    assert column_names(meta) == {0: ("usage",)}
    assert read_segment(fs, ROOT, meta).field_ids == (0,)


@pytest.mark.parametrize(
    ("column", "encoding"),
    [
        (np.arange(20_000.0), classify.DELTA),
        (np.zeros(20_000), classify.DELTA),
        (np.random.default_rng(1).choice([0.0, 1e6, 123456789.0, 5e8], 20_000), classify.DICTIONARY),
        (np.random.default_rng(1).integers(0, 10**9, 20_000).astype(np.float64), classify.DELTA),
        (np.random.default_rng(1).normal(size=20_000), classify.SPLIT),
        (np.random.default_rng(1).choice(np.random.default_rng(2).normal(size=20), 20_000), classify.DICTIONARY),
        (np.append(np.random.default_rng(1).integers(0, 10**5, 8_000) / 100, NANS[2]), classify.PLAIN),
    ],
    ids=[
        "counter",
        "constant",
        "levels",
        "random integers",
        "noise",
        "levels of doubles",
        "decimals with a stale mark",
    ],
)
def test_encodings_follow_the_data(column: np.ndarray, encoding: str) -> None:
    plan = plan_column(column)
    assert plan is not None
    assert plan.encoding == encoding


# --- row groups


@settings(max_examples=200, deadline=None)
@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=30), limit=st.integers(1, 20))
def test_row_groups_hold_whole_tag_sets(lengths: list[int], limit: int) -> None:
    tagset_ids = [number for number, length in enumerate(lengths) for _ in range(length)]
    starts = np.cumsum([0, *lengths[:-1]])
    assert list(row_groups(starts, len(tagset_ids), limit)) == row_groups_oracle(tagset_ids, limit)


def test_statistics_of_the_keys_and_order_are_declared(tmp_path: Path) -> None:
    rows = regular_rows(tagsets=6, points=8)
    meta = write_segment(RealFileSystem(), str(tmp_path), spec_for(rows), rows, tags_of)
    metadata = pq.ParquetFile(tmp_path / meta.file).metadata
    assert metadata.num_row_groups == 3
    for number in range(3):
        group = metadata.row_group(number)
        assert (group.column(0).statistics.min, group.column(0).statistics.max) == (2 * number, 2 * number + 1)
        assert group.column(1).statistics.min_raw == START_NS
        assert [column.column_index for column in group.sorting_columns] == [0, 1]
        assert group.column(0).has_column_index
        assert group.column(4).has_offset_index


def groups_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record which row groups are decoded from now on."""
    seen: list[int] = []
    decode = pq.ParquetFile.read_row_group

    def record(self: pq.ParquetFile, group: int, **options: object) -> pa.Table:
        seen.append(group)
        return decode(self, group, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", record)
    return seen


def test_only_row_groups_that_can_matter_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    fs, rows = MemoryFileSystem(), regular_rows(tagsets=40, points=8)
    meta = write_segment(fs, ROOT, spec_for(rows), rows, tags_of)
    seen = groups_read(monkeypatch)
    read_segment(fs, ROOT, meta)
    assert sorted(set(seen)) == list(range(20))
    for tagset_ids, groups in ([5], {2}), ([39, 0], {0, 19}), ([100], set()), ([], set()):
        seen.clear()
        read_segment(fs, ROOT, meta, tagset_ids=tagset_ids)
        assert set(seen) == groups
    seen.clear()
    assert not len(read_segment(fs, ROOT, meta, start_ns=START_NS + 80_000_000_000))
    assert not len(read_segment(fs, ROOT, meta, end_ns=START_NS))
    assert seen == []


def test_fields_are_not_decoded_where_no_key_matches(monkeypatch: pytest.MonkeyPatch) -> None:
    fs, rows = MemoryFileSystem(), regular_rows(tagsets=4, points=8)
    meta = write_segment(fs, ROOT, spec_for(rows), rows, tags_of)
    seen = groups_read(monkeypatch)
    assert not len(read_segment(fs, ROOT, meta, start_ns=START_NS + 1, end_ns=START_NS + 2))
    assert seen == [0, 1]


def test_a_cached_footer_is_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    fs, rows, cache = MemoryFileSystem(), regular_rows(), FooterCache(entries=1)
    meta = write_segment(fs, ROOT, spec_for(rows), rows, tags_of)
    other = write_segment(fs, ROOT, spec_for(rows, sequence=12), rows, tags_of)
    parsed: list[str] = []
    parse = footer.parse_footer
    monkeypatch.setattr(footer, "parse_footer", lambda path, *rest: parsed.append(path) or parse(path, *rest))
    for each in (meta, meta, other, other, meta):
        assert len(read_segment(fs, ROOT, each, cache=cache)) == len(rows)
    assert parsed == [f"{ROOT}/{each.file}" for each in (meta, other, meta)]


# --- other readers


def bits_from_duckdb(path: Path, column: str) -> list[int | None]:
    with duckdb.connect() as connection:
        query = f'select cast("{column}" as double) as value from read_parquet(?) order by tagset_id, time'
        values = np.ma.asarray(connection.execute(query, [str(path)]).fetchnumpy()["value"])
    bits = np.ascontiguousarray(values.data).view(np.uint64).tolist()
    return [None if hidden else each for each, hidden in zip(bits, np.ma.getmaskarray(values), strict=True)]


def bits_from_polars(path: Path, column: str) -> list[int | None]:
    values = pl.read_parquet(path)[column].cast(pl.Float64)
    bits = values.fill_null(0.0).to_numpy().view(np.uint64).tolist()
    return [None if hidden else each for each, hidden in zip(bits, values.is_null(), strict=True)]


@settings(max_examples=20, deadline=None)
@given(rows=rows_of_a_table())
def test_any_parquet_reader_gets_the_same_samples(rows: Rows, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("segment")
    meta = write_segment(RealFileSystem(), str(root), spec_for(rows), rows, tags_of)
    path = root / meta.file
    cells = cells_of(rows)
    assert read_as_anyone(str(path), meta) == cells
    for column in meta.columns:
        wanted = [cell.get(column.field_id) for cell in cells.values()]
        assert bits_from_duckdb(path, column.column) == wanted
        assert bits_from_polars(path, column.column) == wanted


@pytest.mark.parametrize("decimals", range(1, 7))
@pytest.mark.parametrize("largest", [10**9 - 1, 2**50])
def test_decimals_become_the_same_doubles_everywhere(decimals: int, largest: int, tmp_path: Path) -> None:
    random = np.random.default_rng(decimals)
    integers = np.append(random.integers(-largest, largest + 1, 3_000), [largest, -largest, 1, 7])
    rows = one_column(integers / 10.0**decimals)
    meta = write_segment(RealFileSystem(), str(tmp_path), spec_for(rows), rows, tags_of)
    assert meta.columns[0].kind == f"decimal{decimals}"
    wanted = rows.values[0].view(np.uint64).tolist()
    path = tmp_path / meta.file
    assert bits_from_duckdb(path, "usage") == wanted
    assert bits_from_polars(path, "usage") == wanted
    assert read_segment(RealFileSystem(), str(tmp_path), meta).values[0].view(np.uint64).tolist() == wanted
    assert [bits_of(float(value)) for value in pq.read_table(path).column("usage").to_pylist()] == wanted


def test_files_of_different_kinds_are_read_together(tmp_path: Path) -> None:
    fs = RealFileSystem()
    columns = ([1.0, 2.0], [2.0**40, 3.0], [0.25, 0.5], [1 / 3, 2 / 3])
    files = []
    for sequence, values in enumerate(columns):
        rows = one_column(values)
        files.append(
            str(tmp_path / write_segment(fs, str(tmp_path), spec_for(rows, sequence=sequence), rows, tags_of).file)
        )
    with duckdb.connect() as connection:
        query = "select cast(usage as double) from read_parquet(?, union_by_name=true)"
        found = sorted(row[0] for row in connection.execute(query, [files]).fetchall())
    assert found == sorted(value for values in columns for value in values)


def test_the_file_describes_itself(tmp_path: Path) -> None:
    rows = regular_rows(tagsets=3, points=2, fields=(0, 7))
    fs = RealFileSystem()
    meta = write_segment(fs, str(tmp_path), spec_for(rows), rows, tags_of)
    table = pq.read_table(tmp_path / meta.file)
    assert table.schema.names == ["tagset_id", "time", "host_tag", "region", "usage", "host"]
    assert table.column("host_tag").to_pylist() == [f"host_{n}" for n in (0, 0, 1, 1, 2, 2)]
    assert table.column("region").to_pylist() == [None, None, "us", "us", "eu", "eu"]
    header = read_header(fs, str(tmp_path), meta)
    assert msgspec.to_builtins(header) == {
        "format": 1,
        "table": "cpu",
        "table_id": 4,
        "start_ns": START_NS,
        "end_ns": START_NS + SPAN_NS,
        "rows": 6,
        "sequence": 11,
        "created_ns": START_NS + 5,
        "tags": (["host_tag", "host"], ["region", "region"]),
        "fields": (["usage", 0, "integer"], ["host", 7, "decimal2"]),
        "field_names": ("usage", "host"),
    }
    assert arrow_schema(fs, str(tmp_path), meta).names == table.schema.names
    assert segment_path(str(tmp_path), meta) == str(tmp_path / meta.file)
    assert column_names(meta) == {0: ("usage",), 7: ("host",)}
    assert [column.decimals for column in meta.columns] == [0, 2]


def test_tags_may_be_missing_everywhere_or_no_text() -> None:
    fs, rows = MemoryFileSystem(), regular_rows(tagsets=2, points=2)
    tags = ["bad", "none"], [["a\udcff", "b"], [None, None]]
    meta = write_segment(fs, ROOT, spec_for(rows), rows, lambda _: tags)
    table = pq.read_table(pa.BufferReader(fs.read(f"{ROOT}/{meta.file}")))
    assert table.column("bad").to_pylist() == ["a?", "a?", "b", "b"]
    assert table.column("none").to_pylist() == [None] * 4
    bare = write_segment(fs, ROOT, spec_for(rows, sequence=12), rows, lambda _: ([], []))
    assert cells_of(read_segment(fs, ROOT, bare)) == cells_of(rows)


# --- names


@pytest.mark.parametrize(
    ("tag_keys", "fields", "columns"),
    [
        (["host"], {0: "usage"}, {"host": "host", 0: "usage"}),
        (["host"], {0: "host"}, {"host": "host_tag", 0: "host"}),
        (["HOST"], {0: "host"}, {"HOST": "HOST_tag", 0: "host"}),
        (["time", "tagset_id"], {}, {"time": "time_tag", "tagset_id": "tagset_id_tag"}),
        ([], {0: "time", 1: "Tagset_ID", 2: "TIME"}, {0: "time_2", 1: "Tagset_ID_2", 2: "TIME_3"}),
        ([], {5: "a", 6: "A", 7: "a_2"}, {5: "a", 6: "A_2", 7: "a_2_2"}),
        (["a", "A"], {0: "a", 1: "a_tag"}, {"A": "A_tag_2", "a": "a_tag_3", 0: "a", 1: "a_tag"}),
        ([""], {0: ""}, {"": "tag", 0: "field"}),
        (["a\n"], {0: "b\x00c"}, {"a\n": "a_", 0: "b_c"}),
    ],
)
def test_columns_get_names_of_their_own(
    tag_keys: list[str], fields: dict[int, str], columns: dict[int | str, str]
) -> None:
    tags, numbers = column_names_for(tag_keys, fields)
    assert {**tags, **{field_id: names[0] for field_id, names in numbers.items()}} == columns
    assert all(len(names) == 1 for names in numbers.values())
    assert column_names_for(tag_keys[::-1], fields) == (tags, numbers)


short_names = st.text(st.sampled_from("aAbB_2tagTIME."), max_size=5)


@settings(max_examples=100, deadline=None)
@given(
    tag_keys=st.lists(short_names, unique=True, max_size=8),
    fields=st.dictionaries(st.integers(0, 99), short_names, max_size=8),
)
def test_no_two_columns_are_the_same_to_anyone(tag_keys: list[str], fields: dict[int, str]) -> None:
    tags, numbers = column_names_for(tag_keys, fields)
    columns = ["time", "tagset_id", *tags.values(), *(name for names in numbers.values() for name in names)]
    assert len({column.lower() for column in columns}) == 2 + len(tag_keys) + len(fields)
    assert column_names_for([], fields)[1] == numbers, "a field's column depends on the tags"
    routed = column_names_for(tag_keys, fields, dict.fromkeys(fields, ("value", "value", "time")))
    columns = ["time", "tagset_id", *routed[0].values(), *(name for names in routed[1].values() for name in names)]
    assert len({column.lower() for column in columns}) == 2 + len(tag_keys) + 4 * len(fields)
    assert {field_id: names[:1] for field_id, names in routed[1].items()} == numbers, "first columns depend on others"


def test_names_with_dots_do_not_get_mixed_up() -> None:
    rows = regular_rows(fields=(0, 3, 7))
    fs = MemoryFileSystem()
    spec = spec_for(rows, field_names={0: "a", 3: "a.b", 7: "a.b.c"})
    meta = write_segment(fs, ROOT, spec, rows, lambda ids: (["a.x"], [["v"] * len(ids)]))
    assert cells_of(read_segment(fs, ROOT, meta)) == cells_of(rows)
    assert cells_of(read_segment(fs, ROOT, meta, field_ids=[0])) == narrowed(cells_of(rows), field_ids=[0])


@pytest.mark.parametrize(
    ("table", "directory"),
    [
        ("cpu", "cpu"),
        ("Cpu", "%43pu"),
        ("a/../b", "a%2f%2e%2e%2fb"),
        (".", "%2e"),
        ("", "%"),
        ("%", "%25"),
        ("x~y", "x%7ey"),
        ("ü", "%c3%bc"),
        ("http_requests-2", "http_requests-2"),
    ],
)
def test_table_directories(table: str, directory: str) -> None:
    assert table_directory(table) == directory


@settings(max_examples=100, deadline=None)
@given(
    names=st.sets(
        st.text(max_size=8) | st.text("aA/.%~", max_size=4) | st.text("aB", min_size=170, max_size=260), min_size=2
    )
)
def test_different_tables_have_different_directories(names: set[str]) -> None:
    directories = [table_directory(name) for name in names]
    assert len({directory.lower() for directory in directories}) == len(names)
    for directory in directories:
        assert 0 < len(directory.encode()) <= 200
        assert not set(directory) & set("/\\.\0 ")


@pytest.mark.parametrize(
    ("time_ns", "text"),
    [
        (0, "19700101T000000Z"),
        (START_NS, "20231114T221320Z"),
        (START_NS + 1, "20231114T221320.000000001Z"),
        (-1, "19691231T235959.999999999Z"),
        (2**63 - 1, "22620411T234716.854775807Z"),
        (-(2**63), "16770921T001243.145224192Z"),
    ],
)
def test_times_in_file_names(time_ns: int, text: str) -> None:
    assert time_text(time_ns) == text


def test_file_names_carry_the_sequence() -> None:
    file = segment_file("Disk", START_NS, START_NS + SPAN_NS, 0xABC)
    assert file == "segments/%44isk/20231114T221320Z-20231115T001320Z-0000000000000abc.parquet"
    assert sequence_of_file(file) == 0xABC
    for other in ("x.parquet", "a-00000000000000g1.parquet", "a-0000000000000001.tmp", "a-0000000000000001"):
        assert sequence_of_file(other) is None


# --- what is refused


def test_rows_that_break_the_contract_are_our_own_bug() -> None:
    fs, rows = MemoryFileSystem(), regular_rows(tagsets=2, points=2)
    backwards = Rows(rows.tagset_ids[::-1].copy(), rows.times, rows.field_ids, rows.values)
    twice = Rows(rows.tagset_ids, np.full(4, START_NS, np.int64), rows.field_ids, rows.values)
    for broken, words in ((Rows.empty(), "no rows"), (backwards, "not sorted"), (twice, "not sorted")):
        with pytest.raises(Bug, match=words):
            write_segment(fs, ROOT, spec_for(broken), broken, tags_of)
    for changes in ({"start_ns": START_NS + 1}, {"end_ns": START_NS + 10_000_000_000}):
        with pytest.raises(Bug, match="want times in"):
            write_segment(fs, ROOT, spec_for(rows, **changes), rows, tags_of)


def test_a_full_disk_and_a_broken_one() -> None:
    rows = regular_rows()
    memory = MemoryFileSystem()
    with pytest.raises(DiskFull, match="cannot write segment"):
        write_segment(FullFileSystem(memory, 100), ROOT, spec_for(rows), rows, tags_of)
    broken = FailingFileSystem(memory, lambda operation, path: broken_disk() if operation == "write_atomic" else None)
    with pytest.raises(Unavailable, match="cannot write segment"):
        write_segment(broken, ROOT, spec_for(rows), rows, tags_of)
    assert not [name for name in memory.listdir(f"{ROOT}/segments/cpu") if name.endswith(".parquet")]


def test_a_disk_that_does_not_answer_is_not_damage() -> None:
    fs, rows = MemoryFileSystem(), regular_rows()
    meta = write_segment(fs, ROOT, spec_for(rows), rows, tags_of)
    broken = FailingFileSystem(
        fs, lambda operation, path: OSError(errno.EIO, "no answer") if operation == "map" else None
    )
    with pytest.raises(Unavailable, match="cannot open segment"):
        read_segment(broken, ROOT, meta)


# --- damage


def damaged(body: bytes, random: Random) -> bytes:
    """Return other bytes: one flipped, some gone, some more, or a piece overwritten."""
    at = random.randrange(len(body))
    piece = min(len(body), at + random.randint(1, 64))
    return [
        lambda: body[:at] + bytes([body[at] ^ (1 << random.randrange(8))]) + body[at + 1 :],
        lambda: body[:at],
        lambda: body + random.randbytes(random.randint(1, 20)),
        lambda: body[:at] + bytes(piece - at) + body[piece:],
        lambda: body[:at] + body[piece:],
    ][random.randrange(5)]()


@pytest.fixture(scope="module")
def undamaged() -> tuple[Rows, SegmentMeta, bytes]:
    fs, rows = MemoryFileSystem(), regular_rows(fields=(0, 3, 7))
    meta = write_segment(fs, ROOT, spec_for(rows, row_group_rows=50), rows, tags_of)
    return rows, meta, fs.read(f"{ROOT}/{meta.file}")


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_damage_is_noticed_or_does_not_matter(undamaged: tuple[Rows, SegmentMeta, bytes], seed: int) -> None:
    rows, meta, body = undamaged
    other = damaged(body, Random(seed))
    assume(other != body)
    fs, path = MemoryFileSystem(), f"{ROOT}/{meta.file}"
    fs.makedirs(path.rpartition("/")[0])
    fs.write_atomic(path, [other])
    with pytest.raises(Damage) as caught:
        verify_segment(fs, ROOT, meta)
    assert caught.value.path == path
    with suppress(Damage):
        assert cells_of(read_segment(fs, ROOT, meta)) == cells_of(rows)


def changed(meta: SegmentMeta, **changes: object) -> SegmentMeta:
    return msgspec.structs.replace(meta, **changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rows": 7}, "got rows 200, want 7"),
        ({"table": "disk"}, "got table 'cpu', want 'disk'"),
        ({"table_id": 5}, "got table number 4, want 5"),
        ({"start_ns": START_NS - 1}, "got start"),
        ({"end_ns": START_NS}, "got end"),
        ({"sequence": 12}, "got sequence 11, want 12"),
        ({"columns": ()}, "got columns"),
        ({"columns": (FieldColumn("usage", 0, "double"), FieldColumn("Rate", 3, "decimal2"))}, "got columns"),
        ({"group_crc32c": ()}, "got row groups"),
        ({"footer_crc32c": 1}, "footer"),
        ({"footer_bytes": 1}, "footer"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_the_one_listed(changes: dict[str, object], words: str) -> None:
    fs, rows = MemoryFileSystem(), regular_rows()
    meta = write_segment(fs, ROOT, spec_for(rows), rows, tags_of)
    for call in (read_segment, read_header, arrow_schema):
        with pytest.raises(Damage, match=words) as caught:
            call(fs, ROOT, changed(meta, **changes))
        assert caught.value.path == f"{ROOT}/{meta.file}"


def test_a_missing_file_is_reported_by_name() -> None:
    fs, rows = MemoryFileSystem(), regular_rows()
    meta = write_segment(fs, ROOT, spec_for(rows), rows, tags_of)
    fs.remove(f"{ROOT}/{meta.file}")
    with pytest.raises(Damage, match=r"missing \(data/segments/cpu/"):
        read_segment(fs, ROOT, meta)
    with pytest.raises(Damage, match="missing"):
        verify_segment(fs, ROOT, meta)


@pytest.mark.parametrize(
    "body",
    [b"", b"PAR1", b"PAR1PAR1", b"PAR1" + bytes(40) + b"PAR1", b"PAR1\xff\xff\xff\xffPAR1", b"no parquet at all"],
)
def test_bytes_that_are_no_parquet_file(body: bytes) -> None:
    fs, rows = MemoryFileSystem(), regular_rows()
    meta = write_segment(fs, ROOT, spec_for(rows), rows, tags_of)
    fs.write_atomic(f"{ROOT}/{meta.file}", [body])
    for call in (read_segment, verify_segment):
        with pytest.raises(Damage):
            call(fs, ROOT, meta)


def test_a_newer_format_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    fs, rows = MemoryFileSystem(), regular_rows()
    monkeypatch.setattr(writer, "format_of", lambda _columns: 3)
    meta = write_segment(fs, ROOT, spec_for(rows), rows, tags_of)
    with pytest.raises(Damage, match="got format 3, want at most 2; it was written by a newer version"):
        read_segment(fs, ROOT, meta)


def test_a_parquet_file_of_somebody_else_is_damage() -> None:
    fs, rows = MemoryFileSystem(), regular_rows()
    meta = write_segment(fs, ROOT, spec_for(rows), rows, tags_of)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"tagset_id": [1], "time": [2]}), sink)
    body = sink.getvalue().to_pybytes()
    fs.write_atomic(f"{ROOT}/{meta.file}", [body])
    tail = footer.footer_of(memoryview(body))
    listed = changed(meta, footer_bytes=len(tail), footer_crc32c=footer.crc32c(tail))
    with pytest.raises(Damage, match="tidegauge"):
        read_segment(fs, ROOT, listed)


@pytest.mark.parametrize(
    ("tags", "fields", "words"),
    [
        (
            (),
            (FieldColumn("usage", 0, "double"), FieldColumn("Rate", 3, "decimal2")),
            "column usage is int32, want double",
        ),
        ((), (FieldColumn("usage", 0, "decimal1"), FieldColumn("Rate", 3, "decimal2")), "column usage is int32"),
        ((), (FieldColumn("usage", 0, "integer"), FieldColumn("Rate", 3, "decimal3")), "column Rate is decimal"),
        ((), (FieldColumn("usage", 0, "integer"),), "got columns"),
        ((TagColumn("usage", "host"),), (FieldColumn("Rate", 3, "decimal2"),), "column usage is int32, want string"),
    ],
)
def test_a_schema_that_does_not_fit_the_file_s_own_account(
    tags: tuple[TagColumn, ...], fields: tuple[FieldColumn, ...], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fs, rows = MemoryFileSystem(), regular_rows()
    header_type = writer.FooterHeader
    monkeypatch.setattr(
        writer, "FooterHeader", lambda **claims: header_type(**{**claims, "tags": tags, "fields": fields})
    )
    meta = write_segment(fs, ROOT, spec_for(rows), rows, lambda _: ([], []))
    with pytest.raises(Damage, match=words):
        read_segment(fs, ROOT, changed(meta, columns=fields))


# --- files of earlier releases

# A segment of format 1 as the first release wrote it (zlib, base64) and its manifest entry; never to be made anew.
FROZEN_SEGMENT = (
    "eNqFVV2IE1cUPnMzO0lDtLvBe52RPCzDZtiV2XWTui4soWIphYIPIaxQ2F220+QaA5ufTib2wYipUGitgkhF6I/tUx/6Iz5sX4S29EX8ASmCYH"
    "0opQ8VwQdbREV08dw7d9xsY+nczJ3z+91zvjNDintKOWrQDK673/6xtnkvKoB3EndIA/Q0PUZAAwCCNzpex/Xo9MOPNg1EEj3W6/3658Wfr53Z"
    "oRGV0X9RnY7TnfTqh6cuvFxARWSN/7Dj6eiWEwBvGRhxoNkOlnN5DSaTaQmdpKe//OyCHp01rLIMTYvpKJt0O33yy4NvNm2AS3nh2Z222Hnn/5"
    "EMRDLpuS/WPkiJACIzwoDYEFJASBzC9rfhev/OP7/FB+JiIi5/Lqc6naYF+vHj3y/HC+LEqDTze4AWgXtHoLdPXjd2E3j7DTiPQSlc9/++PTNY"
    "IomNgTVCLFMXg8CHnAWxGITmBMD2XWufn9mKoqZE5c6wBJ1nIKVF2lXSKqGvCS8bE9qlmNJSQjum06IKu6XTkhJPGjIGO7OOz4BptMsHeN2jm7"
    "GMLJgvBV61zYPlWgUDUNeDWp2vHE9nCuHgU1liJuRwMTALezOR0fB5tdZsRCaCpqFO26vyUNZLXsCzguK0uyh2EZQUDgEGzLAyVteBDDabNZJW"
    "Xx00xQw2z+adRCGkK+SOwXifNjKCrSHXSYo29lOcbmHXDToFAlEPEWUnEqzLus5iYZ3gddYR9AXWjeDXBXgvTl+V4ClrBoxha50TecIpjZ3VnF"
    "Xi3NQmXDF8zMRtGB8FNmYZlgP4kbC/4jSzAUWRKDGOauwTzbkUcx6QQYzUc4yjCYWhiAtJlwhFVnSO6W9GpRcmMIfomHM2QVl/jhyOTCmxknPr"
    "RSmrUUpSlSrnJnM+1djXmnPScL4bGih0IirzishnXxk4aBe/hTQG4cYS7IqB5OK4axVe9TpVbv5IDtn7m37dC+y5nGsH3jsr3J6zy62OrTR8Ke"
    "y5na7dDjw/WG60MW52+t+Xa/NGpc85m9/g9JvvoesVBOHvdnijjEfk8LSyz5GKyn+AzogCquhaWLCjeWNRQrSX3AU7nB5alLC05Nr7a3ylEqbI"
    "ydgunl5rBLzKfZkkuLddrKTCy7W6t5KXVonpzqK12REEPIdabnh1LvAiOAWgqjgM5mjL87GnYLLcak16PnY6epD7bSxoNL9ranoqZ3XxEx38QR"
    "oHXcR/kWfRxDHg"
)
FROZEN_ENTRY = (
    '{"table_id":4,"table":"cpu","file":"segments/cpu/20231114T221320Z-20231115T001320Z-000000000000000b.parquet"'
    ',"start_ns":1700000000000000000,"end_ns":1700007200000000000,"min_time_ns":1700000000000000000,"max_time_ns"'
    ':1700000000000000001,"rows":3,"samples":7,"bytes":1610,"crc32c":1091386852,"footer_bytes":1050,"footer_crc32'
    'c":4123805915,"group_crc32c":[266914149],"sealed_through":99,"created_ns":1700000000000000005,"sequence":11,'
    '"columns":[["usage",0,"integer"],["Rate",3,"decimal2"],["host",7,"double"]],"format":1}'
)


def test_a_segment_of_the_first_release_is_read() -> None:
    meta = msgspec.json.decode(FROZEN_ENTRY, type=SegmentMeta)
    fs = MemoryFileSystem()
    fs.makedirs(f"{ROOT}/{meta.file}".rpartition("/")[0])
    fs.write_atomic(f"{ROOT}/{meta.file}", [zlib.decompress(base64.b64decode(FROZEN_SEGMENT))])
    verify_segment(fs, ROOT, meta)
    rows = read_segment(fs, ROOT, meta)
    assert cells_of(rows) == {
        (1, START_NS): {0: bits_of(1.0), 3: bits_of(0.25), 7: 0x7FF0000000000002},
        (1, START_NS + 1): {3: bits_of(31.84), 7: bits_of(-0.0)},
        (2, START_NS): {0: bits_of(-3.0), 7: bits_of(1 / 3)},
    }
