"""The files of a source as things DuckDB can scan: segments as pyarrow datasets, hot rows as mapped Arrow files.

DuckDB itself opens no file.  It casts DECIMAL to DOUBLE by dividing, which gives back the very double that was stored;
pyarrow's cast multiplies by a power of ten and misses by one unit in the last place.  So files are read with their own
types, one dataset for each combination of types, and cast in SQL.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import pyarrow as pa

from engine.errors import Damage, Unavailable
from engine.model.rows import FOREVER_NS, NEVER_NS
from engine.query.scopes import MAX_LISTED_TAGSETS, Scope
from engine.query.shortage import is_shortage
from engine.query.sources import ParquetFile, TableSource
from engine.segments.deletions import Hole, ids_of

#: Footers kept in memory, so that a segment's is read once and not once a statement.
CACHED_FOOTERS = 2_000

_Kind = tuple[tuple[int, str, pa.DataType], ...]
_KEYS = {"tagset_id": pa.int32(), "time": pa.timestamp("ns")}


@dataclass(frozen=True, slots=True)
class Scan:
    """Something DuckDB can scan.  ``columns`` maps the field numbers it has to its column names (routed: several).

    ``filtered``: rows outside the scope's time and tag sets are left out already.  ``rows``: how many have to be looked
    at for that, those of the row groups that can matter; ``files``: in how many files these are.
    """

    data: Any
    columns: Mapping[int, tuple[str, ...]]
    filtered: bool
    rows: int
    files: int


class SegmentFiles:
    """Opens Parquet files and remembers their footers; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._fragments: OrderedDict[tuple[str, int, int, int], Any] = OrderedDict()

    def scans(self, files: Sequence[ParquetFile], field_ids: Iterable[int] | None, scope: Scope) -> list[Scan]:
        """Return the scans of these files, with the rows of ``scope`` only.

        Raises Unavailable when a file is gone, Damage when it is not a segment of these columns.
        """
        # Imported here because it takes 20 MB and 0.1 s that statements over hot rows do without.
        import pyarrow.dataset as ds
        from pyarrow.fs import LocalFileSystem

        format_ = _segment_format()
        groups: dict[tuple[Any, ...], list[Any]] = {}
        named: dict[tuple[Any, ...], dict[int, tuple[str, ...]]] = {}
        wanted = None if field_ids is None else set(field_ids)
        for file in files:
            fragment = self._fragment(file.path)
            columns = {
                field_id: column for field_id, column in file.columns.items() if wanted is None or field_id in wanted
            }
            kind = _kind(file.path, fragment.physical_schema, columns)
            groups.setdefault((kind, file.holes), []).append(fragment)
            named[kind] = columns
        scoped = _condition(scope)
        found = []
        for (kind, holes), fragments in groups.items():
            condition = _outside(scoped, holes)
            schema = pa.schema([*_KEYS.items(), *((column, type_) for _, column, type_ in kind)])
            if condition is not None:
                # Finding the row groups here saves the scan from doing it, and says how many rows it reads.
                narrowed = [fragment.subset(filter=condition, schema=schema) for fragment in fragments]
                fragments = [fragment for fragment in narrowed if fragment.num_row_groups]
            if not fragments:
                continue
            rows = sum(group.num_rows for fragment in fragments for group in fragment.row_groups)
            dataset = ds.FileSystemDataset(fragments, schema, format_, LocalFileSystem())
            data = dataset if condition is None else dataset.filter(condition)
            found.append(Scan(data, named[kind], True, rows, len(fragments)))
        return found

    def check(self, files: Sequence[ParquetFile]) -> None:
        """Read these files' fields to find the one that a statement failed on.  Raises Damage with its path."""
        for file in files:
            try:
                reader = (
                    self._fragment(file.path)
                    .scanner(columns=[*_KEYS, *(name for names in file.columns.values() for name in names)])
                    .to_reader()
                )
                for batch in reader:
                    del batch
            except (OSError, pa.ArrowInvalid) as error:
                raise _unreadable("segment", error, file.path) from None

    def _fragment(self, path: str) -> Any:
        try:
            status = os.stat(path)
        except OSError as error:
            raise Unavailable(f"cannot read segment {path}: {error.strerror}; ask again") from None
        key = (path, status.st_ino, status.st_size, status.st_mtime_ns)
        with self._lock:
            fragment = self._fragments.get(key)
            if fragment is not None:
                self._fragments.move_to_end(key)
                return fragment
        from pyarrow.fs import LocalFileSystem

        try:
            fragment = _segment_format().make_fragment(path, LocalFileSystem())
            fragment.ensure_complete_metadata()
        except (OSError, pa.ArrowInvalid) as error:
            raise _unreadable("segment", error, path) from None
        with self._lock:
            self._fragments[key] = fragment
            while len(self._fragments) > CACHED_FOOTERS:
                self._fragments.popitem(last=False)
        return fragment


@cache
def _segment_format() -> Any:
    import pyarrow.dataset as ds

    return ds.ParquetFileFormat(
        default_fragment_scan_options=ds.ParquetFragmentScanOptions(page_checksum_verification=True)
    )


def _kind(path: str, schema: pa.Schema, columns: dict[int, tuple[str, ...]]) -> _Kind:
    """Return (field, column, type) of the columns wanted; files of one kind can be read through one schema."""
    for name, type_ in _KEYS.items():
        if name not in schema.names or schema.field(name).type != type_:
            got = schema.field(name).type if name in schema.names else "nothing"
            raise Damage(f"cannot read segment: got {got} for column {name!r}, want {type_}", path=path)
    kind = []
    for field_id, column in ((field_id, name) for field_id, names in sorted(columns.items()) for name in names):
        if column not in schema.names:
            raise Damage(f"cannot read segment: got no column {column!r}, want field {field_id} in it", path=path)
        type_ = schema.field(column).type
        if not (pa.types.is_integer(type_) or pa.types.is_float64(type_) or pa.types.is_decimal(type_)):
            raise Damage(f"cannot read segment: got {type_} for column {column!r}, want a number", path=path)
        kind.append((field_id, column, type_))
    return tuple(kind)


def _condition(scope: Scope) -> Any:
    import pyarrow.dataset as ds

    condition = None
    time, tagset_id = ds.field("time"), ds.field("tagset_id")

    def both(further: Any) -> Any:
        return further if condition is None else condition & further

    if scope.start_ns is not None:
        condition = both(time >= pa.scalar(scope.start_ns, pa.timestamp("ns")))
    if scope.end_ns is not None:
        condition = both(time < pa.scalar(scope.end_ns, pa.timestamp("ns")))
    if scope.tagset_ids is not None and len(scope.tagset_ids):
        first, last = int(scope.tagset_ids[0]), int(scope.tagset_ids[-1])
        condition = both((tagset_id >= pa.scalar(first, pa.int32())) & (tagset_id <= pa.scalar(last, pa.int32())))
        if first != last and len(scope.tagset_ids) <= MAX_LISTED_TAGSETS:
            condition = both(tagset_id.isin(pa.array(scope.tagset_ids)))
    return condition


def _outside(condition: Any, holes: Sequence[Hole]) -> Any:
    """Return the condition with the rows in the holes left out."""
    import pyarrow.dataset as ds

    time, tagset_id = ds.field("time"), ds.field("tagset_id")
    for hole in holes:
        inside = None
        if hole.start_ns > NEVER_NS:
            inside = time >= pa.scalar(hole.start_ns, pa.timestamp("ns"))
        if hole.end_ns < FOREVER_NS:
            before = time < pa.scalar(hole.end_ns, pa.timestamp("ns"))
            inside = before if inside is None else inside & before
        if hole.tagsets is not None:
            among = tagset_id.isin(pa.array(ids_of(hole.tagsets)))
            inside = among if inside is None else inside & among
        outside = ds.scalar(False) if inside is None else ~inside
        condition = outside if condition is None else condition & outside
    return condition


def hot_scans(source: TableSource) -> list[Scan]:
    """Map the Arrow files of a source.  Raises Unavailable when a file is gone, Damage when it is not one of rows."""
    groups: dict[tuple[str, ...], list[pa.Table]] = {}
    if source.rows:
        with pa.ipc.open_stream(source.rows) as reader:
            table = reader.read_all()
        columns = {int(name[1:]): (name,) for name in table.column_names if name not in _KEYS}
        return [Scan(table, columns, source.exact, table.num_rows, source.rows_files)]
    for path in source.arrow:
        try:
            with pa.memory_map(path) as mapped:
                table = pa.ipc.open_file(mapped).read_all()
        except FileNotFoundError:
            raise Unavailable(f"cannot read hot rows {path}: the file is gone; ask again") from None
        except (OSError, pa.ArrowInvalid) as error:
            raise _unreadable("hot rows", error, path) from None
        _check_rows(path, table.schema)
        groups.setdefault(tuple(table.column_names), []).append(table)
    found = []
    for names, tables in groups.items():
        columns = {int(name[1:]): (name,) for name in names if name not in _KEYS}
        data = tables[0] if len(tables) == 1 else pa.concat_tables(tables)
        found.append(Scan(data, columns, False, data.num_rows, len(tables)))
    return found


def _unreadable(what: str, error: Exception, path: str) -> Exception:
    """Return what to raise for a file that cannot be read: want of memory says nothing about the file."""
    if is_shortage(error):
        return MemoryError(f"cannot read {what}: {error}")
    return Damage(f"cannot read {what}: {str(error).splitlines()[0]}", path=path)


def _check_rows(path: str, schema: pa.Schema) -> None:
    for name, type_ in _KEYS.items():
        if name not in schema.names or schema.field(name).type != type_:
            raise Damage(f"cannot read hot rows: want column {name!r} of {type_}, got {schema.names}", path=path)
    for column in schema:
        if column.name not in _KEYS and not (
            column.name[:1] == "f" and column.name[1:].isdigit() and pa.types.is_float64(column.type)
        ):
            raise Damage(f"cannot read hot rows: got column {column.name!r} of {column.type}, want fields", path=path)


def mapped_bytes(source: TableSource) -> int:
    """Return how much address space mapping the Arrow files of a source takes."""
    total = 0
    for path in source.arrow:
        try:
            total += os.stat(path).st_size
        except OSError:
            continue
    return total
