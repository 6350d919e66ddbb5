"""engine.segments.plan: ranges that hold what they must, few files, little rewriting."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.clock import NS_PER_DAY, NS_PER_HOUR, NS_PER_MINUTE, NS_PER_SECOND
from engine.segments.layout import SegmentMeta
from engine.segments.plan import MAX_SMALL_FILES, SLOTS_PER_WINDOW, plan_seal
from tests.oracles.segments import apply_plan, check_plan

DAY_0 = 20_000 * NS_PER_DAY
HOUR = NS_PER_HOUR


def segment(start_ns: int, end_ns: int, rows: int, number: int) -> SegmentMeta:
    return SegmentMeta(
        table_id=1,
        table="t",
        file=f"segments/t/{number}",
        start_ns=start_ns,
        end_ns=end_ns,
        min_time_ns=start_ns,
        max_time_ns=end_ns - 1,
        rows=rows,
        samples=rows,
        bytes=rows,
        crc32c=0,
        footer_bytes=0,
        footer_crc32c=0,
        group_crc32c=(),
        sealed_through=0,
        created_ns=0,
        sequence=number,
        columns=(),
    )


def ranges(hours: Iterable[float], existing: tuple[SegmentMeta, ...] = (), **options: int) -> list[tuple[float, ...]]:
    """Plan rows at hours of day 0; return (start hour, end hour, new rows, replaced segments) of each task."""
    times = np.array([DAY_0 + round(hour * HOUR) for hour in hours], np.int64)
    tasks = plan_seal(existing, times, **options)
    check_plan(existing, times.tolist(), tasks)
    return [
        (
            round((task.start_ns - DAY_0) / HOUR, 6),
            round((task.end_ns - DAY_0) / HOUR, 6),
            task.new_rows,
            len(task.replaces),
        )
        for task in tasks
    ]


def after(hour: float) -> float:
    """Return the end of the second that begins at ``hour``, in hours."""
    return round(hour + 1 / 3600, 6)


def at_hours(start: float, end: float, rows: int = 100, number: int = 1) -> SegmentMeta:
    return segment(DAY_0 + round(start * HOUR), DAY_0 + round(end * HOUR), rows, number)


def test_nothing_to_seal_is_nothing_to_do() -> None:
    assert plan_seal([at_hours(0, 2)], np.empty(0, np.int64)) == []


@pytest.mark.parametrize(
    ("hours", "existing", "expected"),
    [
        pytest.param([0.1], [], [(0, after(0.1), 1, 0)], id="from the window's start to the end of the row's second"),
        pytest.param([3.0, 3.9], [], [(2, 4, 2, 0)], id="a whole window when rows reach its last slot"),
        pytest.param([0.1, 5.1], [], [(0, after(5.1), 2, 0)], id="one range for what a small day gets at once"),
        pytest.param([1.0], [at_hours(0, 2)], [(0, 2, 1, 1)], id="inside a segment"),
        pytest.param([2.1], [at_hours(0, 2)], [(2, after(2.1), 1, 0)], id="behind a segment"),
        pytest.param([1.6], [at_hours(0, 1.5)], [(1.5, after(1.6), 1, 0)], id="behind a segment, in its window"),
        pytest.param([0.1], [at_hours(0.2, 1)], [(0, after(0.1), 1, 0)], id="before a segment"),
        pytest.param([0.5, 4.5], [at_hours(2, 3)], [(0, after(0.5), 1, 0), (4, after(4.5), 1, 0)], id="around one"),
        pytest.param([-0.5], [], [(-2, after(-0.5), 1, 0)], id="before the day, in negative steps too"),
        pytest.param(
            [24.1], [at_hours(0, 2), at_hours(2, 3, number=2)], [(0, 24, 0, 2), (24, after(24.1), 1, 0)],
            id="the first row of a day turns the day before into one segment",
        ),
        pytest.param(
            [24.1], [at_hours(0, 24)], [(24, after(24.1), 1, 0)], id="a day that is one segment already is left alone"
        ),
        pytest.param(
            [23.9, 24.1], [at_hours(0, 2)], [(0, 24, 1, 1), (24, after(24.1), 1, 0)], id="both sides of midnight"
        ),
        pytest.param(
            [1.0, 73.0], [], [(0, 24, 1, 0), (72, after(73.0), 1, 0)], id="days in between without rows change nothing"
        ),
        pytest.param(
            [1.0, 25.0],
            [at_hours(23, 25.5)],
            [(0, after(1.0), 1, 0), (23, 25.5, 1, 1)],
            id="a segment that crosses midnight is written again by itself",
        ),
    ],
)  # fmt: skip
def test_where_ranges_begin_and_end(
    hours: list[float], existing: list[SegmentMeta], expected: list[tuple[float, ...]]
) -> None:
    assert ranges(hours, tuple(existing)) == expected


def test_a_busy_day_is_cut_into_windows() -> None:
    hours = np.arange(0, 6, 1 / 60)
    assert ranges(hours, small_day_rows=300) == [(0, 2, 120, 0), (2, 4, 120, 0), (4, 6, 120, 0)]


def test_a_very_busy_window_is_cut_into_slots() -> None:
    tasks = ranges(np.arange(0, 2, 1 / 60), small_day_rows=20)
    assert [task[:2] for task in tasks] == [(slot / 4, (slot + 1) / 4) for slot in range(8)]


def test_a_busy_day_is_not_made_one_segment_when_it_is_over() -> None:
    existing = (at_hours(0, 2, rows=80), at_hours(2, 4, rows=80, number=2))
    assert ranges([24.1], existing, small_day_rows=100) == [(24, after(24.1), 1, 0)]


def test_too_many_small_segments_are_merged_beginning_with_the_smallest() -> None:
    existing = tuple(at_hours(n, n + 1, rows=1000 if n < 4 else 10, number=n) for n in range(MAX_SMALL_FILES))
    assert ranges([8.1], existing) == [(4, after(8.1), 1, 4)]


def test_large_segments_are_neither_counted_nor_merged() -> None:
    existing = tuple(at_hours(2 * n, 2 * n + 2, rows=30, number=n) for n in range(9))
    assert ranges([18.1], existing, small_day_rows=100) == [(18, after(18.1), 1, 0)]


segments_of_hours = st.lists(st.tuples(st.integers(0, 4 * 96), st.integers(1, 40), st.integers(1, 400)), max_size=30)


@settings(max_examples=200, deadline=None)
@given(
    blocks=segments_of_hours,
    quarters=st.lists(st.integers(-8, 4 * 110), min_size=1, max_size=60),
    small_day_rows=st.sampled_from([5, 100, 1_000, 2_000_000]),
    window_minutes=st.sampled_from([15, 60, 120, 24 * 60, 72 * 60]),
)
def test_every_plan_keeps_its_promises(
    blocks: list[tuple[int, int, int]], quarters: list[int], small_day_rows: int, window_minutes: int
) -> None:
    existing: list[SegmentMeta] = []
    end = 0
    for start, length, rows in sorted(blocks):
        begin = max(end, start)
        end = begin + length
        existing.append(segment(DAY_0 + begin * 15 * NS_PER_MINUTE, DAY_0 + end * 15 * NS_PER_MINUTE, rows, begin))
    times = [DAY_0 + quarter * 15 * NS_PER_MINUTE + (quarter * 7919) % NS_PER_MINUTE for quarter in quarters]
    window_ns = window_minutes * NS_PER_MINUTE
    tasks = plan_seal(existing, np.array(times, np.int64), window_ns, small_day_rows)
    slot_ns = window_ns // SLOTS_PER_WINDOW
    check_plan(existing, times, tasks, lambda border: border % NS_PER_SECOND == 0 or border % slot_ns == 0)
    assert tasks == plan_seal(existing[::-1], np.array(times[::-1], np.int64), window_ns, small_day_rows)


class Store:
    """Segments as plans make them, with what was written."""

    def __init__(self) -> None:
        self.segments: list[SegmentMeta] = []
        self.written_rows = self.new_rows = self.numbers = self.most_files_in_a_day = 0

    def seal(self, times: np.ndarray) -> None:
        tasks = plan_seal(self.segments, times)
        self.segments = apply_plan(self.segments, tasks, self._write)
        self.new_rows += len(times)
        assert sum(meta.rows for meta in self.segments) == self.new_rows
        self.most_files_in_a_day = max(self.most_files_in_a_day, *self.files_by_day().values())

    def _write(self, start_ns: int, end_ns: int, rows: int) -> SegmentMeta:
        self.numbers += 1
        self.written_rows += rows
        return segment(start_ns, end_ns, rows, self.numbers)

    def files_by_day(self) -> Counter[int]:
        return Counter(meta.start_ns // NS_PER_DAY for meta in self.segments)

    @property
    def amplification(self) -> float:
        return self.written_rows / self.new_rows

    def feed(self, first_ns: int, days: int, every_ns: int, rows_per_part: int, phase_ns: int = 0) -> None:
        """Seal ``days`` in order, ``every_ns`` at a time, each part with rows evenly spread over it."""
        step_ns = max(1, every_ns // rows_per_part)
        for start in range(first_ns + phase_ns, first_ns + days * NS_PER_DAY, every_ns):
            self.seal(np.arange(start, start + every_ns, step_ns, dtype=np.int64))


@pytest.mark.parametrize("rows_per_part", [1, 90, 9_000])
@pytest.mark.parametrize("every_minutes", [15, 30, 120])
@pytest.mark.parametrize("phase_seconds", [0, 437])
def test_a_live_week_of_a_small_table(phase_seconds: int, every_minutes: int, rows_per_part: int) -> None:
    store = Store()
    store.feed(DAY_0, 7, every_minutes * NS_PER_MINUTE, rows_per_part, phase_seconds * NS_PER_SECOND)
    assert store.most_files_in_a_day <= 9
    assert store.amplification < 4
    assert [store.files_by_day()[DAY_0 // NS_PER_DAY + day] for day in range(6)] == [1] * 6


@pytest.mark.parametrize("rows_per_part", [30_000, 90_000])
def test_live_days_of_a_large_table(rows_per_part: int) -> None:
    store = Store()
    store.feed(DAY_0, 2, 15 * NS_PER_MINUTE, rows_per_part)
    assert store.amplification < 4
    assert store.most_files_in_a_day <= 24


def test_windows_of_a_large_table_sealed_whole_are_written_once() -> None:
    store = Store()
    store.feed(DAY_0, 1, 2 * NS_PER_HOUR, 600_000)
    assert store.amplification == 1
    assert set(store.files_by_day().values()) == {12}


@pytest.mark.parametrize(
    "part_ns", [15 * NS_PER_MINUTE, 6 * NS_PER_HOUR, NS_PER_DAY, 10 * NS_PER_DAY + 7 * NS_PER_SECOND]
)
def test_a_backfill_in_order(part_ns: int) -> None:
    store = Store()
    store.feed(DAY_0, 40, part_ns, max(50, part_ns // NS_PER_HOUR))
    assert store.most_files_in_a_day <= 9
    assert store.amplification < 4


def test_a_backfill_before_what_is_there() -> None:
    store = Store()
    store.feed(DAY_0, 2, 15 * NS_PER_MINUTE, 900)
    live_rows = store.written_rows
    store.feed(DAY_0 - 30 * NS_PER_DAY, 30, 15 * NS_PER_MINUTE, 40)
    assert store.most_files_in_a_day <= 9
    assert store.written_rows - live_rows < 4 * 30 * 96 * 40


def test_sparse_history_is_one_file_a_day_written_once() -> None:
    store = Store()
    store.seal(np.arange(DAY_0, DAY_0 + 1_000 * NS_PER_DAY, NS_PER_DAY // 3) + 5)
    assert store.amplification == 1
    assert set(store.files_by_day().values()) == {1}


def test_scattered_rows_keep_the_files_of_a_day_few() -> None:
    random = np.random.default_rng(7)
    store = Store()
    for hour in random.permutation(30 * 24):
        store.seal(DAY_0 + int(hour) * NS_PER_HOUR + random.integers(0, NS_PER_HOUR, 20))
    assert store.most_files_in_a_day <= 9
