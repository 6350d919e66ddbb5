"""Tables of the rollup database (docs/formats/rollups.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.errors import Damage, NewerFormat
from engine.rollups.tiers import TIERS

if TYPE_CHECKING:
    import duckdb

#: Raised by one when a table changes its meaning or its columns; a newer one is refused by name.
LAYOUT_VERSION = 2
#: The layout before: one table a tier with a row for each (series, bucket); see :mod:`engine.rollups.migrate`.
MIGRATED_VERSION = 1
#: The oldest time that DuckDB can hold; nothing is older, so it also stands for "nothing removed yet".
OLDEST_NS = -(2**63) + 2

TABLES: dict[str, list[tuple[str, str]]] = {
    "rollup_store": [("layout_version", "INTEGER"), ("flushed_sequence", "UBIGINT")],
    "rollup_kept": [("tier", "VARCHAR"), ("kept_from_ns", "BIGINT")],
    "rollup_parts": [
        ("part", "BIGINT"),
        ("tier", "VARCHAR"),
        ("table_id", "INTEGER"),
        ("first_tagset", "INTEGER"),
        ("last_tagset", "INTEGER"),
        ("first_ns", "BIGINT"),
        ("last_ns", "BIGINT"),
        ("rows", "BIGINT"),
        ("runs", "BIGINT"),
        ("series_rows", "BIGINT"),
        ("pack", "BIGINT"),
        ("start", "BIGINT"),
        ("head_bytes", "BIGINT"),
        ("bytes", "BIGINT"),
    ],
}


def found_version(connection: duckdb.DuckDBPyConnection) -> int | None:
    """Return the layout of the current database, None when it is empty.  Raises Damage when it is none of ours."""
    found = found_columns(connection)
    if not found:
        return None
    path = path_of(connection)
    if found.get("rollup_store", [])[:1] != TABLES["rollup_store"][:1]:
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
    if versions[0] < MIGRATED_VERSION:
        raise Damage(f"cannot open rollup database: got layout {versions[0]}, want {LAYOUT_VERSION}", path=path)
    return int(versions[0])


def check(connection: duckdb.DuckDBPyConnection) -> None:
    """Check that the tables are those of this layout; raises Damage when they are not."""
    found, path = found_columns(connection), path_of(connection)
    for table, columns in TABLES.items():
        if found.get(table) != columns:
            raise Damage(
                f"cannot open rollup database: got table {table} with columns {found.get(table)}, want {columns}",
                path=path,
            )
    if set(kept_from(connection)) != {tier.name for tier in TIERS}:
        raise Damage(f"cannot open rollup database: got retention of tiers {sorted(kept_from(connection))}", path=path)


def create(connection: duckdb.DuckDBPyConnection) -> None:
    """Create the tables of an empty database."""
    for table, columns in TABLES.items():
        create_table(connection, table, columns)
    connection.execute("INSERT INTO rollup_store VALUES (?, 0)", [LAYOUT_VERSION])
    for tier in TIERS:
        connection.execute("INSERT INTO rollup_kept VALUES (?, ?)", [tier.name, OLDEST_NS])


def create_table(connection: duckdb.DuckDBPyConnection, table: str, columns: list[tuple[str, str]]) -> None:
    described = ", ".join(f'"{name}" {sql_type} NOT NULL' for name, sql_type in columns)
    connection.execute(f"CREATE TABLE {table} ({described})")


def found_columns(connection: duckdb.DuckDBPyConnection) -> dict[str, list[tuple[str, str]]]:
    """Return the columns (name, type) of the tables of any layout that are there."""
    found: dict[str, list[tuple[str, str]]] = {}
    rows: list[Any] = connection.execute(
        "SELECT table_name, column_name, data_type FROM duckdb_columns()"
        " WHERE database_name = current_database() AND schema_name = current_schema() AND NOT internal"
        " ORDER BY table_name, column_index"
    ).fetchall()
    for table, column, sql_type in rows:
        if str(table).startswith("rollup_"):
            found.setdefault(table, []).append((column, sql_type))
    return found


def path_of(connection: duckdb.DuckDBPyConnection) -> str:
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
