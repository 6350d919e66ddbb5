"""The raw samples of a range as the next start would see them: segments first, then what the log has beyond them."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt

from engine.disk.filesystem import FileSystem
from engine.maintenance.verify.definitions import Definitions
from engine.maintenance.verify.log import Log, LoggedRows
from engine.maintenance.verify.report import Report
from engine.model.rows import Rows, concat, sort_merge
from engine.segments.deletions import holes_of, surviving, without_holes
from engine.segments.footer import FooterCache
from engine.segments.layout import SegmentMeta
from engine.segments.manifest_format import Manifest
from engine.segments.reader import read_segment
from native.columns import is_absent


class RawSamples:
    """De-duplicated samples by table and range; ``unusable``: segment files that cannot be read."""

    def __init__(
        self,
        fs: FileSystem,
        root: str,
        manifest: Manifest,
        log: Log,
        definitions: Definitions,
        unusable: frozenset[str],
        report: Report,
    ) -> None:
        self._fs, self._root = fs, root
        self._manifest, self._log, self._unusable = manifest, log, unusable
        self._definitions, self._report = definitions, report
        self._footers = FooterCache()
        self._told: set[str] = set()

    def tables(self) -> list[int]:
        return sorted({meta.table_id for meta in self._manifest.segments} | set(self._log.parts))

    def extent(self, table_id: int) -> tuple[int, int] | None:
        """Return the oldest and the newest time that a table's raw samples have; None without any."""
        lows = [meta.min_time_ns for meta in self._manifest.of_table(table_id)]
        highs = [meta.max_time_ns for meta in self._manifest.of_table(table_id)]
        for part in self._log.parts.get(table_id, []):
            if part.sequence > self._manifest.wal_floor:
                lows.append(part.min_time_ns)
                highs.append(part.max_time_ns)
        return (min(lows), max(highs)) if lows else None

    def complete_from_ns(self, table_id: int) -> int | None:
        """Return the time from which a table has all raw samples it ever had, as far as can be told.

        Retention removes whole segments, the oldest first, so that what is older than the first segment may lack
        samples; None when the table has no samples at all.
        """
        segments = self._manifest.of_table(table_id)
        if segments:
            return segments[0].min_time_ns
        extent = self.extent(table_id)
        return None if extent is None else extent[0]

    def unreadable(self, table_id: int) -> list[tuple[int, int]]:
        """Return the ranges whose segment cannot be read."""
        metas = self._manifest.of_table(table_id)
        return [(meta.start_ns, meta.end_ns) for meta in metas if meta.file in self._unusable]

    def expected_cells(self, start_ns: int, end_ns: int) -> int:
        """Return about how many cells all tables have in a range, if each source is evenly spread over its time."""
        cells = 0.0
        for meta in self._manifest.segments:
            overlap = min(meta.max_time_ns + 1, end_ns) - max(meta.min_time_ns, start_ns)
            if overlap > 0:
                width = len(meta.columns) + 2
                cells += meta.rows * width * overlap / (meta.max_time_ns + 1 - meta.min_time_ns)
        return round(cells)

    def collect(self, table_id: int, start_ns: int, end_ns: int) -> Rows:
        """Return the rows of ``[start_ns, end_ns)``, sorted by (tag set, time), each key once.

        On the way it is checked that rows of the log which a segment is said to hold are in it.
        """
        metas = self._manifest.overlapping(table_id, start_ns, end_ns)
        parts = []
        for meta in metas:
            if meta.file not in self._unusable:
                rows = read_segment(self._fs, self._root, meta, start_ns=start_ns, end_ns=end_ns, cache=self._footers)
                rows = without_holes(rows, holes_of(self._manifest.deletions, meta))
                self._compare_with_log(meta, rows, start_ns, end_ns)
                parts.append(rows)
        for part in self._log.overlapping(table_id, start_ns, end_ns):
            if part.sequence > self._manifest.wal_floor:
                rows = self._logged(part).between(start_ns, end_ns)
                parts.append(rows.take(~_covered(rows, metas, part.sequence)))
        return sort_merge(concat(parts))

    def compare_log_with_segments(self, cells_at_a_time: int) -> None:
        """Check the log's rows that segments hold, where no comparison of tiers does so on its way."""
        for meta in self._manifest.segments:
            parts = self._log.overlapping(meta.table_id, meta.start_ns, meta.end_ns)
            if meta.file in self._unusable or not any(part.sequence <= meta.sealed_through for part in parts):
                continue
            start_ns, end_ns = meta.min_time_ns, meta.max_time_ns + 1
            pieces = -(-meta.rows * (len(meta.columns) + 2) // cells_at_a_time)
            bounds = [start_ns + (end_ns - start_ns) * piece // pieces for piece in range(pieces + 1)]
            for low, high in itertools.pairwise(bounds):
                self.collect(meta.table_id, low, high)

    def _logged(self, part: LoggedRows) -> Rows:
        return surviving(self._manifest.deletions, part.table_id, self._log.rows_of(part), part.sequence)

    def _compare_with_log(self, meta: SegmentMeta, rows: Rows, start_ns: int, end_ns: int) -> None:
        """Check that laying the log's rows over the segment, which has them already, changes nothing."""
        logged = []
        for part in self._log.overlapping(meta.table_id, max(start_ns, meta.start_ns), min(end_ns, meta.end_ns)):
            if part.sequence <= meta.sealed_through:
                every = self._logged(part).between(max(start_ns, meta.start_ns), min(end_ns, meta.end_ns))
                logged.append(every)
        if not any(len(each) for each in logged) or meta.file in self._told:
            return
        together = sort_merge(concat([rows, *logged]))
        self._report.checked["log rows in segments"] += sum(len(each) for each in logged)
        if len(together) != len(rows):
            at = _first_new_key(together, rows)
            self._tell(meta, int(together.tagset_ids[at]), int(together.times[at]), "no row", "a row of the log")
            return
        for place, field_id in enumerate(together.field_ids):
            want = together.values[place]
            if field_id in rows.field_ids:
                have = rows.values[rows.field_ids.index(field_id)]
                wrong = np.flatnonzero(have.view(np.uint64) != np.ascontiguousarray(want).view(np.uint64))
            else:
                have = np.full(len(rows), np.nan)
                wrong = np.flatnonzero(~is_absent(np.ascontiguousarray(want)))
            if len(wrong):
                at = int(wrong[0])
                found = f"{float(have[at])!r} in field {field_id}"
                self._tell(
                    meta, int(rows.tagset_ids[at]), int(rows.times[at]), found, f"{float(want[at])!r} of the log"
                )
                return

    def _tell(self, meta: SegmentMeta, tagset_id: int, time_ns: int, found: str, expected: str) -> None:
        self._told.add(meta.file)
        series = f"{meta.table}{self._definitions.tags_text(tagset_id)}"
        self._report.add("log_and_segment_differ", meta.file, found, expected, series=series, time_ns=time_ns)


def _covered(rows: Rows, metas: tuple[SegmentMeta, ...], sequence: int) -> npt.NDArray[np.bool_]:
    """Return which rows of a frame are in a segment already (as recovery decides it)."""
    covered = np.zeros(len(rows), np.bool_)
    for meta in metas:
        if sequence <= meta.sealed_through:
            covered |= (rows.times >= meta.start_ns) & (rows.times < meta.end_ns)
    return covered


def _first_new_key(together: Rows, rows: Rows) -> int:
    known = set(zip(rows.tagset_ids.tolist(), rows.times.tolist(), strict=True))
    keys = zip(together.tagset_ids.tolist(), together.times.tolist(), strict=True)
    return next(at for at, key in enumerate(keys) if key not in known)
