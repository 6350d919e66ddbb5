"""Statements that need no sample but the newest of each series, such as the newest values of every host.

Found are single SELECTs over one measurement whose aggregates all are ``max(time)``, ``arg_max(field, time)`` or
``latest(field, time)``, grouped by tags, with conditions on tags and on how old a sample may be.  When in doubt a
statement is not one of them, which costs time and never changes an answer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from engine.query.functions import CLOCKS, PUSHABLE
from engine.query.relations import TIME, Relation, Relations
from engine.query.syntax import Node, arguments_of, column_of, flatten_and, fold, literal_of
from engine.query.validation import Statement

_ARG_MAX = frozenset({"arg_max", "argmax", "max_by"})
#: ``latest`` leaves NaN out, which the newest sample may be.
_LATEST = "latest"
_LOWER = {"COMPARE_GREATERTHAN": "left", "COMPARE_GREATERTHANOREQUALTO": "left"}
_UPPER = {"COMPARE_LESSTHAN": "right", "COMPARE_LESSTHANOREQUALTO": "right"}
_TRANSPARENT = frozenset({"CASE", "CAST", "COMPARISON", "CONJUNCTION", "BETWEEN", "OPERATOR"})
_MODIFIERS = frozenset({"ORDER_MODIFIER", "LIMIT_MODIFIER"})


@dataclass(slots=True)
class _Reading:
    """What columns of one relation mean in one statement."""

    alias: str
    tags: frozenset[str]
    fields: frozenset[str]
    items: list[Node]
    #: Whether a NaN among the newest samples would matter.
    skips_nan: bool = False
    aliases: frozenset[str] = field(default_factory=frozenset)

    def column(self, node: Node) -> str | None:
        """Return the folded name of a plain column of the relation, None for anything else."""
        names, key = column_of(node)
        if names is None or key is not None or len(names) > 2 or (len(names) == 2 and names[0] != self.alias):
            return None
        return names[-1]

    def is_field(self, node: Node) -> bool:
        return self.column(node) in self.fields

    def is_time(self, node: Node) -> bool:
        return self.column(node) == TIME


def newest_only(statement: Statement, relations: Relations) -> tuple[Relation, bool] | None:
    """Return the measurement of which the statement needs only the newest samples, None when it may need others.

    And whether it leaves out NaN, so that a newest sample that is NaN would not do.
    """
    if len(statement.selects) != 1 or statement.kind == "show_tables" or sum(statement.references.values()) != 1:
        return None
    (name,) = statement.references
    relation = relations.by_name()[name]
    node = statement.selects[0].node
    source = node.get("from_table") or {}
    if relation.kind != "table" or source.get("type") != "BASE_TABLE" or source.get("column_name_alias"):
        return None
    if statement.tree.get("node") is not node or (node.get("cte_map") or {}).get("map"):
        return None
    if source.get("sample") or node.get("sample") or node.get("qualify") is not None:
        return None
    if node.get("aggregate_handling") != "STANDARD_HANDLING" or len(node.get("group_sets") or ()) > 1:
        return None
    columns = relations.columns(relation.table_id)
    items = list(node.get("select_list", ()))
    reading = _Reading(
        fold(str(source.get("alias") or source["table_name"])),
        frozenset(fold(column.name) for column in columns if column.key is not None),
        frozenset(fold(column.name) for column in columns if column.key is None),
        items,
    )
    reading.aliases = frozenset(fold(item["alias"]) for item in items if item.get("alias"))
    groups = [_group(expression, reading) for expression in node.get("group_expressions") or ()]
    modifiers = node.get("modifiers") or ()
    if any(group is None for group in groups) or any(each.get("type") not in _MODIFIERS for each in modifiers):
        return None
    outputs = [*items, *([node["having"]] if node.get("having") else [])]
    orders = [order["expression"] for each in modifiers for order in each.get("orders", ())]
    if not (
        all(_is_condition(conjunct, reading) for conjunct in flatten_and(node.get("where_clause")))
        and all(_is_output(each, reading) for each in outputs)
        and all(_is_alias(each, reading) or _is_output(each, reading) for each in orders)
        and any(_aggregates(each) for each in outputs)
    ):
        return None
    return relation, reading.skips_nan


def _group(expression: Node, reading: _Reading) -> Node | None:
    """Return what is grouped by, if it is made of tags."""
    if expression.get("class") == "CONSTANT":
        try:
            place = literal_of(expression)
        except ValueError:
            return None
        if not isinstance(place, int) or isinstance(place, bool) or not 0 < place <= len(reading.items):
            return None
        expression = reading.items[place - 1]
    elif _is_alias(expression, reading) and reading.column(expression) not in {*reading.tags, *reading.fields, TIME}:
        (expression,) = (item for item in reading.items if fold(item.get("alias") or "") == reading.column(expression))
    return expression if _of_tags(expression, reading) else None


def _is_alias(node: Node, reading: _Reading) -> bool:
    names, key = column_of(node)
    if names is None or key is not None or len(names) != 1 or names[0] not in reading.aliases:
        return False
    return sum(fold(item.get("alias") or "") == names[0] for item in reading.items) == 1


def _is_condition(conjunct: Node, reading: _Reading) -> bool:
    """Whether a condition is about tags, or says how old a sample may be at most."""
    for sides in (_LOWER, _UPPER):
        side = sides.get(str(conjunct.get("type")))
        if side is not None and reading.is_time(conjunct[side]):
            other = conjunct["left" if side == "right" else "right"]
            return _of_tags(other, _Reading("", frozenset(), frozenset(), []), PUSHABLE | CLOCKS)
    return _of_tags(conjunct, reading)


def _of_tags(node: Any, reading: _Reading, functions: frozenset[str] = PUSHABLE) -> bool:
    """Whether an expression is made of tags and constants."""
    return _made_of(node, reading, functions, aggregates=False)


def _is_output(node: Any, reading: _Reading) -> bool:
    """Whether an expression is made of tags, constants and newest samples."""
    return _made_of(node, reading, PUSHABLE | CLOCKS, aggregates=True)


def _made_of(node: Any, reading: _Reading, functions: frozenset[str], *, aggregates: bool) -> bool:
    if isinstance(node, list):
        return all(_made_of(item, reading, functions, aggregates=aggregates) for item in node)
    if not isinstance(node, dict):
        return True
    kind = node.get("class")
    if kind == "COLUMN_REF":
        return reading.column(node) in reading.tags
    if kind in ("CONSTANT", "PARAMETER", "TYPE"):
        return True
    if kind == "FUNCTION":
        if node.get("filter") or node.get("distinct") or (node.get("order_bys") or {}).get("orders"):
            return False
        if aggregates and _is_newest(node, reading):
            return True
        if fold(str(node["function_name"])) not in functions:
            return False
        return _made_of(arguments_of(node), reading, functions, aggregates=aggregates)
    if kind is not None and kind not in _TRANSPARENT:
        return False
    return all(
        _made_of(child, reading, functions, aggregates=aggregates)
        for child in node.values()
        if isinstance(child, (dict, list))
    )


def _is_newest(function: Node, reading: _Reading) -> bool:
    name, arguments = fold(str(function["function_name"])), arguments_of(function)
    if name == "max":
        return len(arguments) == 1 and reading.is_time(arguments[0])
    if name == _LATEST or name in _ARG_MAX:
        if len(arguments) != 2 or not (reading.is_field(arguments[0]) and reading.is_time(arguments[1])):
            return False
        reading.skips_nan |= name == _LATEST
        return True
    return False


def _aggregates(node: Any) -> bool:
    if isinstance(node, list):
        return any(_aggregates(item) for item in node)
    if not isinstance(node, dict):
        return False
    if node.get("class") == "FUNCTION" and fold(str(node["function_name"])) in {"max", _LATEST, *_ARG_MAX}:
        return True
    return any(_aggregates(child) for child in node.values() if isinstance(child, (dict, list)))
