"""The tiers in DuckDB: flushing recomputed 1m buckets, carrying them up the tiers, reading, retention, deletion.

Rows are kept packed, in parts (:mod:`engine.rollups.parts`).  Each operation is one transaction, and a flush is
idempotent: what was interrupted is simply flushed again.  Parts never change: one that holds a row which is replaced is
written again without it, and small ones that lie next to each other become one in time.
Layout and order of summation: docs/formats/rollups.md.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine.errors import Bug, Damage, LostRollups, NotFound
from engine.model.rows import FIELD_ID_BITS, MAX_FIELDS, Int32Array, distinct
from engine.rollups import migrate, schema
from engine.rollups.compact import crowded
from engine.rollups.long import NAMES, long_table
from engine.rollups.packs import Packs
from engine.rollups.pairs import Pairs
from engine.rollups.rows import TierRows, concat
from engine.rollups.shelf import UNKNOWN_TABLE, DamagedPart, Part, Shelf
from engine.rollups.stored import PartRange, stored_parts, stored_rows, tagset_range
from engine.rollups.tiers import BASE, QUIET_NS, TIER_OF_NAME, TIERS, Tier, tier_above
from native.rollup import select_buckets

if TYPE_CHECKING:
    import duckdb

LOG = logging.getLogger("tidegauge.rollups")
#: Cells (rows times fields) that are merged at a time, about 80 bytes each.
CELLS_AT_A_TIME = 1_000_000
FOREVER_NS = 2**63 - 1
#: Buckets that are made of so many narrower ones are not made anew when only newer ones are added.
GROWING_RATIO = 8


@dataclass(frozen=True, slots=True)
class TierStats:
    """``rows``: (series, bucket); ``bytes``: what they are packed into, without the database's own share."""

    tier: str
    rows: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Piece:
    """What is flushed of one table: the complete 1m rows of these (tag set, minute) pairs, in any order."""

    table_id: int
    rows: TierRows
    pairs: Pairs


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

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        packs: Packs | None = None,
        *,
        cells_at_a_time: int = CELLS_AT_A_TIME,
    ) -> None:
        """``packs``: the pack files of this database, shared by its stores; by default they are kept in memory."""
        self._connection = connection
        self._cells_at_a_time = cells_at_a_time
        self._packs = packs if packs is not None else Packs(None)
        self._shelf = Shelf(connection, self._packs)

    def initialise(self) -> int:
        """Create the tables of an empty database, or check those that are there; return the layout that was found.

        Tables of the layout before are taken over into this one.  Raises Damage for others, by name when a newer
        version has written them.
        """
        with self._transaction():
            found = schema.found_version(self._connection)
            if found is None:
                # The packs of a database that was lost may hold what raw samples no longer have: they are not removed.
                name = self._packs.set_aside()
                if name is not None:
                    LOG.error("the rollup database is empty, though there are packs: renamed to %s", name)
                schema.create(self._connection)
            elif found == schema.MIGRATED_VERSION:
                migrate.take_over(self._connection, self._shelf)
                self._shelf.write()
            schema.check(self._connection)
            self._shelf.check_packs()
            self._shelf.clean()
        return schema.LAYOUT_VERSION if found is None else found

    def check(self) -> None:
        """Check the tables and the packs without changing anything; raises Damage."""
        if schema.found_version(self._connection) != schema.LAYOUT_VERSION:
            raise Damage(
                f"cannot check rollup database: it is of another layout than {schema.LAYOUT_VERSION}; start the server"
                " once, which takes it over",
                path=schema.path_of(self._connection),
            )
        schema.check(self._connection)
        self._shelf.check_packs()

    # --- writing

    def flush(self, pieces: Sequence[Piece], sequence: int = 0) -> FlushReport:
        """Replace the 1m rows of each piece's pairs, recompute the tiers above, set the watermark; all or nothing.

        A stored row of a pair that is not among the piece's rows disappears.  The watermark never goes back.  Pairs
        that retention has removed stay removed and are counted.  Raises Bug for input that contradicts itself.
        """
        report = FlushReport()
        with self._transaction():
            kept_from = schema.kept_from(self._connection)
            for piece in pieces:
                self._flush_piece(piece, kept_from, report)
                self._shelf.settle()
            self._connection.execute(
                "UPDATE rollup_store SET flushed_sequence = greatest(flushed_sequence, ?)", [sequence]
            )
        return report

    def retain(self, cutoffs: Mapping[str, int]) -> int:
        """Forget rows before each tier's cutoff (ns); return how many have gone from the file.

        Tiers not named keep everything.  A cutoff is rounded down to a bucket of the tier above: that bucket then has
        all its source rows or none, and a late sample never replaces a whole bucket by the part that is left of it.
        From then on no older row is seen; a part goes from the file when all of it is older.
        Raises NotFound for other names.
        """
        tiers = {name: _tier(name) for name in cutoffs}
        removed = 0
        with self._transaction():
            kept_from = schema.kept_from(self._connection)
            for name, tier in tiers.items():
                cutoff_ns = (tier_above(tier) or tier).floor(cutoffs[name])
                if cutoff_ns > kept_from[name]:
                    schema.set_kept_from(self._connection, name, cutoff_ns)
            kept_from = schema.kept_from(self._connection)
            for part in list(self._shelf.all_parts()):
                if part.tier in tiers and part.last_ns < kept_from[part.tier]:
                    removed += part.series_rows
                    self._shelf.drop(part)
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
            touched = self._touched(BASE, table_id, wanted, start_ns, end_ns)
            self._replace(BASE, table_id, touched, TierRows.empty(), report)
            for tier in TIERS[1:]:
                source = _source_of(tier)
                touched = self._touched(tier, table_id, wanted, start_ns, end_ns)
                known = touched.buckets >= max(kept_from[source.name], kept_from[tier.name])
                self._replace(tier, table_id, touched.where(~known), TierRows.empty(), report)
                self._recompute(tier, table_id, touched.where(known), 1, report)
                self._shelf.settle()
        return report.removed[BASE.name]

    def forget(self, tier: str, table_id: int, tagset_ids: Int32Array, before_ns: int) -> int:
        """Remove the rows of one table, whose tag sets these are, from one tier before a time; return how many.

        ``before_ns`` is a multiple of the width of the tier above, see :meth:`retain`.
        """
        name = _tier(tier).name
        wanted = np.unique(np.asarray(tagset_ids, np.int32))
        removed = 0
        with self._transaction():
            for part in self._shelf.parts(name, table_id):
                if part.first_ns >= before_ns:
                    continue
                rows = self._shelf.read(part)
                gone = (rows.times < before_ns) & np.isin(rows.tagset_ids, wanted)
                if gone.any():
                    kept = rows.take(~gone)
                    removed += part.series_rows - kept.series_rows()
                    self._shelf.drop(part)
                    if len(kept):
                        self._shelf.add(TIER_OF_NAME[name], part.table_id, kept.contiguous())
        return removed

    def give_up(self, damaged: DamagedPart) -> Damage:
        """Take the parts of a damaged pack that cannot be read out of the tiers; return what to raise instead.

        That is a LostRollups: buckets wider than the narrowest have been made again from the tier below as far as it
        is kept, the others it names.  The watermark is taken back, so that a start looks for all that is missing
        should they not be flushed before.  Where the pack reads well after all, or is a newer version's, nothing is
        changed and the error stays what it was.
        """
        while True:
            try:
                return self._give_up(damaged)
            except DamagedPart as another:
                damaged = another  # of the tier below, which comes first

    def _give_up(self, damaged: DamagedPart) -> Damage:
        number = damaged.part.pack
        if self._packs.is_newer(number):
            return damaged
        with self._transaction():
            lost = self._shelf.unreadable(number)
            if not lost:
                return damaged
            LOG.error("%d parts of %s are given up: %s", len(lost), damaged.part.tier, damaged.message)
            self._packs.keep_aside(number)
            for part in lost:
                self._shelf.drop(part)
            # A pack holds parts of one tier, so the tier below is what it was.
            tier = TIER_OF_NAME[damaged.part.tier]
            if tier.source is not None:
                for part in lost:
                    self._make_again(tier, part)
                lost = []
            self._connection.execute("UPDATE rollup_store SET flushed_sequence = 0")
        width_ns = tier.width_ns
        return LostRollups(
            f"rollups lost: parts of {tier.name} cannot be read and are made again as far as samples are kept",
            path=self._packs.path(number),
            offset=damaged.offset,
            lost=[(p.table_id, p.first_tagset, p.last_tagset, p.first_ns, p.last_ns + width_ns) for p in lost],
        )

    def _make_again(self, tier: Tier, part: Part) -> None:
        source = _source_of(tier)
        kept_from = schema.kept_from(self._connection)
        wanted = np.arange(part.first_tagset, part.last_tagset + 1, dtype=np.int32)
        tables = {part.table_id}
        if part.table_id == UNKNOWN_TABLE:
            tables |= {each.table_id for each in self._shelf.all_parts() if each.tier == source.name}
        for table_id in sorted(tables):
            found = self._touched(source, table_id, wanted, part.first_ns, part.last_ns + tier.width_ns)
            pairs = found.widened(tier.width_ns)
            pairs = pairs.where(pairs.buckets >= max(kept_from[source.name], kept_from[tier.name]))
            self._recompute(tier, table_id, pairs, 1, FlushReport())
            self._shelf.settle()

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
        names: Sequence[str] = NAMES,
    ) -> pa.Table:
        """Return a tier's buckets with ``start_ns <= time < end_ns``, of these series or of all.

        Columns as in :data:`engine.rollups.long.NAMES` or as asked for, times as int64 nanoseconds, sorted by series,
        time.  Raises NotFound for an unknown tier.
        """
        _tier(tier)
        wanted = None if series_ids is None else distinct(np.asarray(series_ids, np.int64))
        tagset_ids = None if wanted is None else distinct(wanted >> FIELD_ID_BITS).astype(np.int32)
        field_ids = None if wanted is None else np.flatnonzero(np.bincount(wanted & (MAX_FIELDS - 1))).tolist()
        keys = [name for name in ("series_id", "time") if name not in names]
        with self._packs.reading():
            ranged = PartRange(tier, start_ns, end_ns, None if tagset_ids is None else tagset_range(tagset_ids))
            [(parts, kept_from_ns)] = self.parts_of([ranged])
            found = stored_rows(self._packs, parts, max(start_ns, kept_from_ns), end_ns, tagset_ids, field_ids)
            table = long_table((rows for _, rows in found), [*keys, *names])
        series, times = table.column("series_id").to_numpy(), table.column("time").to_numpy()
        if wanted is not None and tagset_ids is not None and len(wanted) < len(tagset_ids) * len(field_ids or ()):
            chosen = np.isin(series, wanted)
            table, series, times = table.filter(pa.array(chosen)), series[chosen], times[chosen]
        order = np.lexsort((times, series))
        if (order[1:] < order[:-1]).any():
            table = table.take(pa.array(order))
        return table.select(list(names)).combine_chunks()

    def parts_of(self, ranges: Sequence[PartRange]) -> list[tuple[list[Part], int]]:
        """Return for each range its parts and the time before which they no longer count, all as of one moment.

        Who reads the parts afterwards keeps their packs by :meth:`engine.rollups.packs.Packs.reading`.
        """
        self._connection.execute("BEGIN TRANSACTION READ ONLY")
        try:
            kept_from = schema.kept_from(self._connection)
            return [
                (stored_parts(self._connection, each, kept_from[each.tier]), kept_from[each.tier]) for each in ranges
            ]
        finally:
            self._connection.execute("COMMIT")

    def parts(self) -> list[Part]:
        """Return every part there is."""
        return list(self._shelf.all_parts())

    def watermark(self) -> int:
        """Return the sequence number of the newest batch whose buckets are flushed; 0 when none is."""
        return int(self._connection.execute("SELECT flushed_sequence FROM rollup_store").fetchall()[0][0])

    def stats(self) -> list[TierStats]:
        """Return rows and bytes of each tier, from narrow to wide."""
        found = {
            tier: (int(rows), int(size))
            for tier, rows, size in self._connection.execute(
                "SELECT tier, sum(series_rows), sum(bytes) FROM rollup_parts GROUP BY tier"
            ).fetchall()
        }
        return [TierStats(tier.name, *found.get(tier.name, (0, 0))) for tier in TIERS]

    # --- steps of a flush

    def _flush_piece(self, piece: Piece, kept_from: Mapping[str, int], report: FlushReport) -> None:
        rows = piece.rows.sorted()
        _check_rows(rows, piece.pairs)
        live = _live(BASE, piece.pairs, kept_from, report)
        if len(live) < len(piece.pairs):
            rows = rows.take(rows.times >= kept_from[BASE.name]).contiguous()
        # Background flushes end with an hour.  What a bucket may still get is late, and that is rare.
        end_ns = int(rows.times.max()) + BASE.width_ns if len(rows) else 0
        self._replace(BASE, piece.table_id, live, rows, report, closed=end_ns % QUIET_NS == 0)
        fields = max(1, len(rows.field_ids))
        for tier in TIERS[1:]:
            changed, live = live, _live(tier, live.widened(tier.width_ns), kept_from, report)
            closed = end_ns % tier.width_ns == 0
            self._recompute(tier, piece.table_id, live, fields, report, closed=closed, changed=changed)
        for tier in TIERS:
            self._compact(tier, piece.table_id)

    def _replace(
        self, tier: Tier, table_id: int, pairs: Pairs, rows: TierRows, report: FlushReport, *, closed: bool = True
    ) -> None:
        """Replace the buckets of ``pairs`` by ``rows``, sorted; ``closed``: the newest will hardly change again."""
        if len(pairs):
            for part, stored, mask in list(self._shelf.matching(tier, table_id, pairs, tier.width_ns)):
                kept = stored.take(~mask)
                report.removed[tier.name] += part.series_rows - kept.series_rows()
                self._shelf.drop(part)
                if len(kept):
                    # Added apart, so that one late row does not make everything around it one large part.
                    self._shelf.add(tier, part.table_id, kept.contiguous())
        report.inserted[tier.name] += self._shelf.add_fresh(tier, table_id, rows, closed=closed)

    def _recompute(
        self,
        tier: Tier,
        table_id: int,
        pairs: Pairs,
        fields: int,
        report: FlushReport,
        *,
        closed: bool = True,
        changed: Pairs | None = None,
    ) -> None:
        """Replace the buckets of ``pairs`` by what the tier below now gives.

        ``changed``: which of that tier's buckets have changed, all of ``pairs`` hold one; None where it is not known.
        """
        source = _source_of(tier)
        ratio = tier.width_ns // source.width_ns
        for part in pairs.chunks(max(1, self._cells_at_a_time // (fields * ratio))):
            chunk = part
            if changed is not None and ratio >= GROWING_RATIO:
                chunk = self._grow(tier, table_id, part, changed, report, closed=closed)
                if not len(chunk):
                    continue
            rows = concat(self._shelf.inside(source, table_id, chunk, tier.width_ns)).sorted()
            merged = rows.merged(tier.width_ns) if len(rows) else rows
            self._replace(tier, table_id, chunk, merged, report, closed=closed)

    def _grow(
        self, tier: Tier, table_id: int, pairs: Pairs, changed: Pairs, report: FlushReport, *, closed: bool
    ) -> Pairs:
        """Add to those buckets of ``pairs`` that only get newer ones of the tier below; return the other pairs.

        A row is merged of narrower ones in order of time, so what it was before stands for all that went into it.
        """
        source = _source_of(tier)
        stored = concat(self._shelf.inside(tier, table_id, pairs, tier.width_ns)).sorted()
        wide = changed.buckets // tier.width_ns * tier.width_ns
        first = np.ones(len(changed), np.bool_)
        first[1:] = (changed.tagset_ids[1:] != changed.tagset_ids[:-1]) | (wide[1:] != wide[:-1])
        known = select_buckets(changed.tagset_ids[first], wide[first], tier.width_ns, stored.tagset_ids, stored.times)
        newest_ns = stored.newest_times() // source.width_ns * source.width_ns
        old = stored.take(newest_ns < changed.buckets[first][known])
        if not len(old):
            return pairs
        grown = Pairs(old.tagset_ids, old.times)
        added = changed.where(changed.inside(grown, tier.width_ns))
        rows = concat([old, *self._shelf.inside(source, table_id, added, source.width_ns)])
        self._replace(tier, table_id, grown, rows.sorted().merged(tier.width_ns), report, closed=closed)
        return pairs.where(~pairs.inside(grown, tier.width_ns))

    def _touched(self, tier: Tier, table_id: int, tagset_ids: Int32Array, start_ns: int, end_ns: int) -> Pairs:
        """Return the stored (tag set, bucket) of these tag sets that the range touches."""
        ids, buckets = [np.empty(0, np.int32)], [np.empty(0, np.int64)]
        for part in self._shelf.parts(tier.name, table_id):
            if part.first_ns < end_ns and part.last_ns + (tier.width_ns - 1) >= start_ns:
                rows = self._shelf.read(part)
                mask = (rows.times < end_ns) & (rows.times + (tier.width_ns - 1) >= start_ns)
                mask &= np.isin(rows.tagset_ids, tagset_ids)
                ids.append(rows.tagset_ids[mask])
                buckets.append(rows.times[mask])
        return Pairs.of(np.concatenate(ids), np.concatenate(buckets), tier.width_ns)

    def _compact(self, tier: Tier, table_id: int) -> None:
        """Make one of small parts that lie next to each other, a range of tag sets at a time."""
        own = [part for part in self._shelf.parts(tier.name, table_id) if part.table_id == table_id]
        for group in crowded(own, tier):
            starts = sorted({part.first_tagset for part in group.parts})
            limit = self._cells_at_a_time // 4
            bounds, held = [starts[0]], 0
            for first in starts:
                size = sum(part.rows for part in group.parts if part.first_tagset == first)
                if held and held + size > limit:
                    bounds.append(first)
                    held = 0
                held += size
            for low, high in zip(bounds, [*bounds[1:], 2**31], strict=True):
                near = [part for part in group.parts if part.first_tagset < high and part.last_tagset >= low]
                read = (self._shelf.read(part) for part in near)
                rows = concat([each.take((each.tagset_ids >= low) & (each.tagset_ids < high)) for each in read])
                if len(rows):
                    self._shelf.add(tier, table_id, rows.sorted())
            for part in group.parts:
                self._shelf.drop(part)

    # --- DuckDB

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._connection.execute("BEGIN TRANSACTION")
        try:
            yield
            self._shelf.prepare()
            self._connection.execute("COMMIT")
            self._shelf.committed()
        except BaseException:
            self._shelf.forget()
            self._rollback()
            raise

    def _rollback(self) -> None:
        try:
            self._connection.execute("ROLLBACK")
        except Exception:
            # A failed COMMIT, or an error that invalidated the database, has already ended the transaction, and what
            # went wrong first is what the caller must hear of.
            return


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
    report.expired_pairs[tier.name] += len(pairs) - len(live)
    return live


def _check_rows(rows: TierRows, pairs: Pairs) -> None:
    """Raise Bug unless every row is the bucket of a pair, once."""
    if not len(rows):
        return
    if (rows.times % BASE.width_ns).any():
        raise Bug(f"cannot flush rollups: got a row between bucket starts, want multiples of {BASE.width_ns} ns")
    if ((rows.tagset_ids[1:] == rows.tagset_ids[:-1]) & (rows.times[1:] == rows.times[:-1])).any():
        raise Bug("cannot flush rollups: got a bucket twice, want each once")
    if not pairs.cover(rows, BASE.width_ns):
        raise Bug("cannot flush rollups: got rows of buckets that are not among the dirty pairs")
