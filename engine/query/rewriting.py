"""Statements over samples that a rollup tier answers as well, rewritten to read it.

Found are single SELECTs over one measurement whose aggregates are ``avg``, ``sum``, ``min``, ``max`` and ``count`` of
single fields, grouped by tags and by ``time_bucket`` or ``date_trunc`` of whole buckets of a tier, with conditions on
tags and bounds on ``time`` that fall between buckets.  Then every bucket of the tier is wholly inside a group or wholly
outside, so merging buckets gives what the samples give: the same counts, minima and maxima, sums but for the order of
addition.  Measurements that pool a protocol's samples may hold NaN, which tiers leave out, and are not rewritten.
"""

from __future__ import annotations

import re
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import msgspec

from engine.clock import NS_PER_DAY, NS_PER_HOUR, NS_PER_MINUTE, NS_PER_SECOND
from engine.query.functions import PUSHABLE
from engine.query.relations import Column, Relations
from engine.query.scopes import Scope
from engine.query.shape import SingleSelect
from engine.query.syntax import Node, Serialise, arguments_of, flatten_and, fold, literal_of
from engine.query.validation import Statement
from engine.rollups.tiers import TIERS, Tier

#: Columns of the rewritten view: prefix, then the field's number.
COUNT, SUM, MIN, MAX = "tidegauge_count_", "tidegauge_sum_", "tidegauge_min_", "tidegauge_max_"
_WIDTHS_NS = {
    "minute": NS_PER_MINUTE,
    "hour": NS_PER_HOUR,
    # Weeks, months, quarters and years begin with a day.
    **dict.fromkeys(("day", "week", "month", "quarter", "year"), NS_PER_DAY),
}
#: SQL of each aggregate over rows of the view; ``hole`` is followed by the prefix of a column.
_AGGREGATES = {
    "max": f"max(hole.{MAX})",
    "min": f"min(hole.{MIN})",
    "sum": f"sum(hole.{SUM})",
    "avg": f"sum(hole.{SUM}) / sum(hole.{COUNT})",
    "mean": f"sum(hole.{SUM}) / sum(hole.{COUNT})",
    "count": f"CAST(coalesce(sum(hole.{COUNT}), 0) AS BIGINT)",
}
_INTERVAL = re.compile(r"(\d{1,6}) ?(second|minute|hour|day)s?", re.ASCII)
_UNITS_NS = {"s": NS_PER_SECOND, "m": NS_PER_MINUTE, "h": NS_PER_HOUR, "d": NS_PER_DAY}
_INTERVAL_FUNCTIONS = {
    "to_seconds": NS_PER_SECOND,
    "to_minutes": NS_PER_MINUTE,
    "to_hours": NS_PER_HOUR,
    "to_days": NS_PER_DAY,
}
_PLAIN_NAME = re.compile(r"[a-z_][a-z0-9_]*", re.ASCII)
#: Their trees, which only depend on the version of DuckDB.
_TEMPLATES: dict[str, Node] = {}


@dataclass(frozen=True, slots=True)
class Rewrite:
    """A statement as it reads a tier: ``tree`` is its syntax tree, ``field_ids`` the fields whose buckets it needs."""

    tier: Tier
    table_id: int
    field_ids: tuple[int, ...]
    tree: Node


class _Unchanged(Exception):
    """The statement cannot be rewritten."""


def rewritten(statement: Statement, relations: Relations, scope: Scope, serialise: Serialise) -> Rewrite | None:
    """Return the statement rewritten to the coarsest tier that answers the same, None where none certainly does.

    ``scope``: that of the one relation it reads.
    """
    if statement.kind != "rows" or scope.start_ns is None or relations.is_pooled(scope.relation.table_id):
        return None
    select = SingleSelect.of(statement, relations)
    if select is None:
        return None
    try:
        return _Rewriter(select, scope, serialise).rewrite(statement)
    except _Unchanged:
        return None


class _Rewriter:
    def __init__(self, select: SingleSelect, scope: Scope, serialise: Serialise) -> None:
        self._select, self._scope, self._serialise = select, scope, serialise
        self._widths_ns: list[int] = []
        self._field_ids: set[int] = set()

    def rewrite(self, statement: Statement) -> Rewrite:
        select, scope = self._select, self._scope
        for expression in select.groups:
            group = select.grouped_by(expression)
            self._require(group is not None and select.made_of(group, known=self._is_bucket))
        for conjunct in flatten_and(select.node.get("where_clause")):
            # The clock moves on until the statement runs, away from the start of a bucket.
            self._require(select.is_bound(conjunct, PUSHABLE) or select.made_of_tags(conjunct))
        having = [select.node["having"]] if select.node.get("having") else []
        for each in (*select.items, *having):
            self._require(select.made_of(each, known=self._is_known))
        for each in select.orders:
            self._require(select.is_alias(each) or select.made_of(each, known=self._is_known))
        bounds = [bound for bound in (scope.start_ns, scope.end_ns) if bound is not None]
        fitting = [tier for tier in TIERS if all(each % tier.width_ns == 0 for each in (*bounds, *self._widths_ns))]
        self._require(bool(fitting) and bool(self._field_ids))
        tree = deepcopy(statement.tree)
        node = tree["node"]
        for item in node["select_list"]:
            self._name(item)
        for part in ("select_list", "having", "modifiers"):
            if node.get(part):
                node[part] = self._replaced(node[part])
        return Rewrite(fitting[-1], scope.relation.table_id, tuple(sorted(self._field_ids)), tree)

    def _require(self, holds: bool) -> None:
        if not holds:
            raise _Unchanged

    def _is_known(self, function: Node) -> bool:
        return self._is_bucket(function) or self._aggregated(function) is not None

    def _aggregated(self, function: Node) -> Column | None:
        """Return the field that a function is an aggregate of."""
        arguments = arguments_of(function)
        if fold(str(function["function_name"])) not in _AGGREGATES or len(arguments) != 1:
            return None
        column = self._select.field_of(arguments[0])
        if column is not None:
            self._field_ids.add(column.field_id)
        return column

    def _is_bucket(self, function: Node) -> bool:
        """Whether a function cuts ``time`` into buckets of a known width, which is noted."""
        name, arguments = fold(str(function["function_name"])), arguments_of(function)
        if len(arguments) != 2 or not self._select.is_time(arguments[1]):
            return False
        width_ns = None
        if name == "time_bucket":
            width_ns = interval_ns(arguments[0])
        elif name in ("date_trunc", "datetrunc"):
            unit = _literal(arguments[0])
            width_ns = _WIDTHS_NS.get(unit.lower()) if isinstance(unit, str) else None
        if not width_ns:
            return False
        self._widths_ns.append(width_ns)
        return True

    # --- the tree that reads the tier

    def _name(self, item: Node) -> None:
        """Give an item the name under which DuckDB would show it, where it will be something else."""
        if item.get("alias") or not self._holds_aggregate(item):
            return
        # Names of longer expressions are DuckDB's to find.
        self._require(item.get("class") == "FUNCTION" and self._aggregated(item) is not None)
        names = arguments_of(item)[0]["column_names"]
        self._require(all(_PLAIN_NAME.fullmatch(name) for name in names))
        item["alias"] = f"{item['function_name']}({'.'.join(names)})"

    def _holds_aggregate(self, node: Any) -> bool:
        if isinstance(node, list):
            return any(self._holds_aggregate(each) for each in node)
        if not isinstance(node, dict):
            return False
        if node.get("class") == "FUNCTION" and self._aggregated(node) is not None:
            return True
        return any(self._holds_aggregate(child) for child in node.values() if isinstance(child, (dict, list)))

    def _replaced(self, node: Any) -> Any:
        if isinstance(node, list):
            return [self._replaced(each) for each in node]
        if not isinstance(node, dict):
            return node
        if node.get("class") == "FUNCTION":
            column = self._aggregated(node)
            if column is not None:
                template = self._template(_AGGREGATES[fold(str(node["function_name"]))])
                names = arguments_of(node)[0]["column_names"]
                filled: Node = _filled(template, names[:-1], column.field_id)
                return {**filled, "alias": node.get("alias", "")}
        return {name: self._replaced(child) for name, child in node.items()}

    def _template(self, sql: str) -> Node:
        if sql not in _TEMPLATES:
            tree = msgspec.json.decode(self._serialise(f"SELECT {sql}"))
            _TEMPLATES[sql] = tree["statements"][0]["node"]["select_list"][0]
        return _TEMPLATES[sql]


def _filled(node: Any, qualifier: list[str], field_id: int) -> Any:
    """Return a template with its columns of one field."""
    if isinstance(node, list):
        return [_filled(each, qualifier, field_id) for each in node]
    if not isinstance(node, dict):
        return node
    if node.get("class") == "COLUMN_REF":
        return {**node, "column_names": [*qualifier, f"{node['column_names'][-1]}{field_id}"]}
    return {name: _filled(child, qualifier, field_id) for name, child in node.items()}


def _literal(node: Node) -> object:
    try:
        return literal_of(node)
    except ValueError:
        return None


def interval_ns(node: Node) -> int | None:
    """Return how long a written interval is, ``INTERVAL '5 minutes'`` or ``to_minutes(5)``; None for all others."""
    if node.get("class") == "FUNCTION":
        name, arguments = fold(str(node["function_name"])), arguments_of(node)
        unit = _INTERVAL_FUNCTIONS.get(name)
        count = _number(arguments[0]) if len(arguments) == 1 else None
        return None if unit is None or count is None or count <= 0 else count * unit
    if node.get("class") != "CAST" or node.get("try_cast"):
        return None
    named = (node.get("type_expr") or {}).get("type_name") or (node.get("cast_type") or {}).get("id")
    text = _literal(node["child"])
    found = _INTERVAL.fullmatch(text.strip().lower()) if named == "INTERVAL" and isinstance(text, str) else None
    return None if found is None else int(found[1]) * _UNITS_NS[found[2][0]]


def _number(node: Node) -> int | None:
    """Return a whole number, also one that is cast, as the parser makes of ``INTERVAL 5 MINUTES``."""
    while node.get("class") == "CAST":
        node = node["child"]
    if node.get("class") == "FUNCTION" and fold(str(node["function_name"])) == "trunc":
        return _number(arguments_of(node)[0])
    value = _literal(node)
    return value if isinstance(value, int) and not isinstance(value, bool) else None
