"""A stopped data directory, read without changing it: its names, and its samples in the order of their times."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from engine.clock import NS_PER_HOUR, NS_PER_SECOND
from engine.disk.filesystem import FileSystem
from engine.disk.real import RealFileSystem
from engine.errors import Damage
from engine.maintenance.verify.definitions import Definitions
from engine.maintenance.verify.files import check_manifest
from engine.maintenance.verify.log import check_log
from engine.maintenance.verify.raw import RawSamples
from engine.maintenance.verify.report import Report
from engine.model.rows import Rows

#: About how many cells are read at a time.
CELLS_AT_A_TIME = 2_000_000
LONGEST_PIECE_NS = 6 * NS_PER_HOUR


class History:
    """The samples of the data directory ``root``; a context manager that keeps engines out meanwhile.

    Raises Unavailable when an engine has the directory open, Damage when what is there cannot be relied on.
    """

    def __init__(self, root: str, *, fs: FileSystem | None = None) -> None:
        self._fs = fs or RealFileSystem()
        self._lock = self._fs.lock(f"{root}/LOCK")
        try:
            self._open(root)
        except BaseException:
            self._lock.release()
            raise

    def _open(self, root: str) -> None:
        report = Report(root)
        manifest = check_manifest(self._fs, root, report)
        definitions = Definitions()
        definitions.load(self._fs, root, report)
        if manifest is not None:
            log = check_log(self._fs, f"{root}/wal", definitions, manifest, None, report)
        if manifest is None or not report.clean:
            found = next((f"{each.path}: {each.found}" for each in report.findings if each.is_damage), "no manifest")
            raise Damage(f"cannot replay: {found}; `tidegauge verify` tells more", path=root)
        self.catalog = definitions.catalog
        self._raw = RawSamples(self._fs, root, manifest, log, definitions, frozenset(), report)

    def __enter__(self) -> History:
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def extent(self) -> tuple[int, int] | None:
        """Return the oldest and the newest time (ns) of a sample, None when there is none."""
        found = [extent for table_id in self._raw.tables() if (extent := self._raw.extent(table_id)) is not None]
        return (min(low for low, _ in found), max(high for _, high in found)) if found else None

    def collect(self, table_id: int, start_ns: int, end_ns: int) -> Rows:
        """Return a table's rows in ``[start_ns, end_ns)``, sorted by (tag set, time)."""
        return self._raw.collect(table_id, start_ns, end_ns)

    def pieces(
        self, start_ns: int, end_ns: int, *, cells: int = CELLS_AT_A_TIME
    ) -> Iterator[tuple[int, list[tuple[int, Rows]]]]:
        """Yield the samples of ``[start_ns, end_ns)`` in pieces: where a piece ends, and its rows by table, by time."""
        expected = self._raw.expected_cells(start_ns, end_ns) + 1
        step = min(max((end_ns - start_ns) * cells // expected, NS_PER_SECOND), LONGEST_PIECE_NS)
        for low in range(start_ns, end_ns, step):
            high = min(low + step, end_ns)
            yield (
                high,
                [
                    (table_id, rows)
                    for table_id in self._raw.tables()
                    if len(rows := self._by_time(table_id, low, high))
                ],
            )

    def _by_time(self, table_id: int, start_ns: int, end_ns: int) -> Rows:
        rows = self.collect(table_id, start_ns, end_ns)
        order = np.argsort(rows.times, kind="stable")
        return Rows(rows.tagset_ids[order], rows.times[order], rows.field_ids, rows.values.take(order, axis=1))


Reader = Callable[[int, int, int], Rows]
