"""DuckDB's syntax trees as ``json_serialize_sql`` writes them, read so that versions 1.5 and 2.0 come out the same."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from engine.errors import BadQuery

Node = dict[str, Any]
#: Turns SQL text into the answer of ``json_serialize_sql``.
Serialise = Callable[[str], str]

_ERROR_CLASS = re.compile(r"^[A-Z][A-Za-z ]* Error: ")
#: What DuckDB puts before the sentence of a function of ours; 1.5 shows where in the program it was raised behind it.
_IN_PYTHON = re.compile(r"^Invalid Input Error: Python exception occurred while executing the UDF: \w+: ")
_AT_LINE = re.compile(r"\n\nLINE (\d+): (.*)\n( *)\^", re.DOTALL)
_FOLD = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}


def fold(name: str) -> str:
    """Return the form under which DuckDB compares identifiers: ASCII letters in lower case, all else as it is."""
    return name.translate(_FOLD)


def character_at(sql: str, offset_bytes: int) -> int:
    """Return the 1-based number of the character at a byte offset."""
    return len(sql.encode()[:offset_bytes].decode(errors="ignore")) + 1


def expressions_in(node: Any) -> Iterator[Node]:
    """Yield every expression of a tree, outer ones first."""
    if isinstance(node, list):
        for item in node:
            yield from expressions_in(item)
    elif isinstance(node, dict):
        if "class" in node:
            yield node
        for child in node.values():
            if isinstance(child, (dict, list)):
                yield from expressions_in(child)


def flatten_and(expression: Node | None) -> list[Node]:
    """Return the parts of an expression that must all hold."""
    if expression is None:
        return []
    if expression.get("type") == "CONJUNCTION_AND":
        return [part for child in expression["children"] for part in flatten_and(child)]
    return [expression]


def arguments_of(function: Node) -> list[Node]:
    """Return the argument expressions of a FUNCTION node (DuckDB 1.5 has ``children``, 2.0 ``arguments``)."""
    if "arguments" in function:
        return [argument["expression"] for argument in function["arguments"]]
    return list(function.get("children", ()))


def literal_of(expression: Node) -> str | int | float | bool | None:
    """Return the value of a constant; raises ValueError when the expression is not a plain constant."""
    if expression.get("class") != "CONSTANT":
        if expression.get("class") == "FUNCTION" and expression.get("function_name") == "-":
            inner = [literal_of(child) for child in arguments_of(expression)]
            if len(inner) == 1 and isinstance(inner[0], (int, float)):
                return -inner[0]
        raise ValueError("not a constant")
    if "literal" in expression:
        literal = expression["literal"]
        kind, text = literal.get("kind"), literal.get("text")
        if kind == "STRING":
            return str(text)
        if kind == "INTEGER":
            return int(str(text).replace("_", ""), 0)
        if kind in ("FLOAT", "DOUBLE", "DECIMAL"):
            return float(str(text).replace("_", ""))
        raise ValueError(f"a {kind} constant")
    value = expression["value"]
    if value.get("is_null"):
        return None
    content = value.get("value")
    if isinstance(content, (str, int, float, bool)):
        return content
    raise ValueError("a nested constant")


def column_of(node: Node) -> tuple[list[str] | None, str | None]:
    """Return the folded name parts of a column, or of ``column['key']`` with that key; (None, None) for all else."""
    if node.get("class") == "COLUMN_REF":
        return [fold(str(name)) for name in node["column_names"]], None
    if node.get("type") == "ARRAY_EXTRACT":
        base, index = node["children"]
        if base.get("class") == "COLUMN_REF" and index.get("class") == "CONSTANT":
            try:
                key = literal_of(index)
            except ValueError:
                return None, None
            if isinstance(key, str):
                return [fold(str(name)) for name in base["column_names"]], key
    return None, None


def explain_error(error: BaseException, sql: str) -> BadQuery:
    """Return DuckDB's own error about a statement as ours: one sentence, with the position where it is known."""
    text = str(error).strip()
    at = ""
    match = _AT_LINE.search(text)
    if match:
        lines = sql.splitlines()
        number, shown, caret = int(match.group(1)), match.group(2), match.group(3)
        # Long lines are shown in part, and DuckDB 1.5 shows its own spelling: a position is given only if it is ours.
        if number <= len(lines) and lines[number - 1] == shown:
            column = len(caret) - len(f"LINE {number}: ")
            before = sum(len(line) + 1 for line in lines[: number - 1])
            at = f" (at character {before + column + 1})"
        text = text[: match.start()]
    text = _IN_PYTHON.sub("", text).split("\n\nAt:\n")[0]
    text = _ERROR_CLASS.sub("", text)
    text = text.split("\n\tCandidate functions:")[0].split("\n\tCandidate macros:")[0]
    text = " ".join(line.strip() for line in text.splitlines() if line.strip())
    hint = ""
    if "TIMESTAMP WITH TIME ZONE" in text and "TIMESTAMP_NS" in text:
        hint = "; the column time is a TIMESTAMP_NS in UTC: cast the other side to TIMESTAMP"
    elif "TIMESTAMP_NS" in text and ("BIGINT" in text or "INTEGER" in text) and "compare" in text:
        hint = "; for numbers since 1970 use make_timestamp_ns(...) or to_timestamp(...)"
    return BadQuery(f"cannot run SQL: {text}{at}{hint}")
