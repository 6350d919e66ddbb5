"""Functions that statements see beside DuckDB's own: clocks in UTC, and what analysts of time series expect.

All are DuckDB macros, which stand for their text: they reach nothing that a statement could not write itself.  Macros
whose names begin with ``tidegauge_`` are parts of others and on no list, so no statement may call them.  Names of
parameters avoid the words that DuckDB 1.5 reserves (``time``, ``by``).
"""

from __future__ import annotations

import duckdb

from engine.query.functions import MAX_GENERATED_ROWS
from engine.rollups.bins import GAMMA, INFINITE_BIN, LOG_GAMMA, OFFSET

# The column time has no time zone and is UTC; so are the clock's functions, or the two could not be compared.
_CLOCKS = (
    "now() AS CAST(system.main.now() AS TIMESTAMP)",
    "get_current_timestamp() AS CAST(system.main.get_current_timestamp() AS TIMESTAMP)",
    "transaction_timestamp() AS CAST(system.main.transaction_timestamp() AS TIMESTAMP)",
    "to_timestamp(seconds) AS CAST(system.main.to_timestamp(seconds) AS TIMESTAMP)",
)

#: ``histogram_quantile(histogram, q)``, an aggregate over rows of a rollup relation (docs/formats/rollups.md).
_QUANTILES = (
    f"tidegauge_bin_value(bin) AS CASE WHEN bin = 0 THEN 0.0::DOUBLE WHEN abs(bin) = {INFINITE_BIN}"
    " THEN sign(bin) * 'inf'::DOUBLE"
    f" ELSE sign(bin) * exp((abs(bin) - {OFFSET + 1}) * {LOG_GAMMA!r}::DOUBLE)"
    f" * {2 * GAMMA / (GAMMA + 1)!r}::DOUBLE END",
    "tidegauge_at_rank(bins, rank) AS tidegauge_bin_value(list_reduce(bins, lambda before, bin:"
    " CASE WHEN before.value > rank THEN before ELSE {'key': bin.key, 'value': before.value + bin.value} END).key)",
    "tidegauge_quantile(bins, q) AS"
    " tidegauge_at_rank(bins, floor(q * (list_sum(list_transform(bins, lambda bin: bin.value)) - 1)))",
    "histogram_quantile(histogram, q) AS tidegauge_quantile(list_sort(flatten(list(map_entries(histogram)))), q)",
)

# Aggregates over the samples of one series.  NaN and NULL are no samples; a fall of a counter is a restart from zero,
# as in the tiers (docs/formats/rollups.md).  Two samples of one time mean that series have been mixed, and steps from
# one to another would be counted: that is refused rather than answered.
_MIXED = (
    "error('got two samples of one time, want the samples of one series: group by what tells series apart, or sum an"
    " increase of each')"
)
_COUNTERS = (
    "tidegauge_ordered(value, ts) AS"
    " list({'t': ts, 'v': CAST(value AS DOUBLE)} ORDER BY ts) FILTER (WHERE NOT isnan(CAST(value AS DOUBLE)))",
    f"tidegauge_step(pair) AS CASE WHEN pair[2].t = pair[1].t THEN {_MIXED}"
    " WHEN pair[2].v >= pair[1].v THEN pair[2].v - pair[1].v ELSE pair[2].v END",
    "tidegauge_rise(samples) AS CASE WHEN samples IS NOT NULL THEN"
    " coalesce(list_sum(list_transform(list_zip(samples[:-2], samples[2:]), lambda pair: tidegauge_step(pair))), 0.0)"
    " END",
    "tidegauge_per_second(samples) AS"
    " tidegauge_rise(samples) / nullif((epoch_ns(samples[-1].t) - epoch_ns(samples[1].t)) / 1e9, 0)",
    "increase(value, ts) AS tidegauge_rise(tidegauge_ordered(value, ts))",
    "rate(value, ts) AS tidegauge_per_second(tidegauge_ordered(value, ts))",
    "latest(value, ts) AS arg_max(value, ts) FILTER (WHERE NOT isnan(CAST(value AS DOUBLE)))",
    "earliest(value, ts) AS arg_min(value, ts) FILTER (WHERE NOT isnan(CAST(value AS DOUBLE)))",
    "delta(value, ts) AS latest(value, ts) - earliest(value, ts)",
)

# Windows over rows with gaps.  ``series`` keeps what must not be mixed apart: a column, or several in parentheses.
_KNOWN = "CASE WHEN value IS NOT NULL THEN {'t': epoch_ns(ts), 'v': value} END IGNORE NULLS"
_BETWEEN = "before.v + (after.v - before.v) * (epoch_ns(ts) - before.t) / nullif(after.t - before.t, 0)"


def _windows(series: str, partition: str) -> tuple[str, str]:
    over = f"{partition}ORDER BY ts ROWS BETWEEN"
    before = f"last_value({_KNOWN}) OVER ({over} UNBOUNDED PRECEDING AND CURRENT ROW)"
    after = f"first_value({_KNOWN}) OVER ({over} CURRENT ROW AND UNBOUNDED FOLLOWING)"
    return (
        f"(value, ts{series}) AS last_value(value IGNORE NULLS) OVER ({over} UNBOUNDED PRECEDING AND CURRENT ROW)",
        f"(value, ts{series}) AS coalesce(value, tidegauge_between({before}, {after}, ts))",
    )


_ALONE, _APART = _windows("", ""), _windows(", series", "PARTITION BY series ")
_GAPS = (
    f"tidegauge_between(before, after, ts) AS {_BETWEEN}",
    f"locf{_ALONE[0]}, {_APART[0]}",
    f"interpolate{_ALONE[1]}, {_APART[1]}",
    # Computed bounds are no literals that validation could see: a series that is too long ends here.
    "time_bucket_gapfill(width, start, stop) AS TABLE SELECT bucket FROM range(CASE WHEN"
    f" epoch(CAST(stop AS TIMESTAMP) - CAST(start AS TIMESTAMP)) / epoch(width) > {MAX_GENERATED_ROWS}"
    f" THEN error('time_bucket_gapfill makes more than {MAX_GENERATED_ROWS} buckets')"
    " ELSE time_bucket(width, CAST(start AS TIMESTAMP)) END, CAST(stop AS TIMESTAMP), width) buckets(bucket)",
)

# DuckDB has it since 2.0, where it takes points in whatever order a scan brings them and NaN for a point.
_LTTB = "lttb(x, y, n) AS system.main.lttb(x, y, n ORDER BY x) FILTER (WHERE NOT isnan(CAST(y AS DOUBLE)))"
_NO_LTTB = (
    "lttb(x, y, n) AS CAST(error('lttb needs DuckDB 2.0 or newer: aggregate by time_bucket instead')"
    " AS STRUCT(x TIMESTAMP_NS, y DOUBLE)[])"
)


def create_macros(connection: duckdb.DuckDBPyConnection) -> None:
    """Define the functions that statements see."""
    lttb = _NO_LTTB if duckdb.__version__.startswith("1.") else _LTTB
    for macro in (*_CLOCKS, *_QUANTILES, *_COUNTERS, *_GAPS, lttb):
        connection.execute(f"CREATE MACRO {macro}")
