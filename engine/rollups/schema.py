"""Tables of the tiers and their rows as Arrow and numpy columns (docs/formats/rollups.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine.errors import Bug, Damage, NewerFormat
from engine.rollups.tiers import TIERS
from native.merging import merge_buckets

if TYPE_CHECKING:
    import duckdb

Columns = dict[str, npt.NDArray[Any]]

#: Raised by one when a table changes its meaning or its columns; older layouts are refused, not guessed at.
LAYOUT_VERSION = 1
#: Column, SQL type and native name, in the order of every table of bucket rows.
ROW_COLUMNS = (
    ("series_id", "BIGINT", "series_ids"),
    ("time", "TIMESTAMP_NS", "times"),
    ("count", "BIGINT", "counts"),
    ("sum", "DOUBLE", "sums"),
    ("min", "DOUBLE", "mins"),
    ("max", "DOUBLE", "maxs"),
    ("first", "DOUBLE", "firsts"),
    ("last", "DOUBLE", "lasts"),
    ("first_time", "TIMESTAMP_NS", "first_times"),
    ("last_time", "TIMESTAMP_NS", "last_times"),
)
COLUMN_LIST = ", ".join(f't."{name}"' for name, _, _ in ROW_COLUMNS)
#: The oldest time that DuckDB can hold; nothing is older, so it also stands for "nothing removed yet".
OLDEST_NS = -(2**63) + 2

_TABLES = {tier.name: [(name, sql_type) for name, sql_type, _ in ROW_COLUMNS] for tier in TIERS} | {
    "rollup_store": [("layout_version", "INTEGER"), ("flushed_sequence", "UBIGINT")],
    "rollup_kept": [("tier", "VARCHAR"), ("kept_from_ns", "BIGINT")],
}
_ARROW_SCHEMA = pa.schema(
    [(name, pa.float64() if sql_type == "DOUBLE" else pa.int64()) for name, sql_type, _ in ROW_COLUMNS]
)


def initialise(connection: duckdb.DuckDBPyConnection) -> None:
    """Create the tables, or check that those present are of this layout; raises Damage when they are not."""
    found: dict[str, list[tuple[str, str]]] = {}
    columns_found: list[Any] = connection.execute(
        "SELECT table_name, column_name, data_type FROM duckdb_columns()"
        " WHERE database_name = current_database() AND schema_name = current_schema() AND NOT internal"
        " ORDER BY table_name, column_index"
    ).fetchall()
    for table, column, sql_type in columns_found:
        if table in _TABLES:
            found.setdefault(table, []).append((column, sql_type))
    if not found:
        _create(connection)
        return
    path = _path_of(connection)
    if found.get("rollup_store", [])[:1] != _TABLES["rollup_store"][:1]:
        raise Damage("cannot open rollup database: got rollup tables without a layout version", path=path)
    versions = [row[0] for row in connection.execute("SELECT layout_version FROM rollup_store").fetchall()]
    if len(versions) != 1:
        raise Damage(f"cannot open rollup database: got {len(versions)} layout versions, want one", path=path)
    if versions[0] > LAYOUT_VERSION:
        raise NewerFormat(
            f"cannot open rollup database: it was written by a newer version (layout {versions[0]}, this version "
            f"reads {LAYOUT_VERSION})",
            path=path,
        )
    if versions[0] < LAYOUT_VERSION:
        raise Damage(f"cannot open rollup database: got layout {versions[0]}, want {LAYOUT_VERSION}", path=path)
    for table, columns in _TABLES.items():
        if found.get(table) != columns:
            raise Damage(
                f"cannot open rollup database: got table {table} with columns {found.get(table)}, want {columns}",
                path=path,
            )
    if set(kept_from(connection)) != {tier.name for tier in TIERS}:
        raise Damage(f"cannot open rollup database: got retention of tiers {sorted(kept_from(connection))}", path=path)


def _create(connection: duckdb.DuckDBPyConnection) -> None:
    for table, columns in _TABLES.items():
        described = ", ".join(f'"{name}" {sql_type} NOT NULL' for name, sql_type in columns)
        connection.execute(f"CREATE TABLE {table} ({described})")
    connection.execute("INSERT INTO rollup_store VALUES (?, 0)", [LAYOUT_VERSION])
    for tier in TIERS:
        connection.execute("INSERT INTO rollup_kept VALUES (?, ?)", [tier.name, OLDEST_NS])


def _path_of(connection: duckdb.DuckDBPyConnection) -> str:
    found: Any = connection.execute(
        "SELECT path FROM duckdb_databases() WHERE database_name = current_database()"
    ).fetchall()
    return str(found[0][0] or ":memory:")


def kept_from(connection: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """Return for each tier the time (ns) before which retention has removed everything."""
    return {
        str(tier): int(time_ns)
        for tier, time_ns in connection.execute("SELECT tier, kept_from_ns FROM rollup_kept").fetchall()
    }


def set_kept_from(connection: duckdb.DuckDBPyConnection, tier: str, time_ns: int) -> None:
    connection.execute("UPDATE rollup_kept SET kept_from_ns = ? WHERE tier = ?", [time_ns, tier])


def columns_of(table: pa.Table | pa.RecordBatch) -> Columns:
    """Return the columns of bucket rows with int64 times; raises Bug for other columns, types or nulls."""
    if isinstance(table, pa.RecordBatch):
        table = pa.Table.from_batches([table])
    if sorted(table.schema.names) != sorted(_ARROW_SCHEMA.names):
        raise Bug(f"cannot use bucket rows: got columns {table.schema.names}, want {_ARROW_SCHEMA.names}")
    for name, want in zip(_ARROW_SCHEMA.names, _ARROW_SCHEMA.types, strict=True):
        got = table.column(name)
        if got.type != want or got.null_count:
            raise Bug(
                f"cannot use bucket rows: got column {name} of {got.type} with {got.null_count} nulls, want {want}"
            )
    return {name: table.column(name).to_numpy() for name in _ARROW_SCHEMA.names}


def merge_columns(columns: Columns, width_ns: int) -> Columns:
    """Return buckets of ``width_ns`` merged from narrower ones (:func:`native.merging.merge_buckets`)."""
    given = {native_name: columns[name] for name, _, native_name in ROW_COLUMNS}
    merged = merge_buckets(**given, width_ns=width_ns)
    return {name: getattr(merged, native_name) for name, _, native_name in ROW_COLUMNS}


def timestamps(times: npt.NDArray[np.int64]) -> pa.Array:
    """Return the same numbers as Arrow timestamps; nothing is copied."""
    return pa.array(times).view(pa.timestamp("ns"))


def stored_table_of(columns: Columns) -> pa.Table:
    """Return columns as an Arrow table of the types that the tiers' tables have."""
    return pa.table(
        {
            name: timestamps(columns[name]) if sql_type == "TIMESTAMP_NS" else columns[name]
            for name, sql_type, _ in ROW_COLUMNS
        }
    )


def no_rows() -> pa.Table:
    """Return bucket rows with int64 times, none of them."""
    return _ARROW_SCHEMA.empty_table()


def with_int64_times(table: pa.Table) -> pa.Table:
    """Return a result's rows with its timestamps as int64 nanoseconds; nothing is copied."""
    return table.cast(_ARROW_SCHEMA)
