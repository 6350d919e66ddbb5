"""Pieces of a flush from long rows, and tiers altered from outside, for tests."""

from __future__ import annotations

import shutil
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa

from engine.rollups.long import INTEGERS, NAMES, columns_of, rows_of_long
from engine.rollups.packs import Packs, pack_directory
from engine.rollups.pairs import Pairs
from engine.rollups.shelf import UNKNOWN_TABLE
from engine.rollups.store import Piece, RollupStore
from engine.rollups.tiers import BASE, TIERS

SQL_TYPES = [
    (name, "TIMESTAMP_NS" if name.endswith("time") else "BIGINT" if name in INTEGERS else "DOUBLE") for name in NAMES
]
LONG = pa.schema([(name, pa.int64() if name in INTEGERS else pa.float64()) for name in NAMES])


def piece_of(buckets: pa.Table, dirty: pa.Table, table_id: int = UNKNOWN_TABLE) -> Piece:
    """Return what a flush is handed for complete 1m rows (long) of dirty (tagset_id, bucket) pairs."""
    pairs = Pairs.of(
        dirty.column("tagset_id").to_numpy().astype(np.int32),
        dirty.column("bucket").to_numpy().astype(np.int64),
        BASE.width_ns,
    )
    return Piece(table_id, rows_of_long(columns_of(buckets)), pairs)


def altered(data: Path, target: Path, *statements: str) -> Path:
    """Copy a data directory and run SQL over its tiers as if they were tables of long rows."""
    shutil.copytree(data, target)
    run_on_tiers(target, *statements)
    return target


def run_on_tiers(target: Path, *statements: str) -> None:
    """Run SQL over the tiers of a data directory as if they were tables of long rows."""
    connection = duckdb.connect(str(target / "rollups.duckdb"))
    packs = Packs(pack_directory(str(target / "rollups.duckdb")))
    store = RollupStore(connection, packs)
    for tier in TIERS:
        held = store.rows(tier.name, -(2**63), 2**63 - 1)
        connection.register("held", held)
        times = ", ".join(
            f'make_timestamp_ns("{name}")::TIMESTAMP_NS AS "{name}"' if kind == "TIMESTAMP_NS" else f'"{name}"'
            for name, kind in SQL_TYPES
        )
        connection.execute(f"CREATE TEMP TABLE {tier.name} AS SELECT {times} FROM held")
        connection.unregister("held")
    for statement in statements:
        connection.execute(statement)
    if any(tier.name in statement.split("WHERE")[0] for statement in statements for tier in TIERS):
        with store._transaction():
            for part in store.parts():
                store._shelf.drop(part)
            for tier in TIERS:
                # A row that is there twice goes into another part: one part cannot hold it.
                numbered = connection.sql(
                    f"SELECT *, row_number() OVER (PARTITION BY series_id, time) AS n FROM {tier.name}"
                ).to_arrow_table()
                for n in sorted(set(numbered["n"].to_pylist())):
                    long = numbered.filter(pa.array(numbered["n"].to_numpy() == n)).select(list(NAMES)).cast(LONG)
                    store._shelf.add(tier, UNKNOWN_TABLE, rows_of_long(columns_of(long)))
    connection.close()
