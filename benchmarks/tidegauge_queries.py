"""The fifteen queries over Tidegauge's own HTTP paths: aggregates by ``/v1/query``, rows by ``/v1/rows``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from benchmarks.devops import CPU, Float64Array, Int64Array
from benchmarks.queries import (
    HIGH_CPU_PERCENT,
    LATEST_MINUTES,
    NO_HOST,
    NS_PER_MINUTE,
    Answer,
    Query,
    answer_from_arrow,
    host_numbers,
)
from benchmarks.query_sql import DUCKDB, sql_of
from benchmarks.server import ARROW_STREAM, SqlClient, checked, with_query
from benchmarks.wire import Connection

NS_PER_SECOND = 1_000_000_000


class _Line(msgspec.Struct):
    metric: str
    labels: dict[str, str]
    times: list[int]
    values: list[float]


class _Lines(msgspec.Struct):
    series: list[_Line]
    truncated: bool


@dataclass(frozen=True, slots=True)
class Request:
    """A query made ready to be sent; ``lines`` when its answer is aligned series, else it is an Arrow stream."""

    query: Query
    head: bytes
    body: bytes
    lines: bool

    def send(self, connection: Connection) -> bytes:
        """Return the answer's body; RuntimeError unless the status is a success."""
        response = connection.exchange(self.head, self.body)
        return checked(response, self.body.decode() or self.head.decode("latin-1").splitlines()[0]).body

    def read(self, raw: bytes) -> Answer:
        """Turn the answer's body into rows."""
        return _read_native(self.query, raw) if self.lines else _read_arrow(self.query, raw)


def native_request(connection: Connection, query: Query) -> Request:
    """Return the request to ``/v1/query``, for rows to ``/v1/rows``."""
    if query.kind in ("high-rows", "last-rows"):
        return rows_request(connection, query)
    start_ns = query.start_ns
    if query.kind == "latest-minutes":
        start_ns = max(start_ns, query.end_ns - LATEST_MINUTES * NS_PER_MINUTE)
    by_host = query.kind == "mean-per-host-hour"
    parameters: dict[str, str | list[str]] = {
        "metric": [_metric(field) for field in query.fields],
        "match": _matcher(query.host_names),
        "start": str(start_ns),
        "end": str(query.end_ns),
        "step": f"{query.bucket_ns // NS_PER_SECOND}s",
        "agg": "avg" if by_host else "max",
        "by": "hostname" if by_host else "",
    }
    return Request(query, connection.head("GET", with_query("/v1/query", parameters), {}, None), b"", True)


def rows_request(connection: Connection, query: Query) -> Request:
    """Return the request to ``/v1/rows``, answered as an Arrow stream."""
    parameters: dict[str, str | list[str]] = {
        "table": CPU.name,
        "fields": ",".join(query.fields),
        "tags": "hostname",
        "match": _matcher(query.host_names),
    }
    if query.kind == "last-rows":
        parameters["last"] = "row"
    else:
        where = f"usage_user>{HIGH_CPU_PERCENT:g}"
        parameters |= {"where": where, "start": str(query.start_ns), "end": str(query.end_ns)}
    headers = {"Accept": ARROW_STREAM}
    return Request(query, connection.head("GET", with_query("/v1/rows", parameters), headers, None), b"", False)


def sql_request(connection: Connection, query: Query) -> Request:
    """Return the request to ``/v1/sql``, answered as an Arrow stream."""
    head, body = SqlClient(connection).head_and_body(sql_of(query, DUCKDB), ARROW_STREAM)
    return Request(query, head, body, False)


def _matcher(hosts: Sequence[str]) -> str:
    if not hosts:
        return ""
    return f'hostname="{hosts[0]}"' if len(hosts) == 1 else f'hostname=~"{"|".join(hosts)}"'


def _read_native(query: Query, raw: bytes) -> Answer:
    lines = msgspec.json.decode(raw, type=_Lines)
    if lines.truncated:
        raise RuntimeError("cannot read answer: it is truncated")
    answers = [_answer_of([line for line in lines.series if line.metric == _metric(field)]) for field in query.fields]
    first = answers[0]
    for other in answers[1:]:
        if not (np.array_equal(other.times, first.times) and np.array_equal(other.hosts, first.hosts)):
            raise RuntimeError("cannot read answer: its fields have different rows")
    return Answer(first.times, first.hosts, np.concatenate([each.values for each in answers]))


def _metric(field: str) -> str:
    return f"{CPU.name}_{field}"


def _answer_of(lines: Sequence[_Line]) -> Answer:
    times: Int64Array = np.array([time for line in lines for time in line.times], np.int64)
    values: Float64Array = np.array([value for line in lines for value in line.values], np.float64)
    hosts = [
        host_numbers([line.labels["hostname"]])[0] if line.labels else NO_HOST for line in lines for _ in line.times
    ]
    return Answer(times, np.array(hosts, np.int64), values[None, :])


def _read_arrow(query: Query, raw: bytes) -> Answer:
    import pyarrow as pa

    with pa.ipc.open_stream(raw) as reader:
        return answer_from_arrow(query, reader.read_all())
