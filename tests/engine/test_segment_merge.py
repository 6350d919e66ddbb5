"""engine.segments.merge and stream: what is merged in parts is what merging everything at once gives."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import Bug, DiskFull, Unavailable
from engine.model.rows import Int32Array, Rows, concat, sort_merge
from engine.segments.columns import KEYS, ColumnCache, OpenSegment
from engine.segments.footer import FooterCache
from engine.segments.layout import SegmentMeta, SegmentSpec
from engine.segments.merge import GroupSpan, merge_segments, parts_of
from engine.segments.reader import decode_field, decode_keys, read_segment, segment_path, verify_segment
from engine.segments.stream import SegmentStream
from engine.segments.writer import row_groups, write_segment
from engine.segments.written import WrittenColumns
from native.columns import ABSENT
from tests.filesystems import FailingFileSystem, FullFileSystem, MemoryFileSystem, broken_disk
from tests.oracles.segments import cells_of, kind_of

ROOT = "data"
NAMES = {0: "a", 3: "b", 7: "c"}
_VALUES = st.one_of(
    st.just(ABSENT),
    st.integers(-50, 50).map(float),
    st.integers(-500, 500).map(lambda n: n / 10),
    st.integers(-500, 500).map(lambda n: n / 1000),
    st.sampled_from([2.0**53, 2.0**40, -0.0, float("inf"), 0.1 + 0.2, 1e300]),
)


def tags_of(tagset_ids: Int32Array) -> tuple[list[str], list[list[str | None]]]:
    """Every tag set has a host, only even ones have a rack."""
    hosts: list[str | None] = [f"h{each}" for each in tagset_ids.tolist()]
    if not (tagset_ids % 2 == 0).any():
        return ["host"], [hosts]
    return ["host", "rack"], [hosts, [f"r{each % 3}" if each % 2 == 0 else None for each in tagset_ids.tolist()]]


def spec(start_ns: int, end_ns: int, sequence: int, groups: int = 1 << 17, *, routed: bool = False) -> SegmentSpec:
    return SegmentSpec(
        table_id=4,
        table="t",
        start_ns=start_ns,
        end_ns=end_ns,
        field_names=NAMES,
        sequence=sequence,
        sealed_through=9,
        created_ns=1,
        row_group_rows=groups,
        routed=routed,
    )


def rows_of(samples: Sequence[tuple[int, int, tuple[float, float, float]]]) -> Rows:
    if not samples:
        return Rows.empty()
    values = np.array([list(each[2]) for each in samples], np.float64).T
    return Rows(
        np.array([each[0] for each in samples], np.int32),
        np.array([each[1] for each in samples], np.int64),
        (0, 3, 7),
        np.ascontiguousarray(values),
    )


def reader(fs: MemoryFileSystem):  # type: ignore[no-untyped-def]
    def read(meta: SegmentMeta, start_ns: int, end_ns: int, tagset_ids: Int32Array | None) -> Rows:
        return read_segment(fs, ROOT, meta, start_ns=start_ns, end_ns=end_ns, tagset_ids=tagset_ids)

    return read


samples_of_window = st.lists(
    st.tuples(st.integers(0, 12), st.integers(0, 9), st.tuples(_VALUES, _VALUES, _VALUES)), max_size=40
)


@settings(max_examples=60, deadline=None)
@given(
    windows=st.lists(samples_of_window, min_size=1, max_size=4),
    over=samples_of_window,
    part_cells=st.sampled_from([1, 20, 60, 10_000]),
    groups=st.sampled_from([1, 3, 16]),
    routed=st.booleans(),
)
def test_merging_in_parts_is_merging_at_once(
    windows: list[list[tuple[int, int, tuple[float, float, float]]]],
    over: list[tuple[int, int, tuple[float, float, float]]],
    part_cells: int,
    groups: int,
    routed: bool,
) -> None:
    fs = MemoryFileSystem()
    fs.makedirs(ROOT)
    inputs, everything = [], []
    for number, samples in enumerate(windows):
        rows = sort_merge(rows_of([(t, 10 * number + at, values) for t, at, values in samples]))
        if len(rows):
            inputs.append(
                write_segment(
                    fs, ROOT, spec(10 * number, 10 * number + 10, number + 1, groups, routed=routed), rows, tags_of
                )
            )
            everything.append(rows)
    laid = rows_of(over)
    everything.append(laid)
    whole = spec(0, 10 * len(windows), 99, groups, routed=routed)
    written = WrittenColumns(1 << 20)
    merged = merge_segments(fs, ROOT, whole, inputs, laid, tags_of, reader(fs), part_cells=part_cells, written=written)
    expected = sort_merge(concat(everything))
    if not len(expected):
        assert merged is None
        return
    assert merged is not None
    verify_segment(fs, ROOT, merged)
    found = read_segment(fs, ROOT, merged)
    assert cells_of(found) == cells_of(expected)
    assert (merged.rows, merged.samples) == (len(expected), expected.sample_count())
    assert merged.min_time_ns == int(expected.times.min())
    assert merged.max_time_ns == int(expected.times.max())
    # Kinds are as short as when all rows are classified together, and no column is there without a sample.
    position = {field: index for index, field in enumerate(expected.field_ids)}
    kinds = {column.field_id: column.kind for column in merged.columns}
    wanted = {field: kind_of(expected.values[at].tolist()) for field, at in position.items()}
    if not routed:
        assert kinds == {field: kind for field, kind in wanted.items() if kind is not None}
    # Tags are those of each tag set, for any reader of Parquet.
    frame = pl.read_parquet(fs.read(f"{ROOT}/{merged.file}"))
    for tagset_id, host in frame.select("tagset_id", "host").unique().iter_rows():
        assert host == f"h{tagset_id}"
    assert not [name for name in fs.listdir(f"{ROOT}/segments/t") if name.endswith(".tmp")]
    assert_kept_is_decoded(fs, merged, written)


def assert_kept_is_decoded(fs: MemoryFileSystem, meta: SegmentMeta, written: WrittenColumns) -> None:
    """What was taken while a segment was written is what decoding it gives, bit by bit."""
    cache, path = ColumnCache(), segment_path(ROOT, meta)
    written.put(cache, ROOT, meta)
    opened = OpenSegment(fs, path, meta, FooterCache().footer(path, fs.map(path), meta))
    for group in range(len(meta.group_crc32c)):
        keys = cache.known((path, meta.footer_crc32c, group, KEYS))
        assert isinstance(keys, tuple)
        for kept, decoded in zip(keys, decode_keys(opened.table, group), strict=True):
            assert kept.dtype == decoded.dtype
            assert kept.tolist() == decoded.tolist()
        for field_id in {column.field_id for column in meta.columns}:
            stored = [column for column in opened.footer.header.fields if column.field_id == field_id]
            column = cache.known((path, meta.footer_crc32c, group, field_id))
            decoded = decode_field(opened.table, group, stored)
            # A part without this field has no column of it: it is decoded when it is asked for.
            assert column is None or column.tobytes() == decoded.tobytes()  # type: ignore[union-attr]


def test_of_a_segment_no_more_is_kept_than_there_is_room_for() -> None:
    fs = MemoryFileSystem()
    fs.makedirs(ROOT)
    rows = rows_of([(tagset, 1, (1.0, 2.0, ABSENT)) for tagset in range(10)])
    # A row group of two rows takes 2 * (4 + 8 + 3 * 8) bytes.
    written = WrittenColumns(3 * 72)
    meta = write_segment(fs, ROOT, spec(0, 10, 1, 2), rows, tags_of, written=written)
    cache = ColumnCache()
    written.put(cache, ROOT, meta)
    kept = [cache.known((segment_path(ROOT, meta), meta.footer_crc32c, group, 0)) is not None for group in range(5)]
    assert kept == [True, True, True, False, False]
    # The third field has no sample, so no column.
    assert cache.nbytes == 3 * (72 - 16)


@settings(max_examples=200, deadline=None)
@given(
    spans=st.lists(
        st.tuples(st.integers(0, 30), st.integers(0, 8), st.integers(1, 50), st.integers(0, 5)), max_size=30
    ),
    most=st.integers(1, 120),
)
def test_parts_cover_every_row_once_and_in_order(spans: list[tuple[int, int, int, int]], most: int) -> None:
    groups = [GroupSpan(first, first + width, rows, start) for first, width, rows, start in spans]
    parts = parts_of(groups, most)
    for earlier, later in itertools.pairwise(parts):
        assert earlier.last < later.first or (
            earlier.first == earlier.last == later.first == later.last and earlier.end_ns == later.start_ns
        )
    for group in groups:
        for tagset_id in range(group.first, group.last + 1):
            holding = [
                part
                for part in parts
                if part.first <= tagset_id <= part.last and part.start_ns <= group.start_ns < part.end_ns
            ]
            assert len(holding) == 1


def test_parts_are_small_where_row_groups_are() -> None:
    groups = [GroupSpan(10 * n, 10 * n + 9, 1_000, start) for start in range(12) for n in range(8)]
    assert [(part.first, part.last) for part in parts_of(groups, 24_000)] == [(0, 19), (20, 39), (40, 59), (60, 79)]
    wide = [GroupSpan(0, 99, 1_000, start) for start in range(12)]
    assert [(part.first, part.last) for part in parts_of(wide, 3_000)] == [(0, 24), (25, 49), (50, 74), (75, 99)]
    heavy = [GroupSpan(5, 5, 1_000, start) for start in range(6)]
    assert [part.end_ns - part.start_ns for part in parts_of(heavy, 2_000)[1:-1]] == [2]


@pytest.mark.parametrize(("failure", "error"), [("full", DiskFull), ("broken", Unavailable)])
def test_a_stream_that_cannot_be_written_leaves_no_file(failure: str, error: type[Exception]) -> None:
    memory = MemoryFileSystem()
    memory.makedirs(ROOT)
    rows = sort_merge(rows_of([(t, at, (float(t), at / 3, 1.0)) for t in range(20) for at in range(200)]))
    meta = write_segment(memory, ROOT, spec(0, 200, 1), rows, tags_of)
    fs: FullFileSystem | FailingFileSystem
    if failure == "full":
        fs = FullFileSystem(memory, memory.used_bytes() + 2_000)
    else:
        fs = FailingFileSystem(memory, lambda operation, _: broken_disk() if operation == "write" else None)
    with pytest.raises(error):
        merge_segments(fs, ROOT, spec(0, 200, 2), [meta], Rows.empty(), tags_of, reader(memory), part_cells=1_000)
    assert len(memory.listdir(f"{ROOT}/segments/t")) == 1


def test_a_stream_refuses_rows_out_of_order() -> None:
    fs = MemoryFileSystem()
    fs.makedirs(ROOT)
    rows = rows_of([(1, 1, (1.0, 1.0, 1.0)), (2, 1, (1.0, 1.0, 1.0))])
    with SegmentStream(fs, ROOT, spec(0, 200, 2), {}, [], lambda _: ([], [])) as stream:
        stream.write(rows)
        with pytest.raises(Bug, match="after"):
            stream.write(rows)


def test_row_groups_do_not_end_where_parts_do() -> None:
    fs = MemoryFileSystem()
    fs.makedirs(ROOT)
    rows = sort_merge(rows_of([(t, at, (float(at), 0.5, ABSENT)) for t in range(40) for at in range(10)]))
    meta = write_segment(fs, ROOT, spec(0, 10, 1, 100), rows, tags_of)
    merged = merge_segments(fs, ROOT, spec(0, 10, 2, 150), [meta], Rows.empty(), tags_of, reader(fs), part_cells=500)
    assert merged is not None
    assert len(merged.group_crc32c) == len(list(row_groups(np.arange(0, 400, 10), 400, 150)))
