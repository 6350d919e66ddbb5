"""Every row of every tier against its recomputation: 1m from raw samples, each wider tier from the one below.

A wider tier that equals the merge of the tier below, which equals its own recomputation, is what raw samples give:
so within raw retention all tiers are compared with raw samples, and beyond it with each other, as far down as rows are
kept.  Work goes by windows that are halved until what one needs fits into memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.clock import NS_PER_DAY
from engine.maintenance.rebuild import ROLLUP_FILE
from engine.maintenance.verify.definitions import Definitions
from engine.maintenance.verify.log import Log
from engine.maintenance.verify.raw import RawSamples
from engine.maintenance.verify.report import Report
from engine.maintenance.verify.stored import StoredTiers
from engine.model.rows import FIELD_ID_BITS, Int64Array
from engine.rollups.long import LINES, NAMES, Columns
from engine.rollups.tiers import BASE, TIER_OF_NAME, TIERS, Tier
from native.merging import merge_buckets
from native.rollup import COLUMN_DTYPES, RollupColumns, aggregate, select_buckets

#: What one window may need: cells of raw samples, or ten columns a row of a tier (8 bytes each).
CELLS_AT_A_TIME = 16_000_000
#: Buckets of one window, so that (series, bucket) fits into one int64.
_BUCKET_BITS = 15
_MAX_BUCKETS = 1 << _BUCKET_BITS
_COLUMNS = len(NAMES)
_VALUE_COLUMNS = list(LINES)
#: Column of the tiers -> attribute of the native columns.
_NATIVE = dict(zip(NAMES, COLUMN_DTYPES, strict=True))
Mask = npt.NDArray[np.bool_]
Checkable = Callable[[Int64Array, Int64Array], Mask]


@dataclass(frozen=True, slots=True)
class TierCheck:
    """The comparison of one data directory's tiers."""

    stored: StoredTiers
    raw: RawSamples
    log: Log
    definitions: Definitions
    report: Report
    cells_at_a_time: int = CELLS_AT_A_TIME

    def run(self) -> None:
        self._check_base()
        for tier in TIERS[1:]:
            self._check_tier(tier)

    # --- 1m from raw samples

    def _check_base(self) -> None:
        checkable = self._base_rules()
        for start_ns, end_ns in self._windows(BASE, self._base_extents(), self._base_cells):
            expected = self._recomputed(start_ns, end_ns)
            stored = self.stored.rows(BASE, start_ns, end_ns)
            self._compare(BASE, start_ns, expected, stored, checkable)

    def _base_extents(self) -> list[tuple[int, int]]:
        extents = [self.stored.extent(BASE), *(self.raw.extent(table_id) for table_id in self.raw.tables())]
        return [extent for extent in extents if extent is not None]

    def _base_cells(self, start_ns: int, end_ns: int) -> int:
        return self.stored.count(BASE, start_ns, end_ns) * _COLUMNS + self.raw.expected_cells(start_ns, end_ns)

    def _recomputed(self, start_ns: int, end_ns: int) -> Columns:
        parts: list[RollupColumns] = []
        for table_id in self.raw.tables():
            rows = self.raw.collect(table_id, start_ns, end_ns)
            if len(rows):
                parts.append(
                    aggregate(
                        rows.tagset_ids,
                        rows.times,
                        np.ascontiguousarray(rows.values),
                        np.array(rows.field_ids, np.int32),
                        BASE.width_ns,
                    )
                )
        columns = _columns_of(parts)
        order = np.lexsort((columns["time"], columns["series_id"]))
        return {name: column[order] for name, column in columns.items()}

    def _base_rules(self) -> Checkable:
        """Return which 1m buckets must equal their recomputation from the raw samples that are there."""
        first = self.stored.extent(BASE)
        since: dict[int, int] = {}
        for table_id in self.raw.tables():
            complete = self.raw.complete_from_ns(table_id)
            if complete is not None:
                minute = BASE.floor(complete)
                # Retention may have taken the beginning of a minute along with the segment before.
                since[table_id] = minute + BASE.width_ns if first is not None and first[0] < minute else minute
        kept_from = self.stored.kept_from_ns[BASE.name]
        owners = self.definitions.owners

        def checkable(series_ids: Int64Array, times: Int64Array) -> Mask:
            tables = owners[series_ids >> FIELD_ID_BITS]
            good = times >= kept_from
            for table_id in np.unique(tables).tolist():
                mine = tables == table_id
                if table_id not in since:
                    good[mine] = False
                    continue
                good[mine] &= times[mine] >= since[table_id]
                for low, high in self.raw.unreadable(table_id):
                    good[mine] &= (times[mine] + BASE.width_ns <= low) | (times[mine] >= high)
                pending = self.log.pending.get(table_id)
                if pending is not None:
                    good[mine] &= ~_are_among(series_ids[mine], times[mine], pending)
            return good

        return checkable

    # --- wider tiers from the tier below

    def _check_tier(self, tier: Tier) -> None:
        source = TIER_OF_NAME[tier.source or ""]
        kept_from = max(self.stored.kept_from_ns[tier.name], self.stored.kept_from_ns[source.name])

        def checkable(_: Int64Array, times: Int64Array) -> Mask:
            return times >= kept_from

        def cells(start_ns: int, end_ns: int) -> int:
            counts = (self.stored.count(each, start_ns, end_ns) for each in (tier, source))
            return sum(counts) * _COLUMNS

        extents = [extent for each in (tier, source) if (extent := self.stored.extent(each)) is not None]
        for start_ns, end_ns in self._windows(tier, extents, cells):
            parts = -(-cells(start_ns, end_ns) // self.cells_at_a_time)
            for first, end in _series_ranges(len(self.definitions.owners), parts):
                narrow = _mergeable(source, self.stored.rows(source, start_ns, end_ns, first, end))
                expected = _merged(narrow, tier.width_ns)
                self._compare(tier, start_ns, expected, self.stored.rows(tier, start_ns, end_ns, first, end), checkable)

    # --- what both need

    def _windows(
        self, tier: Tier, extents: list[tuple[int, int]], cells: Callable[[int, int], int]
    ) -> Iterator[tuple[int, int]]:
        """Yield ranges of whole buckets that cover every row, without those in which nothing is."""
        if not extents:
            return
        start_ns = tier.floor(min(low for low, _ in extents))
        end_ns = tier.floor(max(high for _, high in extents)) + tier.width_ns
        step_ns = max(NS_PER_DAY, tier.width_ns * 1024)
        total = -(-(end_ns - start_ns) // step_ns)
        at, number = start_ns, 0
        while at < end_ns:
            self.report.progress(tier.name, number, total)
            waiting = [(at, min(at + step_ns, end_ns))]
            while waiting:
                low, high = waiting.pop()
                needed = cells(low, high)
                buckets = (high - low) // tier.width_ns
                if not needed:
                    continue
                if buckets == 1 or (needed <= self.cells_at_a_time and buckets <= _MAX_BUCKETS):
                    yield low, high
                else:
                    middle = low + buckets // 2 * tier.width_ns
                    waiting += [(middle, high), (low, middle)]
            at, number = at + step_ns, number + 1

    def _compare(self, tier: Tier, start_ns: int, expected: Columns, stored: Columns, checkable: Checkable) -> None:
        """Compare rows sorted by (series, time); tell what is missing, too many or different."""
        stored = self._without_strangers(tier, stored)
        wanted_mask = checkable(expected["series_id"], expected["time"])
        stored_mask = checkable(stored["series_id"], stored["time"])
        self.report.checked[f"{tier.name} rows"] += int(stored_mask.sum())
        self.report.unchecked[f"{tier.name} rows"] += int((~stored_mask).sum())
        want_keys, have_keys = _keys(tier, start_ns, expected), _keys(tier, start_ns, stored)
        repeated = np.concatenate([np.zeros(1, np.bool_), have_keys[1:] == have_keys[:-1]])[: len(have_keys)]
        place = np.searchsorted(want_keys, have_keys)
        place[place == len(want_keys)] = 0
        matched = (want_keys[place] == have_keys) if len(want_keys) else np.zeros(len(have_keys), np.bool_)
        for at in np.flatnonzero(stored_mask & (repeated | ~matched)).tolist():
            found = "the bucket is stored twice" if repeated[at] else f"count {stored['count'][at]}"
            self._tell("rollup_row_extra", tier, stored, at, found, "one row" if repeated[at] else "no row")
        for at in np.flatnonzero(wanted_mask & ~_contains(have_keys, want_keys)).tolist():
            self._tell("rollup_row_missing", tier, expected, at, "no row", f"count {expected['count'][at]}")
        chosen = np.flatnonzero(stored_mask & matched & ~repeated)
        against = place[chosen]
        same = {name: _same(stored[name][chosen], expected[name][against]) for name in _VALUE_COLUMNS}
        for at in np.flatnonzero(~np.logical_and.reduce(list(same.values()))).tolist():
            wrong = [name for name in _VALUE_COLUMNS if not same[name][at]]
            found = ", ".join(f"{name} {stored[name][chosen[at]].item()!r}" for name in wrong)
            wanted = ", ".join(f"{name} {expected[name][against[at]].item()!r}" for name in wrong)
            self._tell("rollup_row_differs", tier, stored, int(chosen[at]), found, wanted)

    def _without_strangers(self, tier: Tier, stored: Columns) -> Columns:
        """Return the rows of known series at starts of buckets; the others are told."""
        known = self.definitions.known_series(stored["series_id"])
        aligned = stored["time"] % tier.width_ns == 0
        for at in np.flatnonzero(~(known & aligned)).tolist():
            found = "a series that the catalogue lacks" if not known[at] else "a time that is not the start of a bucket"
            self._tell("rollup_row_extra", tier, stored, at, found, "no row")
        good = known & aligned
        return stored if good.all() else {name: column[good] for name, column in stored.items()}

    def _tell(self, kind: str, tier: Tier, columns: Columns, at: int, found: str, expected: str) -> None:
        series, time_ns = int(columns["series_id"][at]), int(columns["time"][at])
        self.report.add(
            kind,
            ROLLUP_FILE,
            f"{tier.name}: {found}",
            expected,
            series=self.definitions.series_name(series),
            time_ns=time_ns,
        )


def _columns_of(parts: list[RollupColumns]) -> Columns:
    if not parts:
        return {name: np.empty(0, COLUMN_DTYPES[native]) for name, native in _NATIVE.items()}
    return {name: np.concatenate([getattr(part, native) for part in parts]) for name, native in _NATIVE.items()}


def _merged(columns: Columns, width_ns: int) -> Columns:
    """Return buckets of ``width_ns`` merged from narrower ones, by other code than the store's."""
    given = {native: np.ascontiguousarray(columns[name]) for name, native in _NATIVE.items()}
    return _columns_of([merge_buckets(**given, width_ns=width_ns)])


def _mergeable(tier: Tier, stored: Columns) -> Columns:
    """Return the rows that merging accepts: at starts of buckets, each once.  The others are told with their tier."""
    series, times = stored["series_id"], stored["time"]
    repeated = np.zeros(len(times), np.bool_)
    repeated[1:] = (series[1:] == series[:-1]) & (times[1:] == times[:-1])
    good = (times % tier.width_ns == 0) & ~repeated
    return stored if good.all() else {name: column[good] for name, column in stored.items()}


def _keys(tier: Tier, start_ns: int, columns: Columns) -> Int64Array:
    keys: Int64Array = (columns["series_id"] << _BUCKET_BITS) + (columns["time"] - start_ns) // tier.width_ns
    return keys


def _contains(sorted_keys: Int64Array, keys: Int64Array) -> Mask:
    if not len(sorted_keys):
        return np.zeros(len(keys), np.bool_)
    place = np.searchsorted(sorted_keys, keys)
    place[place == len(sorted_keys)] = 0
    found: Mask = sorted_keys[place] == keys
    return found


def _same(have: npt.NDArray[np.generic], want: npt.NDArray[np.generic]) -> Mask:
    """Return where two columns agree bit for bit; one NaN is as good as another."""
    same: Mask = have.view(np.int64) == want.view(np.int64)
    if have.dtype == np.float64:
        same |= np.isnan(have.astype(np.float64)) & np.isnan(want.astype(np.float64))
    return same


def _are_among(series_ids: Int64Array, times: Int64Array, pending: tuple[npt.NDArray[np.int32], Int64Array]) -> Mask:
    """Return which buckets are among the pending (tag set, minute) pairs."""
    tagsets = (series_ids >> FIELD_ID_BITS).astype(np.int32)
    order = np.lexsort((times, tagsets))
    found = np.empty(len(times), np.bool_)
    found[order] = select_buckets(tagsets[order], times[order], BASE.width_ns, *pending)
    return found


def _series_ranges(tagsets: int, parts: int) -> Iterator[tuple[int | None, int | None]]:
    """Yield ranges of series that cover all there can be, open at both ends."""
    bounds = sorted({tagsets * part // parts << FIELD_ID_BITS for part in range(1, max(parts, 1))} - {0})
    yield from zip([None, *bounds], [*bounds, None], strict=True)
