"""What a checked statement says about the rows it can use: conditions on one column of one relation.

Only conditions that hold for every row that can reach the result are found: parts of a WHERE joined by AND, over one
column of a relation named in the FROM of the same SELECT.  When in doubt a condition is left out, which costs time and
never changes an answer: DuckDB applies every condition itself as well.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import duckdb
import msgspec
import pyarrow as pa

from engine.clock import NS_PER_SECOND
from engine.query.functions import CLOCK_WORDS, CLOCKS, PUSHABLE
from engine.query.links import link_equal, link_join, link_subquery
from engine.query.sources import JsonScalar
from engine.query.syntax import Node, Serialise, arguments_of, column_of, expressions_in, flatten_and, fold, literal_of
from engine.query.validation import Select, Statement

_OPAQUE = frozenset({"DEFAULT", "LAMBDA", "LAMBDA_REF", "POSITIONAL_REFERENCE", "STAR", "SUBQUERY", "WINDOW"})
_VALUE = "tidegauge_value"
_LATEST_NS = (1 << 63) - 2  # the next number stands for infinity
_NULLABLE_SIDES = {
    "INNER": (False, False),
    "LEFT": (False, True),
    "RIGHT": (True, False),
    "FULL": (True, True),
    "OUTER": (True, True),
}
_FLIPPED = {">": "<", ">=": "<=", "<": ">", "<=": ">=", "=": "="}
_COMPARISONS = {
    "COMPARE_EQUAL": "=",
    "COMPARE_GREATERTHAN": ">",
    "COMPARE_GREATERTHANOREQUALTO": ">=",
    "COMPARE_LESSTHAN": "<",
    "COMPARE_LESSTHANOREQUALTO": "<=",
}


@dataclass(frozen=True, slots=True)
class Predicate:
    """A condition on one column, or on one key of the map ``labels``.

    ``expression`` has the column replaced by a column ``tidegauge_value``.  ``outer``: rows of this relation may be
    filled up with NULLs by an outer join, so the condition may be used ahead of the join only if NULL fails it.
    """

    column: str
    key: str | None
    expression: Node
    outer: bool


@dataclass(slots=True)
class Use:
    """One mention of a relation in a FROM, with what must hold for its rows.

    ``linked``: mentions of ``series`` in which each row must have its ``series_id``.
    """

    predicates: list[Predicate] = field(default_factory=list)
    linked: list[Use] = field(default_factory=list)


@dataclass(slots=True)
class Source:
    """One entry of a FROM: a relation (``use``) or something else (``use`` is None)."""

    name: str
    alias: str
    use: Use | None
    usable: bool
    outer: bool


def find_uses(statement: Statement, columns: Collection[str] = ()) -> dict[str, list[Use]]:
    """Return for each relation (folded name) one Use for each of its mentions, without predicates where unsure.

    ``columns``: folded names of columns of the relations, for words like ``current_date`` that may be either.
    """
    clock_words = CLOCK_WORDS - statement.aliases - frozenset(columns)
    found: dict[str, list[Use]] = {name: [] for name in statement.references}
    gathered = [(select, *_sources_of(select)) for select in statement.selects]
    for select, sources, joins in gathered:
        for conjunct in flatten_and(select.node.get("where_clause")):
            _attribute(conjunct, sources, joins, clock_words)
            link_subquery(conjunct, sources, gathered)
            link_equal(conjunct, sources)
        for join in joins:
            if join.get("join_type") == "INNER" and join.get("ref_type") == "REGULAR":
                link_join(join, sources)
        for source in sources:
            if source.use is not None:
                found[source.name].append(source.use)
    for name, uses in found.items():
        # A mention outside a plain FROM (PIVOT, DESCRIBE) was not seen above: it may use any row.
        uses.extend(Use() for _ in range(statement.references[name] - len(uses)))
    return found


def _sources_of(select: Select) -> tuple[list[Source], list[Node]]:
    sources: list[Source] = []
    joins: list[Node] = []

    def flatten(node: Node, usable: bool, outer: bool) -> None:
        usable = usable and not node.get("sample")
        kind = node.get("type")
        alias = fold(str(node.get("alias") or node.get("table_name") or ""))
        if kind == "JOIN":
            joins.append(node)
            kind = str(node.get("join_type"))
            # In ASOF, POSITIONAL and nearest joins it matters which other rows there are.
            plain = node.get("ref_type") in ("REGULAR", "CROSS", "DEPENDENT") and not node.get("ranking_expression")
            usable = usable and plain and (kind in _NULLABLE_SIDES or kind in ("SEMI", "ANTI"))
            left, right = _NULLABLE_SIDES.get(kind, (False, False))
            flatten(node["left"], usable, outer or left)
            # SEMI and ANTI joins filter their left side by their right one.
            flatten(node["right"], usable and kind in _NULLABLE_SIDES, outer or right)
        elif kind == "BASE_TABLE" and fold(node["table_name"]) not in select.with_names:
            usable = usable and not node.get("column_name_alias")
            sources.append(Source(fold(node["table_name"]), alias, Use(), usable, outer))
        elif kind != "EMPTY":
            sources.append(Source("", alias, None, False, outer))

    flatten(select.node.get("from_table") or {"type": "EMPTY"}, not select.node.get("sample"), False)
    return sources, joins


def _is_pure(expression: Node, functions: frozenset[str]) -> bool:
    for node in expressions_in(expression):
        if node["class"] in _OPAQUE or (_is_clock_word(node) and not functions >= CLOCKS):
            return False
        if node["class"] == "FUNCTION" and (
            fold(node["function_name"]) not in functions or node.get("filter") or node.get("distinct")
        ):
            return False
    return True


def _attribute(conjunct: Node, sources: list[Source], joins: list[Node], clock_words: frozenset[str]) -> None:
    """Add a condition to the relations it is about, if it is about one column and can be evaluated ahead."""
    if not _is_pure(conjunct, PUSHABLE | CLOCKS):
        return
    columns: set[tuple[int, str, str | None]] = set()
    unqualified: set[tuple[str, str | None]] = set()

    def replace(node: Any) -> Any:
        if isinstance(node, list):
            return [replace(item) for item in node]
        if not isinstance(node, dict):
            return node
        names, key = column_of(node)
        if names is None:
            return {
                name: replace(child) if child and isinstance(child, (dict, list)) else child
                for name, child in node.items()
            }
        if len(names) == 1:
            if names[0] in clock_words:
                return node
            unqualified.add((names[0], key))
        elif len(names) == 2:
            owners = [index for index, source in enumerate(sources) if source.alias == names[0]]
            columns.add((owners[0] if len(owners) == 1 else -1, names[1], key))
        else:
            columns.add((-1, "", None))
        return _column(node, _VALUE)

    expression = replace(conjunct)
    if len(columns) + len(unqualified) != 1:
        return
    if columns:
        index, column, key = columns.pop()
        owned = [sources[index]] if index >= 0 else []
    else:
        column, key = unqualified.pop()
        owned = sources if len(sources) == 1 or _all_share(joins, sources, column) else []
    for source in owned:
        if source.use is not None and source.usable:
            source.use.predicates.append(Predicate(column, key, expression, source.outer))


def _all_share(joins: list[Node], sources: list[Source], column: str) -> bool:
    """Whether every source is an inner join partner USING this column, so that it is one column for all of them."""
    return all(source.use is not None for source in sources) and all(
        join.get("join_type") == "INNER"
        and join.get("ref_type") == "REGULAR"
        and column in {fold(name) for name in join.get("using_columns", ())}
        for join in joins
    )


def _column(like: Node, name: str) -> Node:
    location: Node = {key: like[key] for key in ("query_location", "query_location_length") if key in like}
    return {"class": "COLUMN_REF", "type": "COLUMN_REF", "alias": "", **location, "column_names": [name]}


class Evaluator:
    """Evaluates predicates ahead of a statement, with DuckDB itself, so that they mean what they mean there."""

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, serialise: Serialise, parameters: Sequence[JsonScalar]
    ) -> None:
        self._connection, self._serialise, self._parameters = connection, serialise, parameters

    def time_bounds(self, predicate: Predicate) -> tuple[int | None, int | None]:
        """Return (start_ns, end_ns), half-open, outside of which the predicate on a time column fails."""
        start: int | None = None
        end: int | None = None
        for operator, expression in _comparisons(predicate.expression):
            is_lower, is_upper = operator in (">", ">=", "="), operator in ("<", "<=", "=")
            if not _is_pure(expression, PUSHABLE):
                # The clock moves on until the statement runs: what grows with it is a lower bound, never an upper one.
                if not _grows_with_clock(expression):
                    continue
                is_upper = False
            value = self._nanoseconds(expression)
            if value is None:
                continue
            if is_lower:
                lower = min(value + (operator == ">"), _LATEST_NS)
                start = lower if start is None else max(start, lower)
            if is_upper and value < _LATEST_NS:
                upper = value + (operator != "<")
                end = upper if end is None else min(end, upper)
        return start, end

    def accepted(self, predicate: Predicate, values: pa.Array) -> pa.Array | None:
        """Return the indices (int64, ascending) of the strings for which the predicate is true.

        The index ``len(values)`` stands for NULL.  ``None``: it cannot be told ahead.
        """
        wanted = self._texts(predicate.expression)
        if wanted is not None:
            # Imported here because an idle query process does without its 9 MB.
            import pyarrow.compute as pc

            return pc.indices_nonzero(pc.is_in(values, pa.array(wanted, pa.string()))).cast(pa.int64())
        if not _is_pure(predicate.expression, PUSHABLE):
            return None
        with_null = pa.concat_arrays([values.cast(pa.string()), pa.nulls(1, pa.string())])
        rows = pa.table({"number": pa.array(range(len(values) + 1), pa.int64()), _VALUE: with_null})
        try:
            text, parameters = self._filled(_ACCEPTED, predicate.expression)
            self._connection.register("tidegauge_values", rows)
            try:
                found = self._connection.sql(text, params=parameters).to_arrow_table()
            finally:
                self._connection.unregister("tidegauge_values")
        except _UNEVALUATED:
            return None
        accepted = found.column(0).combine_chunks()
        if predicate.outer and len(accepted) and accepted[-1].as_py() == len(values):
            return None
        return accepted

    def _texts(self, expression: Node) -> list[str] | None:
        """Return the strings of ``column = 'a'`` or ``column IN ('a', 'b')``, which need no evaluation."""
        try:
            return [self._text(other) for other in equal_to(expression)]
        except ValueError:
            return None

    def integers(self, expression: Node) -> list[int] | None:
        """Return the numbers of ``column = 5`` or ``column IN (5, $1)``, None for any other expression."""
        try:
            values = [
                self._parameter(other) if other.get("class") == "PARAMETER" else literal_of(other)
                for other in equal_to(expression)
            ]
        except ValueError:
            return None
        whole = [value for value in values if isinstance(value, int) and not isinstance(value, bool)]
        return whole if len(whole) == len(values) else None

    def _text(self, expression: Node) -> str:
        value = self._parameter(expression) if expression.get("class") == "PARAMETER" else literal_of(expression)
        if not isinstance(value, str):
            raise ValueError("not a text")
        return value

    def _parameter(self, expression: Node) -> JsonScalar:
        try:
            return self._parameters[int(expression["identifier"]) - 1]
        except IndexError:
            raise ValueError("a parameter without a value") from None

    def _nanoseconds(self, expression: Node) -> int | None:
        written = _written_ns(expression)
        if written is not None:
            return written
        try:
            text, parameters = self._filled(_NANOSECONDS, expression)
            value = self._connection.execute(text, parameters).fetchall()[0][0]
        except _UNEVALUATED:
            return None
        return value if isinstance(value, int) else None

    def _filled(self, template: str, expression: Node) -> tuple[str, dict[str, JsonScalar] | None]:
        """Return the template's SQL with the expression in its place, and the parameters that it uses."""
        if template not in _TEMPLATES:
            _TEMPLATES[template] = msgspec.json.decode(self._serialise(template))
        tree = _fill(_TEMPLATES[template], expression)
        text = self._connection.execute("SELECT json_deserialize_sql($1)", [msgspec.json.encode(tree).decode()])
        used = [node for node in expressions_in(expression) if node["class"] == "PARAMETER"]
        parameters = {str(node["identifier"]): self._parameter(node) for node in used}
        return str(text.fetchall()[0][0]), parameters or None


# Whatever is wrong with a condition, the statement itself will say it.
_UNEVALUATED = (duckdb.Error, ValueError, RecursionError)
_ACCEPTED = "SELECT number FROM tidegauge_values WHERE tidegauge_hole ORDER BY number"
_NANOSECONDS = "SELECT epoch_ns(CAST(tidegauge_hole AS TIMESTAMP_NS))"
#: Microseconds at most: finer ones are cut off by a cast to TIMESTAMP and kept by one to TIMESTAMP_NS.
_WRITTEN = re.compile(r"(\d{4})-(\d\d)-(\d\d)(?:[ T](\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,6}))?)?Z?)?", re.ASCII)
#: Their trees, which only depend on the version of DuckDB.
_TEMPLATES: dict[str, Node] = {}


def _written_ns(expression: Node) -> int | None:
    """Return the nanoseconds of a time that is written out in UTC, ``'2026-03-01 12:00'`` or a TIMESTAMP of it."""
    if expression.get("class") == "CAST":
        if expression.get("try_cast") or not _is_timestamp(expression):
            return None
        expression = expression["child"]
    try:
        text = literal_of(expression)
    except ValueError:
        return None
    found = _WRITTEN.fullmatch(text) if isinstance(text, str) else None
    if found is None or not 1678 <= int(found[1]) <= 2261:
        return None
    try:
        moment = dt.datetime(*(int(part or 0) for part in found.groups()[:6]), tzinfo=dt.UTC)  # type: ignore[misc,arg-type]
    except ValueError:
        return None
    return int(moment.timestamp()) * NS_PER_SECOND + int((found[7] or "").ljust(9, "0"))


def _is_timestamp(cast: Node) -> bool:
    named = cast.get("type_expr") or {}
    return named.get("type_name") == "TIMESTAMP" or (cast.get("cast_type") or {}).get("id") == "TIMESTAMP"


def equal_to(expression: Node) -> list[Node]:
    """Return what the column equals in ``column = x`` or ``column IN (x, y)``; raises ValueError for all else."""
    if expression.get("type") == "COMPARE_EQUAL":
        sides = [expression["left"], expression["right"]]
        others = [side for side in sides if not _is_value(side)]
        if len(others) == 1:
            return others
    elif expression.get("type") == "COMPARE_IN" and _is_value(expression["children"][0]):
        return list(expression["children"][1:])
    raise ValueError("not an equality")


def _fill(node: Any, expression: Node) -> Any:
    if isinstance(node, list):
        return [_fill(item, expression) for item in node]
    if isinstance(node, dict):
        if node.get("class") == "COLUMN_REF" and node["column_names"] == ["tidegauge_hole"]:
            return expression
        return {key: _fill(child, expression) for key, child in node.items()}
    return node


def _is_value(node: Node) -> bool:
    return node.get("class") == "COLUMN_REF" and node["column_names"] == [_VALUE]


def _is_clock_word(node: Node) -> bool:
    return bool(node.get("class") == "COLUMN_REF" and fold(str(node["column_names"][-1])) in CLOCK_WORDS)


def _comparisons(expression: Node) -> list[tuple[str, Node]]:
    """Return (operator, other side) for comparisons of the column itself with something that has no column in it."""
    found: list[tuple[str, Node]] = []
    if expression.get("class") == "COMPARISON":
        operator = _COMPARISONS.get(expression["type"])
        left, right = expression["left"], expression["right"]
        if operator and _is_value(left):
            found.append((operator, right))
        elif operator and _is_value(right):
            found.append((_FLIPPED[operator], left))
    elif expression.get("type") == "COMPARE_BETWEEN" and _is_value(expression["input"]):
        found += [(">=", expression["lower"]), ("<=", expression["upper"])]
    return [pair for pair in found if not any(_is_value(node) for node in expressions_in(pair[1]))]


def _grows_with_clock(expression: Node) -> bool:
    """Whether an expression is the clock, rounded down or moved by constants: it never gives less when run later."""
    if expression.get("class") == "CAST":
        return _grows_with_clock(expression["child"])
    if _is_clock_word(expression):
        return True
    if expression.get("class") != "FUNCTION":
        return False
    name = fold(expression["function_name"])
    arguments = arguments_of(expression)
    constant: Callable[[Node], bool] = lambda node: _is_pure(node, PUSHABLE)  # noqa: E731
    if name in CLOCKS:
        return not arguments
    if name in ("-", "date_trunc", "datetrunc", "time_bucket", "+") and len(arguments) == 2:
        first, second = arguments
        if name in ("-", "+") and _grows_with_clock(first) and constant(second):
            return True
        return name != "-" and constant(first) and _grows_with_clock(second)
    return False
