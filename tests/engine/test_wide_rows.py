"""Rows that satisfy conditions against polars over what was written, whatever was sealed, late, deleted or hidden."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.catalog.catalog import Catalog
from engine.errors import BadRequest, Cancelled, NotFound, QueryLimit
from engine.hot.store import HotStore
from engine.model.matchers import Matcher, parse_matchers
from engine.model.rows import FOREVER_NS, NEVER_NS, Rows
from engine.query.comparisons import Comparison, bounds_of, parse_comparisons
from engine.query.deadlines import Stop
from engine.query.newest import NewestReader
from engine.query.ordered import Order
from engine.query.rowstream import RowLimits
from engine.query.samples import SampleStore
from engine.query.wide import Last, RowsQuery, RowsReader
from engine.segments.columns import OpenSegment
from engine.segments.deletions import Deletion, ranges_of
from engine.segments.layout import SegmentSpec
from engine.segments.writer import write_segment
from native.columns import ABSENT
from tests.filesystems import MemoryFileSystem

SECOND = 10**9
HOUR = 3_600 * SECOND
FIELDS = ("a", "b", "c")
HOSTS = ("h0", "h1", "h2", "h3")
LIMITS = RowLimits(30.0, 1_000_000, 1 << 28, lambda: 0.0)

Cells = tuple[float | None, ...]
numbers = st.integers(0, 9).map(float)
cell = st.one_of(st.none(), numbers, numbers, st.just(math.nan))
one_row = st.tuples(st.integers(0, len(HOSTS) - 1), st.integers(0, 40), st.tuples(cell, cell, cell)).filter(
    lambda row: any(value is not None for value in row[2])
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.lists(one_row, min_size=1, max_size=12)),
        st.tuples(st.just("write"), st.lists(one_row, min_size=1, max_size=12)),
        st.tuples(st.just("seal"), st.integers(0, 2)),
        st.tuples(st.just("freeze"), st.just(0)),
        st.tuples(st.just("delete"), st.integers(0, 2), st.sets(st.integers(0, len(HOSTS) - 1), max_size=2)),
        st.tuples(st.just("hide"), st.integers(0, 20)),
        st.tuples(st.just("forget"), st.integers(0, 40)),
    ),
    max_size=12,
)
comparisons = st.lists(
    st.builds(
        Comparison,
        st.sampled_from(FIELDS),
        st.sampled_from([">", ">=", "<", "<=", "=", "!="]),
        st.integers(0, 9).map(float),
    ),
    max_size=2,
).map(tuple)


class Store:
    """A table of three fields whose rows lie a quarter of an hour apart at most, and what they must be."""

    def __init__(self) -> None:
        self.fs, self.catalog, self.hot = MemoryFileSystem(), Catalog(), HotStore()
        native = self.catalog.native
        self.table = native.table(b"t")
        self.fields = tuple(native.field(self.table, name.encode()) for name in FIELDS)
        self.ids = [
            native.tagset(self.table, [(b"host", host.encode())] + ([(b"zone", b"z")] if host == "h1" else []))
            for host in HOSTS
        ]
        self.samples = SampleStore(self.fs, "data", self.hot, ())
        self.reader = RowsReader(self.catalog, self.samples, NewestReader(self.samples))
        self.sequence = 0
        self.known: dict[tuple[int, int], list[float | None]] = {}
        self.hidden_ns = NEVER_NS

    def run(self, command: tuple[Any, ...]) -> None:
        self.sequence += 1
        match command:
            case ("write", rows):
                self.write(rows)
            case ("seal", int(hour)):
                self.seal(hour)
            case ("freeze", _):
                self.hot.freeze(self.table)
                self.hot.arrange()
            case ("delete", int(hour), tagsets):
                self.delete(hour, tagsets)
            case ("hide", int(place)):
                self.hidden_ns = max(self.hidden_ns, place * 240 * SECOND)
                self.samples.hide_before(self.table, place * 240 * SECOND)
            case ("forget", int(place)):
                self.hot.forget_idle(place * 240 * SECOND)

    def write(self, rows: list[tuple[int, int, Cells]]) -> None:
        cells = [[ABSENT if value is None else value for value in row[2]] for row in rows]
        times = np.array([place * 240 * SECOND for _, place, _ in rows], np.int64)
        ids = np.array([self.ids[host] for host, _, _ in rows], np.int32)
        columns = np.ascontiguousarray(np.array(cells, np.float64).T)
        self.hot.append(self.table, Rows(ids, times, self.fields, columns), self.sequence)
        for host, place, values in rows:
            before = self.known.setdefault((host, place * 240 * SECOND), [None] * len(FIELDS))
            for index, value in enumerate(values):
                before[index] = before[index] if value is None else value

    def seal(self, hour: int) -> None:
        start_ns, end_ns = hour * HOUR, (hour + 1) * HOUR
        blocks = self.hot.freeze(self.table)
        rows = self.samples.collect(self.table, start_ns, end_ns)
        old = [meta for meta in self.samples.segments(self.table) if meta.start_ns == start_ns]
        added = []
        if len(rows):
            spec = SegmentSpec(
                table_id=self.table, table="t", start_ns=start_ns, end_ns=end_ns, sequence=self.sequence,
                sealed_through=self.sequence, created_ns=0, row_group_rows=4,
                field_names=dict(zip(self.fields, FIELDS, strict=True)),
            )  # fmt: skip
            added = [write_segment(self.fs, "data", spec, rows, lambda _: ([], []))]
        if blocks or added or old:
            self.samples.swap(self.table, added, old, blocks, [(start_ns, end_ns)], lambda meta: None)

    def delete(self, hour: int, hosts: set[int]) -> None:
        ids = np.array(sorted(self.ids[host] for host in hosts), np.int32)
        made = Deletion(
            table_id=self.table, tagsets=ranges_of(ids), start_ns=hour * HOUR, end_ns=(hour + 1) * HOUR,
            through=self.sequence, before_file=self.sequence, created_ns=0,
        )  # fmt: skip
        self.samples.delete([*self.samples.deletions, made], [made])
        for host, time_ns in list(self.known):
            if host in hosts and hour * HOUR <= time_ns < (hour + 1) * HOUR:
                del self.known[host, time_ns]

    def frame(self) -> pl.DataFrame:
        """Return what there is: one row a key."""
        rows = [
            {"time": time_ns, "host": HOSTS[host], "zone": "z" if host == 1 else None}
            | dict(zip(FIELDS, cells, strict=True))
            for (host, time_ns), cells in self.known.items()
            if time_ns >= self.hidden_ns
        ]
        schema = {"time": pl.Int64, "host": pl.String, "zone": pl.String} | dict.fromkeys(FIELDS, pl.Float64)
        return pl.DataFrame(rows, schema=schema)

    def ask(
        self, query: RowsQuery, within: tuple[Matcher, ...] = (), **limits: Any
    ) -> tuple[list[tuple[Any, ...]], Any]:
        with self.reader.open(query, within, replace(LIMITS, **limits), Stop()) as stream:
            columns = stream.schema.names
            found = [row for batch in stream.batches() for row in zip(*columns_of(batch), strict=True)]
            assert columns == ["time", *(query.tags or ("host", "zone")), *(query.fields or FIELDS)]
            return found, stream.metadata


def columns_of(batch: Any) -> list[list[Any]]:
    """Return a batch's cells, NaN as a text that equals itself."""
    cells = [column.cast("int64") if index == 0 else column for index, column in enumerate(batch.columns)]
    return [["NaN" if value != value else value for value in column.to_pylist()] for column in cells]


def holds(comparison: Comparison) -> pl.Expr:
    column, number = pl.col(comparison.field), comparison.number
    compared = {
        ">": column > number, ">=": column >= number, "<": column < number, "<=": column <= number,
        "=": column == number, "!=": column != number,
    }[comparison.operator]  # fmt: skip
    return column.is_not_null() & column.is_not_nan() & compared


def expected(frame: pl.DataFrame, query: RowsQuery, hosts: tuple[str, ...]) -> list[tuple[Any, ...]]:
    """Return the rows of the answer, by polars, in the order of time and host."""
    found = frame.filter(
        pl.col("time").is_between(query.start_ns, query.end_ns, closed="left"),
        pl.col("host").is_in(hosts),
        *map(holds, query.where),
    ).sort("time", "host")
    if query.last == "row":
        found = found.group_by("host").agg(pl.all().last())
    elif query.last == "values":
        found = found.group_by("host").agg(
            pl.col("time").last(), pl.col("zone").last(), *(pl.col(name).drop_nulls().last() for name in FIELDS)
        )
    columns = ["time", *(query.tags or ("host", "zone")), *(query.fields or FIELDS)]
    rows = found.sort("time", "host").select(columns).rows()
    return [tuple("NaN" if value != value else value for value in row) for row in rows]


@dataclass(frozen=True, slots=True)
class Case:
    commands: list[tuple[Any, ...]]
    where: tuple[Comparison, ...]
    range: tuple[int, int]
    hosts: tuple[str, ...]
    fields: tuple[str, ...] | None
    tags: tuple[str, ...] | None


cases = st.builds(
    Case,
    steps,
    comparisons,
    st.one_of(
        st.just((NEVER_NS, FOREVER_NS)),
        st.tuples(st.integers(0, 40), st.integers(1, 41)).map(
            lambda pair: (pair[0] * 240 * SECOND, (pair[0] + pair[1]) * 240 * SECOND)
        ),
    ),
    st.sampled_from([HOSTS, HOSTS, ("h1",), ("h0", "h2"), ()]),
    st.sampled_from([None, ("a",), ("c", "a")]),
    st.sampled_from([None, ("host",)]),
)


def prepared(case: Case, last: Last | None = None) -> tuple[Store, RowsQuery]:
    store = Store()
    for command in case.commands:
        store.run(command)
    matchers = () if case.hosts == HOSTS else parse_matchers(f'host=~"{"|".join(case.hosts) or "none"}"')
    return store, RowsQuery(
        "t", *case.range, fields=case.fields, tags=case.tags, matchers=matchers, where=case.where, last=last
    )


def by_key(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return sorted(rows, key=repr)


@given(cases)
@settings(max_examples=150, deadline=None)
def test_rows_are_those_of_polars(case: Case) -> None:
    store, query = prepared(case)
    wanted = expected(store.frame(), query, case.hosts)
    # What is learnt of blocks the first time serves the second.
    for _ in range(2):
        found, told = store.ask(query)
        assert by_key(found) == by_key(wanted)
        assert (told["rows"], told["truncated"]) == (len(wanted), False)
        assert ("reason" in told) == (not wanted)


@given(cases, st.sampled_from(["time", "-time"]), st.one_of(st.none(), st.integers(1, 6)))
@settings(max_examples=120, deadline=None)
def test_the_first_by_time_are_the_first(case: Case, order: Order, limit: int | None) -> None:
    store, query = prepared(case)
    wanted = expected(store.frame(), replace(query, tags=("host",)), case.hosts)
    if order == "-time":
        wanted.sort(key=lambda row: (-row[0], row[1]))
    found, told = store.ask(replace(query, tags=("host",), order=order, limit=limit))
    assert found == wanted[:limit]
    assert told["truncated"] == (limit is not None and limit < len(wanted))


@given(cases, st.sampled_from(["row", "values"]), st.sampled_from([None, "-time"]))
@settings(max_examples=150, deadline=None)
def test_the_newest_are_those_of_polars(case: Case, last: Last, order: Order | None) -> None:
    store, query = prepared(case, last)
    found, told = store.ask(replace(query, order=order))
    wanted = expected(store.frame(), query, case.hosts)
    assert by_key(found) == by_key(wanted)
    if order:
        assert [row[0] for row in found] == sorted((row[0] for row in wanted), reverse=True)
    assert told["rows"] == len(wanted)


def filled() -> Store:
    store = Store()
    store.write([(host, place, (float(place % 10), None, 1.0)) for host in range(4) for place in range(30)])
    store.seal(0)
    return store


QUERY = RowsQuery("t", NEVER_NS, FOREVER_NS)


def test_blocks_in_which_nothing_matches_are_read_once() -> None:
    store = filled()
    query = replace(QUERY, where=(Comparison("a", ">", 9.0),))
    assert [store.ask(query)[1]["rows_read"] for _ in range(2)] == [120, 0]
    # What may still grow is looked at each time.
    store.write([(0, 30, (1.0, None, None))])
    assert [store.ask(query)[1]["rows_read"] for _ in range(2)] == [1, 1]
    store.hot.freeze(store.table)
    assert [store.ask(query)[1]["rows_read"] for _ in range(2)] == [1, 0]
    store.write([(0, 2, (9.5, None, None))])
    found, _ = store.ask(query)
    assert found == [(2 * 240 * SECOND, "h0", None, 9.5, None, 1.0)]


def test_columns_of_what_fits_in_memory_are_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[tuple[int, tuple[str, ...]]] = []
    table = OpenSegment.table

    def counted(opened: OpenSegment, group: int, names: Sequence[str]) -> Any:
        decoded.append((group, tuple(names)))
        return table(opened, group, names)

    monkeypatch.setattr(OpenSegment, "table", counted)
    store = filled()
    query = replace(QUERY, where=(Comparison("a", ">=", 8.0),))
    first = store.ask(query)[0]
    # Keys and the field that is compared of each block of four rows, the others where one of them matches.
    assert {names for _, names in decoded} == {("tagset_id", "time"), ("a",), ("c",)}
    assert sum(names == ("a",) for _, names in decoded) > sum(names == ("c",) for _, names in decoded)
    decoded.clear()
    assert store.ask(query)[0] == first
    assert not decoded
    store.samples = SampleStore(store.fs, "data", store.hot, store.samples.segments(), cache_bytes=100)
    store.reader = RowsReader(store.catalog, store.samples, NewestReader(store.samples))
    assert store.ask(query)[0] == first
    # Too much to be kept.
    assert {names for _, names in decoded} == {("tagset_id", "time"), ("a",), ("c",)}


def test_a_limit_ends_the_reading_and_is_told() -> None:
    store = filled()
    found, told = store.ask(replace(QUERY, limit=3))
    assert (len(found), told["truncated"], told["rows_read"]) == (3, True, 4)
    assert store.ask(replace(QUERY, limit=120))[1]["truncated"] is False
    # The newest first: what is older than the newest found is not read.
    found, told = store.ask(replace(QUERY, limit=4, order="-time"))
    assert {row[0] for row in found} == {29 * 240 * SECOND}
    assert told["rows_read"] == 60


def test_limits_end_an_answer_with_an_error() -> None:
    store = filled()
    for query in (QUERY, replace(QUERY, order="time")):
        with pytest.raises(QueryLimit, match="more than 100 rows"):
            store.ask(query, max_rows=100)
        with pytest.raises(QueryLimit, match="larger than 1000 bytes"):
            store.ask(query, max_bytes=1000)
        assert store.ask(replace(query, limit=10), max_rows=100)[1]["rows"] == 10
        clock = iter(range(1000))
        with pytest.raises(QueryLimit, match="longer than 3 s"):
            store.ask(query, timeout_seconds=3.0, monotonic=lambda clock=clock: float(next(clock)))
    stop = Stop()
    with store.reader.open(QUERY, (), LIMITS, stop) as stream:
        rows = stream.batches()
        next(rows)
        stop.ask()
        with pytest.raises(Cancelled):
            next(rows)
    # Whoever goes away leaves no files behind that nobody may delete.
    with store.reader.open(QUERY, (), LIMITS, Stop()) as stream:
        next(stream.batches())
        assert store.samples._readers
    assert not store.samples._readers


def test_no_more_is_read_than_its_reader_has_taken() -> None:
    store = filled()
    with store.reader.open(QUERY, (), LIMITS, Stop()) as stream:
        taken = 0
        for batch in stream.batches():
            taken += batch.num_rows
            assert stream.metadata["rows_read"] == taken
        assert taken == 120


def test_time_that_the_reader_takes_is_not_the_questions() -> None:
    store, now = filled(), [0.0]
    limits = replace(LIMITS, timeout_seconds=1.0, monotonic=lambda: now[0])
    with store.reader.open(QUERY, (), limits, Stop()) as stream:
        for _ in stream.batches():
            now[0] += 10.0


def test_what_arrives_meanwhile_of_new_tag_sets_is_left_out() -> None:
    store = filled()
    with store.reader.open(QUERY, (), LIMITS, Stop()) as stream:
        store.ids.append(store.catalog.native.tagset(store.table, [(b"host", b"h4")]))
        store.run(("write", [(4, 5, (1.0, 1.0, 1.0)), (4, 5, (1.0, 1.0, 1.0)), (0, 5, (7.0, None, None))]))
        hosts = {host for batch in stream.batches() for host in batch.column("host").to_pylist()}
    assert hosts == set(HOSTS)


def test_a_row_newer_than_the_end_makes_older_ones_the_newest() -> None:
    store = filled()
    end_ns = 40 * 240 * SECOND
    with store.reader.open(replace(QUERY, end_ns=end_ns, last="row"), (), LIMITS, Stop()) as stream:
        store.run(("write", [(0, 41, (3.0, None, None)), (0, 39, (2.0, None, None))]))
        (batch,) = stream.batches()
    assert batch.column("time").cast("int64").to_pylist() == [39 * 240 * SECOND] + [29 * 240 * SECOND] * 3


def test_names_there_are_not_are_told() -> None:
    store = filled()
    for query, message in (
        (replace(QUERY, fields=("aa",)), "no field 'aa'"),
        (replace(QUERY, tags=("hots",)), "no tag 'hots'; did you mean 'host'"),
        (replace(QUERY, where=(Comparison("host", ">", 1.0),)), "no field 'host'; there are a, b, c"),
        (replace(QUERY, start_ns=5, end_ns=5), "is not after the start"),
    ):
        with pytest.raises(BadRequest, match=message):
            store.ask(query)
    with pytest.raises(NotFound, match="no table 'u'"):
        store.ask(replace(QUERY, table="u"))
    with pytest.raises(NotFound, match=r"no table 't'$"):
        store.ask(QUERY, parse_matchers('host="nobody"'))


def test_empty_answers_say_why() -> None:
    store = filled()
    for query, reason in (
        (replace(QUERY, matchers=parse_matchers('host="x"')), "none of the 4 tag sets of 't' satisfies host=\"x\""),
        (replace(QUERY, where=(Comparison("a", ">", 50.0),)), "there is no row of 't' that satisfies a>50 until"),
    ):
        assert store.ask(query)[1]["reason"].startswith(reason)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        (" a > 1 ", [("a", ">", 1.0)]),
        ("a>=1,b<2e3, c<=-.5", [("a", ">=", 1.0), ("b", "<", 2000.0), ("c", "<=", -0.5)]),
        ("a=1,a!=2,a==3", [("a", "=", 1.0), ("a", "!=", 2.0), ("a", "=", 3.0)]),
        ('"a b,>"<1,"say \\"x\\""=2', [("a b,>", "<", 1.0), ('say "x"', "=", 2.0)]),
    ],
)
def test_conditions_are_read(text: str, found: list[tuple[str, str, float]]) -> None:
    assert [(each.field, each.operator, each.number) for each in parse_comparisons(text)] == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a", "at character 1 of 'a': want field>number"),
        ("a>1,", None),
        ("a>1 b<2", "want a comma at character 5"),
        ("a>1,,b<2", "at character 5"),
        ("a>x", "got 'x', want a number"),
        ("a>nan", "got 'nan', want a number"),
        ("a=~1", "got '~1', want a number"),
        (">1", "at character 1"),
        (",".join(["a>1"] * 101), "got 101 conditions, want at most 100"),
    ],
)
def test_conditions_that_make_no_sense_are_refused(text: str, message: str | None) -> None:
    if message is None:
        assert len(parse_comparisons(text)) == 1
        return
    with pytest.raises(BadRequest, match=message):
        parse_comparisons(text)


@given(st.sampled_from([">", ">=", "<", "<=", "=", "!="]), st.integers(0, 4), st.lists(cell, max_size=5))
def test_a_column_is_excluded_only_where_nothing_is_accepted(
    operator: str, number: int, cells: list[float | None]
) -> None:
    values = np.array([ABSENT if value is None else value for value in cells], np.float64)
    comparison = Comparison("a", operator, float(number))
    accepted = comparison.accepts(values)
    compare = {">": "__gt__", ">=": "__ge__", "<": "__lt__", "<=": "__le__", "=": "__eq__", "!=": "__ne__"}[operator]
    assert accepted.tolist() == [
        value is not None and not math.isnan(value) and getattr(value, compare)(float(number)) for value in cells
    ]
    if comparison.excludes(*bounds_of(values)):
        assert not accepted.any()
    elif operator != "=" and not (operator == "!=" and not accepted.any()):
        assert accepted.any()
