"""A TOML document read for checking: its tree, every syntax error, and the line of every key.

``tomllib`` stops at the first error and tells no lines of keys, so both are found here around it.
"""

from __future__ import annotations

import re
import tomllib
from typing import Any

import msgspec

Path = tuple[str | int, ...]
Lines = dict[Path, int]

_ERROR_PLACE = re.compile(r" \(at line (\d+), column \d+\)| \(at end of document\)")
_TOKEN = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}'
    r"|'''.*?'{3,5}"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'"
    r"|#[^\n]*"
    r"|[\[\]{}=,.\n]"
    r"|[^\s\[\]{}=,.#\"']+",
    re.DOTALL,
)
_MAX_SYNTAX_ERRORS = 20


class Problem(msgspec.Struct, frozen=True):
    """One thing that is wrong with a configuration.

    ``key``: dotted path such as ``rules[2].op`` (entries count from 1), "" for the file as a whole; ``line``:
    from 1, 0 when there is none; ``found`` and ``allowed``: what stands there and what may, secrets masked;
    ``path``: the file.
    """

    key: str
    line: int
    found: str
    allowed: str
    message: str
    path: str = ""

    @property
    def sentence(self) -> str:
        """The problem as ``path:line: key: message``, without the parts that do not apply."""
        where = f"{self.path}:{self.line}" if self.line else self.path
        return f"{where}: {self.key}: {self.message}" if self.key else f"{where}: {self.message}"


def dotted(path: Path) -> str:
    """Return ``("rules", 1, "op")`` as ``rules[2].op``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part + 1}]"
        else:
            text += f".{part}" if text else part
    return text


def line_of(lines: Lines, path: Path) -> int:
    """Return the line of ``path``, or of the nearest part around it that has one."""
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path, 0)


def parse_toml(text: str) -> tuple[dict[str, Any] | None, str, list[Problem]]:
    """Return the tree, the text it stands for and the syntax errors; no tree when too little of it is left.

    After an error in a ``key = value`` line the document is read again with that line empty, so that all such
    errors are found; a broken table header, or an error that does not move on, ends the search.
    """
    problems: list[Problem] = []
    rows = text.replace("\r\n", "\n").split("\n")
    last_line = 0
    while True:
        text = "\n".join(rows)
        try:
            return tomllib.loads(text), text, problems
        except tomllib.TOMLDecodeError as error:
            reason = _ERROR_PLACE.sub("", str(error))
            place = _ERROR_PLACE.search(str(error))
            line = int(place[1]) if place and place[1] else len(rows)
        if line <= last_line:
            return None, text, problems
        found = rows[line - 1].strip()
        reason = reason[:1].lower() + reason[1:]
        problems.append(Problem("", line, found, "TOML", f"not valid TOML: {reason}"))
        if found.startswith("[") or "=" not in found or len(problems) == _MAX_SYNTAX_ERRORS:
            return None, text, problems
        rows[line - 1] = ""
        last_line = line


class _LineScanner:
    """Finds the line of every key of a document that ``tomllib`` has accepted."""

    def __init__(self, text: str) -> None:
        self.lines: Lines = {}
        self._tokens = [
            (match[0], text.count("\n", 0, match.start()) + 1)
            for match in _TOKEN.finditer(text)
            if not match[0].startswith("#")
        ]
        self._at = 0

    def scan(self) -> Lines:
        table: Path = ()
        list_lengths: dict[Path, int] = {}
        while (token := self._peek()) is not None:
            if token == "\n":
                self._at += 1
            elif token == "[":
                line = self._line()
                is_entry = self._tokens[self._at + 1][0] == "["
                self._at += 2 if is_entry else 1
                keys = self._key()
                self._at += 2 if is_entry else 1
                table = self._resolve(keys[:-1], list_lengths)
                table = (*table, keys[-1])
                if is_entry:
                    self.lines.setdefault(table, line)
                    index = list_lengths.get(table, 0)
                    list_lengths[table] = index + 1
                    table = (*table, index)
                elif table in list_lengths:
                    table = (*table, list_lengths[table] - 1)
                self.lines.setdefault(table, line)
            else:
                self._pair(table)
        return self.lines

    def _resolve(self, keys: list[str], list_lengths: dict[Path, int]) -> Path:
        """Return the path of a header's parents: one that names a list means its last entry."""
        path: Path = ()
        for key in keys:
            path = (*path, key)
            if path in list_lengths:
                path = (*path, list_lengths[path] - 1)
        return path

    def _peek(self) -> str | None:
        return self._tokens[self._at][0] if self._at < len(self._tokens) else None

    def _line(self) -> int:
        return self._tokens[self._at][1]

    def _skip_blank(self) -> None:
        while self._peek() in ("\n", ","):
            self._at += 1

    def _key(self) -> list[str]:
        keys: list[str] = []
        while True:
            token = self._tokens[self._at][0]
            quoted = token[0] in "\"'"
            keys.append(next(iter(tomllib.loads(f"{token} = 0"))) if quoted else token)
            self._at += 1
            if self._peek() != ".":
                return keys
            self._at += 1

    def _pair(self, table: Path) -> None:
        line = self._line()
        path = table
        for key in self._key():
            path = (*path, key)
            self.lines.setdefault(path, line)
        self._at += 1  # the equals sign
        self._value(path)

    def _value(self, path: Path) -> None:
        token = self._peek()
        if token == "[":
            self._at += 1
            index = 0
            self._skip_blank()
            while self._peek() != "]":
                self.lines[(*path, index)] = self._line()
                self._value((*path, index))
                index += 1
                self._skip_blank()
            self._at += 1
        elif token == "{":
            self._at += 1
            self._skip_blank()
            while self._peek() != "}":
                self._pair(path)
                self._skip_blank()
            self._at += 1
        else:
            # A date, a number or a text; a number or a date may consist of several tokens ("1.5").
            self._at += 1
            while self._peek() not in (None, "\n", ",", "]", "}"):
                self._at += 1


def key_lines(text: str) -> Lines:
    """Return the line of every key, table and list entry of the valid TOML document ``text``."""
    return _LineScanner(text).scan()
