"""Which SQL may run: one SELECT-family statement over known relations with listed functions.

The statement's type as DuckDB reports it is no check (``WITH x AS (COPY ... TO 'file') SELECT`` is a SELECT), so the
syntax tree of ``json_serialize_sql`` is walked node by node and whatever is not known to be harmless is refused.
Nothing is executed here, and names are resolved only as far as "a relation or a WITH name".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from engine.errors import BadQuery
from engine.query.functions import FUNCTIONS, GENERATORS, MAX_GENERATED_ROWS, TABLE_FUNCTIONS
from engine.query.syntax import Node, Serialise, arguments_of, character_at, fold, literal_of
from engine.spelling import meant

MAX_SQL_BYTES = 1 << 20

Kind = Literal["rows", "explain", "show_tables"]

_QUERY_NODES = frozenset({"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"})
_TABLE_REFS = frozenset(
    {"BASE_TABLE", "EMPTY", "EXPRESSION_LIST", "JOIN", "PIVOT", "SHOW_REF", "SUBQUERY", "TABLE_FUNCTION"}
)
_CLAUSES = frozenset(
    {
        "ASCENDING",
        "DESCENDING",
        "DISTINCT_MODIFIER",
        "LIMIT_MODIFIER",
        "LIMIT_PERCENT_MODIFIER",
        "ORDER_DEFAULT",
        "ORDER_MODIFIER",
    }
)
_EXPRESSIONS = frozenset(
    {
        "BETWEEN",
        "CASE",
        "CAST",
        "COLLATE",
        "COLUMN_REF",
        "COMPARISON",
        "CONJUNCTION",
        "CONSTANT",
        "DEFAULT",
        "FUNCTION",
        "LAMBDA",
        "LAMBDA_REF",
        "OPERATOR",
        "PARAMETER",
        "POSITIONAL_REFERENCE",
        "STAR",
        "SUBQUERY",
        "TYPE",
        "WINDOW",
    }
)
_FUNCTION_SCHEMAS = frozenset({"", "main", "pg_catalog"})
_TYPE_INFO_SUFFIX = "_TYPE_INFO"
_NO_POSITION = (1 << 64) - 1

_ONLY_SELECT = (
    "only SELECT can be run (also WITH, VALUES, FROM, DESCRIBE, SUMMARIZE, SHOW TABLES and EXPLAIN);"
    " data changes by writing samples, never by SQL"
)
_EXPLAIN = re.compile(r"explain\b(\s+analyze\b)?", re.IGNORECASE)
_LEADING = re.compile(r"(\s+|--[^\n]*(\n|\Z)|/\*.*?\*/)*", re.DOTALL)


@dataclass(slots=True)
class Select:
    """One SELECT of a statement, with the WITH names (folded) that hide relations inside it."""

    node: Node
    with_names: frozenset[str]


@dataclass(slots=True)
class Statement:
    """A statement that may run.

    ``text`` is what is handed to DuckDB.  ``references`` counts how often each relation (folded name) is read.
    ``mentions`` holds every column name (folded) that can matter, ``None`` when any column can.  ``aliases``: every
    name (folded) that the statement gives to anything.
    """

    text: str
    kind: Kind
    tree: Node = field(default_factory=dict)
    references: dict[str, int] = field(default_factory=dict)
    selects: list[Select] = field(default_factory=list)
    mentions: frozenset[str] | None = frozenset()
    aliases: frozenset[str] = frozenset()


def check_text(sql: object, parameters: Sequence[object]) -> None:
    """Raise BadQuery unless the statement and its parameters are what can be sent to DuckDB at all."""
    for what, value in (("the statement", sql), *((f"parameter {n}", each) for n, each in enumerate(parameters, 1))):
        if isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError:
                raise BadQuery(f"cannot run SQL: {what} is not valid Unicode, want UTF-8 text") from None
        elif value is sql:
            raise BadQuery(f"cannot run SQL: the statement is {type(value).__name__}, want text")
        elif isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
            raise BadQuery(f"cannot run SQL: {what} is {value}, want at most 64 bits; send it as text and cast it")
        elif value is not None and not isinstance(value, (bool, int, float)):
            raise BadQuery(
                f"cannot run SQL: {what} is {type(value).__name__}, want text, a number, true, false or null"
            )


def parse(sql: str, serialise: Serialise, relations: Mapping[str, object]) -> Statement:
    """Check one statement; ``relations`` has the folded names of all relations as keys.

    Raises BadQuery, which names the part that is refused and says where it stands.
    """
    check_text(sql, ())
    size = len(sql.encode())
    if size > MAX_SQL_BYTES:
        raise BadQuery(f"cannot run SQL: got a statement of {size} bytes, want at most {MAX_SQL_BYTES}")
    if "\0" in sql:
        raise BadQuery("cannot run SQL: got a NUL character in the statement, want text")
    start = _skip_blank(sql)
    match = _EXPLAIN.match(sql, start)
    if match:
        statement = parse(sql[match.end() :], serialise, relations)
        if statement.kind != "rows":
            raise BadQuery("cannot run SQL: EXPLAIN is followed by something other than a SELECT")
        statement.text = f"{match.group(0)} {statement.text}"
        statement.kind = "explain"
        return statement
    try:
        tree = msgspec.json.decode(serialise(sql))
        return _checked(sql, tree, relations)
    except RecursionError:
        raise BadQuery("cannot run SQL: the statement is nested too deeply") from None


def _checked(sql: str, tree: Node, relations: Mapping[str, object]) -> Statement:
    if tree["error"]:
        raise _parse_error(sql, tree)
    statements = tree["statements"]
    if not statements:
        raise BadQuery("cannot run SQL: got an empty statement, want a SELECT")
    if len(statements) > 1:
        raise BadQuery(f"cannot run SQL: got {len(statements)} statements, want one at a time")
    node = statements[0]["node"]
    if _is_show_tables(node):
        return Statement(sql, "show_tables")
    walk = _Walk(sql, relations)
    walk.visit(statements[0], frozenset())
    aliases = frozenset(walk.aliases)
    return Statement(sql, "rows", statements[0], walk.references, walk.selects, walk.mentioned(), aliases)


def _skip_blank(sql: str) -> int:
    match = _LEADING.match(sql)
    return match.end() if match else 0


def _parse_error(sql: str, tree: Node) -> BadQuery:
    message = str(tree.get("error_message", "")).strip()
    if tree.get("error_type") == "not implemented":
        word = sql[_skip_blank(sql) :].split(None, 1)[0].upper()
        if word.startswith(("PIVOT", "UNPIVOT")):
            return BadQuery(
                f"cannot run SQL: {word} as a statement of its own is not supported;"
                " write FROM (PIVOT ... ON column IN (...) USING ...)"
            )
        return BadQuery(f"cannot run SQL: got {word[:40]}; {_ONLY_SELECT}")
    where = tree.get("position")
    at = f" (at character {character_at(sql, int(where))})" if where is not None else ""
    return BadQuery(f"cannot parse SQL: {message}{at}")


def _is_show_tables(node: Node) -> bool:
    source = node.get("from_table") or {}
    return (
        source.get("type") == "SHOW_REF"
        and source.get("query") is None
        and fold(str(source.get("table_name", "")).strip('"')) == "tables"
    )


class _Walk:
    """One pass over the tree.  Every node must be of a known kind: what a newer DuckDB adds is refused until listed."""

    def __init__(self, sql: str, relations: Mapping[str, object]) -> None:
        self._sql, self._relations = sql, relations
        self.references: dict[str, int] = {}
        self.selects: list[Select] = []
        self._columns: set[str] = set()
        self._last_names: set[str] = set()
        self._aliases: set[str] = set()
        self._any_column = False
        self.aliases: set[str] = set()

    def mentioned(self) -> frozenset[str] | None:
        # A relation's own name used as a column stands for the whole row.
        if self._any_column or self._last_names & self._aliases:
            return None
        return frozenset(self._columns)

    def refuse(self, what: str, node: Node, hint: str = "") -> BadQuery:
        offset = node.get("query_location", _NO_POSITION)
        at = f" (at character {character_at(self._sql, offset)})" if 0 <= offset < _NO_POSITION else ""
        return BadQuery(f"cannot run SQL: {what}{at}" + (f"; {hint}" if hint else ""))

    # --- dispatch

    def visit(self, value: Any, scope: frozenset[str]) -> None:
        if isinstance(value, list):
            for item in value:
                self.visit(item, scope)
        elif isinstance(value, dict):
            kind = value.get("type")
            given = [value.get("alias"), *value.get("column_name_alias", ()), *value.get("aliases", ())]
            self.aliases.update(fold(str(name)) for name in given if name)
            if "class" in value:
                self._expression(value, scope)
            elif "info_type" in value:
                raise self._unknown(str(value["info_type"]), value)
            elif not isinstance(kind, str):
                # No node of its own: a list entry, a value, or the description of a type.
                self._children(value, scope)
            elif kind in _QUERY_NODES:
                self._query(value, scope)
            elif kind in _TABLE_REFS:
                self._table_ref(value, scope)
            elif kind not in _CLAUSES and not kind.endswith(_TYPE_INFO_SUFFIX):
                raise self._unknown(kind, value)
            else:
                self._children(value, scope)

    def _children(self, node: Node, scope: frozenset[str], *, without: Iterable[str] = ()) -> None:
        for key, child in node.items():
            if key not in without and isinstance(child, (dict, list)):
                self.visit(child, scope)

    def _unknown(self, kind: str, node: Node) -> BadQuery:
        verb = kind.removesuffix("_QUERY_NODE").removesuffix("_NODE").replace("_", " ")
        return self.refuse(f"{verb} is not allowed here", node, _ONLY_SELECT)

    # --- query nodes and names

    def _query(self, node: Node, scope: frozenset[str]) -> None:
        for entry in (node.get("cte_map") or {}).get("map", ()):
            self.visit(entry["value"], scope)
            scope = scope | {fold(entry["key"])}
        if node["type"] in ("RECURSIVE_CTE_NODE", "CTE_NODE"):
            name = fold(str(node.get("cte_name", "")))
            if node["type"] == "CTE_NODE":
                self.visit(node.get("query"), scope)
                scope = scope | {name}
                self._children(node, scope, without=("cte_map", "query"))
                return
            scope = scope | {name}
        if node["type"] == "SELECT_NODE":
            self.selects.append(Select(node, scope))
        self._children(node, scope, without=("cte_map",))

    def _table_ref(self, node: Node, scope: frozenset[str]) -> None:
        kind = node["type"]
        if node.get("column_name_alias"):
            self._any_column = True
        if node.get("alias"):
            self._aliases.add(fold(node["alias"]))
        if kind == "BASE_TABLE":
            self._base_table(node, scope)
        elif kind == "SHOW_REF":
            self._show(node, scope)
        elif kind == "TABLE_FUNCTION":
            self._table_function(node, scope)
        else:
            if kind == "JOIN":
                self._any_column |= node.get("ref_type") == "NATURAL"
                self._columns.update(fold(name) for name in node.get("using_columns", ()))
            elif kind == "PIVOT":
                self._any_column = True
            self._children(node, scope)

    def _base_table(self, node: Node, scope: frozenset[str]) -> None:
        name = str(node.get("table_name", ""))
        if node.get("catalog_name") or node.get("schema_name"):
            raise self.refuse(
                f"relation {name!r} is written with a schema or database", node, "write its plain name; see SHOW TABLES"
            )
        if node.get("at_clause"):
            raise self.refuse("AT (...) is not supported", node, "restrict the column time instead")
        self._aliases.add(fold(name))
        folded = fold(name)
        if folded not in scope:
            self._count(folded, name, node)
        self.visit(node.get("sample"), scope)

    def _count(self, folded: str, name: str, node: Node) -> None:
        if folded not in self._relations:
            hint = meant(folded, self._relations, "SHOW TABLES lists them")
            raise self.refuse(f"there is no relation {name!r}", node, hint)
        self.references[folded] = self.references.get(folded, 0) + 1

    def _show(self, node: Node, scope: frozenset[str]) -> None:
        self._any_column = True
        if node.get("catalog_name") or node.get("schema_name"):
            raise self.refuse("SHOW and DESCRIBE with a schema or database are not supported", node, "see SHOW TABLES")
        if node.get("query") is not None:
            self.visit(node["query"], scope)
            return
        name = str(node.get("table_name", ""))
        if node.get("show_type") == "SHOW_SPECIAL" or name.startswith('"') or not name:
            raise self.refuse(
                f"SHOW {name.strip(chr(34)) or 'without a name'} is not supported here",
                node,
                "SHOW TABLES lists the relations, DESCRIBE <relation> its columns",
            )
        self._count(fold(name), name, node)

    def _table_function(self, node: Node, scope: frozenset[str]) -> None:
        function = node["function"]
        if function.get("class") != "FUNCTION":
            raise self.refuse("this table expression is not supported", node)
        name = fold(str(function.get("function_name", "")))
        self._plain_name(function, name)
        if name not in TABLE_FUNCTIONS:
            raise self.refuse(
                f"table function {name!r} is not allowed", node, f"allowed are {', '.join(sorted(TABLE_FUNCTIONS))}"
            )
        self._bounded(function, name)
        self._children(function, scope)
        self._children(node, scope, without=("function",))

    # --- expressions

    def _expression(self, node: Node, scope: frozenset[str]) -> None:
        kind = node["class"]
        if kind not in _EXPRESSIONS:
            raise self._unknown(str(kind), node)
        if kind == "COLUMN_REF":
            names = [fold(str(name)) for name in node.get("column_names", ())]
            self._columns.update(names)
            self._last_names.update(names[-1:])
        elif kind in ("STAR", "POSITIONAL_REFERENCE"):
            self._any_column = True
        elif kind == "FUNCTION":
            self._function(node)
        elif kind == "WINDOW" and node.get("function_name"):
            name = fold(str(node["function_name"]))
            self._plain_name(node, name)
            if name not in FUNCTIONS:
                raise self._no_function(node, name)
        elif kind == "TYPE" and (node.get("catalog") or node.get("schema")):
            raise self.refuse("a type is written with a schema or database", node, "write its plain name")
        self._children(node, scope)

    def _function(self, node: Node) -> None:
        name = fold(str(node.get("function_name", "")))
        self._plain_name(node, name)
        if name not in FUNCTIONS:
            raise self._no_function(node, name)
        if node.get("export_state"):
            raise self.refuse("EXPORT_STATE is not allowed", node)
        self._bounded(node, name)

    def _no_function(self, node: Node, name: str) -> BadQuery:
        if name in TABLE_FUNCTIONS:
            return self.refuse(f"function {name!r} stands where a value is wanted", node, "use it in FROM")
        hint = meant(name, FUNCTIONS, "docs/sql.md lists the functions that are", cutoff=0.8)
        return self.refuse(f"function {name!r} is not allowed", node, hint)

    def _plain_name(self, node: Node, name: str) -> None:
        # The grammar of DuckDB 1.5 itself writes some functions with a schema.
        if node.get("catalog") or fold(str(node.get("schema", ""))) not in _FUNCTION_SCHEMAS:
            raise self.refuse(f"function {name!r} is written with a schema or database", node, "write its plain name")

    def _bounded(self, node: Node, name: str) -> None:
        """Refuse a series whose length is written out and too large."""
        if name not in GENERATORS:
            return
        values = []
        for argument in arguments_of(node):
            try:
                value = literal_of(argument)
            except ValueError:
                return
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                return
            values.append(value)
        if not values:
            return
        first, last, step = (0, values[0], 1) if len(values) == 1 else (*values[:2], values[2] if values[2:] else 1)
        rows = (last - first) / step if step else 0
        if rows > MAX_GENERATED_ROWS:
            raise self.refuse(f"{name} makes {rows:.0f} rows, want at most {MAX_GENERATED_ROWS}", node)
