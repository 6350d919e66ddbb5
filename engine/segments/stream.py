"""A segment written while its rows arrive: nothing but one row group and the open file is held.

The file grows under a temporary name and gets its own once it is synced, as a segment written at once does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from engine.disk.filesystem import AppendFile, FileSystem, storage_error
from engine.errors import Bug, TidegaugeError
from engine.model.rows import Rows, concat
from engine.segments.classify import DELTA
from engine.segments.layout import TEMPORARY_SUFFIX, SegmentMeta, SegmentSpec, TagsOf, segment_file
from engine.segments.writer import FieldPlan, SegmentEncoder, Totals, check_rows, meta_of, row_groups, tagset_starts
from engine.segments.written import WrittenColumns


class SegmentStream:
    """One segment being written.  Use as a context manager: without :meth:`finish` no file remains."""

    def __init__(
        self,
        fs: FileSystem,
        root: str,
        spec: SegmentSpec,
        plans: Mapping[int, FieldPlan],
        tag_keys: Sequence[str],
        tags_of: TagsOf,
        *,
        time_encoding: str = DELTA,
        written: WrittenColumns | None = None,
    ) -> None:
        """See :class:`engine.segments.writer.SegmentEncoder` for what it is given."""
        self._fs, self._spec = fs, spec
        self._path = f"{root}/{segment_file(spec.table, spec.start_ns, spec.end_ns, spec.sequence)}"
        self._totals = Totals()
        self._pending = Rows.empty()
        self._last: tuple[int, int] | None = None
        self._file: AppendFile | None = None
        try:
            with self._storing():
                fs.makedirs(self._path.rpartition("/")[0])
                with contextlib.suppress(FileNotFoundError):
                    fs.remove(self._path + TEMPORARY_SUFFIX)
                self._file = fs.open_append(self._path + TEMPORARY_SUFFIX)
                self._sink = _Sink(self._file)
                self._encoder = SegmentEncoder(
                    pa.PythonFile(self._sink, mode="w"), spec, plans, tag_keys, tags_of, time_encoding, written
                )
        except BaseException:
            self._discard()
            raise

    def __enter__(self) -> SegmentStream:
        return self

    def __exit__(self, *_: object) -> None:
        self._discard()

    def _discard(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            with contextlib.suppress(OSError):
                self._fs.remove(self._path + TEMPORARY_SUFFIX)
            self._file = None

    def write(self, rows: Rows) -> None:
        """Add rows that follow all earlier ones in order of (tag set, time).  Raises DiskFull and Unavailable."""
        if not len(rows):
            return
        check_rows(self._spec, rows)
        first = int(rows.tagset_ids[0]), int(rows.times[0])
        if self._last is not None and first <= self._last:
            raise Bug(f"cannot write segment of {self._spec.table}: got row {first} after {self._last}")
        self._last = int(rows.tagset_ids[-1]), int(rows.times[-1])
        self._totals.add(rows)
        self._pending = concat([self._pending, rows])
        self._emit(keep_last=True)

    def finish(self) -> SegmentMeta:
        """Write the rest and the footer, make the file durable under its name, and return its manifest entry."""
        self._emit(keep_last=False)
        temporary = self._path + TEMPORARY_SUFFIX
        with self._storing():
            self._encoder.finish()
            self._sink.check()
            file, self._file = self._file, None
            assert file is not None
            file.sync()
            file.close()
            self._fs.rename(temporary, self._path)
            return meta_of(self._spec, self._fs.map(self._path), self._encoder.columns, self._totals)

    def _emit(self, *, keep_last: bool) -> None:
        """Write whole row groups; the last one waits for the rows that may still belong into it."""
        rows = self._pending
        if not len(rows):
            return
        groups = list(row_groups(tagset_starts(rows)[0], len(rows), self._spec.group_rows))
        if keep_last:
            groups.pop()
        if groups:
            with self._storing():
                self._encoder.write(rows, groups)
                self._sink.check()
            # A copy, so that what has been written can go.
            rest = rows.take(slice(groups[-1][1], None))
            self._pending = Rows(rest.tagset_ids.copy(), rest.times.copy(), rest.field_ids, rest.values.copy())

    @contextlib.contextmanager
    def _storing(self) -> Any:
        try:
            yield
        except TidegaugeError:
            raise
        except Exception as error:
            failed = getattr(getattr(self, "_sink", None), "error", None)
            if failed is None and isinstance(error, OSError):
                failed = error
            if failed is None:
                raise
            raise storage_error("write segment", failed, self._path) from error


class _Sink:
    """What pyarrow writes to.  It keeps the system's own error, which pyarrow would lose."""

    def __init__(self, file: AppendFile) -> None:
        self._file = file
        self.error: OSError | None = None
        self.closed = False

    def write(self, data: Any) -> int:
        view = memoryview(data)
        try:
            self._file.write(view)
        except OSError as error:
            self.error = error
            raise
        return view.nbytes

    def tell(self) -> int:
        return self._file.position

    def flush(self) -> None:
        """Nothing is buffered here."""

    def close(self) -> None:
        self.closed = True

    def check(self) -> None:
        if self.error is not None:
            raise self.error
