"""Routed segments: each series in the column that suits it, every bit back, and plain readers get the same numbers."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.disk.real import RealFileSystem
from engine.errors import Bug, Damage
from engine.model.rows import Rows
from engine.query.scans import SegmentFiles
from engine.query.scopes import Scope
from engine.query.sources import ParquetFile
from engine.segments.classify import ColumnPlan
from engine.segments.layout import FieldColumn, SegmentMeta
from engine.segments.reader import column_names, read_header, read_segment, segment_path, verify_segment
from engine.segments.route import RoutedPlan, RouteSurvey
from engine.segments.writer import write_segment
from native.columns import ABSENT, is_absent
from tests.engine.test_segments import COLUMNS, ROOT, START_NS, spec_for, tags_of
from tests.filesystems import MemoryFileSystem
from tests.oracles.segments import bits_of, cells_of, narrowed, read_as_anyone

STALE = 0x7FF0000000000002


@st.composite
def series_of_many_kinds(draw: st.DrawFn) -> Rows:
    """Rows of one field in which each tag set has its own kind of numbers."""
    tagset_ids: list[int] = []
    times: list[int] = []
    cells: list[float] = []
    for tagset_id in range(draw(st.integers(1, 6))):
        kind = COLUMNS[draw(st.sampled_from(sorted(COLUMNS)))]
        nano = st.integers(0, 10**9).map(lambda i: i / 1e9)
        cell = draw(st.sampled_from([kind, kind | st.just(ABSENT), nano, st.just(draw(kind))]))
        count = draw(st.integers(1, 20))
        cells += draw(st.lists(cell, min_size=count, max_size=count))
        times += [START_NS + 15_000_000_000 * step for step in range(count)]
        tagset_ids += [tagset_id] * count
    return Rows(np.array(tagset_ids, np.int32), np.array(times, np.int64), (0,), np.array([cells]))


def mixed(points: int = 400) -> Rows:
    """A constant, a counter, hundredths, nanoseconds, noise and one series with a stale marker."""
    random = np.random.default_rng(5)
    columns = [
        np.full(points, 4.0),
        np.cumsum(random.poisson(1e6, points)).astype(np.float64),
        np.round(np.cumsum(random.random(points)), 2),
        random.integers(0, 10**8, points) / 1e9,
        random.normal(size=points),
        np.cumsum(random.poisson(5, points)).astype(np.float64),
    ]
    columns[5].view(np.uint64)[-1] = STALE
    return Rows(
        np.repeat(np.arange(6, dtype=np.int32), points),
        np.tile(START_NS + np.arange(points, dtype=np.int64) * 15_000_000, 6),
        (0,),
        np.concatenate(columns).reshape(1, -1),
    )


def written(rows: Rows, **changes: object) -> tuple[MemoryFileSystem, SegmentMeta]:
    fs = MemoryFileSystem()
    return fs, write_segment(fs, ROOT, spec_for(rows, routed=True, **changes), rows, tags_of)


@settings(max_examples=60, deadline=None)
@given(rows=series_of_many_kinds(), row_group_rows=st.sampled_from([1, 7, 1000]))
def test_rows_come_back_with_their_bits(rows: Rows, row_group_rows: int) -> None:
    fs, meta = written(rows, row_group_rows=row_group_rows)
    read = read_segment(fs, ROOT, meta)
    assert cells_of(read) == cells_of(rows)
    assert (meta.rows, meta.samples) == (len(rows), rows.sample_count())
    assert {column.field_id for column in meta.columns} <= {0}
    verify_segment(fs, ROOT, meta)


@settings(max_examples=25, deadline=None)
@given(rows=series_of_many_kinds(), data=st.data())
def test_part_of_the_rows_comes_back(rows: Rows, data: st.DataObject) -> None:
    fs, meta = written(rows, row_group_rows=7)
    start = data.draw(st.integers(0, 20)) * 15_000_000_000 + START_NS
    end = start + data.draw(st.integers(0, 20)) * 15_000_000_000
    chosen = data.draw(st.none() | st.lists(st.integers(0, 7), max_size=4))
    read = read_segment(fs, ROOT, meta, start_ns=start, end_ns=end, tagset_ids=chosen)
    assert cells_of(read) == narrowed(cells_of(rows), start_ns=start, end_ns=end, tagset_ids=chosen)


@settings(max_examples=25, deadline=None)
@given(rows=series_of_many_kinds())
def test_any_parquet_reader_finds_each_sample_in_one_column(
    rows: Rows, tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = str(tmp_path_factory.mktemp("segments"))
    meta = write_segment(RealFileSystem(), root, spec_for(rows, routed=True), rows, tags_of)
    assert read_as_anyone(segment_path(root, meta), meta) == cells_of(rows)


def test_each_kind_has_its_column(tmp_path: Path) -> None:
    rows = mixed()
    meta = write_segment(
        RealFileSystem(), str(tmp_path), spec_for(rows, routed=True, row_group_rows=10**6), rows, tags_of
    )
    kinds = {column.column: column.kind for column in meta.columns}
    assert kinds["usage"] == "double"
    assert {"decimal2", "decimal9", "double"} <= set(kinds.values())
    assert column_names(meta) == {0: tuple(kinds)}
    assert (meta.format, read_header(RealFileSystem(), str(tmp_path), meta).format) == (2, 2)
    table = pq.read_table(segment_path(str(tmp_path), meta))
    filled = sum(len(table) - table.column(column).null_count for column in kinds)
    assert filled == len(rows)


def test_plain_duckdb_and_polars_get_the_same_sums(tmp_path: Path) -> None:
    rows = mixed()
    rows = Rows(rows.tagset_ids, rows.times, (0,), np.where(np.isnan(rows.values), 1.0, rows.values))
    meta = write_segment(RealFileSystem(), str(tmp_path), spec_for(rows, routed=True), rows, tags_of)
    path = segment_path(str(tmp_path), meta)
    columns = [column.column for column in meta.columns]
    expected = {tagset: rows.values[0, rows.tagset_ids == tagset].tolist() for tagset in range(6)}
    listed = ", ".join(f'"{column}"::DOUBLE' for column in columns)
    found = duckdb.sql(f"SELECT tagset_id, coalesce({listed}) FROM '{path}' ORDER BY tagset_id, time").fetchall()
    for tagset, values in expected.items():
        assert [value for owner, value in found if owner == tagset] == values
    frame = pl.read_parquet(path).select("tagset_id", pl.coalesce([pl.col(c).cast(pl.Float64) for c in columns]))
    for tagset, values in expected.items():
        assert frame.filter(pl.col("tagset_id") == tagset).to_series(1).to_list() == values


def test_the_query_process_sees_one_field(tmp_path: Path) -> None:
    rows = mixed()
    meta = write_segment(RealFileSystem(), str(tmp_path), spec_for(rows, routed=True), rows, tags_of)
    file = ParquetFile(segment_path(str(tmp_path), meta), column_names(meta))
    scope = Scope(relation=None)  # type: ignore[arg-type]
    (scan,) = SegmentFiles().scans([file], [0], scope)
    assert scan.columns == column_names(meta)


def test_a_table_of_one_kind_stays_in_format_1() -> None:
    rows = mixed()
    rows = rows.take(rows.tagset_ids == 1)
    fs, meta = written(rows)
    assert (meta.format, read_header(fs, ROOT, meta).format, len(meta.columns)) == (1, 1, 1)


def test_parts_are_routed_as_the_whole() -> None:
    rows = mixed()
    whole, parts = RouteSurvey(), RouteSurvey()
    values = rows.values[0]
    whole.add(values, np.arange(6, dtype=np.int64) * 400)
    for tagset in range(6):
        parts.add(values[tagset * 400 : tagset * 400 + 400], np.zeros(1, np.int64))
    assert whole.plan() == parts.plan()


def test_a_series_of_another_class_as_a_whole_goes_cell_by_cell() -> None:
    survey = RouteSurvey()
    pieces = [np.array([1e15 + 0.25, 0.5]), np.array([1e-9, 3e-9]), np.arange(40.0), np.array([0.0, ABSENT])]
    for piece in pieces:
        survey.add(piece, np.zeros(1, np.int64))
    plan = survey.plan()
    assert plan is not None
    whole = np.concatenate(pieces)
    routed = plan.split(whole, np.zeros(1, np.int64))
    merged = np.where(is_absent(routed), 0.0, routed)
    for column, stored in zip(routed, plan.columns, strict=True):
        assert stored.holds(column[~is_absent(column)]).all()
    assert (~is_absent(routed)).sum(axis=0).tolist() == (~is_absent(whole)).astype(int).tolist()
    assert merged.sum(axis=0)[~is_absent(whole)].tolist() == whole[~is_absent(whole)].tolist()


def test_a_value_of_no_kind_that_was_surveyed_is_a_bug() -> None:
    plan = RoutedPlan((ColumnPlan("integer", 0, 32, "PLAIN"),), {0: 0})
    for value in (0.5, -0.0, 2.0**54, float("nan")):
        with pytest.raises(Bug, match="surveyed"):
            plan.split(np.array([1.0, value]), np.zeros(1, np.int64))


def test_a_cell_in_two_columns_is_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = mixed()
    fs, meta = written(rows)
    twice = next(column for column in meta.columns if column.kind == "decimal9")
    from engine.segments import reader

    real = reader._fill_gaps

    def doubled(out, column, field: FieldColumn, selection) -> None:  # type: ignore[no-untyped-def]
        real(out, column, field, selection)
        if field == twice:
            real(out, column, field, selection)

    monkeypatch.setattr(reader, "_fill_gaps", doubled)
    with pytest.raises(Damage, match="another column of its field"):
        read_segment(fs, ROOT, meta)


def test_bits_of_markers_survive() -> None:
    rows = mixed()
    fs, meta = written(rows)
    read = read_segment(fs, ROOT, meta, tagset_ids=[5])
    assert bits_of(float(read.values[0, -1])) == STALE or read.values.view(np.uint64)[0, -1] == STALE
