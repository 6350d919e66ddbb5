"""Hot rows for the query process: Arrow files in shared memory, each block written once.

A block that no longer changes is exported once, sorted, and its file lives as long as the block; of the open block what
has been added since is exported as one more file, until these are many.  Where late rows disturb sealed segments, the
merged rows of these segments and of the hot store are exported together, so that the query process only ever sees each
key once.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from engine.hot.store import BlockView
from engine.model.rows import FOREVER_NS, NEVER_NS, Rows, concat, sort_merge
from engine.query.foundrows import FoundRows, arrow_of_rows, stream_of
from engine.query.samples import SampleStore, Snapshot, any_between
from engine.query.sources import NeededTable, ParquetFile, TableSource
from engine.segments.reader import column_names, segment_path

#: An open block is exported whole again once it is in so many pieces.
MAX_PIECES = 16
_SHARED_MEMORY = "/dev/shm"
_PREFIX = "tidegauge-"


def arrow_of_columns(columns: Sequence[tuple[str, str]], values: Mapping[str, Sequence[Any]]) -> bytes:
    """Return columns with their SQL types as an Arrow IPC stream; the schema is there even without rows."""
    types = {
        "BIGINT": pa.int64(),
        "DOUBLE": pa.float64(),
        "VARCHAR": pa.string(),
        "BOOLEAN": pa.bool_(),
        "TIMESTAMP_NS": pa.timestamp("ns"),
    }
    arrays = {}
    for name, sql_type in columns:
        if sql_type == "TIMESTAMP_NS":
            arrays[name] = pa.array(values[name], pa.int64()).cast(pa.timestamp("ns"))
        else:
            arrays[name] = pa.array(values[name], types[sql_type])
    return stream_of(pa.table(arrays))


class Exports:
    """The exported files of one engine; thread-safe.  ``close`` removes them."""

    def __init__(self, samples: SampleStore, root: str, found: FoundRows | None = None) -> None:
        """``found``: looks up rows of statements that need few of them."""
        self._samples, self._root, self._found = samples, root, found
        parent = _SHARED_MEMORY if os.access(_SHARED_MEMORY, os.W_OK) else None
        _remove_abandoned(parent or tempfile.gettempdir())
        self.directory = tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=parent)
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        #: By number of a block: how many of its rows are exported, and in which files.
        self._blocks: dict[int, tuple[int, list[str]]] = {}
        self._merged: dict[tuple[object, ...], str] = {}
        self._users: dict[str, int] = {}
        self._stale: set[str] = set()

    def close(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def nbytes(self) -> int:
        with os.scandir(self.directory) as entries:
            return sum(entry.stat().st_size for entry in entries)

    @contextmanager
    def sources(self, tables: Sequence[NeededTable]) -> Iterator[tuple[TableSource, ...]]:
        """Give the sources of these tables for the times asked for; their files stay until the block is left."""
        held: list[str] = []
        try:
            with self._samples.reading():
                yield tuple(self._source(table, held) for table in tables)
        finally:
            self._release(held)

    def _source(self, table: NeededTable, held: list[str]) -> TableSource:
        table_id = table.table_id
        found = None if self._found is None else self._found.source(table)
        if found is not None:
            return found
        start_ns = NEVER_NS if table.start_ns is None else table.start_ns
        end_ns = FOREVER_NS if table.end_ns is None else table.end_ns
        snapshot = self._samples.snapshot(table_id, start_ns, end_ns)
        files: list[str] = []
        # Late rows may correct those fresh ones that lie in their time; the others are exported by themselves, so that
        # what comes in now does not have days gone by merged again.
        touched = tuple(
            view for view in snapshot.fresh if any_between(snapshot.late, view.min_time_ns, view.max_time_ns)
        )
        merged = {view.block.number for view in touched}
        with self._lock:
            if snapshot.late:
                files.append(self._export_merged(table_id, snapshot, touched, held))
            for view in snapshot.fresh:
                if view.block.number in merged:
                    continue
                for path in self._pieces(view):
                    files.append(path)
                    self._hold(path, held)
            self._drop_dead()
        parquet = tuple(
            ParquetFile(segment_path(self._root, meta), column_names(meta), self._samples.holes(meta))
            for meta in snapshot.settled
        )
        return TableSource(table_id=table_id, name=table.name, parquet=parquet, arrow=tuple(files))

    def _pieces(self, view: BlockView) -> list[str]:
        """Return the files that together hold the rows of a block, as of the view or somewhat later."""
        block, rows = view.block, view.rows
        exported, pieces = self._blocks.get(block.number, (0, []))
        if exported >= len(rows):
            # More than the view has was exported for another reader, who came later.
            return pieces
        # Only frozen blocks are ever sorted: this one's rows are in order of arrival, the last ones being new.
        if not block.frozen and len(pieces) < MAX_PIECES:
            pieces = [*pieces, self._write(rows.take(slice(exported, len(rows))))]
        else:
            for path in pieces:
                self._forget(path)
            whole = block.frozen and block.count == len(rows)
            pieces = [self._write(block.sorted_view() if whole else rows)]
        self._blocks[block.number] = (len(rows), pieces)
        return pieces

    def _export_merged(self, table_id: int, snapshot: Snapshot, touched: Sequence[BlockView], held: list[str]) -> str:
        key = (
            table_id,
            tuple((meta.file, self._samples.holes(meta)) for meta in snapshot.disturbed),
            tuple((view.block.number, len(view.rows)) for view in (*touched, *snapshot.late)),
        )
        path = self._merged.get(key)
        if path is None:
            parts = [self._samples.read(meta, NEVER_NS, FOREVER_NS) for meta in snapshot.disturbed]
            parts += [view.rows for view in (*touched, *snapshot.late)]
            path = self._write(sort_merge(concat(parts)))
            for old_key in [each for each in self._merged if each[0] == table_id]:
                self._forget(self._merged.pop(old_key))
            self._merged[key] = path
        self._hold(path, held)
        return path

    def _write(self, rows: Rows) -> str:
        path = os.path.join(self.directory, f"{next(self._numbers)}.arrow")
        table = arrow_of_rows(rows)
        with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        return path

    # --- life of a file: removed when nothing refers to it any more and nobody reads it

    def _hold(self, path: str, held: list[str]) -> None:
        self._users[path] = self._users.get(path, 0) + 1
        held.append(path)

    def _release(self, held: list[str]) -> None:
        with self._lock:
            for path in held:
                self._users[path] -= 1
                if not self._users[path]:
                    del self._users[path]
                    if path in self._stale:
                        self._stale.discard(path)
                        _unlink(path)

    def _forget(self, path: str) -> None:
        if path in self._users:
            self._stale.add(path)
        else:
            _unlink(path)

    def _drop_dead(self) -> None:
        alive = self._samples.hot.block_numbers()
        for number in [number for number in self._blocks if number not in alive]:
            for path in self._blocks.pop(number)[1]:
                self._forget(path)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


def _remove_abandoned(parent: str) -> None:
    """Remove the directories of engines that ended without removing them (kill -9)."""
    for name in os.listdir(parent):
        if name.startswith(_PREFIX):
            owner = name.removeprefix(_PREFIX).partition("-")[0]
            if owner.isdigit() and not os.path.exists(f"/proc/{owner}"):
                shutil.rmtree(os.path.join(parent, name), ignore_errors=True)
