"""Taking over a rollup database of layout 1: one table a tier, a row for each (series, bucket).

Its rows may be older than raw retention, so that they can be had from nowhere else.  They are read a slice of time
after the other and packed; tables and rows change places in the transaction that the caller has begun.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from engine.errors import Damage
from engine.model.rows import FIELD_ID_BITS, MAX_FIELDS
from engine.rollups import schema
from engine.rollups.long import INTEGERS, NAMES, columns_of, rows_of_long
from engine.rollups.rows import TierRows
from engine.rollups.shelf import UNKNOWN_TABLE, Shelf
from engine.rollups.tiers import TIERS, Tier

if TYPE_CHECKING:
    import duckdb

ROWS_AT_A_TIME = 500_000

COLUMNS_1 = [
    (name, "TIMESTAMP_NS" if name.endswith("time") else "BIGINT" if name in INTEGERS else "DOUBLE") for name in NAMES
]


def take_over(connection: duckdb.DuckDBPyConnection, shelf: Shelf, rows_at_a_time: int = ROWS_AT_A_TIME) -> None:
    """Pack the rows of layout 1 and drop its tables.  Raises Damage when these are not as they should be."""
    found = schema.found_columns(connection)
    for tier in TIERS:
        if found.get(tier.name) != COLUMNS_1:
            raise Damage(
                f"cannot open rollup database: got table {tier.name} with columns {found.get(tier.name)},"
                f" want {COLUMNS_1} in layout {schema.MIGRATED_VERSION}",
                path=schema.path_of(connection),
            )
    schema.create_table(connection, "rollup_parts", schema.TABLES["rollup_parts"])
    for tier in TIERS:
        for rows in _slices(connection, tier, rows_at_a_time):
            shelf.add(tier, UNKNOWN_TABLE, rows)
            shelf.settle()
        connection.execute(f"DROP TABLE {tier.name}")
    connection.execute("UPDATE rollup_store SET layout_version = ?", [schema.LAYOUT_VERSION])


def _slices(connection: duckdb.DuckDBPyConnection, tier: Tier, rows_at_a_time: int) -> Iterator[TierRows]:
    counted = connection.execute(
        f"SELECT epoch_ns(time), count(*) FROM {tier.name} GROUP BY time ORDER BY time"
    ).fetchall()
    start = held = 0
    for number, (_, count) in enumerate(counted):
        held += count
        if held >= rows_at_a_time or number == len(counted) - 1:
            first_ns, last_ns = counted[start][0], counted[number][0]
            names = ", ".join(f'"{name}"' for name in NAMES)
            table = connection.sql(
                f"SELECT {names} FROM {tier.name} WHERE time BETWEEN make_timestamp_ns({first_ns})"
                f" AND make_timestamp_ns({last_ns})"
            ).to_arrow_table()
            yield from _by_fields(table)
            start, held = number + 1, 0


def _by_fields(table: pa.Table) -> Iterator[TierRows]:
    """Yield the rows of tag sets that have the same fields: of one table, that is, as far as it can be told."""
    long = table.cast(pa.schema([(name, pa.int64() if name in INTEGERS else pa.float64()) for name in NAMES]))
    columns = columns_of(long)
    series = np.unique(columns["series_id"])
    tagset_ids, starts = np.unique(series >> FIELD_ID_BITS, return_index=True)
    fields = np.split(series & (MAX_FIELDS - 1), starts[1:])
    numbers: dict[bytes, int] = {}
    group = np.array([numbers.setdefault(each.tobytes(), len(numbers)) for each in fields], np.int64)
    of_row = group[np.searchsorted(tagset_ids, columns["series_id"] >> FIELD_ID_BITS)]
    for number in range(len(numbers)):
        chosen = of_row == number
        yield rows_of_long({name: column[chosen] for name, column in columns.items()})
