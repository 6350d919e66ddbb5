"""The views of one statement, made on its own cursor: only those it names, only the columns it can name.

A cursor has a temporary schema of its own, so that statements do not see each other's views and nothing has to be
removed: it goes when the cursor is closed.  Column lists are always complete; a column that the statement cannot name
is NULL instead of being read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import duckdb
import numpy as np
import pyarrow as pa

from engine.errors import Bug, Unavailable
from engine.model.rows import FIELD_ID_BITS, MAX_FIELDS, Int32Array
from engine.query.relations import Column, Relations, literal, quoted
from engine.query.rewriting import Rewrite
from engine.query.scans import SegmentFiles, hot_scans
from engine.query.scopes import MAX_LISTED_TAGSETS, Scope, mentioned_fields
from engine.query.sources import TableSource
from engine.query.syntax import fold
from engine.query.tagsets import METRIC_TAG, TagStore
from engine.query.tierscans import SQL_TYPES, TierScan, WideTierScan
from engine.query.validation import Statement
from engine.rollups.long import INCREASE
from engine.rollups.packs import Packs
from engine.rollups.shelf import Part

#: Up to this many (measurement, field) pairs each become a branch of ``samples``; beyond, the fields of a measurement
#: share one.  DuckDB plans a few hundred branches slowly, and reads separate ones faster than unnested ones.
MAX_BRANCHES = 48

#: Parts of a rollup tier, and the time before which they no longer count.
Tier = tuple[list[Part], int]


class Views:
    """Creates the views of one statement."""

    def __init__(
        self,
        cursor: duckdb.DuckDBPyConnection,
        relations: Relations,
        tags: TagStore,
        files: SegmentFiles,
        statement: Statement,
        sources: Iterable[TableSource],
        findings: Mapping[str, bytes],
        packs: Packs,
    ) -> None:
        self._packs = packs
        self._cursor, self._relations, self._tags, self._files = cursor, relations, tags, files
        self._mentions = statement.mentions
        self._sources = {source.table_id: source for source in sources}
        self._findings = {fold(name): stream for name, stream in findings.items()}
        self._registered = 0
        self._files_read = 0
        self._scanned: list[int] = []
        # Internal names must differ from every relation's that the statement names.
        self._prefix = "tidegauge_"
        while any(name.startswith(self._prefix) for name in statement.references):
            self._prefix += "_"

    def create(self, scopes: Sequence[Scope], tiers: Callable[[Sequence[Scope]], Sequence[Tier]]) -> None:
        """Create the views; ``tiers`` gives for each scope of a rollup relation the parts and since when they count."""
        wanted = [scope for scope in scopes if scope.relation.kind == "rollup"]
        found = dict(zip([scope.relation.name for scope in wanted], tiers(wanted) if wanted else (), strict=True))
        for scope in scopes:
            relation = scope.relation
            if relation.kind == "table":
                self._view(relation.name, self._wide(scope))
            elif relation.kind == "samples":
                self._view(relation.name, self._samples(scope))
            elif relation.kind == "rollup":
                self._view(relation.name, self._rollup(scope, *found[relation.name]))
            elif relation.kind == "series":
                self._view(relation.name, self._series(scope))
            elif relation.kind == "metrics":
                self._view(relation.name, f"SELECT * FROM {self._register(self._relations.metrics_table())}")
            else:
                self._view(relation.name, self._finding(relation.name))

    def read(self) -> tuple[int, int]:
        """Return how many rows of segments, hot blocks and tiers the statement has looked at, and in how many files."""
        return sum(self._scanned), self._files_read

    def _view(self, name: str, select: str) -> None:
        self._cursor.execute(f"CREATE TEMP VIEW {quoted(name)} AS {select}")

    def _register(self, data: object) -> str:
        self._registered += 1
        name = f"{self._prefix}{self._registered}"
        self._cursor.register(name, data)
        return quoted(name)

    def _names(self, column: str) -> bool:
        return self._mentions is None or fold(column) in self._mentions

    # --- rows of one table: tagset_id, time, f<field id>...

    def _rows(self, table_id: int, field_ids: Sequence[int], scope: Scope) -> str:
        source = self._sources.get(table_id)
        branches = []
        if source is not None and (scope.tagset_ids is None or len(scope.tagset_ids)):
            scans = hot_scans(source)
            if source.parquet:
                scans += self._files.scans(source.parquet, field_ids, scope)
            for scan in scans:
                self._scanned.append(scan.rows)
                self._files_read += scan.files
                columns = ", ".join(_double(scan.columns.get(field_id), field_id) for field_id in field_ids)
                where = "" if scan.filtered else _where(_row_conditions(scope))
                selected = f'tagset_id, "time"{", " + columns if columns else ""}'
                branches.append(f"SELECT {selected} FROM {self._register(scan.data)}{where}")
        if not branches:
            nulls = "".join(f", NULL::DOUBLE AS f{field_id}" for field_id in field_ids)
            return f'SELECT NULL::INTEGER AS tagset_id, NULL::TIMESTAMP_NS AS "time"{nulls} WHERE false'
        return " UNION ALL ".join(branches)

    # --- a measurement, wide

    def _wide(self, scope: Scope) -> str:
        table_id = scope.relation.table_id
        columns = self._relations.columns(table_id)
        field_ids = mentioned_fields(self._relations, table_id, self._mentions)
        if field_ids is None:
            field_ids = tuple(column.field_id for column in columns if column.key is None)
        keys = [column for column in columns if column.key is not None and self._names(column.name)]
        tags = ""
        source = self._sources.get(table_id)
        alone = scope.tagset_ids is not None and len(scope.tagset_ids) == 1 and source is not None and source.exact
        if alone and scope.tagset_ids is not None:
            # All rows are of one tag set: what it is called needs no join.
            values = {column: self._constant(column, scope.tagset_ids) for column in keys}
        elif keys or scope.tagset_ids is not None:
            ids = self._tags.of_table(table_id) if scope.tagset_ids is None else scope.tagset_ids
            tags = f" JOIN {self._tag_columns(ids, keys)} t ON t.tagset_id = r.tagset_id"
            values = {column: f"t.k{index}" for index, column in enumerate(keys)}
        else:
            values = {}
        wanted = set(field_ids)
        values |= {column: f"r.f{column.field_id}" for column in columns if column.field_id in wanted}
        selected = ['r."time" AS "time"']
        for column in columns:
            value = values.get(column, "NULL::DOUBLE" if column.key is None else "NULL::VARCHAR")
            selected.append(f"{value} AS {quoted(column.name)}")
        return f"SELECT {', '.join(selected)} FROM ({self._rows(table_id, field_ids, scope)}) r{tags}"

    def create_over_tier(self, scope: Scope, rewrite: Rewrite, tier: Tier) -> None:
        """Create the view of a statement that was rewritten to a tier."""
        parts, kept_from_ns = tier
        own = [part for part in parts if part.table_id == rewrite.table_id]
        scan = WideTierScan(self._packs, own, scope, rewrite.field_ids, kept_from_ns, self._scanned)
        self._files_read += len({part.pack for part in own})
        keys = [
            column
            for column in self._relations.columns(rewrite.table_id)
            if column.key is not None and self._names(column.name)
        ]
        tags = ""
        if keys or scope.tagset_ids is not None:
            ids = self._tags.of_table(rewrite.table_id) if scope.tagset_ids is None else scope.tagset_ids
            tags = f" JOIN {self._tag_columns(ids, keys)} t ON t.tagset_id = r.tagset_id"
        selected = [f"t.k{index} AS {quoted(column.name)}" for index, column in enumerate(keys)]
        selected.append("r.* EXCLUDE (tagset_id)")
        self._view(scope.relation.name, f"SELECT {', '.join(selected)} FROM {self._register(scan)} r{tags}")

    def _constant(self, column: Column, tagset_ids: Int32Array) -> str:
        assert column.key is not None
        text = self._tags.texts(column.key, tagset_ids)[0].as_py()
        return "NULL::VARCHAR" if text is None or "\0" in text else f"{literal(text)}::VARCHAR"

    def _tag_columns(self, tagset_ids: Int32Array, keys: Sequence[Column]) -> str:
        arrays: dict[str, pa.Array] = {"tagset_id": pa.array(tagset_ids)}
        for index, column in enumerate(keys):
            assert column.key is not None
            arrays[f"k{index}"] = self._tags.texts(column.key, tagset_ids)
        return self._register(pa.table(arrays))

    # --- all measurements, long

    def _samples(self, scope: Scope) -> str:
        fields = scope.fields or {}
        with_metric = self._names("metric")
        share = sum(len(ids) for ids in fields.values()) > MAX_BRANCHES
        branches = []
        for table_id, field_ids in fields.items():
            rows = self._rows(table_id, field_ids, scope)
            names = self._relations.field_metrics(table_id)
            metrics = {field_id: literal(names[field_id]) if with_metric else "''" for field_id in field_ids}
            if share and len(field_ids) > 1:
                numbers = ", ".join(str(field_id) for field_id in field_ids)
                texts = ", ".join(metrics.values())
                values = ", ".join(f"f{field_id}" for field_id in field_ids)
                branches.append(
                    f'SELECT tagset_id, "time", unnest([{numbers}]) AS field_id, unnest([{texts}]) AS metric,'
                    f" unnest([{values}]) AS value FROM ({rows})"
                )
                continue
            shared = self._shared_rows(rows, len(field_ids))
            branches += [
                f'SELECT tagset_id, "time", {field_id} AS field_id, {metric} AS metric, f{field_id} AS value'
                f" FROM {shared}"
                for field_id, metric in metrics.items()
            ]
        if not branches:
            branches = [
                'SELECT NULL::INTEGER AS tagset_id, NULL::TIMESTAMP_NS AS "time", 0 AS field_id,'
                " NULL::VARCHAR AS metric, NULL::DOUBLE AS value WHERE false"
            ]
        pooled = any(self._relations.is_pooled(table_id) for table_id in fields)
        tags, metric, labels = self._labelled(scope, scope.tagset_ids, pooled and with_metric)
        return (
            f'SELECT r."time" AS "time", {metric} AS metric, {labels} AS labels, r.value AS value,'
            f" r.tagset_id::BIGINT * {MAX_FIELDS} + r.field_id AS series_id"
            f" FROM ({' UNION ALL '.join(branches)}) r{tags} WHERE r.value IS NOT NULL"
        )

    def _shared_rows(self, rows: str, branches: int) -> str:
        """Return what to select the rows from; a view where several branches need the same rows."""
        if branches == 1:
            return f"({rows})"
        self._registered += 1
        name = f"{self._prefix}{self._registered}"
        self._view(name, rows)
        return quoted(name)

    def _labelled(self, scope: Scope, ids: Int32Array | None, pooled: bool) -> tuple[str, str, str]:
        """Return (join with tag sets, metric, labels) for rows ``r`` with tagset_id and metric."""
        with_labels = self._names("labels")
        if ids is None and not with_labels and not pooled:
            return "", "r.metric", _NO_LABELS
        table = self._label_table(self._tags.all() if ids is None else ids, with_labels, pooled)
        metric = "coalesce(t.name, r.metric)" if pooled else "r.metric"
        return f" JOIN {table} t ON t.tagset_id = r.tagset_id", metric, "t.labels" if with_labels else _NO_LABELS

    def _label_table(self, tagset_ids: Int32Array, with_labels: bool, with_names: bool) -> str:
        tables = self._tags.tables_of(tagset_ids)
        pooled_tables = [table_id for table_id in np.unique(tables).tolist() if self._relations.is_pooled(table_id)]
        pooled = np.isin(tables, pooled_tables)
        arrays = {"tagset_id": pa.array(tagset_ids), "table_id": pa.array(tables)}
        if with_labels:
            arrays["labels"] = self._tags.labels(tagset_ids, pooled)
        if with_names:
            arrays["name"] = self._tags.texts(METRIC_TAG, tagset_ids, pooled)
        return self._register(pa.table(arrays))

    # --- rollups and the catalogue

    def _rollup(self, scope: Scope, parts: Sequence[Part], kept_from_ns: int) -> str:
        keys_needed = self._names("labels") or self._names("metric") or scope.tagset_ids is not None
        names = [name for name in SQL_TYPES if self._names(name) or (keys_needed and name == "series_id")]
        scan = TierScan(self._packs, parts, scope, tuple(names or ["series_id"]), kept_from_ns, self._scanned)
        self._files_read += len({part.pack for part in parts})
        rows = f"SELECT * FROM {self._register(scan)}"
        shown = {
            name: f"r.{quoted(name)} AS {quoted(name)}" if name in scan.names else f"NULL::{sql_type} AS {quoted(name)}"
            for name, sql_type in SQL_TYPES.items()
        }
        keys = f"{shown.pop('time')}, {shown.pop('series_id')}"
        if INCREASE in scan.names:
            # What is not known is no number: NaN would only be told from one by who thinks of it.
            shown[INCREASE] = f"CASE WHEN isnan(r.{INCREASE}) THEN NULL ELSE r.{INCREASE} END AS {INCREASE}"
        values = ", ".join(shown.values())
        with_labels = self._names("labels")
        if not keys_needed:
            return f"SELECT {keys}, NULL::VARCHAR AS metric, {_NO_LABELS} AS labels, {values} FROM ({rows}) r"
        tags = self._label_table(self._tags.all() if scope.tagset_ids is None else scope.tagset_ids, with_labels, True)
        labels = "t.labels" if with_labels else _NO_LABELS
        return (
            f"SELECT {keys}, coalesce(t.name, m.metric) AS metric, {labels} AS labels, {values} FROM ({rows}) r"
            f" JOIN {tags} t ON t.tagset_id = (r.series_id >> {FIELD_ID_BITS})::INTEGER"
            f" JOIN {self._register(self._relations.fields_table())} m ON m.table_id = t.table_id"
            f" AND m.field_id = (r.series_id & {MAX_FIELDS - 1})::INTEGER"
        )

    def _series(self, scope: Scope) -> str:
        with_labels = self._names("labels")
        tags = self._label_table(self._tags.all() if scope.tagset_ids is None else scope.tagset_ids, with_labels, True)
        labels = "t.labels" if with_labels else _NO_LABELS
        return (
            f"SELECT t.tagset_id::BIGINT * {MAX_FIELDS} + m.field_id AS series_id,"
            f" coalesce(t.name, m.metric) AS metric, m.measurement AS measurement, m.field AS field, {labels} AS labels"
            f" FROM {tags} t JOIN {self._register(self._relations.fields_table())} m ON m.table_id = t.table_id"
        )

    def _finding(self, name: str) -> str:
        stream = self._findings.get(fold(name))
        if stream is None:
            raise Unavailable(f"cannot run SQL: relation {name!r} is not available here")
        try:
            table = pa.ipc.open_stream(stream).read_all()
        except pa.ArrowInvalid as error:
            raise Bug(f"cannot read relation {name!r}: {error}") from None
        return f"SELECT * FROM {self._register(table)}"


_NO_LABELS = "NULL::MAP(VARCHAR, VARCHAR)"


def _double(columns: Sequence[str] | None, field_id: int) -> str:
    # Turning the sign twice changes no bit, not even of a stale marker, which arithmetic would make a quiet NaN.
    # It keeps DuckDB 1.5 from handing comparisons to pyarrow, where NaN and -0.0 compare differently.
    if columns is None:
        return f"NULL::DOUBLE AS f{field_id}"
    casts = ", ".join(f"CAST({quoted(column)} AS DOUBLE)" for column in columns)
    value = casts if len(columns) == 1 else f"coalesce({casts})"
    return f"-(-{value}) AS f{field_id}"


def _time_conditions(scope: Scope) -> list[str]:
    conditions = []
    if scope.start_ns is not None:
        conditions.append(f'"time" >= make_timestamp_ns({scope.start_ns})')
    if scope.end_ns is not None:
        conditions.append(f'"time" < make_timestamp_ns({scope.end_ns})')
    return conditions


def _row_conditions(scope: Scope) -> list[str]:
    conditions = _time_conditions(scope)
    if scope.tagset_ids is not None and len(scope.tagset_ids):
        if len(scope.tagset_ids) <= MAX_LISTED_TAGSETS:
            conditions.append(f"tagset_id IN ({', '.join(map(str, scope.tagset_ids.tolist()))})")
        else:
            conditions.append(f"tagset_id BETWEEN {int(scope.tagset_ids[0])} AND {int(scope.tagset_ids[-1])}")
    return conditions


def _where(conditions: Sequence[str]) -> str:
    return f" WHERE {' AND '.join(conditions)}" if conditions else ""
