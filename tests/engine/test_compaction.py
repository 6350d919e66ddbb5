"""Compaction: few files a day, little rewriting (counted in rows, with time passed in), and the same samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.clock import NS_PER_DAY, NS_PER_HOUR, NS_PER_MINUTE
from engine.maintenance.seal import LATE_WAIT_NS, OLD_LATE_WAIT_NS
from engine.model.rows import Int64Array
from engine.segments.compaction import FILE_BYTES, MAX_DAY_FILES, plan_compaction, span_days
from engine.segments.layout import SegmentMeta
from engine.segments.plan import costly, plan_seal

DAY_0 = 20_000 * NS_PER_DAY
PART_NS = 15 * NS_PER_MINUTE
BYTES_A_ROW = 20


def segment(start_ns: int, end_ns: int, rows: int, number: int, created_ns: int = 0) -> SegmentMeta:
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
        bytes=rows * BYTES_A_ROW,
        crc32c=0,
        footer_bytes=0,
        footer_crc32c=0,
        group_crc32c=(),
        sealed_through=0,
        created_ns=created_ns,
        sequence=number,
        columns=(),
    )


class Store:
    """Segments without bytes: what the plans make of rows, and how many rows were written for it."""

    def __init__(self, keep_ns: int | None = None) -> None:
        self.keep_ns = keep_ns
        self.segments: list[SegmentMeta] = []
        self.first = self.written = self.number = self.most_files = 0
        self.late_ns = self.old_late_ns = 0

    def _replace(self, start_ns: int, end_ns: int, old: Sequence[SegmentMeta], rows: int, now_ns: int) -> None:
        self.written += rows
        self.number += 1
        gone = {meta.file for meta in old}
        kept = [meta for meta in self.segments if meta.file not in gone]
        made = segment(start_ns, end_ns, rows, self.number, now_ns)
        self.segments = sorted([*kept, made], key=lambda meta: meta.start_ns)

    def seal(self, times: Int64Array, now_ns: int, *, patient: bool = True) -> Int64Array:
        """Seal as engine.maintenance.seal does; return the rows that wait."""
        waiting = np.zeros(len(times), np.bool_)
        if patient:
            recent, old = now_ns - self.late_ns >= LATE_WAIT_NS, now_ns - self.old_late_ns >= OLD_LATE_WAIT_NS
            self.late_ns = now_ns if recent else self.late_ns
            self.old_late_ns = now_ns if old else self.old_late_ns
            border = now_ns // NS_PER_DAY * NS_PER_DAY
            spared = [meta for meta in self.segments if (not old if meta.max_time_ns < border else not recent)]
            waiting = costly(spared, times)
        due = times[~waiting]
        for task in plan_seal(self.segments, due):
            inside = waiting & (times >= task.start_ns) & (times < task.end_ns)
            waiting &= ~inside
            taken = task.new_rows + int(inside.sum())
            self.first += taken
            self._replace(task.start_ns, task.end_ns, task.replaces, taken + task.rewritten_rows, now_ns)
        return times[waiting]

    def compact(self, now_ns: int) -> None:
        for task in plan_compaction(self.segments, now_ns, keep_ns=self.keep_ns):
            created = max(meta.created_ns for meta in task.replaces)
            self._replace(task.start_ns, task.end_ns, task.replaces, task.rows, created)
        self.most_files = max(self.most_files, max(self.files_by_day().values(), default=0))

    def files_by_day(self) -> Counter[int]:
        days: Counter[int] = Counter()
        for meta in self.segments:
            days.update(range(meta.start_ns // NS_PER_DAY, (meta.end_ns - 1) // NS_PER_DAY + 1))
        return days

    @property
    def amplification(self) -> float:
        return self.written / self.first


def live(
    store: Store, rows_a_day: int, days: int, *, late: float = 0.0, late_by_ns: int = NS_PER_HOUR, pressed: bool = False
) -> None:
    """Let ``days`` pass: rows come evenly, a share of them late.

    A window is sealed an hour after its end, or all there is every 15 minutes when the engine is short of memory.
    """
    random = np.random.default_rng(1)
    pending = np.empty(0, np.int64)
    under_way = np.empty(0, np.int64)
    arrivals = np.empty(0, np.int64)
    for now_ns in range(DAY_0 + PART_NS, DAY_0 + days * NS_PER_DAY + PART_NS, PART_NS):
        times = now_ns - PART_NS + random.integers(0, PART_NS, max(1, rows_a_day * PART_NS // NS_PER_DAY))
        is_late = random.random(len(times)) < late
        under_way = np.append(under_way, times[is_late])
        arrivals = np.append(arrivals, times[is_late] + random.integers(0, late_by_ns, int(is_late.sum())))
        arrived = arrivals < now_ns
        pending = np.concatenate([pending, times[~is_late], under_way[arrived]])
        under_way, arrivals = under_way[~arrived], arrivals[~arrived]
        window = 2 * NS_PER_HOUR
        before_ns = now_ns if pressed else (now_ns - NS_PER_HOUR) // window * window
        due = pending < before_ns
        if pressed or due.any():
            waiting = store.seal(pending[due], now_ns)
            pending = np.append(pending[~due], waiting)
        store.compact(now_ns)


@pytest.mark.parametrize("keep_ns", [7 * NS_PER_DAY, None])
@pytest.mark.parametrize(("rows_a_day", "days"), [(500, 35), (20_000, 9), (1_000_000, 3), (4_000_000, 2)])
@pytest.mark.parametrize("late", [0.0, 0.05])
def test_live_days(rows_a_day: int, days: int, late: float, keep_ns: int | None) -> None:
    store = Store(keep_ns)
    live(store, rows_a_day, days, late=late)
    assert store.most_files <= 9
    assert store.amplification < 4


@pytest.mark.parametrize("late", [0.0, 0.05])
@pytest.mark.parametrize("rows_a_day", [20_000, 1_000_000, 4_000_000])
def test_live_days_of_an_engine_that_is_short_of_memory(rows_a_day: int, late: float) -> None:
    store = Store(7 * NS_PER_DAY)
    live(store, rows_a_day, 3, late=late, pressed=True)
    assert store.most_files <= 9
    assert store.amplification < (4 if not late else 6)


def test_a_trickle_into_days_gone_by_does_not_explode() -> None:
    store = Store(7 * NS_PER_DAY)
    live(store, 20_000, 8, late=0.01, late_by_ns=3 * NS_PER_DAY)
    assert store.most_files <= 9
    assert store.amplification < 7


@pytest.mark.parametrize("parts", [1, 4, 24])
@pytest.mark.parametrize("rows_a_day", [1_000, 100_000])
def test_a_backfill_of_old_days_in_random_order(parts: int, rows_a_day: int) -> None:
    random = np.random.default_rng(parts)
    store, now_ns = Store(), DAY_0 + 400 * NS_PER_DAY
    width = NS_PER_DAY // parts
    for day in random.permutation(100).tolist():
        for part in range(parts):
            start_ns = DAY_0 + day * NS_PER_DAY + part * width
            store.seal(start_ns + random.integers(0, width, rows_a_day // parts), now_ns, patient=False)
            now_ns += 5 * NS_PER_MINUTE
            store.compact(now_ns)
    for _ in range(10 * 24):
        now_ns += NS_PER_HOUR
        store.compact(now_ns)
    assert store.most_files <= 9
    assert store.amplification < 4
    # Days of a few rows share a file; others have one each, but for four at the end of the span.
    assert len(store.segments) == (4 if rows_a_day == 1_000 else 97)


def test_a_table_of_a_few_rows_a_day_has_few_files_after_a_year() -> None:
    store = Store(None)
    for day in range(365):
        store.seal(DAY_0 + day * NS_PER_DAY + np.arange(4) * 6 * NS_PER_HOUR, DAY_0 + (day + 1) * NS_PER_DAY)
        store.compact(DAY_0 + (day + 1) * NS_PER_DAY + 3 * NS_PER_HOUR)
    assert len(store.segments) < 12 + 36
    assert store.amplification < 4


@pytest.mark.parametrize(
    ("keep_days", "expected"), [(1, 1), (7, 1), (19, 1), (20, 2), (30, 2), (90, 8), (400, 32), (None, 32)]
)
def test_a_file_covers_little_of_the_time_that_rows_are_kept(keep_days: int | None, expected: int) -> None:
    assert span_days(None if keep_days is None else keep_days * NS_PER_DAY) == expected


def test_a_large_day_is_divided_into_files_of_a_sane_size_and_no_more_than_eight() -> None:
    for windows, share, files in ((12, 0.01, 1), (12, 0.2, 4), (12, 0.1, 2), (96, 1.0, 8)):
        rows = int(FILE_BYTES * share / BYTES_A_ROW)
        step = NS_PER_DAY // windows
        metas = [segment(DAY_0 + n * step, DAY_0 + (n + 1) * step, rows, n) for n in range(windows)]
        tasks = plan_compaction(metas, DAY_0 + 3 * NS_PER_DAY, keep_ns=None)
        assert windows - sum(len(task.replaces) - 1 for task in tasks) == files
        assert max(task.rows for task in tasks) <= 2 * min(task.rows for task in tasks)


def test_what_has_been_merged_is_left_alone() -> None:
    metas = [segment(DAY_0 + n * NS_PER_HOUR, DAY_0 + (n + 1) * NS_PER_HOUR, 1_000_000, n) for n in range(24)]
    now_ns = DAY_0 + 3 * NS_PER_DAY
    for shrunk in (1.0, 0.9, 0.7):
        tasks = plan_compaction(metas, now_ns, keep_ns=None)
        merged = [segment(t.start_ns, t.end_ns, int(t.rows * shrunk), n) for n, t in enumerate(tasks)]
        assert plan_compaction(merged, now_ns, keep_ns=None) == []


@settings(max_examples=100, deadline=None)
@given(
    blocks=st.lists(
        st.tuples(st.integers(0, 400), st.integers(1, 40), st.integers(1, 40_000_000), st.integers(0, 60)), max_size=40
    ),
    now_hours=st.integers(0, 24 * 60),
    keep_days=st.sampled_from([None, 7, 30, 400]),
)
def test_every_plan_merges_neighbours_of_a_table_and_leaves_few(
    blocks: list[tuple[int, int, int, int]], now_hours: int, keep_days: int | None
) -> None:
    metas: list[SegmentMeta] = []
    end = 0
    for start, length, rows, created in sorted(blocks):
        begin = max(end, start)
        end = begin + length
        metas.append(
            segment(DAY_0 + begin * PART_NS, DAY_0 + end * PART_NS, rows, begin, DAY_0 + created * NS_PER_HOUR)
        )
    keep_ns = None if keep_days is None else keep_days * NS_PER_DAY
    tasks = plan_compaction(metas[::-1], DAY_0 + now_hours * NS_PER_HOUR, keep_ns=keep_ns)
    used: list[SegmentMeta] = []
    for task in tasks:
        assert len(task.replaces) > 1
        at = metas.index(task.replaces[0])
        assert metas[at : at + len(task.replaces)] == list(task.replaces), "not neighbours"
        assert (task.start_ns, task.end_ns) == (task.replaces[0].start_ns, task.replaces[-1].end_ns)
        used += task.replaces
    assert len({meta.file for meta in used}) == len(used)
    after: Counter[int] = Counter()
    ranges = [(meta.start_ns, meta.end_ns) for meta in metas if meta not in used]
    for start_ns, end_ns in [*ranges, *((task.start_ns, task.end_ns) for task in tasks)]:
        if start_ns // NS_PER_DAY == (end_ns - 1) // NS_PER_DAY:
            after[start_ns // NS_PER_DAY] += 1
    assert max(after.values(), default=0) <= MAX_DAY_FILES


def test_rows_are_costly_where_they_are_few_for_their_segment() -> None:
    metas = [segment(0, 100, 40, 1), segment(100, 200, 8, 2), segment(300, 400, 9, 3)]
    times = np.array([5, 150, 160, 250, 399, 400, 305, 50], np.int64)
    assert costly(metas, times).tolist() == [True, False, False, False, True, False, True, True]
    assert costly(metas[::-1], times).tolist() == costly(metas, times).tolist()
    assert not costly([], times).any()
