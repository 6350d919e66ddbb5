"""The tiers in DuckDB: flushing recomputed 1m buckets, carrying them up the tiers, reading, retention.

Each operation is one transaction, and a flush is idempotent: what was interrupted is simply flushed again.
Tables have no primary key (its index would double the file and slow every write): a flush removes what it replaces and
inserts, and buckets newer than everything stored, which is what ordinary data brings, are only inserted.
Layout and order of summation: docs/formats/rollups.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine.errors import Bug, NotFound
from engine.model.rows import FIELD_ID_BITS, Int32Array
from engine.rollups import schema
from engine.rollups.pairs import Pairs
from engine.rollups.tiers import BASE, TIER_OF_NAME, TIERS, Tier, tier_above
from native.sorting import sort_order

if TYPE_CHECKING:
    import duckdb

#: A flush works through as many source rows at a time (about 80 bytes each), however much it has to do.
ROWS_AT_A_TIME = 1_000_000
MAX_TAGSET_ID = 2**31 - 1
NEWEST_NS = 2**63 - 2  # DuckDB keeps the last values of int64 for infinity


@dataclass(frozen=True, slots=True)
class TierStats:
    """``bytes`` counts whole blocks of the file; rows that no checkpoint has written yet occupy none."""

    tier: str
    rows: int
    bytes: int


def _no_rows_yet() -> dict[str, int]:
    return dict.fromkeys(TIER_OF_NAME, 0)


@dataclass(slots=True)
class FlushReport:
    """What one flush did, by tier: rows inserted and removed, and (tag set, bucket) pairs left alone because retention
    has removed their buckets or what these are made from.
    """

    inserted: dict[str, int] = field(default_factory=_no_rows_yet)
    removed: dict[str, int] = field(default_factory=_no_rows_yet)
    expired_pairs: dict[str, int] = field(default_factory=_no_rows_yet)


class RollupStore:
    """The tiers in the current database of one connection.  One thread at a time.

    The caller owns the connection and its configuration; a reader in another thread makes a store of its own over a
    cursor of the connection, and only one store writes.  Errors of DuckDB itself pass through unchanged.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, *, rows_at_a_time: int = ROWS_AT_A_TIME) -> None:
        self._connection = connection
        self._rows_at_a_time = rows_at_a_time
        # No stored bucket of the tier is newer; what retention removes leaves it too high, which is harmless.
        self._newest_ns: dict[str, int] = {}

    def initialise(self) -> None:
        """Create the tables of an empty database, or check those that are there.

        Raises Damage for tables of another layout, by name when a newer version has written them.
        """
        with self._transaction():
            schema.initialise(self._connection)

    # --- writing

    def flush(
        self, buckets_1m: pa.Table | pa.RecordBatch, dirty: pa.Table | pa.RecordBatch, sequence: int
    ) -> FlushReport:
        """Replace the 1m rows of the ``dirty`` pairs, recompute the tiers above, set the watermark; all or nothing.

        ``dirty``: tagset_id int32, bucket int64 (ns, start of a minute).  ``buckets_1m``: every 1m row of these pairs,
        columns as in :data:`engine.rollups.schema.ROW_COLUMNS` with int64 times, in any order; a stored row of a dirty
        pair that is not among them disappears.  The watermark never goes back.  Pairs that retention has removed stay
        removed and are counted.  Raises Bug for input that contradicts itself.
        """
        rows = schema.columns_of(buckets_1m)
        pairs = Pairs.of_table(dirty, BASE.width_ns)
        _check_rows(rows, pairs)
        fields = max(1.0, len(rows["time"]) / max(1, len(pairs)))
        report = FlushReport()
        with self._transaction():
            kept_from = schema.kept_from(self._connection)
            live = _live(BASE, pairs, kept_from, report)
            if len(live) < len(pairs):
                kept = rows["time"] >= kept_from[BASE.name]
                rows = {name: column[kept] for name, column in rows.items()}
            self._replace(BASE, live, rows, report)
            for tier in TIERS[1:]:
                live = _live(tier, live.widened(tier.width_ns), kept_from, report)
                self._recompute(tier, live, fields, report)
            self._connection.execute(
                "UPDATE rollup_store SET flushed_sequence = greatest(flushed_sequence, ?)", [sequence]
            )
        return report

    def retain(self, cutoffs: Mapping[str, int]) -> int:
        """Remove rows before each tier's cutoff (ns); return how many.  Tiers not named keep everything.

        A cutoff is rounded down to a bucket of the tier above: that bucket then has all its source rows or none, and
        a late sample never replaces a whole bucket by the part that is left of it.  Raises NotFound for other names.
        """
        tiers = {name: _tier(name) for name in cutoffs}
        removed = 0
        with self._transaction():
            kept_from = schema.kept_from(self._connection)
            for name, tier in tiers.items():
                cutoff_ns = (tier_above(tier) or tier).floor(cutoffs[name])
                if cutoff_ns > kept_from[name]:
                    removed += self._count(f"DELETE FROM {name} WHERE time < {_timestamp(cutoff_ns)}")
                    schema.set_kept_from(self._connection, name, cutoff_ns)
        return removed

    def delete(self, table_id: int, tagset_ids: Int32Array, start_ns: int, end_ns: int) -> int:
        """Remove the rows of these tag sets from all tiers; return how many 1m rows have gone.

        Every minute that ``[start_ns, end_ns)`` touches goes; one that it covers only in part has to be flushed again.
        Wider buckets are made again from what is left of the tier below; where that has been forgotten already, a
        wider bucket goes as soon as the range touches it.
        """
        wanted = np.unique(np.asarray(tagset_ids, np.int32))
        report = FlushReport()
        with self._transaction():
            kept_from = schema.kept_from(self._connection)
            for tier in TIERS:
                first = max(schema.OLDEST_NS, tier.floor(max(start_ns, schema.OLDEST_NS)))
                with self._registered({"deleted_tagsets": pa.table({"tagset_id": wanted})}):
                    report.removed[tier.name] = self._count(
                        f"DELETE FROM {tier.name} t USING deleted_tagsets d"
                        f" WHERE (t.series_id >> {FIELD_ID_BITS}) = d.tagset_id AND {_between(first, end_ns)}"
                    )
                if tier is not BASE:
                    edges = {tier.floor(each) for each in (start_ns, end_ns) if schema.OLDEST_NS < each < NEWEST_NS}
                    known = max(kept_from[tier.name], kept_from[_source_of(tier).name])
                    buckets = np.array(sorted(each for each in edges if each >= known), np.int64)
                    pairs = Pairs(np.repeat(wanted, len(buckets)), np.tile(buckets, len(wanted)))
                    if len(pairs):
                        self._recompute(tier, pairs, 1.0, report)
        return report.removed[BASE.name]

    def forget(self, tier: str, table_id: int, tagset_ids: Int32Array, before_ns: int) -> int:
        """Remove the rows of one table, whose tag sets these are, from one tier before a time; return how many.

        ``before_ns`` is a multiple of the width of the tier above, see :meth:`retain`.
        """
        name = _tier(tier).name
        with (
            self._transaction(),
            self._registered({"forgotten_tagsets": pa.table({"tagset_id": np.asarray(tagset_ids, np.int32)})}),
        ):
            return self._count(
                f"DELETE FROM {name} t USING forgotten_tagsets d"
                f" WHERE (t.series_id >> {FIELD_ID_BITS}) = d.tagset_id AND t.time < {_timestamp(before_ns)}"
            )

    def checkpoint(self) -> None:
        """Move what DuckDB's log holds into the database file."""
        self._connection.execute("CHECKPOINT")

    # --- reading

    def rows(
        self,
        tier: str,
        start_ns: int,
        end_ns: int,
        series_ids: Sequence[int] | npt.NDArray[np.int64] | None = None,
    ) -> pa.Table:
        """Return a tier's buckets with ``start_ns <= time < end_ns``, of these series or of all.

        Columns as in :data:`engine.rollups.schema.ROW_COLUMNS`, times as int64 nanoseconds, sorted by series, time.
        Raises NotFound for an unknown tier.
        """
        table = _tier(tier).name
        where = _between(start_ns, end_ns)
        tables = {}
        if series_ids is not None:
            wanted = np.unique(np.asarray(series_ids, np.int64))
            if not len(wanted):
                return schema.no_rows()
            where += f" AND t.series_id BETWEEN {wanted[0]} AND {wanted[-1]}"
            if len(wanted) > 1:
                where += " AND t.series_id IN (SELECT series_id FROM wanted_series)"
                tables["wanted_series"] = pa.table({"series_id": wanted})
        with self._registered(tables):
            return schema.with_int64_times(
                self._connection.sql(
                    f"SELECT {schema.COLUMN_LIST} FROM {table} t WHERE {where} ORDER BY t.series_id, t.time"
                ).to_arrow_table()
            )

    def watermark(self) -> int:
        """Return the sequence number of the newest batch whose buckets are flushed; 0 when none is."""
        return self._count("SELECT flushed_sequence FROM rollup_store")

    def stats(self) -> list[TierStats]:
        """Return rows and bytes of each tier, from narrow to wide."""
        return [
            TierStats(tier.name, self._count(f"SELECT count(*) FROM {tier.name}"), self._bytes_of(tier))
            for tier in TIERS
        ]

    # --- steps of a flush

    def _replace(self, tier: Tier, pairs: Pairs, rows: schema.Columns, report: FlushReport) -> None:
        """Replace the buckets of ``pairs`` in the narrowest tier by ``rows``."""
        newest_ns = self._newest(tier)
        # Those of newer buckets cannot exist.
        for part in pairs.where(pairs.buckets <= newest_ns).parts(tier.width_ns, self._rows_at_a_time):
            with self._touched(part):
                self._remove(tier, part, report)
        self._insert(tier, rows, report)

    def _recompute(self, tier: Tier, pairs: Pairs, fields: float, report: FlushReport) -> None:
        """Replace the buckets of ``pairs`` in ``tier`` by what the tier below now gives."""
        # Pairs are distinct, so a bucket inserted by an earlier part of this flush is never in a later one's way.
        newest_ns = self._newest(tier)
        rows_a_pair = fields * (tier.width_ns // _source_of(tier).width_ns)
        for part in pairs.parts(tier.width_ns, max(1, int(self._rows_at_a_time / rows_a_pair))):
            with self._touched(part):
                merged = schema.merge_columns(self._source_rows(tier, part), tier.width_ns)
                if int(part.buckets.min()) <= newest_ns:
                    self._remove(tier, part, report)
            self._insert(tier, merged, report)

    def _source_rows(self, tier: Tier, part: Pairs) -> schema.Columns:
        """Return the rows of the tier below from which the touched buckets are merged."""
        start_ns, end_ns = int(part.buckets.min()), int(part.buckets.max()) + tier.width_ns
        number = f"(epoch_ns({{}}.time) - {start_ns}) // {tier.width_ns}"
        found = self._connection.sql(
            f"SELECT {schema.COLUMN_LIST} FROM {_source_of(tier).name} t SEMI JOIN touched_buckets b"
            f" ON (t.series_id >> {FIELD_ID_BITS}) = b.tagset_id AND {number.format('t')} = {number.format('b')}"
            f" WHERE {_between(start_ns, end_ns)} AND {_of_tag_sets(part)}"
        ).to_arrow_table()
        return schema.columns_of(schema.with_int64_times(found))

    def _remove(self, tier: Tier, part: Pairs, report: FlushReport) -> None:
        """Remove the stored rows of the touched buckets."""
        report.removed[tier.name] += self._count(
            f"DELETE FROM {tier.name} t USING touched_buckets b"
            f" WHERE t.time = b.time AND (t.series_id >> {FIELD_ID_BITS}) = b.tagset_id"
            f" AND {_between(int(part.buckets.min()), int(part.buckets.max()) + 1)} AND {_of_tag_sets(part)}"
        )

    def _insert(self, tier: Tier, rows: schema.Columns, report: FlushReport) -> None:
        """Insert ``rows`` bucket by bucket: in runs of equal times, which cost next to nothing once compressed."""
        series_ids, times = rows["series_id"], rows["time"]
        report.inserted[tier.name] += len(times)
        if not len(times):
            return
        order = sort_order(((times - times.min()) // tier.width_ns).astype(np.int32), series_ids)
        if ((np.diff(series_ids[order]) == 0) & (np.diff(times[order]) == 0)).any():
            raise Bug(f"cannot flush rollups: got a bucket of {tier.name} twice, want each once")
        for start in range(0, len(order), self._rows_at_a_time):
            chosen = order[start : start + self._rows_at_a_time]
            table = schema.stored_table_of({name: column[chosen] for name, column in rows.items()})
            with self._registered({"new_rows": table}):
                self._connection.execute(f"INSERT INTO {tier.name} SELECT * FROM new_rows")
        self._newest_ns[tier.name] = max(self._newest(tier), int(times.max()))

    def _newest(self, tier: Tier) -> int:
        if tier.name not in self._newest_ns:
            self._newest_ns[tier.name] = self._count(
                f"SELECT coalesce(epoch_ns(max(time)), {schema.OLDEST_NS}) FROM {tier.name}"
            )
        return self._newest_ns[tier.name]

    # --- DuckDB

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN TRANSACTION")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            self._newest_ns.clear()
            self._rollback()
            raise

    def _rollback(self) -> None:
        try:
            self._connection.execute("ROLLBACK")
        except Exception:
            # A failed COMMIT, or an error that invalidated the database, has already ended the transaction, and what
            # went wrong first is what the caller must hear of.
            return

    def _touched(self, part: Pairs) -> AbstractContextManager[None]:
        """Make ``part`` the relation ``touched_buckets``; one for reading and removing, as each costs half a ms."""
        buckets = schema.timestamps(part.buckets)
        return self._registered({"touched_buckets": pa.table({"tagset_id": part.tagset_ids, "time": buckets})})

    @contextmanager
    def _registered(self, tables: Mapping[str, pa.Table]) -> Iterator[None]:
        for name, table in tables.items():
            self._connection.register(name, table)
        try:
            yield
        finally:
            for name in tables:
                self._connection.unregister(name)

    def _count(self, sql: str) -> int:
        row: Any = self._connection.execute(sql).fetchall()[0]
        return int(row[0])

    def _bytes_of(self, tier: Tier) -> int:
        segments = f"FROM pragma_storage_info('{tier.name}') WHERE persistent"
        return self._count(
            "SELECT count(DISTINCT block_id) * (SELECT any_value(block_size) FROM pragma_database_size()"
            " WHERE database_name = current_database())"
            f" FROM (SELECT block_id {segments} UNION ALL SELECT unnest(additional_block_ids) {segments})"
        )


def _tier(name: str) -> Tier:
    try:
        return TIER_OF_NAME[name]
    except KeyError:
        raise NotFound(f"cannot find rollup tier: got {name!r}, want one of {', '.join(TIER_OF_NAME)}") from None


def _source_of(tier: Tier) -> Tier:
    if tier.source is None:
        raise Bug(f"cannot recompute {tier.name}: it is made from raw samples, want a tier above it")
    return TIER_OF_NAME[tier.source]


def _live(tier: Tier, pairs: Pairs, kept_from: Mapping[str, int], report: FlushReport) -> Pairs:
    """Return the pairs that retention has not removed from ``tier``, and report the others."""
    live = pairs.where(pairs.buckets >= kept_from[tier.name])
    report.expired_pairs[tier.name] = len(pairs) - len(live)
    return live


def _check_rows(rows: schema.Columns, pairs: Pairs) -> None:
    """Raise Bug unless every row is the bucket of a pair."""
    series_ids, times = rows["series_id"], rows["time"]
    if not len(times):
        return
    tagset_ids = series_ids >> FIELD_ID_BITS
    if tagset_ids.min() < 0 or tagset_ids.max() > MAX_TAGSET_ID:
        raise Bug(f"cannot flush rollups: got series {series_ids.min()}..{series_ids.max()}, want tag sets of int32")
    if (times % BASE.width_ns).any():
        raise Bug(f"cannot flush rollups: got a row between bucket starts, want multiples of {BASE.width_ns} ns")
    if not pairs.cover(tagset_ids.astype(np.int32), times, BASE.width_ns):
        raise Bug("cannot flush rollups: got rows of buckets that are not among the dirty pairs")


def _timestamp(time_ns: int) -> str:
    return f"make_timestamp_ns({min(max(time_ns, schema.OLDEST_NS), NEWEST_NS)})"


def _between(start_ns: int, end_ns: int) -> str:
    # Constants, so that DuckDB skips row groups by their smallest and largest time.
    return f"t.time >= {_timestamp(start_ns)} AND t.time < {_timestamp(end_ns)}"


def _of_tag_sets(part: Pairs) -> str:
    first, last = int(part.tagset_ids.min()), int(part.tagset_ids.max())
    return f"t.series_id BETWEEN {first << FIELD_ID_BITS} AND {((last + 1) << FIELD_ID_BITS) - 1}"
