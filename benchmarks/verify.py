"""Whether a server holds exactly what was generated: count, sum, min and max of every series, by SQL."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.devops import Float64Array, Measurement
from benchmarks.generator import DevopsGenerator, SeriesAggregates
from benchmarks.server import SqlClient

AGGREGATES = ("count", "sum", "min", "max")
# Sums of many doubles depend on the order of summation; counts and extremes do not.
SUM_TOLERANCE = 1e-9


def aggregates_sql(measurement: Measurement, fields: int, before_ns: int | None = None) -> str:
    """Return the SELECT that gives every aggregate of the first ``fields`` fields for each host.

    ``before_ns``: only of what is older.
    """
    where = "" if before_ns is None else f" WHERE time < make_timestamp_ns({before_ns})"
    columns = [
        f"{function}({field}) AS {function}_{index}"
        for index, field in enumerate(measurement.field_names[:fields])
        for function in AGGREGATES
    ]
    return f"SELECT hostname, {', '.join(columns)} FROM {measurement.name}{where} GROUP BY hostname"


def stored_differences(
    sql: SqlClient, generator: DevopsGenerator, *, one_field: bool = False, before_ns: int | None = None
) -> dict[str, str]:
    """Return measurement -> how the stored aggregates differ from the generated ones, empty when they do
    not.  ``before_ns``: only what is older is compared.
    """
    expected = generator.aggregates()
    measurements = generator.shape.measurements[:1] if one_field else generator.shape.measurements
    out = {}
    for measurement in measurements:
        fields = 1 if one_field else len(measurement.fields)
        table = sql.arrow(aggregates_sql(measurement, fields, before_ns))
        out[measurement.name] = _difference(table, expected[measurement.name], fields)
    return out


def _difference(table: Any, expected: SeriesAggregates, fields: int) -> str:
    hosts = expected.count.shape[1]
    if table.num_rows != hosts:
        return f"got {table.num_rows} hosts, want {hosts}"
    order = np.argsort([int(name.rpartition("_")[2]) for name in table["hostname"].to_pylist()])
    for index in range(fields):
        for function in AGGREGATES:
            got: Float64Array = table[f"{function}_{index}"].to_numpy().astype(np.float64)[order]
            want = getattr(expected, function)[index].astype(np.float64)
            tolerance = SUM_TOLERANCE if function == "sum" else 0.0
            wrong = ~np.isclose(got, want, rtol=tolerance, atol=0.0)
            if wrong.any():
                host = int(np.flatnonzero(wrong)[0])
                return (
                    f"{int(wrong.sum())} of {hosts} hosts differ in {function} of field {index}: "
                    f"host_{host} has {got[host]!r}, want {want[host]!r}"
                )
    return ""
