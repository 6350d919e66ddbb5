"""The catalogue read back: what catalog.log and the log's frames define, checked on the way."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from engine.catalog.catalog import FRAME_DEFINITIONS, Catalog
from engine.catalog.packing import PACKED_VERSION, unpack_definitions
from engine.catalog.tagsetfiles import DIRECTORY, TagsetFiles
from engine.disk.filesystem import Bytes, FileSystem
from engine.errors import Damage, NewerFormat
from engine.maintenance.verify.report import Report
from engine.model.rows import FIELD_ID_BITS, Int32Array
from native.frames import scan_frames

CATALOGUE_FILE = "catalog.log"


class Definitions:
    """Tables, fields and tag sets, as far as they are known."""

    def __init__(self) -> None:
        self.catalog = Catalog()
        self._owners = np.empty(0, np.int32)
        #: Whether the file could be read; otherwise nothing can be said of what it lacks.
        self.whole = False

    def load(self, fs: FileSystem, root: str, report: Report) -> bool:
        """Read the catalogue's file; return whether the next start would."""
        self.whole = self._load(fs, root, report) and self._has_tables_of_files(root, report)
        return self.whole

    def _has_tables_of_files(self, root: str, report: Report) -> bool:
        tables = self.catalog.native.table_count
        for file in self.catalog.native.tagset_files():
            if (largest := file.largest_table()) >= tables:
                found = f"{tables} tables, but a tag set of table {largest} in {report.relative(file.path)}"
                report.add("catalogue_lacks", f"{root}/{CATALOGUE_FILE}", found, f"at least {largest + 1} tables")
                return False
        return True

    def _load(self, fs: FileSystem, root: str, report: Report) -> bool:
        try:
            TagsetFiles(fs, f"{root}/{DIRECTORY}", lambda: 0).load(self.catalog.native, repair=False)
        except NewerFormat as error:
            report.add("catalogue_newer", error.path, error.message)
            return False
        except Damage as error:
            report.add("catalogue_damaged", error.path, error.message)
            return False
        report.checked["tag-set files"] += len(self.catalog.native.tagset_files())
        path = f"{root}/{CATALOGUE_FILE}"
        if not fs.exists(path):
            return True
        data = fs.map(path)
        frames, end, status = scan_frames(data)
        for kind, _, start, stop in frames:
            if kind != FRAME_DEFINITIONS:
                found = f"a frame of kind {kind}"
                report.add("catalogue_damaged", path, found, f"kind {FRAME_DEFINITIONS}", offset=start)
                return False
            if stop > start and data[start] > PACKED_VERSION:
                report.add("catalogue_newer", path, f"version {data[start]}", f"at most {PACKED_VERSION}", offset=start)
                return False
            try:
                self.apply(unpack_definitions(data[start:stop]))
            except ValueError as error:
                report.add("catalogue_damaged", path, str(error), offset=start)
                return False
            report.checked["catalogue frames"] += 1
        if status == "torn":
            report.add("catalogue_torn", path, f"{len(data) - end} bytes behind the last whole frame", offset=end)
        elif status != "end":
            report.add("catalogue_damaged", path, f"a frame is damaged: {status.replace('_', ' ')}", offset=end)
            return False
        return True

    def apply(self, definitions: Bytes) -> None:
        """Add definitions of a log frame; raises ValueError when they contradict what is known or leave a gap."""
        self.catalog.native.apply_definitions(definitions)

    @property
    def owners(self) -> Int32Array:
        """The table of each tag set, int32[tag sets]."""
        count = self.catalog.native.tagset_count
        if len(self._owners) != count:
            self._owners = self.catalog.native.tagset_tables(0, count)
        return self._owners

    def table_of(self, tagset_ids: Int32Array) -> Int32Array:
        """Return the table of each tag set, -1 for unknown ones."""
        known = (tagset_ids >= 0) & (tagset_ids < len(self.owners))
        tables = np.full(len(tagset_ids), -1, np.int32)
        tables[known] = self.owners[tagset_ids[known]]
        return tables

    def has_table(self, table_id: int) -> bool:
        return 0 <= table_id < self.catalog.native.table_count

    def known_series(self, series_ids: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Return which series have a tag set and a field that are known."""
        tagsets = series_ids >> FIELD_ID_BITS
        inside = (series_ids >= 0) & (tagsets < len(self.owners))
        fields = np.array(
            [len(self.catalog.native.fields(table)) for table in range(self.catalog.native.table_count)], np.int64
        )
        known = np.zeros(len(series_ids), np.bool_)
        chosen = series_ids[inside]
        known[inside] = (chosen & ((1 << FIELD_ID_BITS) - 1)) < fields[self.owners[chosen >> FIELD_ID_BITS]]
        return known

    def series_name(self, series_id: int) -> str:
        """Return a series as people write it: metric{key=value,...}."""
        if not self.known_series(np.array([series_id], np.int64))[0]:
            return f"unknown series {series_id}"
        tagset_id, field_id = series_id >> FIELD_ID_BITS, series_id & ((1 << FIELD_ID_BITS) - 1)
        table_id = int(self.owners[tagset_id])
        table = self.catalog.table_name(table_id)
        field = self.catalog.native.fields(table_id)[field_id].decode()
        return f"{table}_{field}{self.tags_text(tagset_id)}"

    def tags_text(self, tagset_id: int) -> str:
        tags = self.catalog.native.tags(tagset_id)
        return "{" + ",".join(f"{key.decode()}={value.decode(errors='replace')}" for key, value in tags) + "}"
