"""Range queries against a loop over all samples."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.catalog.catalog import Catalog
from engine.clock import NS_PER_SECOND
from engine.errors import BadRequest
from engine.hot.store import HotStore
from engine.model.matchers import parse_matchers
from engine.model.rows import NEVER_NS, Rows
from engine.query.range import RangeQuery, RangeReader
from engine.query.samples import SampleStore
from tests.filesystems import MemoryFileSystem
from tests.oracles import range as oracle

HOSTS = [{"host": "a", "zone": "x"}, {"host": "b", "zone": "x"}, {"host": "c"}]
SECOND = NS_PER_SECOND


def no_tiers(*_: Any) -> Any:
    raise AssertionError("a tier was asked for")


def reader_over(points: list[tuple[int, int, float]]) -> tuple[RangeReader, list[oracle.Sample]]:
    catalog, hot = Catalog(), HotStore()
    table = catalog.native.table(b"t")
    field = catalog.native.field(table, b"x")
    ids = [catalog.native.tagset(table, [(k.encode(), v.encode()) for k, v in labels.items()]) for labels in HOSTS]
    latest: dict[tuple[int, int], float] = {}
    for sequence, (host, time_ns, value) in enumerate(points, 1):
        rows = Rows(
            np.array([ids[host]], np.int32), np.array([time_ns], np.int64), (field,), np.array([[value]], np.float64)
        )
        hot.append(table, rows, sequence)
        latest[host, time_ns] = value
    samples = [(HOSTS[host], time_ns, value) for (host, time_ns), value in latest.items()]
    return RangeReader(catalog, SampleStore(MemoryFileSystem(), "", hot, ()), no_tiers), samples


points_strategy = st.lists(
    st.tuples(
        st.integers(0, 2), st.integers(0, 900).map(lambda second: second * SECOND), st.integers(0, 50).map(float)
    ),
    max_size=40,
)


@given(
    points_strategy,
    st.integers(0, 600),
    st.integers(1, 600),
    st.sampled_from([1, 7, 60, 250]),
    st.sampled_from(["avg", "sum", "min", "max", "count", "increase", "rate"]),
    st.sampled_from([None, (), ("zone",), ("host",)]),
)
@settings(max_examples=200, deadline=None)
def test_agrees_with_the_obvious_loop(
    points: list[tuple[int, int, float]], start: int, length: int, step: int, aggregate: str, by: tuple[str, ...] | None
) -> None:
    reader, samples = reader_over(points)
    query = RangeQuery("t_x", start * SECOND, (start + length) * SECOND, step * SECOND, aggregate, (), by)
    answer = reader.answer(query, raw_since_ns=lambda _: NEVER_NS)
    found = {
        tuple(sorted(line.labels.items())) if by is None else tuple(line.labels.items()): dict(
            zip(line.times.tolist(), line.values.tolist(), strict=True)
        )
        for line in answer.series
    }
    expected = oracle.answer(samples, query.start_ns, query.end_ns, query.step_ns, aggregate, by)
    assert found.keys() == expected.keys()
    for labels, line in expected.items():
        assert found[labels] == pytest.approx(line)


@pytest.mark.parametrize("aggregate", ["p50", "avg", "count"])
def test_a_range_without_samples_has_no_lines(aggregate: str) -> None:
    reader, _ = reader_over([(0, 900 * SECOND, 1.0)])
    query = RangeQuery("t_x", 0, 60 * SECOND, 60 * SECOND, aggregate)
    assert reader.answer(query, raw_since_ns=lambda _: NEVER_NS).series == []


@given(
    points_strategy,
    st.sampled_from([30, 250, 1000]),
    st.integers(1, 3),
    st.booleans(),
    st.sampled_from([None, ("zone",)]),
)
@settings(max_examples=100, deadline=None)
def test_the_highest_of_each_bucket_are_those_of_a_loop(
    points: list[tuple[int, int, float]], step: int, count: int, lowest: bool, by: tuple[str, ...] | None
) -> None:
    reader, _ = reader_over(points)
    query = RangeQuery("t_x", 0, 1000 * SECOND, step * SECOND, "max", (), by)

    def lines(asked: RangeQuery) -> dict[tuple[tuple[str, str], ...], dict[int, float]]:
        return {
            tuple(line.labels.items()): dict(zip(line.times.tolist(), line.values.tolist(), strict=True))
            for line in reader.answer(asked, raw_since_ns=lambda _: NEVER_NS).series
        }

    asked = replace(query, bottom=count) if lowest else replace(query, top=count)
    assert lines(asked) == oracle.highest(lines(query), count, lowest=lowest)


def test_metrics_asked_together_are_those_asked_apart() -> None:
    catalog, hot = Catalog(), HotStore()
    tables = [catalog.native.table(name) for name in (b"t", b"u")]
    for table in tables:
        fields = tuple(catalog.native.field(table, name) for name in (b"x", b"y", b"z"))
        ids = np.array([catalog.native.tagset(table, [(b"host", host)]) for host in (b"a", b"b")], np.int32)
        for second in range(0, 600, 10):
            values = np.array([[second, 2 * second], [-second, 3], [7, second % 70]], np.float64)
            hot.append(table, Rows(ids, np.full(2, second * SECOND, np.int64), fields, values), 1 + second)
    reader = RangeReader(catalog, SampleStore(MemoryFileSystem(), "", hot, ()), no_tiers)
    names = ("t_z", "u_x", "t_x", "t_none", "u_y")
    for aggregate in ("max", "rate", "p90"):
        for by in (None, (), ("host",)):
            query = RangeQuery("t_z", 30 * SECOND, 600 * SECOND, 70 * SECOND, aggregate, (), by)
            together = reader.answer(replace(query, further_metrics=names[1:]), raw_since_ns=lambda _: NEVER_NS)
            apart = [
                line
                for name in names
                for line in reader.answer(replace(query, metric=name), raw_since_ns=lambda _: NEVER_NS).series
            ]
            assert [
                (each.metric, each.labels, each.times.tolist(), each.values.tolist()) for each in together.series
            ] == [(each.metric, each.labels, each.times.tolist(), each.values.tolist()) for each in apart]


def test_matchers_narrow_and_the_answer_says_where_it_is_from() -> None:
    reader, _ = reader_over([(0, 10 * SECOND, 1.0), (1, 20 * SECOND, 2.0), (2, 30 * SECOND, 3.0)])
    query = RangeQuery("t_x", 0, 60 * SECOND, 60 * SECOND, "last", parse_matchers('zone="x"'))
    answer = reader.answer(query, raw_since_ns=lambda _: NEVER_NS)
    assert [line.values.tolist() for line in answer.series] == [[1.0], [2.0]]
    assert (answer.tier, answer.rows_read, answer.fresh_to_ns) == ("raw", 2, 20 * SECOND)
    nothing = reader.answer(RangeQuery("t_y", 0, 1, 1), raw_since_ns=lambda _: NEVER_NS)
    assert (nothing.series, nothing.fresh_to_ns) == ([], None)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"aggregate": "mode"}, "want one of"),
        ({"step_ns": 0}, "more than 0"),
        ({"end_ns": 0}, "not after the start"),
        ({"end_ns": 10**15, "step_ns": 1}, "longer step"),
        ({"top": 1, "bottom": 1}, "one of them"),
    ],
)
def test_senseless_queries_are_refused(changes: dict[str, Any], complaint: str) -> None:
    reader, _ = reader_over([])
    settings_of = {"metric": "t_x", "start_ns": 0, "end_ns": SECOND, "step_ns": SECOND} | changes
    with pytest.raises(BadRequest, match=complaint):
        reader.answer(RangeQuery(**settings_of), raw_since_ns=lambda _: NEVER_NS)
