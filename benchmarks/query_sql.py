"""The fifteen queries as SQL; engines differ in how they cut times, write a time and pick the last value."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from benchmarks.generator import NS_PER_SECOND
from benchmarks.queries import HIGH_CPU_PERCENT, LATEST_MINUTES, NS_PER_MINUTE, Query

MICROSECONDS_PER_SECOND = 1_000_000


def utc_text(time_ns: int) -> str:
    """Return ``2016-01-01 00:00:00.000000`` in UTC."""
    moment = dt.datetime.fromtimestamp(time_ns // NS_PER_SECOND, dt.UTC)
    micros = time_ns % NS_PER_SECOND * MICROSECONDS_PER_SECOND // NS_PER_SECOND
    return f"{moment:%Y-%m-%d %H:%M:%S}.{micros:06d}"


@dataclass(frozen=True, slots=True)
class Dialect:
    """``{...}`` templates: ``minute`` and ``hour`` cut ``time``; ``moment`` takes ``{text}``; ``last`` takes
    ``{field}``.
    """

    table: str
    minute: str
    hour: str
    moment: str
    last: str


DUCKDB = Dialect(
    table="cpu",
    minute="date_trunc('minute', time)",
    hour="date_trunc('hour', time)",
    moment="TIMESTAMP '{text}'",
    last="arg_max({field}, time)",
)
CLICKHOUSE = Dialect(
    table="bench.cpu",
    minute="toStartOfMinute(time)",
    hour="toStartOfHour(time)",
    moment="toDateTime64('{text}', 6, 'UTC')",
    last="argMax({field}, time)",
)


def sql_of(query: Query, dialect: Dialect) -> str:
    """Return one SELECT: a time, perhaps ``hostname``, then one column for each field in the query's
    order.
    """

    def aggregated(template: str) -> str:
        return ", ".join(f"{template.format(field=field)} AS v_{field}" for field in query.fields)

    start = dialect.moment.format(text=utc_text(query.start_ns))
    end = dialect.moment.format(text=utc_text(query.end_ns))
    window = f"time >= {start} AND time < {end}"
    if query.hosts:
        names = ", ".join(f"'{name}'" for name in query.host_names)
        window = f"hostname IN ({names}) AND {window}"
    match query.kind:
        case "max-per-minute":
            return (
                f"SELECT {dialect.minute} AS t, {aggregated('max({field})')} FROM {dialect.table} "
                f"WHERE {window} GROUP BY t ORDER BY t"
            )
        case "max-per-hour":
            return (
                f"SELECT {dialect.hour} AS t, {aggregated('max({field})')} FROM {dialect.table} "
                f"WHERE {window} GROUP BY t ORDER BY t"
            )
        case "mean-per-host-hour":
            return (
                f"SELECT {dialect.hour} AS t, hostname, {aggregated('avg({field})')} FROM {dialect.table} "
                f"WHERE {window} GROUP BY t, hostname ORDER BY t, hostname"
            )
        case "high-rows":
            return (
                f"SELECT time, hostname, {', '.join(query.fields)} FROM {dialect.table} "
                f"WHERE usage_user > {HIGH_CPU_PERCENT} AND {window}"
            )
        case "last-rows":
            return (
                f"SELECT max(time) AS t, hostname, {aggregated(dialect.last)} FROM {dialect.table} "
                "GROUP BY hostname ORDER BY hostname"
            )
        case "latest-minutes":
            return (
                f"SELECT {dialect.minute} AS t, {aggregated('max({field})')} FROM {dialect.table} "
                f"WHERE time < {end} GROUP BY t ORDER BY t DESC LIMIT {LATEST_MINUTES}"
            )


def prometheus_times(query: Query) -> tuple[float, float, float]:
    """Return (first, last, step) evaluation times in seconds so that the look-back window of each is one
    bucket.

    A PromQL window ends with its evaluation time, so a bucket is evaluated one millisecond before its end.
    """
    start_ns = query.start_ns
    if query.kind == "latest-minutes":
        start_ns = max(start_ns, query.end_ns - LATEST_MINUTES * NS_PER_MINUTE)
    bucket = query.bucket_ns / NS_PER_SECOND
    return start_ns / NS_PER_SECOND + bucket - 0.001, query.end_ns / NS_PER_SECOND - 0.001, bucket
