"""The relations that SQL sees: their names, kinds and columns, derived from the catalogue (docs/sql.md).

Names are compared as DuckDB does, without regard to ASCII case.  Where two names clash, the rules below give each a
name that depends only on the catalogue, never on the order of queries.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pyarrow as pa

from engine.model.rows import Int32Array
from engine.query.syntax import fold
from engine.query.tagsets import METRIC_TAG, TagStore
from native.catalogue import Catalogue

ROLLUPS = ("rollup_1m", "rollup_5m", "rollup_15m", "rollup_1h", "rollup_1d")
#: What the engine found, said and did; sent along with each statement that reads them.
FINDINGS = ("alerts", "alert_events", "silences", "anomalies", "bottlenecks", "decisions", "deploys", "audit")
TIME = "time"

Kind = Literal["table", "samples", "rollup", "series", "metrics", "finding"]


@dataclass(frozen=True, slots=True)
class Relation:
    """``name`` as it is shown; ``table_id`` only for measurements."""

    name: str
    kind: Kind
    table_id: int = -1


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a measurement's view: a tag (``key``) or a field (``field_id``)."""

    name: str
    key: bytes | None = None
    field_id: int = -1


@dataclass(slots=True)
class MetricTable:
    """Every metric once for each (table, field): parallel lists.  Pooled tables have one entry for each name."""

    names: list[str] = field(default_factory=list)
    table_ids: list[int] = field(default_factory=list)
    field_ids: list[int] = field(default_factory=list)
    series_counts: list[int] = field(default_factory=list)


FIXED_RELATIONS: dict[str, Relation] = {
    "samples": Relation("samples", "samples"),
    "series": Relation("series", "series"),
    "metrics": Relation("metrics", "metrics"),
    **{name: Relation(name, "rollup") for name in ROLLUPS},
    **{name: Relation(name, "finding") for name in FINDINGS},
}


def visible(name: bytes) -> str:
    """Return a name as SQL shows it.  NUL, which no SQL text can hold, becomes the replacement character."""
    return name.decode().replace("\0", "�")


def quoted(name: str) -> str:
    """Return an identifier in double quotes."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Return a string constant in single quotes."""
    return "'" + text.replace("'", "''") + "'"


def unused(name: str, taken: Collection[str]) -> str:
    """Return ``name``, or ``name_2``, ``name_3``, ... when that is taken (folded names)."""
    candidate, number = name, 2
    while fold(candidate) in taken:
        candidate, number = f"{name}_{number}", number + 1
    return candidate


def name_columns(fields: Iterable[bytes], keys: Iterable[bytes]) -> list[Column]:
    """Return the columns of a measurement after ``time``: tags in order of first sight, then fields by number.

    Fields keep their names; a field called ``time`` becomes ``time_field``.  A tag whose name a field or ``time`` has
    gets ``_tag`` behind it.  What then still clashes (``Host`` and ``host``) is numbered from 2 in that order.
    """
    taken = {TIME}
    field_columns: list[Column] = []
    for field_id, raw in enumerate(fields):
        name = visible(raw)
        name = unused(f"{name}_field" if fold(name) == TIME else name, taken)
        taken.add(fold(name))
        field_columns.append(Column(name, field_id=field_id))
    reserved = frozenset(taken)
    tag_columns: list[Column] = []
    for key in keys:
        name = visible(key)
        name = unused(f"{name}_tag" if fold(name) in reserved else name, taken)
        taken.add(fold(name))
        tag_columns.append(Column(name, key=key))
    return tag_columns + field_columns


class Relations:
    """The relations of one catalogue.  Thread-safe; follows the catalogue as it grows."""

    def __init__(
        self,
        catalogue: Catalogue,
        tags: TagStore,
        pooled: Collection[str] = (),
        findings: Collection[str] = FINDINGS,
    ) -> None:
        """``findings``: which of :data:`FINDINGS` there are; the names of the others stay reserved."""
        self._catalogue, self._tags = catalogue, tags
        self._pooled = {name.encode() for name in pooled}
        self._lock = threading.Lock()
        self._known = {
            name: relation
            for name, relation in FIXED_RELATIONS.items()
            if relation.kind != "finding" or name in findings
        }
        self._tables_known = 0
        self._columns: dict[int, tuple[tuple[int, int], list[Column]]] = {}
        self._metrics: tuple[object, MetricTable] = (None, MetricTable())
        self._fields: tuple[object, pa.Table] = (None, None)

    def by_name(self) -> dict[str, Relation]:
        """Return all relations by folded name.  The dictionary is shared: read only."""
        with self._lock:
            count = self._catalogue.table_count
            if count > self._tables_known:
                known = dict(self._known)
                for table_id in range(self._tables_known, count):
                    name = visible(self._catalogue.table_name(table_id))
                    if fold(name) in FIXED_RELATIONS:
                        name = f"{name}_table"
                    name = unused(name, known)
                    known[fold(name)] = Relation(name, "table", table_id)
                self._known, self._tables_known = known, count
            return self._known

    def mark_pooled(self, table_id: int) -> None:
        """Note that a table's metrics are named by its tag ``__name__``."""
        name = self._catalogue.table_name(table_id)
        with self._lock:
            if name not in self._pooled:
                self._pooled.add(name)
                self._metrics = (None, MetricTable())

    def is_pooled(self, table_id: int) -> bool:
        return self._catalogue.table_name(table_id) in self._pooled

    def table_name(self, table_id: int) -> str:
        return visible(self._catalogue.table_name(table_id))

    def field_names(self, table_id: int) -> list[str]:
        return [visible(name) for name in self._catalogue.fields(table_id)]

    def field_metrics(self, table_id: int) -> list[str]:
        """Return each field's metric, ``<measurement>_<field>``; in pooled tables that of tag sets without a name."""
        prefix = self.table_name(table_id)
        return [f"{prefix}_{name}" for name in self.field_names(table_id)]

    def columns(self, table_id: int) -> list[Column]:
        """Return the columns of a measurement's view after ``time``."""
        fields, keys = self._catalogue.fields(table_id), self._tags.keys_of(table_id)
        size = (len(fields), len(keys))
        with self._lock:
            cached = self._columns.get(table_id)
            if cached is None or cached[0] != size:
                cached = (size, name_columns(fields, keys))
                self._columns[table_id] = cached
            return cached[1]

    def metrics(self) -> MetricTable:
        """Return every metric there is."""
        state = (self._catalogue.mark(), self._tags.sync())
        with self._lock:
            if self._metrics[0] != state:
                self._metrics = (state, self._read_metrics(range(self._catalogue.table_count), self._tags.all()))
            return self._metrics[1]

    def _read_metrics(self, table_ids: Iterable[int], tagset_ids: Int32Array) -> MetricTable:
        """Return the metrics of some tables, counting some of their tag sets."""
        found = MetricTable()
        tables = self._tags.tables_of(tagset_ids)
        series = np.bincount(tables, minlength=self._catalogue.table_count).tolist()
        for table_id in table_ids:
            name = self._catalogue.table_name(table_id)
            fields = self._catalogue.fields(table_id)
            if name in self._pooled:
                self._read_pooled(table_id, len(fields), tagset_ids[tables == table_id], found)
                continue
            found.names.extend(self.field_metrics(table_id))
            found.table_ids.extend([table_id] * len(fields))
            found.field_ids.extend(range(len(fields)))
            found.series_counts.extend([series[table_id]] * len(fields))
        return found

    def _read_pooled(self, table_id: int, fields: int, tagset_ids: Int32Array, found: MetricTable) -> None:
        names = self._tags.texts(METRIC_TAG, tagset_ids)
        counted = names.value_counts()
        fallback = self.field_metrics(table_id)
        for name, count in zip(counted.field(0).to_pylist(), counted.field(1).to_pylist(), strict=True):
            for field_id in range(fields):
                found.names.append(fallback[field_id] if name is None else name)
                found.table_ids.append(table_id)
                found.field_ids.append(field_id)
                found.series_counts.append(count)

    def fields_table(self) -> pa.Table:
        """Return (table_id, field_id, measurement, field, metric), one row a field."""
        mark = self._catalogue.mark()[:2]
        with self._lock:
            if self._fields[0] == mark:
                return self._fields[1]
        ids: list[tuple[int, int]] = []
        names: list[tuple[str, str, str]] = []
        for table_id in range(mark[0]):
            table = self.table_name(table_id)
            for field_id, name in enumerate(self.field_names(table_id)):
                ids.append((table_id, field_id))
                names.append((table, name, f"{table}_{name}"))
        found = pa.table(
            {
                "table_id": pa.array([table_id for table_id, _ in ids], pa.int32()),
                "field_id": pa.array([field_id for _, field_id in ids], pa.int32()),
                "measurement": pa.array([table for table, _, _ in names], pa.string()),
                "field": pa.array([name for _, name, _ in names], pa.string()),
                "metric": pa.array([metric for _, _, metric in names], pa.string()),
            }
        )
        with self._lock:
            self._fields = (mark, found)
        return found

    def metrics_table(self) -> pa.Table:
        """Return the relation ``metrics``."""
        metrics = self.metrics()
        fields = {table_id: self.field_names(table_id) for table_id in set(metrics.table_ids)}
        pairs = zip(metrics.table_ids, metrics.field_ids, strict=True)
        return pa.table(
            {
                "metric": pa.array(metrics.names, pa.string()),
                "measurement": pa.array([self.table_name(table_id) for table_id in metrics.table_ids], pa.string()),
                "field": pa.array([fields[table_id][field_id] for table_id, field_id in pairs], pa.string()),
                "series_count": pa.array(metrics.series_counts, pa.int64()),
            }
        )


class VisibleRelations(Relations):
    """The relations that some tag sets make up: no table, tag key or metric of the others, and not their counts.

    For one statement: it does not follow the catalogue.
    """

    def __init__(self, whole: Relations, tagset_ids: Int32Array) -> None:
        super().__init__(whole._catalogue, whole._tags)
        self._pooled = whole._pooled
        self._whole, self._tagset_ids = whole, tagset_ids
        self._tables_of_ids = self._tags.tables_of(tagset_ids)
        self._table_ids = np.unique(self._tables_of_ids).tolist()
        self._visible_columns: dict[int, list[Column]] = {}
        self._visible_metrics: MetricTable | None = None

    def by_name(self) -> dict[str, Relation]:
        tables = set(self._table_ids)
        return {
            name: relation
            for name, relation in self._whole.by_name().items()
            if relation.kind != "table" or relation.table_id in tables
        }

    def columns(self, table_id: int) -> list[Column]:
        found = self._visible_columns.get(table_id)
        if found is None:
            ids = self._tagset_ids[self._tables_of_ids == table_id]
            # Names are those that everyone sees; what is left out depends on the tag sets alone.
            found = [
                column
                for column in self._whole.columns(table_id)
                if column.key is None or len(self._tags.texts(column.key, ids).dictionary)
            ]
            self._visible_columns[table_id] = found
        return found

    def metrics(self) -> MetricTable:
        if self._visible_metrics is None:
            self._visible_metrics = self._read_metrics(self._table_ids, self._tagset_ids)
        return self._visible_metrics

    def fields_table(self) -> pa.Table:
        return self._whole.fields_table()
