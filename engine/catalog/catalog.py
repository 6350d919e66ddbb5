"""The catalogue in memory and on disk.

Numbers are given by the native catalogue in order of first sight and never change.  New definitions reach the disk
twice: first in the log record of the batch that brought them (so an acknowledged batch never names something unknown),
later, at a seal, in ``catalog.log``, so that old log files may go.  When many tag sets have come together they move
from memory and from ``catalog.log`` into a file that is read in place (:mod:`engine.catalog.tagsetfiles`), so that
memory does not grow with the number of names there have ever been.  Format page: docs/formats/catalogue.md.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from engine.catalog.packing import PACKED_VERSION, pack_definitions, unpack_definitions
from engine.catalog.pooled import METRIC_TAG, POOLED_TABLES
from engine.catalog.selections import Selections
from engine.catalog.tagsetfiles import DIRECTORY, TagsetFiles, release_pages
from engine.disk.filesystem import FileSystem, storage_error
from engine.errors import Damage, NewerFormat
from engine.model.matchers import Matcher
from engine.model.rows import series_id_of
from native.catalogue import Catalogue
from native.frames import FRAME_HEADER_BYTES, encode_frame, scan_frames
from native.tagcolumns import keys_between, members_of, members_with, tables_of, tags_of, values_of

#: This many tag sets in memory are moved into a file: about 12 MB.
FREEZE_TAGSETS = 1 << 16
FRAME_DEFINITIONS = 2
Mark = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Field:
    """One column of one table; in a pooled table the part of it that ``matchers`` select, one metric's series."""

    table_id: int
    field_id: int
    table: str
    name: str
    matchers: tuple[Matcher, ...] = ()

    @property
    def metric(self) -> str:
        """The metric's name; in a pooled table that of series without ``__name__``."""
        return f"{self.table}_{self.name}"


@dataclass(frozen=True, slots=True)
class Series:
    """One series: a field of a table under one tag set, with its metric's name (never among the labels)."""

    series_id: int
    tagset_id: int
    field: Field
    metric: str
    labels: dict[str, str]


_WITHOUT_NAME = Matcher.of(METRIC_TAG, "=", "")
_POOLED_NAMES = frozenset(name.encode() for name in POOLED_TABLES)
#: So many metric names of a pooled table are remembered; beyond, the tag sets are looked through each time.
MAX_REMEMBERED_NAMES = 100_000
#: Up to so many values of a label are looked up one by one.
MAX_LOOKED_UP_TEXTS = 64


def _only_pooled(fields: Sequence[Field]) -> bool:
    return all(field.table in POOLED_TABLES for field in fields)


def _random_seed() -> int:
    return int.from_bytes(os.urandom(8), "little")


def _decoded(offsets: npt.NDArray[np.int32], data: bytes) -> list[str]:
    """Return texts as :mod:`native.tagcolumns` gives them."""
    ends = offsets.tolist()
    return [data[start:end].decode() for start, end in itertools.pairwise(ends)]


def _ends_in_zeros(data: bytes, offset: int) -> bool:
    """Return whether the frame at ``offset`` is the last and ends in zeros: its size reached the disk before its bytes.

    Should it be damage after all, the definitions that are cut off are missed when segments are compared with them.
    """
    end = offset + FRAME_HEADER_BYTES + int.from_bytes(data[offset : offset + 4], "little")
    return not any(data[end - 1 :])


class Catalog:
    """Tables, fields and tag sets with their numbers and names.

    Definitions are made by the decoding thread through :attr:`native`; every other method may be called from any
    thread.  ``path`` is the file that keeps the definitions, ``None`` for a catalogue in memory only; tag-set files
    lie in the directory ``tagsets`` beside it.
    """

    def __init__(
        self, fs: FileSystem | None = None, path: str | None = None, *, seed: Callable[[], int] = _random_seed
    ) -> None:
        self.native = Catalogue()
        self._fs = fs
        self._path = path
        self._lock = threading.RLock()
        self._files: TagsetFiles | None = None
        self._selections = Selections()
        if fs is not None and path is not None:
            self._files = TagsetFiles(fs, os.path.join(os.path.dirname(path), DIRECTORY), seed)
        self._pooled_names: dict[int, tuple[int, set[str] | None]] = {}
        self._label_names: set[str] = set()
        self._labels_seen = 0
        self._persisted: Mark = (0, 0, 0)
        self._next_frame = 1
        self._good_bytes = 0
        self._failed = False
        self._must_rewrite = False
        self._fields_by_metric: dict[str, list[Field]] = {}
        self._fields_seen: dict[int, int] = {}

    # --- on disk

    def load(self) -> None:
        """Read the persisted definitions; a torn tail (a crash while persisting) is cut off, other damage raises.

        A torn tail loses nothing: the log files that also hold those definitions are removed only after the append
        that was torn had been synced.  Raises DiskFull or Unavailable when the disk does not allow it.
        """
        if self._fs is None or self._path is None or self._files is None:
            return
        try:
            self._files.load(self.native)
            if self._fs.exists(self._path):
                self._load_log(self._fs, self._path)
        except OSError as error:
            raise storage_error("open the catalogue", error, self._path) from error
        for file in self.native.tagset_files():
            if (largest := file.largest_table()) >= self.native.table_count:
                raise Damage(
                    f"cannot read catalogue: got a tag set of table {largest}, want one of the"
                    f" {self.native.table_count} tables that {self._path} defines",
                    path=file.path,
                )
            release_pages(file)
        self._persisted = self.native.mark()

    def _load_log(self, fs: FileSystem, path: str) -> None:
        data = fs.read(path)
        frames, end, status = scan_frames(data)
        for kind, sequence, start, stop in frames:
            if kind != FRAME_DEFINITIONS:
                message = f"cannot read catalogue: got a frame of kind {kind}, want {FRAME_DEFINITIONS}"
                raise Damage(message, path=path, offset=start)
            if stop > start and data[start] > PACKED_VERSION:
                raise NewerFormat(
                    f"cannot read catalogue: got version {data[start]}, want at most {PACKED_VERSION};"
                    " it was written by a newer version",
                    path=path,
                    offset=start,
                )
            try:
                self.native.apply_definitions(unpack_definitions(memoryview(data)[start:stop]))
            except ValueError as error:
                raise Damage(f"cannot read catalogue: {error}", path=path, offset=start) from None
            self._next_frame = sequence + 1
        if status == "torn" or (status == "bad_checksum" and _ends_in_zeros(data, end)):
            fs.truncate(path, end)
        elif status != "end":
            raise Damage(f"cannot read catalogue: {status.replace('_', ' ')}", path=path, offset=end)
        # Nothing that has been read is persisted again, so it has to be on disk before the log is shortened.
        fs.sync_file(path)
        self._good_bytes = end

    def persist(self, until: Mark | None = None) -> None:
        """Append every definition made up to ``until`` (default: all) to the file and sync it.

        Raises DiskFull or Unavailable, and then the file is repaired before the next append.
        """
        if self._fs is None or self._path is None:
            return
        with self._lock:
            until = until or self.native.mark()
            if until == self._persisted:
                return
            try:
                if self._must_rewrite:
                    self._rewrite(self._fs, self._path, until)
                    return
                self._append(self._fs, self._path, self.native.definitions(self._persisted, until))
            except OSError as error:
                raise storage_error("persist the catalogue", error, self._path) from error
            self._persisted = until

    def _append(self, fs: FileSystem, path: str, definitions: bytes) -> None:
        frame = encode_frame(FRAME_DEFINITIONS, self._next_frame, [pack_definitions(definitions)])
        repairing, self._failed = self._failed, True
        if repairing and fs.exists(path):
            # Whatever the append that failed has left would stand between intact frames.
            fs.truncate(path, self._good_bytes)
        file = fs.open_append(path)
        try:
            file.write(frame)
            file.sync()
        finally:
            file.close()
        if repairing:
            # It may have been the one that was to bring the file's name to disk.
            fs.sync_dir(os.path.dirname(path))
        self._failed = False
        self._good_bytes += len(frame)
        self._next_frame += 1

    def freeze(self, at_least: int = FREEZE_TAGSETS) -> int:
        """Move the tag sets in memory into a file if there are ``at_least`` so many; return how many went.

        ``catalog.log`` then starts anew with what is in no file.  Killed anywhere in between, both hold the same
        tag sets under the same numbers.
        """
        if self._fs is None or self._path is None or self._files is None:
            return 0
        with self._lock:
            if self.native.tagset_count - self.native.frozen_count < at_least:
                return 0
            try:
                return self._freeze(self._fs, self._path, self._files)
            except OSError as error:
                raise storage_error("persist the catalogue", error, self._path) from error

    def _freeze(self, fs: FileSystem, path: str, files: TagsetFiles) -> int:
        frozen = self.native.frozen_count
        tables, fields, tagsets = self.native.settled_mark()
        # A file must not refer to a table that a restart would not know.
        if self._must_rewrite:
            self._rewrite(fs, path, (tables, fields, tagsets))
        if self._persisted[:2] != (tables, fields):
            until = (tables, fields, self._persisted[2])
            self._append(fs, path, self.native.definitions(self._persisted, until))
            self._persisted = until
        files.freeze(self.native, tagsets)
        self._rewrite(fs, path, (tables, fields, tagsets))
        for file in self.native.tagset_files():
            release_pages(file)
        return tagsets - frozen

    def _rewrite(self, fs: FileSystem, path: str, until: Mark) -> None:
        """Replace ``catalog.log`` by what no file holds."""
        definitions = self.native.definitions((0, 0, self.native.frozen_count), until)
        frame = encode_frame(FRAME_DEFINITIONS, 1, [pack_definitions(definitions)])
        # A failure leaves the old or the new content: it cannot be appended to before this has been repeated.
        self._must_rewrite = True
        fs.write_atomic(path, [frame])
        self._must_rewrite = False
        self._next_frame, self._good_bytes, self._failed = 2, len(frame), False
        self._persisted = until

    # --- tables and fields

    def table_names(self) -> list[str]:
        return [self.native.table_name(table_id).decode() for table_id in range(self.native.table_count)]

    def table_id(self, name: str) -> int | None:
        found = self.native.find_table(name.encode())
        return None if found < 0 else found

    def table_name(self, table_id: int) -> str:
        return self.native.table_name(table_id).decode()

    def fields(self, table_id: int) -> list[Field]:
        table = self.table_name(table_id)
        return [
            Field(table_id, field_id, table, name.decode())
            for field_id, name in enumerate(self.native.fields(table_id))
        ]

    def metric_names(self, matchers: Sequence[Matcher] = ()) -> list[str]:
        """Return the metric names of the series that satisfy all matchers, sorted."""
        if matchers:
            return sorted(self._metric_names_of(self.matching(matchers)))
        with self._lock:
            self._index_fields()
            names = {metric for metric, fields in self._fields_by_metric.items() if not _only_pooled(fields)}
            for table_id, _ in self._pooled_tables():
                codes, offsets, data = values_of(self.native, METRIC_TAG.encode(), self.tagset_ids(table_id))
                names.update(_decoded(offsets, data))
                if (codes < 0).any():
                    names.update(field.metric for field in self.fields(table_id))
            return sorted(names)

    def _metric_names_of(self, tagset_ids: npt.NDArray[np.int32]) -> set[str]:
        names: set[str] = set()
        tables = tables_of(self.native, tagset_ids)
        for table_id in np.unique(tables).tolist():
            if not self.is_pooled(table_id):
                names.update(field.metric for field in self.fields(table_id))
                continue
            codes, offsets, data = values_of(self.native, METRIC_TAG.encode(), tagset_ids[tables == table_id])
            names.update(_decoded(offsets, data))
            if (codes < 0).any():
                names.update(field.metric for field in self.fields(table_id))
        return names

    def fields_of_metric(self, metric: str) -> list[Field]:
        """Return the fields that carry ``metric``: none, or several when ``a_b`` + ``c`` meets ``a`` + ``b_c``."""
        with self._lock:
            found = self._fields_by_metric.get(metric)
            if found is None:
                self._index_fields()
                found = self._fields_by_metric.get(metric, [])
            fields = [
                replace(field, matchers=(_WITHOUT_NAME,)) if field.table in POOLED_TABLES else field for field in found
            ]
            for table_id, _ in self._pooled_tables():
                if self._names_metric(table_id, metric):
                    named = (Matcher.of(METRIC_TAG, "=", metric),)
                    fields += [replace(field, matchers=named) for field in self.fields(table_id)]
            return fields

    def _names_metric(self, table_id: int, metric: str) -> bool:
        """Return whether a tag set of a pooled table carries the metric's name."""
        count = self.native.tagset_count
        seen, names = self._pooled_names.get(table_id, (0, set()))
        if names is None:
            return len(members_with(self.native, table_id, METRIC_TAG.encode(), metric.encode(), 0, count)) > 0
        if count > seen:
            new = self.tagset_ids(table_id, since=seen)
            _, offsets, data = values_of(self.native, METRIC_TAG.encode(), new)
            names.update(_decoded(offsets, data))
            self._pooled_names[table_id] = (count, names if len(names) <= MAX_REMEMBERED_NAMES else None)
        return metric in names

    def is_pooled(self, table_id: int) -> bool:
        """Return whether the table's metrics are named by the tag ``__name__``."""
        return self.native.table_name(table_id) in _POOLED_NAMES

    def _pooled_tables(self) -> list[tuple[int, str]]:
        found = ((self.native.find_table(name.encode()), name) for name in sorted(POOLED_TABLES))
        return [(table_id, name) for table_id, name in found if table_id >= 0]

    def _index_fields(self) -> None:
        for table_id in range(self.native.table_count):
            seen = self._fields_seen.get(table_id, 0)
            fields = self.fields(table_id)
            for field in fields[seen:]:
                self._fields_by_metric.setdefault(field.metric, []).append(field)
            self._fields_seen[table_id] = len(fields)

    # --- tag sets

    def tags(self, tagset_id: int) -> dict[str, str]:
        return {key.decode(): value.decode() for key, value in self.native.tags(tagset_id)}

    def labels(self, tagset_id: int) -> dict[str, str]:
        """Return the tags as labels: in a pooled table without ``__name__``, which is the metric's name."""
        tags = self.tags(tagset_id)
        if METRIC_TAG in tags and self.is_pooled(int(self.native.tagset_tables(tagset_id, tagset_id + 1)[0])):
            del tags[METRIC_TAG]
        return tags

    def labels_of(self, table_id: int, tagset_ids: npt.NDArray[np.int32]) -> list[dict[str, str]]:
        """Return `labels` of many tag sets of one table."""
        offsets, keys, values, key_texts, value_texts = tags_of(self.native, tagset_ids)
        names, texts = _decoded(*key_texts), _decoded(*value_texts)
        pairs = [(names[key], texts[value]) for key, value in zip(keys.tolist(), values.tolist(), strict=True)]
        bounds = offsets.tolist()
        labels = [dict(pairs[start:end]) for start, end in itertools.pairwise(bounds)]
        if METRIC_TAG in names and self.is_pooled(table_id):
            for each in labels:
                each.pop(METRIC_TAG, None)
        return labels

    def label_column(self, tagset_ids: npt.NDArray[np.int32], label: str) -> tuple[npt.NDArray[np.int64], list[str]]:
        """Return (codes, texts): the value of a label for each tag set, empty where it has none.

        ``codes``: int64[n], places in the texts, which are distinct.
        """
        found, offsets, data = values_of(self.native, label.encode(), tagset_ids)
        texts = _decoded(offsets, data)
        codes = found.astype(np.int64)
        if (codes < 0).any():
            if "" not in texts:
                texts.append("")
            codes[codes < 0] = texts.index("")
        return codes, texts

    def tagset_ids(self, table_id: int, matchers: Sequence[Matcher] = (), *, since: int = 0) -> npt.NDArray[np.int32]:
        """Return the table's tag sets numbered ``since`` or higher that satisfy all matchers, ascending.

        The array is shared: read only.
        """
        until = self.native.tagset_count
        if since:
            return self._found(table_id, matchers, since, until)
        return self._selections.of(
            (table_id, *matchers), until, lambda first: self._found(table_id, matchers, first, until)
        )

    def _found(self, table_id: int, matchers: Sequence[Matcher], since: int, until: int) -> npt.NDArray[np.int32]:
        native, ids, by = self.native, None, None
        for matcher in matchers:
            texts = matcher.wanted_texts()
            if texts is not None and "" not in texts and len(texts) <= MAX_LOOKED_UP_TEXTS:
                by, label = matcher, matcher.label.encode()
                parts = [members_with(native, table_id, label, text.encode(), since, until) for text in texts]
                ids = parts[0] if len(parts) == 1 else np.sort(np.concatenate(parts))
                break
        if ids is None:
            ids = members_of(native, table_id, since, until)
        for matcher in matchers:
            if not len(ids):
                break
            if matcher is not by:
                ids = ids[self._accepted(ids, matcher)]
        return ids

    def matching(self, matchers: Sequence[Matcher]) -> npt.NDArray[np.int32]:
        """Return the tag sets of all tables that satisfy all matchers, ascending."""
        ids = np.arange(self.native.tagset_count, dtype=np.int32)
        return ids[self.accepts(ids, matchers)]

    def accepts(self, tagset_ids: npt.NDArray[np.int32], matchers: Sequence[Matcher]) -> npt.NDArray[np.bool_]:
        """Return which of these tag sets satisfy all matchers."""
        accepted = np.ones(len(tagset_ids), np.bool_)
        for matcher in matchers:
            accepted[accepted] = self._accepted(tagset_ids[accepted], matcher)
        return accepted

    def _accepted(self, ids: npt.NDArray[np.int32], matcher: Matcher) -> npt.NDArray[np.bool_]:
        """Return which of the tag sets a matcher accepts; it is asked once for each distinct value."""
        codes, offsets, data = values_of(self.native, matcher.label.encode(), ids)
        # The code -1, for no such label, is the last place.
        verdicts = [matcher.accepts(value) for value in _decoded(offsets, data)]
        return np.array([*verdicts, matcher.accepts("")], np.bool_)[codes]

    def label_names(self, matchers: Sequence[Matcher] = ()) -> list[str]:
        """Return the names of the labels that tag sets have which satisfy all matchers, sorted."""
        if matchers:
            ids = self.matching(matchers)
            # A label at a time: the values of all at once would take much memory.
            return [label for label in self.label_names() if len(values_of(self.native, label.encode(), ids)[1]) > 1]
        with self._lock:
            count = self.native.tagset_count
            self._label_names.update(key.decode() for _, key in keys_between(self.native, self._labels_seen, count))
            self._labels_seen = count
            return sorted(self._label_names)

    def label_values(self, label: str, matchers: Sequence[Matcher] = ()) -> list[str]:
        """Return the values that tag sets have for a label which satisfy all matchers, sorted."""
        ids = self.matching(matchers)
        _, offsets, data = values_of(self.native, label.encode(), ids)
        return sorted(_decoded(offsets, data))

    def series(self, metric: str | None, matchers: Sequence[Matcher] = ()) -> Iterator[Series]:
        """Yield the series of ``metric`` (of every metric when ``None``) that satisfy all matchers.

        A series is listed for every (tag set, field) of its table, whether or not that pair has had a sample yet.
        """
        if metric is not None:
            fields = self.fields_of_metric(metric)
        else:
            fields = [field for table_id in range(self.native.table_count) for field in self.fields(table_id)]
        for field in fields:
            pooled = self.is_pooled(field.table_id)
            for tagset_id in self.tagset_ids(field.table_id, (*field.matchers, *matchers)).tolist():
                tags = self.tags(tagset_id)
                name = tags.pop(METRIC_TAG, field.metric) if pooled else field.metric
                yield Series(series_id_of(tagset_id, field.field_id), tagset_id, field, name, tags)

    def tag_columns(self, tagset_ids: npt.NDArray[np.int32]) -> tuple[list[str], list[list[str | None]]]:
        """Return the tag keys of these tag sets, sorted, and for each key one value (or None) a tag set."""
        offsets, keys, values, key_texts, value_texts = tags_of(self.native, np.ascontiguousarray(tagset_ids, np.int32))
        names, texts = _decoded(*key_texts), _decoded(*value_texts)
        columns: list[list[str | None]] = [[None] * len(tagset_ids) for _ in names]
        owners = np.repeat(np.arange(len(tagset_ids)), np.diff(offsets)).tolist()
        for owner, key, value in zip(owners, keys.tolist(), values.tolist(), strict=True):
            columns[key][owner] = texts[value]
        order = sorted(range(len(names)), key=names.__getitem__)
        return [names[key] for key in order], [columns[key] for key in order]
