"""Which rows of which relation a statement can use: its predicates resolved against the catalogue.

A :class:`Scope` is always a superset of what the statement will look at.  It is what the main process prepares files
for, and what keeps the views of :mod:`engine.query.views` from reading more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine.errors import BadQuery
from engine.model.rows import FIELD_ID_BITS, Int32Array
from engine.query.lastpoint import newest_only
from engine.query.links import SERIES_ID
from engine.query.predicates import Evaluator, Predicate, Use, find_uses
from engine.query.relations import FIXED_RELATIONS, TIME, MetricTable, Relation, Relations
from engine.query.sources import Needed, NeededTable
from engine.query.syntax import fold
from engine.query.tagsets import METRIC_TAG, TagStore
from engine.query.validation import Statement
from engine.query.visible import positions

#: A statement over ``samples`` may read this many measurements at once; planning one takes about a millisecond.
MAX_SAMPLED_TABLES = 500
#: Tag sets are listed one by one up to this number, beyond it only from the smallest to the largest.
MAX_LISTED_TAGSETS = 1_000

Mask = npt.NDArray[np.bool_]


@dataclass(slots=True)
class Scope:
    """The part of one relation that can matter.

    ``tagset_ids``: int32, ascending, or None for all; ``fields``: for ``samples`` and rollups the field numbers by
    table, ``None`` where every metric can matter.
    """

    relation: Relation
    start_ns: int | None = None
    end_ns: int | None = None
    tagset_ids: Int32Array | None = None
    fields: dict[int, tuple[int, ...]] | None = None


@dataclass(slots=True)
class _Part:
    """What one mention of a relation can use; ``None`` means no restriction."""

    start_ns: int | None = None
    end_ns: int | None = None
    tagsets: Mask | None = None
    fields: set[tuple[int, int]] | None = None

    def narrow(self, tagsets: Mask) -> None:
        self.tagsets = tagsets if self.tagsets is None else self.tagsets & tagsets


class Resolver:
    """Resolves the predicates of one statement, against the catalogue as it is when the resolver is made."""

    def __init__(
        self, relations: Relations, tags: TagStore, evaluator: Evaluator, visible: Int32Array | None = None
    ) -> None:
        """``visible``: the tag sets that exist for the statement, ascending; None for all."""
        self.relations, self.tags, self.evaluator = relations, tags, evaluator
        tags.sync()
        everything = tags.all()
        self._visible = visible
        # Masks have a place for every tag set; those that cannot be seen are no candidates for anything.
        self._tagset_ids = everything if visible is None else visible[visible < len(everything)]
        self._tables = tags.tables_of(everything)

    @cached_property
    def _metrics(self) -> MetricTable:
        return self.relations.metrics()

    def scopes(self, statement: Statement) -> list[Scope]:
        """Return the scope of each relation that the statement reads.  Raises BadQuery when those are too many."""
        known = self.relations.by_name()
        found = []
        tables = [known[name].table_id for name in statement.references if known[name].kind == "table"]
        columns = {fold(column.name) for table_id in tables for column in self.relations.columns(table_id)}
        for name, uses in sorted(find_uses(statement, columns).items()):
            relation = known[name]
            scope = self._united(relation, [self._part(relation, use) for use in uses])
            if relation.kind == "samples" and scope.fields and len(scope.fields) > MAX_SAMPLED_TABLES:
                raise BadQuery(
                    f"cannot run SQL: samples of {len(scope.fields)} measurements would be read,"
                    f" want at most {MAX_SAMPLED_TABLES}; restrict the column metric, e.g. metric LIKE 'cpu_%'"
                )
            found.append(scope)
        return found

    def _part(self, relation: Relation, use: Use) -> _Part:
        part = _Part()
        if relation.kind in ("finding", "metrics"):
            return part
        columns = {}
        if relation.kind == "table":
            columns = {fold(column.name): column for column in self.relations.columns(relation.table_id)}
        for predicate in use.predicates:
            if predicate.column == TIME and predicate.key is None and relation.kind != "series":
                start, end = self.evaluator.time_bounds(predicate)
                part.start_ns = max((each for each in (part.start_ns, start) if each is not None), default=None)
                part.end_ns = min((each for each in (part.end_ns, end) if each is not None), default=None)
            elif relation.kind == "table":
                column = columns.get(predicate.column)
                if column is not None and column.key is not None and predicate.key is None:
                    self._narrow_by_tag(part, predicate, column.key, self._members(relation.table_id))
            elif predicate.column == "labels" and predicate.key not in (None, METRIC_TAG.decode()):
                self._narrow_by_tag(part, predicate, str(predicate.key).encode(), self._tagset_ids)
            elif predicate.column == "metric" and predicate.key is None:
                self._narrow_by_metric(part, predicate)
            elif predicate.column == SERIES_ID and predicate.key is None:
                self._narrow_by_series(part, predicate)
        for use_of_series in use.linked if relation.kind in ("samples", "rollup") else ():
            series = self._part(FIXED_RELATIONS["series"], use_of_series)
            if series.tagsets is not None:
                part.narrow(series.tagsets)
            if series.fields is not None:
                part.fields = series.fields if part.fields is None else part.fields & series.fields
        return part

    # --- one predicate

    def _members(self, table_id: int) -> Int32Array:
        members: Int32Array = self._tagset_ids[self._tables[self._tagset_ids] == table_id]
        return members

    def _narrow_by_tag(self, part: _Part, predicate: Predicate, key: bytes, candidates: Int32Array) -> None:
        texts = self.tags.texts(key, candidates)
        accepted = self.evaluator.accepted(predicate, texts.dictionary)
        if accepted is None:
            return
        verdict = np.zeros(len(texts.dictionary) + 1, np.bool_)
        verdict[accepted.to_numpy()] = True
        mask = np.zeros(len(self._tables), np.bool_)
        mask[candidates] = verdict[positions(texts)]
        part.narrow(mask)

    def _narrow_by_metric(self, part: _Part, predicate: Predicate) -> None:
        metrics = self._metrics
        accepted = self.evaluator.accepted(predicate, pa.array(metrics.names, pa.string()))
        if accepted is None:
            return
        indices = [index for index in accepted.to_pylist() if index < len(metrics.names)]
        fields = {(metrics.table_ids[index], metrics.field_ids[index]) for index in indices}
        part.fields = fields if part.fields is None else part.fields & fields
        table_ids = {table_id for table_id, _ in fields}
        part.narrow(np.isin(self._tables, list(table_ids)))
        for table_id in table_ids:
            if self.relations.is_pooled(table_id):
                names = {metrics.names[index] for index in indices if metrics.table_ids[index] == table_id}
                self._narrow_by_name_tag(part, table_id, names)

    def _narrow_by_name_tag(self, part: _Part, table_id: int, names: set[str]) -> None:
        members = self._members(table_id)
        texts = self.tags.texts(METRIC_TAG, members)
        unnamed = any(name in names for name in self.relations.field_metrics(table_id))
        verdict = np.array([*(name in names for name in texts.dictionary.to_pylist()), unnamed])
        mask = np.ones(len(self._tables), np.bool_)
        mask[members] = verdict[positions(texts)]
        part.narrow(mask)

    def _narrow_by_series(self, part: _Part, predicate: Predicate) -> None:
        series_ids = self.evaluator.integers(predicate.expression)
        if series_ids is None:
            return
        mask = np.zeros(len(self._tables), np.bool_)
        tagset_ids = [series_id >> FIELD_ID_BITS for series_id in series_ids]
        mask[[tagset_id for tagset_id in tagset_ids if 0 <= tagset_id < len(mask)]] = True
        part.narrow(mask)

    # --- several mentions, several tables

    def _united(self, relation: Relation, parts: Sequence[_Part]) -> Scope:
        starts, ends = [part.start_ns for part in parts], [part.end_ns for part in parts]
        masks, fields = [part.tagsets for part in parts], [part.fields for part in parts]
        scope = Scope(relation)
        scope.start_ns = None if None in starts else min(start for start in starts if start is not None)
        scope.end_ns = None if None in ends else max(end for end in ends if end is not None)
        known = [mask for mask in masks if mask is not None]
        if len(known) == len(masks):
            scope.tagset_ids = np.flatnonzero(np.logical_or.reduce(known)).astype(np.int32)
        if self._visible is not None and relation.kind not in ("finding", "metrics"):
            # The one place where a limit is imposed: views hand out no row of another tag set than these.
            seen = self._members(relation.table_id) if relation.kind == "table" else self._tagset_ids
            scope.tagset_ids = seen if scope.tagset_ids is None else np.intersect1d(scope.tagset_ids, seen)
        if all(each is not None for each in fields):
            scope.fields = _by_table(pair for each in fields if each is not None for pair in each)
        if relation.kind == "samples":
            scope.fields = self._all_fields() if scope.fields is None else scope.fields
            if scope.tagset_ids is not None:
                present = set(np.unique(self._tables[scope.tagset_ids]).tolist())
                scope.fields = {table_id: ids for table_id, ids in scope.fields.items() if table_id in present}
        return scope

    def _all_fields(self) -> dict[int, tuple[int, ...]]:
        metrics = self._metrics
        return _by_table(zip(metrics.table_ids, metrics.field_ids, strict=True))


def _by_table(pairs: Iterable[tuple[int, int]]) -> dict[int, tuple[int, ...]]:
    found: dict[int, set[int]] = {}
    for table_id, field_id in pairs:
        found.setdefault(table_id, set()).add(field_id)
    return {table_id: tuple(sorted(ids)) for table_id, ids in sorted(found.items())}


def mentioned_fields(relations: Relations, table_id: int, mentions: frozenset[str] | None) -> tuple[int, ...] | None:
    """Return the fields of a measurement that a statement can name, None for all."""
    if mentions is None:
        return None
    columns = relations.columns(table_id)
    return tuple(column.field_id for column in columns if column.key is None and fold(column.name) in mentions)


def needed_of(relations: Relations, tags: TagStore, scopes: Sequence[Scope], statement: Statement) -> Needed:
    """Return what the main process must prepare for these scopes; several scopes of one table become one."""
    tables: dict[int, NeededTable] = {}

    def add(table_id: int, scope: Scope, field_ids: tuple[int, ...] | None, ids: Int32Array | None) -> None:
        listed = None if ids is None or len(ids) > MAX_LISTED_TAGSETS else tuple(ids.tolist())
        new = NeededTable(
            table_id=table_id,
            name=relations.table_name(table_id),
            field_ids=field_ids,
            start_ns=scope.start_ns,
            end_ns=scope.end_ns,
            tagset_ids=listed,
        )
        tables[table_id] = _union(tables[table_id], new) if table_id in tables else new

    for scope in scopes:
        if scope.relation.kind == "table":
            table_id = scope.relation.table_id
            add(table_id, scope, mentioned_fields(relations, table_id, statement.mentions), scope.tagset_ids)
        elif scope.relation.kind == "samples":
            for table_id, field_ids in (scope.fields or {}).items():
                ids = scope.tagset_ids
                add(table_id, scope, field_ids, None if ids is None else ids[tags.tables_of(ids) == table_id])
    found = newest_only(statement, relations)
    if found is not None:
        table_id = found[0].table_id
        tables[table_id] = msgspec.structs.replace(tables[table_id], newest=True, skips_nan=found[1])
    wanted = [scope for scope in scopes if scope.relation.kind == "rollup"]
    every = any(scope.fields is None for scope in wanted)
    return Needed(
        tables=tuple(tables.values()),
        findings=tuple(scope.relation.name for scope in scopes if scope.relation.kind == "finding"),
        rollups=tuple(scope.relation.name for scope in wanted),
        rollup_tables=None if every else tuple(sorted({number for scope in wanted for number in scope.fields or ()})),
    )


def _union(one: NeededTable, other: NeededTable) -> NeededTable:
    def both(left: tuple[int, ...] | None, right: tuple[int, ...] | None) -> tuple[int, ...] | None:
        return None if left is None or right is None else tuple(sorted({*left, *right}))

    starts, ends = (one.start_ns, other.start_ns), (one.end_ns, other.end_ns)
    return NeededTable(
        table_id=one.table_id,
        name=one.name,
        field_ids=both(one.field_ids, other.field_ids),
        start_ns=None if None in starts else min(start for start in starts if start is not None),
        end_ns=None if None in ends else max(end for end in ends if end is not None),
        tagset_ids=both(one.tagset_ids, other.tagset_ids),
        once=False,
    )
