"""The newest samples against a look at every row, whatever was sealed, forgotten, deleted or started again before."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.catalog.catalog import Catalog
from engine.hot.store import HotStore
from engine.model.rows import FOREVER_NS, NEVER_NS, Rows
from engine.query.newest import NewestReader
from engine.query.range import RangeQuery, RangeReader
from engine.query.samples import SampleStore
from engine.segments.deletions import Deletion, ranges_of
from engine.segments.layout import SegmentSpec
from engine.segments.writer import write_segment
from native.columns import ABSENT, is_absent
from tests.filesystems import MemoryFileSystem

HOUR = 3_600 * 10**9
FIELDS = (0, 1, 5)
TAGSETS = 6

one_row = st.tuples(
    st.integers(0, TAGSETS - 1),
    st.integers(0, 3 * HOUR // 10**9 - 1),
    st.lists(st.one_of(st.none(), st.integers(0, 9).map(float), st.just(float("nan"))), min_size=3, max_size=3).filter(
        lambda cells: any(cell is not None for cell in cells)
    ),
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.lists(one_row, min_size=1, max_size=6)),
        st.tuples(st.just("seal"), st.integers(0, 2)),
        st.tuples(st.just("forget"), st.integers(0, 3 * 3600)),
        st.tuples(st.just("delete"), st.integers(0, 2), st.sets(st.integers(0, TAGSETS - 1), max_size=3)),
        st.tuples(st.just("restart")),
        st.tuples(st.just("hide"), st.integers(0, 3600)),
    ),
    max_size=14,
)


class Store:
    """A sample store that is sealed, forgets, deletes and starts again on command."""

    def __init__(self) -> None:
        self.fs = MemoryFileSystem()
        self.sequence = 0
        self.samples = SampleStore(self.fs, "data", HotStore(), ())
        self.hot = self.samples.hot

    def write(self, rows: list[tuple[int, int, list[float | None]]]) -> None:
        self.sequence += 1
        values = [[ABSENT if value is None else value for value in cells] for _, _, cells in rows]
        times = np.array([second * 10**9 for _, second, _ in rows], np.int64)
        columns = np.ascontiguousarray(np.array(values, np.float64).T)
        self.hot.append(
            0, Rows(np.array([tagset for tagset, _, _ in rows], np.int32), times, FIELDS, columns), self.sequence
        )

    def seal(self, hour: int) -> None:
        start_ns, end_ns = hour * HOUR, (hour + 1) * HOUR
        blocks = self.hot.freeze(0)
        rows = self.samples.collect(0, start_ns, end_ns)
        old = [meta for meta in self.samples.segments(0) if meta.start_ns == start_ns]
        added = []
        if len(rows):
            self.sequence += 1
            spec = SegmentSpec(
                table_id=0,
                table="t",
                start_ns=start_ns,
                end_ns=end_ns,
                sequence=self.sequence,
                sealed_through=self.sequence,
                created_ns=0,
                field_names={field: f"f{field}" for field in FIELDS},
                row_group_rows=4,
            )
            added = [write_segment(self.fs, "data", spec, rows, lambda _: ([], []))]
        if blocks or added or old:
            self.samples.swap(0, added, old, blocks, [(start_ns, end_ns)], lambda meta: None)

    def restart(self) -> None:
        for hour in range(3):
            self.seal(hour)
        self.hot = HotStore()
        segments = self.samples.segments(0)
        self.samples = SampleStore(self.fs, "data", self.hot, segments, self.samples.deletions)
        if segments:
            self.hot.assume_seen(0, TAGSETS, max(meta.max_time_ns for meta in segments))


def run(store: Store, command: tuple[object, ...]) -> None:
    match command:
        case ("write", list(rows)):
            store.write(rows)
        case ("seal", int(hour)):
            store.seal(hour)
        case ("forget", int(second)):
            store.hot.forget_idle(second * 10**9)
        case ("delete", int(hour), set(tagsets)):
            store.sequence += 1
            made = Deletion(
                table_id=0,
                tagsets=ranges_of(np.array(sorted(tagsets), np.int32)),
                start_ns=hour * HOUR,
                end_ns=(hour + 1) * HOUR,
                through=store.sequence,
                before_file=store.sequence,
                created_ns=0,
            )
            store.samples.delete([*store.samples.deletions, made], [made])
        case ("restart",):
            store.restart()
        case ("hide", int(second)):
            store.samples.hide_before(0, second * 10**9)


@given(
    steps, st.sets(st.integers(0, TAGSETS + 1)), st.sampled_from([(), (0,), (1, 5), (0, 1, 5, 9)]), st.integers(-1, 3)
)
@settings(max_examples=250, deadline=None)
def test_newest_samples_are_those_of_all_rows(
    commands: list[tuple[object, ...]], wanted: set[int], field_ids: tuple[int, ...], since_hour: int
) -> None:
    store = Store()
    for command in commands:
        run(store, command)
    since_ns = NEVER_NS if since_hour < 0 else since_hour * HOUR + 600 * 10**9
    tagset_ids = np.array(sorted(wanted), np.int32)
    rows = store.samples.collect(0, since_ns, FOREVER_NS)
    expected: dict[tuple[int, int], tuple[int, bytes]] = {}
    for field_id, column in zip(rows.field_ids, rows.values, strict=True):
        for place in np.flatnonzero(~is_absent(np.ascontiguousarray(column))).tolist():
            key = (int(rows.tagset_ids[place]), field_id)
            if key[0] in wanted and field_id in field_ids:
                expected[key] = (int(rows.times[place]), column[place].tobytes())
    reader = NewestReader(store.samples)
    for _ in range(2):
        found = reader.newest(0, tagset_ids, field_ids, since_ns)
        cells = {
            (int(tagset_id), field_id): (int(found.times[index, place]), found.values[index, place].tobytes())
            for index, field_id in enumerate(field_ids)
            for place, tagset_id in enumerate(tagset_ids)
            if found.times[index, place] != NEVER_NS
        }
        assert cells == expected
        if field_ids:
            compare_with_range(store, reader, since_ns)
        shown = found.rows()
        keys = list(zip(shown.tagset_ids.tolist(), shown.times.tolist(), strict=True))
        assert keys == sorted({(tagset_id, time) for (tagset_id, _), (time, _) in expected.items()})
        assert sum(int((~is_absent(np.ascontiguousarray(column))).sum()) for column in shown.values) == len(expected)
        for index, field_id in enumerate(shown.field_ids):
            for place, (tagset_id, time) in enumerate(keys):
                if expected.get((tagset_id, field_id), (None,))[0] == time:
                    assert shown.values[index, place].tobytes() == expected[tagset_id, field_id][1]


def compare_with_range(store: Store, newest: NewestReader, since_ns: int) -> None:
    """A range query for the last values answers by way of the newest samples as by way of all."""
    catalog = Catalog()
    table = catalog.native.table(b"t")
    for number in range(6):
        catalog.native.field(table, f"f{number}".encode())
    for number in range(TAGSETS):
        catalog.native.tagset(table, [(b"host", f"h{number}".encode())])
    start_ns = max(since_ns, -HOUR)
    query = RangeQuery("t_f0", start_ns, 4 * HOUR, 6 * HOUR, "last", further_metrics=("t_f5", "t_f1"))
    answers = [
        RangeReader(catalog, store.samples, None, each).answer(query, raw_since_ns=lambda _: NEVER_NS)
        for each in (newest, None)
    ]
    found, expected = (
        [
            (line.metric, line.labels, line.times.tolist(), line.values.tolist(), line.sample_times.tolist())
            for line in answer.series
            if line.sample_times is not None
        ]
        for answer in answers
    )
    assert found == expected
    assert answers[0].fresh_to_ns == answers[1].fresh_to_ns
    assert answers[0].rows_read <= answers[1].rows_read
