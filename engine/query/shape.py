"""What the expressions of a single SELECT over one measurement are made of: tags, times, constants, aggregates."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from engine.query.functions import CLOCKS, PUSHABLE
from engine.query.relations import TIME, Column, Relation, Relations
from engine.query.syntax import Node, arguments_of, column_of, fold, literal_of
from engine.query.validation import Statement

_GREATER = ("COMPARE_GREATERTHAN", "COMPARE_GREATERTHANOREQUALTO")
_LESS = ("COMPARE_LESSTHAN", "COMPARE_LESSTHANOREQUALTO")
_TRANSPARENT = frozenset({"CASE", "CAST", "COMPARISON", "CONJUNCTION", "BETWEEN", "OPERATOR"})
_MODIFIERS = frozenset({"ORDER_MODIFIER", "LIMIT_MODIFIER"})


@dataclass(frozen=True, slots=True)
class SingleSelect:
    """A statement that is one SELECT from one measurement, without joins, subqueries, WITH, windows or sampling.

    ``fields``: columns of fields by folded name; ``items``, ``groups``: the expressions selected and grouped by;
    ``orders``: those ordered by.
    """

    relation: Relation
    node: Node
    alias: str
    tags: frozenset[str]
    fields: dict[str, Column]
    items: list[Node]
    groups: list[Node]
    orders: list[Node]

    @staticmethod
    def of(statement: Statement, relations: Relations) -> SingleSelect | None:
        """Return the statement in this form, None when it has another."""
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
        modifiers = node.get("modifiers") or ()
        if any(each.get("type") not in _MODIFIERS for each in modifiers):
            return None
        columns = relations.columns(relation.table_id)
        return SingleSelect(
            relation,
            node,
            fold(str(source.get("alias") or source["table_name"])),
            frozenset(fold(column.name) for column in columns if column.key is not None),
            {fold(column.name): column for column in columns if column.key is None},
            list(node.get("select_list", ())),
            list(node.get("group_expressions") or ()),
            [order["expression"] for each in modifiers for order in each.get("orders", ())],
        )

    def column(self, node: Node) -> str | None:
        """Return the folded name of a plain column of the relation, None for anything else."""
        names, key = column_of(node)
        if names is None or key is not None or len(names) > 2 or (len(names) == 2 and names[0] != self.alias):
            return None
        return names[-1]

    def field_of(self, node: Node) -> Column | None:
        name = self.column(node)
        return None if name is None else self.fields.get(name)

    def is_time(self, node: Node) -> bool:
        return self.column(node) == TIME

    def is_alias(self, node: Node) -> bool:
        """Whether a column is the name of one of the items."""
        names, key = column_of(node)
        if names is None or key is not None or len(names) != 1:
            return False
        return sum(fold(item.get("alias") or "") == names[0] for item in self.items) == 1

    def grouped_by(self, expression: Node) -> Node | None:
        """Return what a GROUP BY entry stands for, also where it is the place or the name of an item."""
        if expression.get("class") == "CONSTANT":
            try:
                place = literal_of(expression)
            except ValueError:
                return None
            if not isinstance(place, int) or isinstance(place, bool) or not 0 < place <= len(self.items):
                return None
            return self.items[place - 1]
        name = self.column(expression)
        if self.is_alias(expression) and name not in {*self.tags, *self.fields, TIME}:
            return next(item for item in self.items if fold(item.get("alias") or "") == name)
        return expression

    def is_bound(
        self, conjunct: Node, functions: Collection[str] = PUSHABLE | CLOCKS, *, lower_only: bool = False
    ) -> bool:
        """Whether a condition compares ``time`` with something of constants and such functions."""
        kind = conjunct.get("type")
        if kind not in (*_GREATER, *_LESS):
            return False
        if self.is_time(conjunct["left"]):
            other, lower = conjunct["right"], kind in _GREATER
        elif self.is_time(conjunct["right"]):
            other, lower = conjunct["left"], kind in _LESS
        else:
            return False
        return (lower or not lower_only) and _NOTHING.made_of(other, functions)

    def made_of_tags(self, node: Any) -> bool:
        """Whether an expression is made of tags and constants."""
        return self.made_of(node, PUSHABLE)

    def made_of(
        self, node: Any, functions: Collection[str] = PUSHABLE | CLOCKS, known: Callable[[Node], bool] | None = None
    ) -> bool:
        """Whether an expression is made of tags, constants, such functions, and nodes that are ``known``."""
        if isinstance(node, list):
            return all(self.made_of(item, functions, known) for item in node)
        if not isinstance(node, dict):
            return True
        kind = node.get("class")
        if kind == "COLUMN_REF":
            return self.column(node) in self.tags
        if kind in ("CONSTANT", "PARAMETER", "TYPE"):
            return True
        if kind == "FUNCTION":
            if node.get("filter") or node.get("distinct") or (node.get("order_bys") or {}).get("orders"):
                return False
            if known is not None and known(node):
                return True
            if fold(str(node["function_name"])) not in functions:
                return False
            return self.made_of(arguments_of(node), functions, known)
        if kind is not None and kind not in _TRANSPARENT:
            return False
        return all(self.made_of(child, functions, known) for child in node.values() if isinstance(child, (dict, list)))


_NOTHING = SingleSelect(Relation("", "table"), {}, "", frozenset(), {}, [], [], [])
