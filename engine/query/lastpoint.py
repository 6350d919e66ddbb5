"""Statements that need no sample but the newest of each series, such as the newest values of every host.

Found are single SELECTs over one measurement whose aggregates all are ``max(time)``, ``arg_max(field, time)`` or
``latest(field, time)``, grouped by tags, with conditions on tags and on how old a sample may be.  When in doubt a
statement is not one of them, which costs time and never changes an answer.
"""

from __future__ import annotations

from engine.query.relations import Relation, Relations
from engine.query.shape import SingleSelect
from engine.query.syntax import Node, arguments_of, flatten_and, fold
from engine.query.validation import Statement

_ARG_MAX = frozenset({"arg_max", "argmax", "max_by"})
#: Leaves NaN out, which the newest sample may be.
_LATEST = "latest"


def newest_only(statement: Statement, relations: Relations) -> tuple[Relation, bool] | None:
    """Return the measurement of which the statement needs only the newest samples, None when it may need others.

    And whether it leaves out NaN, so that a newest sample that is NaN would not do.
    """
    select = SingleSelect.of(statement, relations)
    if select is None:
        return None
    aggregates: set[str] = set()

    def newest(function: Node) -> bool:
        name, arguments = fold(str(function["function_name"])), arguments_of(function)
        if name == "max":
            found = len(arguments) == 1 and select.is_time(arguments[0])
        elif name == _LATEST or name in _ARG_MAX:
            found = len(arguments) == 2 and select.field_of(arguments[0]) is not None and select.is_time(arguments[1])
        else:
            return False
        if found:
            aggregates.add(name)
        return found

    groups = [select.grouped_by(expression) for expression in select.groups]
    outputs = [*select.items, *([select.node["having"]] if select.node.get("having") else [])]
    if not (
        all(group is not None and select.made_of_tags(group) for group in groups)
        and all(
            select.is_bound(conjunct, lower_only=True) or select.made_of_tags(conjunct)
            for conjunct in flatten_and(select.node.get("where_clause"))
        )
        and all(select.made_of(each, known=newest) for each in outputs)
        and all(select.is_alias(each) or select.made_of(each, known=newest) for each in select.orders)
        and aggregates
    ):
        return None
    return select.relation, _LATEST in aggregates
