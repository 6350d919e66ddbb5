"""Rows of Arrow tables with exact times."""

from __future__ import annotations

from typing import Any

import pyarrow as pa


def rows_of(table: pa.Table) -> list[dict[str, Any]]:
    """Return the rows, timestamps of nanoseconds as integers: Python's own end at microseconds."""
    columns = [
        column.cast(pa.int64()) if pa.types.is_timestamp(column.type) and column.type.unit == "ns" else column
        for column in table.columns
    ]
    return pa.table(columns, names=table.column_names).to_pylist()
