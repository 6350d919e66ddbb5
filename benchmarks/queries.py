"""The fifteen queries of the devops use case: their random parameters, their answers' shape, their expected
answers.

Source: the published suite's query list.  Every engine is asked the same parameters.  Windows start at a
whole minute or hour of the data, so that a bucket is either wholly inside a window or wholly outside.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from benchmarks.devops import CPU, Float64Array, Int64Array
from benchmarks.generator import NS_PER_SECOND, DataShape, DevopsGenerator

NS_PER_MINUTE = 60 * NS_PER_SECOND
NS_PER_HOUR = 60 * NS_PER_MINUTE
HIGH_CPU_PERCENT = 90.0
LATEST_MINUTES = 5
NO_HOST = -1
RELATIVE_TOLERANCE = 1e-9

Kind = Literal["max-per-minute", "max-per-hour", "mean-per-host-hour", "high-rows", "last-rows", "latest-minutes"]


@dataclass(frozen=True, slots=True)
class QueryType:
    """``fields``: how many cpu fields are asked for; ``hosts``: of how many hosts, 0 = all; ``hours``:
    window.
    """

    name: str
    kind: Kind
    fields: int
    hosts: int
    hours: int


QUERY_TYPES = (
    QueryType("single-groupby-1-1-1", "max-per-minute", 1, 1, 1),
    QueryType("single-groupby-1-1-12", "max-per-minute", 1, 1, 12),
    QueryType("single-groupby-1-8-1", "max-per-minute", 1, 8, 1),
    QueryType("single-groupby-5-1-1", "max-per-minute", 5, 1, 1),
    QueryType("single-groupby-5-1-12", "max-per-minute", 5, 1, 12),
    QueryType("single-groupby-5-8-1", "max-per-minute", 5, 8, 1),
    QueryType("cpu-max-all-1", "max-per-hour", 10, 1, 8),
    QueryType("cpu-max-all-8", "max-per-hour", 10, 8, 8),
    QueryType("double-groupby-1", "mean-per-host-hour", 1, 0, 12),
    QueryType("double-groupby-5", "mean-per-host-hour", 5, 0, 12),
    QueryType("double-groupby-all", "mean-per-host-hour", 10, 0, 12),
    QueryType("high-cpu-1", "high-rows", 10, 1, 12),
    QueryType("high-cpu-all", "high-rows", 10, 0, 12),
    QueryType("lastpoint", "last-rows", 10, 0, 0),
    QueryType("groupby-orderby-limit", "latest-minutes", 1, 0, 1),
)
BUCKET_NS: Mapping[Kind, int] = {
    "max-per-minute": NS_PER_MINUTE,
    "max-per-hour": NS_PER_HOUR,
    "mean-per-host-hour": NS_PER_HOUR,
    "high-rows": NS_PER_MINUTE,
    "last-rows": NS_PER_MINUTE,
    "latest-minutes": NS_PER_MINUTE,
}


@dataclass(frozen=True, slots=True)
class Query:
    """One query with its parameters: ``fields`` by name, ``hosts`` by number (empty = all), half-open
    window.
    """

    kind: Kind
    fields: tuple[str, ...]
    hosts: tuple[int, ...]
    start_ns: int
    end_ns: int

    @property
    def bucket_ns(self) -> int:
        return BUCKET_NS[self.kind]

    @property
    def host_names(self) -> tuple[str, ...]:
        return tuple(f"host_{number}" for number in self.hosts)


@dataclass(frozen=True, slots=True)
class Answer:
    """Rows of an answer in any order: ``times`` int64[n] ns, ``hosts`` int64[n] (-1 = over all hosts asked
    for), ``values`` float64[fields, n].
    """

    times: Int64Array
    hosts: Int64Array
    values: Float64Array

    @property
    def cells(self) -> int:
        return int(self.values.size)

    def ordered(self) -> Answer:
        order = np.lexsort((self.hosts, self.times))
        return Answer(self.times[order], self.hosts[order], self.values[:, order])


def make_queries(shape: DataShape, runs: int, seed: int = 7) -> dict[str, list[Query]]:
    """Return query name -> ``runs`` queries with random hosts and windows; windows are cut to the data's
    length.
    """
    out: dict[str, list[Query]] = {}
    for described in QUERY_TYPES:
        draw = random.Random(f"{seed}/{described.name}")
        bucket_ns = BUCKET_NS[described.kind]
        whole = (shape.end_ns - shape.start_ns) // bucket_ns
        buckets = min(described.hours * NS_PER_HOUR // bucket_ns, whole)
        if not whole:
            raise ValueError(
                f"cannot make queries: got {shape.steps} steps, want {bucket_ns // NS_PER_SECOND} s or more"
            )
        queries = []
        for _ in range(runs):
            start_ns = shape.start_ns + draw.randint(0, whole - buckets) * bucket_ns
            end_ns = start_ns + buckets * bucket_ns
            if described.kind == "last-rows":
                start_ns, end_ns = shape.start_ns, shape.end_ns
            hosts = sorted(draw.sample(range(shape.hosts), min(described.hosts, shape.hosts)))
            fields = CPU.field_names[: described.fields]
            queries.append(Query(described.kind, fields, tuple(hosts), start_ns, end_ns))
        out[described.name] = queries
    return out


class ExpectedAnswers:
    """Answers computed with numpy straight from the generated values; keeps all of cpu in memory."""

    def __init__(self, generator: DevopsGenerator) -> None:
        self._shape = generator.shape
        self._values = np.empty((len(CPU.fields), self._shape.steps, self._shape.hosts))
        for block in generator.blocks():
            last = block.first_step + len(block.times)
            self._values[:, block.first_step : last] = block.columns[CPU.name]

    def answer(self, query: Query) -> Answer:
        shape = self._shape
        fields = [CPU.field_names.index(name) for name in query.fields]
        hosts = np.array(query.hosts or range(shape.hosts), np.int64)
        if query.kind == "last-rows":
            times = np.full(len(hosts), shape.end_ns - shape.interval_ns, np.int64)
            return Answer(times, hosts, self._values[fields, -1][:, hosts])
        start_ns = query.start_ns
        if query.kind == "latest-minutes":
            start_ns = max(shape.start_ns, query.end_ns - LATEST_MINUTES * NS_PER_MINUTE)
        first = (start_ns - shape.start_ns) // shape.interval_ns
        last = (query.end_ns - shape.start_ns) // shape.interval_ns
        window = self._values[fields, first:last][:, :, hosts]
        if query.kind == "high-rows":
            return self._high_rows(query, hosts, first, last, window)
        per_bucket = query.bucket_ns // shape.interval_ns
        buckets = (last - first) // per_bucket
        split = window.reshape(len(fields), buckets, per_bucket, len(hosts))
        times = start_ns + np.arange(buckets, dtype=np.int64) * query.bucket_ns
        if query.kind == "mean-per-host-hour":
            means = split.mean(axis=2)
            return Answer(
                np.repeat(times, len(hosts)),
                np.tile(hosts, buckets),
                means.reshape(len(fields), buckets * len(hosts)),
            )
        return Answer(times, np.full(buckets, NO_HOST, np.int64), split.max(axis=(2, 3)))

    def _high_rows(self, query: Query, hosts: Int64Array, first: int, last: int, window: Float64Array) -> Answer:
        user = query.fields.index("usage_user")
        step, host = np.nonzero(window[user] > HIGH_CPU_PERCENT)
        times = self._shape.start_ns + (first + step.astype(np.int64)) * self._shape.interval_ns
        return Answer(times, hosts[host], window[:, step, host])


def difference(got: Answer, want: Answer) -> str:
    """Return in one sentence how two answers differ, or an empty string when they are the same rows and
    values.

    Times and hosts must be equal, values equal to a relative 1e-9, which allows for another order of
    summation.
    """
    if got.values.shape != want.values.shape:
        (fields, rows), (wanted_fields, wanted_rows) = got.values.shape, want.values.shape
        return f"got {rows} rows of {fields} fields, want {wanted_rows} of {wanted_fields}"
    got, want = got.ordered(), want.ordered()
    for name, mine, theirs in (("time", got.times, want.times), ("host", got.hosts, want.hosts)):
        if not np.array_equal(mine, theirs):
            place = int(np.flatnonzero(mine != theirs)[0])
            return f"got {name} {mine[place]} in row {place}, want {theirs[place]}"
    close = np.isclose(got.values, want.values, rtol=RELATIVE_TOLERANCE, atol=0.0)
    if not close.all():
        field, row = (int(index) for index in np.argwhere(~close)[0])
        return f"got {got.values[field, row]!r} in field {field}, row {row}, want {want.values[field, row]!r}"
    return ""


def host_numbers(names: Sequence[str]) -> Int64Array:
    """Return ``host_12`` -> 12 for each name."""
    return np.array([int(name.rpartition("_")[2]) for name in names], np.int64)


def answer_from_arrow(query: Query, table: Any) -> Answer:
    """Return the rows of a ``pyarrow.Table``: a time, perhaps ``hostname``, then the fields in the query's
    order.

    The time is the first column, a timestamp or whole seconds; the fields are the float columns.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    hosts: Int64Array = np.full(table.num_rows, NO_HOST, np.int64)
    values: list[Float64Array] = []
    times = _nanoseconds(table.column(0))
    for name, column in zip(table.column_names[1:], table.columns[1:], strict=True):
        if name == "hostname":
            numbers = pc.replace_substring(column.cast(pa.string()), pattern="host_", replacement="")
            hosts = numbers.cast(pa.int64()).to_numpy()
        elif pa.types.is_floating(column.type):
            values.append(column.to_numpy())
    return Answer(times, hosts, np.array(values, np.float64).reshape(len(values), table.num_rows))


def _nanoseconds(column: Any) -> Int64Array:
    import pyarrow as pa

    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("ns", column.type.tz)).cast(pa.int64())
        times: Int64Array = column.to_numpy()
        return times
    if pa.types.is_integer(column.type):
        seconds: Int64Array = column.cast(pa.int64()).to_numpy()
        return seconds * NS_PER_SECOND
    raise RuntimeError(f"cannot read answer: got a first column of {column.type}, want a time")
