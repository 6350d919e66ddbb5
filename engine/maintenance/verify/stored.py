"""The stored tiers, read without changing anything."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from engine.errors import Damage, NewerFormat
from engine.maintenance.verify.packs import check_packs
from engine.maintenance.verify.report import Report
from engine.query.connection import ROLLUP_DATABASE, connect
from engine.rollups import schema
from engine.rollups.long import NAMES, Columns, columns_of, empty_table, long_table
from engine.rollups.packs import Packs, pack_directory
from engine.rollups.shelf import LostPack, Part, read_part
from engine.rollups.store import FOREVER_NS, RollupStore
from engine.rollups.tiers import TIERS, Tier

if TYPE_CHECKING:
    import duckdb

MEMORY_BYTES = 512 << 20
THREADS = 2
HELD_ROWS = 1_000_000


class StoredTiers:
    """Rows of every tier, by range of time and of series."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, packs: Packs) -> None:
        store = RollupStore(connection, packs)
        self._packs = packs
        self._parts: dict[str, list[Part]] = {tier.name: [] for tier in TIERS}
        for part in store.parts():
            self._parts[part.tier].append(part)
        #: Parts that were unpacked last, as neighbouring windows mostly need the same.
        self._held: dict[int, Columns] = {}
        self._held_rows = 0
        self.watermark = store.watermark()
        self.kept_from_ns = schema.kept_from(connection)

    def every_part(self) -> list[Part]:
        return [part for parts in self._parts.values() for part in parts]

    def extent(self, tier: Tier) -> tuple[int, int] | None:
        """Return the oldest and the newest bucket of a tier, None when it is empty."""
        parts = self._between(tier, schema.OLDEST_NS, FOREVER_NS)
        if not parts:
            return None
        oldest = max(self.kept_from_ns[tier.name], min(part.first_ns for part in parts))
        return oldest, max(part.last_ns for part in parts)

    def count(self, tier: Tier, start_ns: int, end_ns: int) -> int:
        start_ns = max(start_ns, self.kept_from_ns[tier.name])
        found = 0
        for part in self._between(tier, start_ns, end_ns):
            if start_ns <= part.first_ns and part.last_ns < end_ns:
                found += part.series_rows
            else:
                times = self._columns(part)["time"]
                found += int(((times >= start_ns) & (times < end_ns)).sum())
        return found

    def rows(
        self, tier: Tier, start_ns: int, end_ns: int, first_series: int | None = None, end_series: int | None = None
    ) -> Columns:
        """Return the rows of a range, sorted by (series, time); ``None`` leaves the range of series open."""
        start_ns = max(start_ns, self.kept_from_ns[tier.name])
        found = [columns_of(empty_table())]
        for part in self._between(tier, start_ns, end_ns):
            columns = self._columns(part)
            mask = (columns["time"] >= start_ns) & (columns["time"] < end_ns)
            if first_series is not None:
                mask &= columns["series_id"] >= first_series
            if end_series is not None:
                mask &= columns["series_id"] < end_series
            found.append({name: column[mask] for name, column in columns.items()})
        together = {name: np.concatenate([each[name] for each in found]) for name in NAMES}
        order = np.lexsort((together["time"], together["series_id"]))
        return {name: column[order] for name, column in together.items()}

    def _between(self, tier: Tier, start_ns: int, end_ns: int) -> list[Part]:
        start_ns = max(start_ns, self.kept_from_ns[tier.name])
        return [part for part in self._parts[tier.name] if part.last_ns >= start_ns and part.first_ns < end_ns]

    def _columns(self, part: Part) -> Columns:
        columns = self._held.pop(part.number, None)
        if columns is None:
            columns = columns_of(long_table([read_part(self._packs, part)]))
            self._held_rows += part.series_rows
        self._held[part.number] = columns
        while self._held_rows > HELD_ROWS and len(self._held) > 1:
            oldest = next(iter(self._held))
            self._held_rows -= len(self._held.pop(oldest)["time"])
        return columns


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
            packs = Packs(pack_directory(path))
            try:
                RollupStore(connection, packs).check()
            except NewerFormat:
                raise
            except LostPack as error:
                report.add("rollups_damaged", error.path, error.message)
                yield None
                return
            except Damage as error:
                report.add("rollups_layout", path, error.message)
                yield None
                return
            tiers = StoredTiers(connection, packs)
            if not check_packs(packs, tiers.every_part(), report):
                yield None
                return
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
        except Damage as error:
            report.add("rollups_damaged", error.path, error.message)
        except duckdb.Error as error:
            # DuckDB checks its blocks as it reads them.
            report.add("rollups_damaged", path, str(error).splitlines()[0])
    finally:
        root.close()
