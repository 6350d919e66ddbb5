"""The stored tiers, read without changing the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from engine.errors import Damage, NewerFormat
from engine.maintenance.verify.report import Report
from engine.query.connection import ROLLUP_DATABASE, connect
from engine.rollups import schema
from engine.rollups.store import RollupStore
from engine.rollups.tiers import Tier

if TYPE_CHECKING:
    import duckdb

MEMORY_BYTES = 512 << 20
THREADS = 2


class StoredTiers:
    """Rows of every tier, by range of time and of series."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        store = RollupStore(connection)
        self.watermark = store.watermark()
        self.kept_from_ns = schema.kept_from(connection)

    def extent(self, tier: Tier) -> tuple[int, int] | None:
        """Return the oldest and the newest bucket of a tier, None when it is empty."""
        found = self._connection.execute(f"SELECT epoch_ns(min(time)), epoch_ns(max(time)) FROM {tier.name}").fetchall()
        return None if found[0][0] is None else (int(found[0][0]), int(found[0][1]))

    def count(self, tier: Tier, start_ns: int, end_ns: int) -> int:
        found = self._connection.execute(
            f"SELECT count(*) FROM {tier.name} t WHERE {_between(start_ns, end_ns)}"
        ).fetchall()
        return int(found[0][0])

    def rows(
        self, tier: Tier, start_ns: int, end_ns: int, first_series: int | None = None, end_series: int | None = None
    ) -> schema.Columns:
        """Return the rows of a range, sorted by (series, time); ``None`` leaves the range of series open."""
        where = _between(start_ns, end_ns)
        if first_series is not None:
            where += f" AND t.series_id >= {first_series}"
        if end_series is not None:
            where += f" AND t.series_id < {end_series}"
        found = self._connection.sql(
            f"SELECT {schema.COLUMN_LIST} FROM {tier.name} t WHERE {where} ORDER BY t.series_id, t.time"
        ).to_arrow_table()
        return schema.columns_of(schema.with_int64_times(found))


def _between(start_ns: int, end_ns: int) -> str:
    return f"t.time >= make_timestamp_ns({start_ns}) AND t.time < make_timestamp_ns({end_ns})"


@contextmanager
def open_tiers(path: str, report: Report, *, needed: bool) -> Iterator[StoredTiers | None]:
    """Give the tiers of the file at ``path``, None when they cannot be read (which is reported).

    ``needed``: whether there must be tiers by now.
    """
    import duckdb

    try:
        root = connect(path, MEMORY_BYTES, THREADS, read_only=True)
    except Damage as error:
        report.add("rollups_damaged", path, error.message)
        yield None
        return
    try:
        try:
            connection = root.cursor()
            connection.execute(f"USE {ROLLUP_DATABASE}")
            if not connection.execute("SELECT count(*) FROM duckdb_tables()").fetchall()[0][0]:
                if needed:
                    report.add("rollups_missing", path, "the database has no tables", "the tiers of what was sealed")
                yield None
                return
            try:
                RollupStore(connection).initialise()
            except NewerFormat:
                raise
            except Damage as error:
                report.add("rollups_layout", path, error.message)
                yield None
                return
            tiers = StoredTiers(connection)
        except NewerFormat as error:
            report.add("rollups_newer", path, error.message)
            yield None
            return
        except duckdb.Error as error:
            report.add("rollups_damaged", path, str(error).splitlines()[0])
            yield None
            return
        try:
            yield tiers
        except duckdb.Error as error:
            # DuckDB checks its blocks as it reads them.
            report.add("rollups_damaged", path, str(error).splitlines()[0])
    finally:
        root.close()
