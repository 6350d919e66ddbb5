"""The catalogue in memory and on disk.

Numbers are given by the native catalogue in order of first sight and never change.  New definitions reach the disk
twice: first in the log record of the batch that brought them (so an acknowledged batch never names something unknown),
later, at a seal, in ``catalog.log``, so that old log files may go.  Format page: docs/formats/catalogue.md.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from engine.catalog.matchers import Matcher
from engine.catalog.pooled import METRIC_TAG, POOLED_TABLES
from engine.disk.filesystem import FileSystem
from engine.errors import Damage
from engine.model.rows import series_id_of
from native.catalogue import Catalogue
from native.frames import encode_frame, scan_frames

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


def _only_pooled(fields: Sequence[Field]) -> bool:
    return all(field.table in POOLED_TABLES for field in fields)


class _TableIndex:
    """Postings of one table: for each tag key and value the tag sets that carry it, in ascending order."""

    def __init__(self) -> None:
        self.tagset_ids: list[int] = []
        self.postings: dict[str, dict[str, list[int]]] = {}

    def add(self, tagset_id: int, tags: Iterable[tuple[str, str]]) -> None:
        self.tagset_ids.append(tagset_id)
        for key, value in tags:
            self.postings.setdefault(key, {}).setdefault(value, []).append(tagset_id)


class Catalog:
    """Tables, fields and tag sets with their numbers, names and postings.

    Definitions are made by the decoding thread through :attr:`native`; every other method may be called from any
    thread.  ``path`` is the file that keeps the definitions, ``None`` for a catalogue in memory only.
    """

    def __init__(self, fs: FileSystem | None = None, path: str | None = None) -> None:
        self.native = Catalogue()
        self._fs = fs
        self._path = path
        self._lock = threading.RLock()
        self._indexed_tagsets = 0
        self._indexes: dict[int, _TableIndex] = {}
        self._persisted: Mark = (0, 0, 0)
        self._next_frame = 1
        self._fields_by_metric: dict[str, list[Field]] = {}
        self._fields_seen: dict[int, int] = {}

    # --- on disk

    def load(self) -> None:
        """Read the persisted definitions; a torn tail (a crash while persisting) is cut off, other damage raises.

        A torn tail loses nothing: the log files that also hold those definitions are removed only after the append
        that was torn had been synced.
        """
        if self._fs is None or self._path is None or not self._fs.exists(self._path):
            return
        data = self._fs.read(self._path)
        frames, end, status = scan_frames(data)
        for kind, sequence, start, stop in frames:
            if kind != FRAME_DEFINITIONS:
                message = f"cannot read catalogue: got a frame of kind {kind}, want {FRAME_DEFINITIONS}"
                raise Damage(message, path=self._path, offset=start)
            try:
                self.native.apply_definitions(memoryview(data)[start:stop])
            except ValueError as error:
                raise Damage(f"cannot read catalogue: {error}", path=self._path, offset=start) from None
            self._next_frame = sequence + 1
        if status == "torn":
            self._fs.truncate(self._path, end)
        elif status != "end":
            raise Damage(f"cannot read catalogue: {status.replace('_', ' ')}", path=self._path, offset=end)
        self._persisted = self.native.mark()

    def persist(self, until: Mark | None = None) -> None:
        """Append every definition made up to ``until`` (default: all) to the file and sync it."""
        if self._fs is None or self._path is None:
            return
        with self._lock:
            until = until or self.native.mark()
            if until == self._persisted:
                return
            definitions = self.native.definitions(self._persisted, until)
            file = self._fs.open_append(self._path)
            try:
                file.write(encode_frame(FRAME_DEFINITIONS, self._next_frame, [definitions]))
                file.sync()
            finally:
                file.close()
            self._next_frame += 1
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

    def metric_names(self) -> list[str]:
        """Return every metric name, sorted."""
        with self._lock:
            self._index_fields()
            names = {metric for metric, fields in self._fields_by_metric.items() if not _only_pooled(fields)}
            for table_id, _ in self._pooled_tables():
                by_name = self._index(table_id).postings.get(METRIC_TAG, {})
                names.update(by_name)
                if sum(map(len, by_name.values())) < len(self._index(table_id).tagset_ids):
                    names.update(field.metric for field in self.fields(table_id))
            return sorted(names)

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
                if metric in self._index(table_id).postings.get(METRIC_TAG, {}):
                    named = (Matcher.of(METRIC_TAG, "=", metric),)
                    fields += [replace(field, matchers=named) for field in self.fields(table_id)]
            return fields

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

    def tagset_ids(self, table_id: int, matchers: Sequence[Matcher] = ()) -> npt.NDArray[np.int32]:
        """Return the table's tag sets that satisfy all matchers, ascending."""
        with self._lock:
            index = self._index(table_id)
            if not matchers:
                return np.array(index.tagset_ids, np.int32)
            chosen: npt.NDArray[np.int32] | None = None
            for matcher in matchers:
                ids = self._matching(index, matcher)
                chosen = ids if chosen is None else np.intersect1d(chosen, ids, assume_unique=True)
                if not len(chosen):
                    break
            return chosen if chosen is not None else np.empty(0, np.int32)

    @staticmethod
    def _matching(index: _TableIndex, matcher: Matcher) -> npt.NDArray[np.int32]:
        by_value = index.postings.get(matcher.label, {})
        if matcher.operator == "=" and matcher.value:
            return np.array(by_value.get(matcher.value, []), np.int32)
        accepted = [np.array(ids, np.int32) for value, ids in by_value.items() if matcher.accepts(value)]
        if matcher.accepts(""):
            with_label = [np.array(ids, np.int32) for ids in by_value.values()]
            every = np.array(index.tagset_ids, np.int32)
            without = np.setdiff1d(every, np.concatenate(with_label), assume_unique=True) if with_label else every
            accepted.append(without)
        return np.sort(np.concatenate(accepted)) if accepted else np.empty(0, np.int32)

    def label_names(self) -> list[str]:
        with self._lock:
            names: set[str] = set()
            for table_id in range(self.native.table_count):
                names.update(self._index(table_id).postings)
            return sorted(names)

    def label_values(self, label: str) -> list[str]:
        with self._lock:
            values: set[str] = set()
            for table_id in range(self.native.table_count):
                values.update(self._index(table_id).postings.get(label, {}))
            return sorted(values)

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
        tags = [self.tags(tagset_id) for tagset_id in tagset_ids.tolist()]
        keys = sorted({key for each in tags for key in each})
        return keys, [[each.get(key) for each in tags] for key in keys]

    def _index(self, table_id: int) -> _TableIndex:
        count = self.native.tagset_count
        if count > self._indexed_tagsets:
            tables = self.native.tagset_tables(self._indexed_tagsets, count).tolist()
            for offset, owner in enumerate(tables):
                tagset_id = self._indexed_tagsets + offset
                pairs = ((key.decode(), value.decode()) for key, value in self.native.tags(tagset_id))
                self._indexes.setdefault(owner, _TableIndex()).add(tagset_id, pairs)
            self._indexed_tagsets = count
        return self._indexes.setdefault(table_id, _TableIndex())
