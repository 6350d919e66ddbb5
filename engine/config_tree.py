"""A parsed TOML tree against a Struct type: every difference at once, each with the line of its key.

Knows nothing about what the settings mean.  ``msgspec.convert`` would stop at the first problem.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any

from msgspec import inspect

from engine.config_toml import Lines, Path, Problem, dotted, line_of
from engine.config_units import ByteSize, Duration
from engine.spelling import meant


class TreeChecker:
    """Compares a tree with a Struct type.

    ``problems`` collects what is wrong, ``bad`` the paths of the wrong values, and ``kept`` for each list the
    places (from 0) of its usable entries.
    """

    def __init__(self, lines: Lines, *, complete: bool) -> None:
        self._lines = lines
        self._complete = complete
        self.problems: list[Problem] = []
        self.bad: set[Path] = set()
        self.kept: dict[Path, list[int]] = {}

    def report(self, path: Path, found: str, allowed: str, message: str) -> None:
        self.bad.add(path)
        self.problems.append(Problem(dotted(path), line_of(self._lines, path), found, allowed, message))

    def struct(self, tree: Any, kind: inspect.StructType, path: Path) -> dict[str, Any] | None:
        """Return ``tree`` without what is wrong, None when a required key is missing or wrong."""
        if not isinstance(tree, dict):
            self._wrong(path, tree, "a table")
            return None
        fields = {field.encode_name: field for field in kind.fields}
        for key in tree:
            if key not in fields:
                self._unknown(path, key, list(fields))
        clean: dict[str, Any] = {}
        usable = True
        for name, field in fields.items():
            if name in tree:
                here = (*path, name)
                value = self._value(tree[name], field.type, here)
                if here in self.bad:
                    usable = usable and not field.required
                else:
                    clean[name] = value
            elif field.required:
                usable = False
                if self._complete:
                    allowed = _describe(field.type)
                    self.report((*path, name), "nothing", allowed, f"missing, want {allowed}")
        return clean if usable else None

    def _unknown(self, path: Path, key: str, known: list[str]) -> None:
        hint = meant(key, known, f"known here: {', '.join(known)}")
        self.report((*path, key), key, ", ".join(known), f"unknown setting; {hint}")

    def _wrong(self, path: Path, value: Any, allowed: str, *, secret: bool = False) -> None:
        found = "***" if secret else shown(value)
        self.report(path, found, allowed, f"got {found}, want {allowed}")

    def _value(self, value: Any, kind: inspect.Type, path: Path, *, secret: bool = False) -> Any:
        """Return the value with its unit converted; reports it when it is wrong."""
        if isinstance(kind, inspect.Metadata):
            extra = kind.extra or {}
            if isinstance(kind.type, inspect.CustomType):
                return self._quantity(value, kind.type.cls, extra, path)
            return self._value(value, kind.type, path, secret=secret or bool(extra.get("secret")))
        if isinstance(kind, inspect.UnionType):
            inner = next(choice for choice in kind.types if not isinstance(choice, inspect.NoneType))
            return self._value(value, inner, path, secret=secret)
        if isinstance(kind, inspect.StructType):
            clean = self.struct(value, kind, path)
            if clean is None:
                self.bad.add(path)
            return clean
        if isinstance(kind, inspect.VarTupleType):
            return self._list(value, kind, path)
        if isinstance(kind, inspect.DictType):
            if not isinstance(value, dict) or any(not isinstance(item, str) for item in value.values()):
                self._wrong(path, value, _describe(kind), secret=secret)
            return value
        if not _fits(value, kind):
            self._wrong(path, value, _describe(kind), secret=secret)
        return float(value) if isinstance(kind, inspect.FloatType) and path not in self.bad else value

    def _list(self, value: Any, kind: inspect.VarTupleType, path: Path) -> list[Any] | None:
        """Return the usable entries."""
        if not isinstance(value, list) or len(value) < (kind.min_length or 0):
            allowed = _describe(kind)
            if isinstance(kind.item_type, inspect.StructType) and not isinstance(value, list):
                allowed = f"[[{'.'.join(part for part in path if isinstance(part, str))}]] once for each entry"
            self._wrong(path, value, allowed)
            return None
        entries = [self._value(item, kind.item_type, (*path, index)) for index, item in enumerate(value)]
        kept = self.kept[path] = [index for index in range(len(entries)) if (*path, index) not in self.bad]
        if len(kept) < (kind.min_length or 0):
            self.bad.add(path)  # What is left is too short; each wrong entry has been reported.
        return [entries[index] for index in kept]

    def _quantity(self, value: Any, cls: type[Any], extra: dict[str, Any], path: Path) -> Any:
        allowed = _describe_quantity(cls, extra)
        quantity: int | None = None
        if isinstance(value, str) and (value != "forever" or extra["forever"]):
            try:
                quantity = Duration.parse(value) if cls is Duration else ByteSize.parse(value)
            except ValueError:
                quantity = None
        elif type(value) is int and (cls is ByteSize or value == 0):
            quantity = cls(value)
        if quantity is None:
            self._wrong(path, value, allowed)
        elif not (quantity == 0 and extra["forever"]):
            low, high = _bounds(cls, extra)
            if quantity < low or (high is not None and quantity > high):
                self._wrong(path, value, allowed)
        return quantity


def _bounds(cls: type[Any], extra: dict[str, Any]) -> tuple[int, int | None]:
    parse = Duration.parse if cls is Duration else ByteSize.parse
    return parse(extra["min"]), None if extra["max"] is None else parse(extra["max"])


def _fits(value: Any, kind: inspect.Type) -> bool:
    if isinstance(kind, inspect.BoolType):
        return isinstance(value, bool)
    if isinstance(kind, inspect.LiteralType):
        return isinstance(value, str) and value in kind.values
    if isinstance(kind, inspect.StrType):
        length_fits = isinstance(value, str) and (kind.min_length or 0) <= len(value) <= (kind.max_length or math.inf)
        return length_fits and (kind.pattern is None or re.search(kind.pattern, value) is not None)
    if isinstance(kind, inspect.IntType):
        return type(value) is int and _in_range(value, kind)
    if isinstance(kind, inspect.FloatType):
        return type(value) in (int, float) and math.isfinite(value) and _in_range(value, kind)
    raise TypeError(f"cannot check a setting of type {kind}")


def _in_range(value: float, kind: inspect.IntType | inspect.FloatType) -> bool:
    return (
        (kind.ge is None or value >= kind.ge)
        and (kind.le is None or value <= kind.le)
        and (kind.gt is None or value > kind.gt)
        and (kind.lt is None or value < kind.lt)
    )


def _describe(kind: inspect.Type) -> str:
    """Return what is allowed, as the end of a sentence."""
    if isinstance(kind, inspect.Metadata):
        if isinstance(kind.type, inspect.CustomType):
            return _describe_quantity(kind.type.cls, kind.extra or {})
        return _describe(kind.type)
    if isinstance(kind, inspect.UnionType):
        return _describe(next(choice for choice in kind.types if not isinstance(choice, inspect.NoneType)))
    if isinstance(kind, inspect.LiteralType):
        return "one of " + ", ".join(f'"{value}"' for value in kind.values)
    if isinstance(kind, inspect.StrType):
        if kind.pattern is not None:
            return f"a text that matches {kind.pattern}"
        return (
            "a text" if kind.max_length is None else f"a text of {kind.min_length or 0} to {kind.max_length} characters"
        )
    if isinstance(kind, inspect.VarTupleType):
        least = f"at least {kind.min_length} of " if kind.min_length else ""
        return f"a list of {least}{_describe(kind.item_type).removeprefix('one of ')}"
    if isinstance(kind, inspect.DictType):
        return "a table of texts"
    if isinstance(kind, inspect.StructType):
        return "a table"
    if isinstance(kind, inspect.BoolType):
        return "true or false"
    if isinstance(kind, inspect.IntType | inspect.FloatType):
        noun = "a whole number" if isinstance(kind, inspect.IntType) else "a number"
        return noun + "".join(_range_words(kind))
    raise TypeError(f"cannot describe a setting of type {kind}")


def _range_words(kind: inspect.IntType | inspect.FloatType) -> Iterator[str]:
    if kind.ge is not None:
        yield f" of at least {kind.ge:g}" if isinstance(kind.ge, float) else f" of at least {kind.ge}"
    if kind.le is not None:
        yield f" and at most {kind.le}"
    if kind.lt is not None:
        yield f" and below {kind.lt:g}"


def _describe_quantity(cls: type[Any], extra: dict[str, Any]) -> str:
    noun = 'a duration such as "30s"' if cls is Duration else 'a size such as "64MiB"'
    bounds = f"of at least {extra['min']}" if extra["max"] is None else f"from {extra['min']} to {extra['max']}"
    return f"{noun}, {bounds}{', or ' + chr(34) + 'forever' + chr(34) if extra['forever'] else ''}"


def shown(value: Any) -> str:
    """Return a value as the file may have written it, cut to a readable length."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        text = '"' + value.replace("\n", "\\n") + '"'
    elif isinstance(value, dict):
        text = "a table"
    elif isinstance(value, list):
        text = "[" + ", ".join(shown(item) for item in value) + "]"
    else:
        text = str(value)
    return text if len(text) <= 80 else text[:77] + "..."
