"""What the prompt of ``tidegauge sql`` does with a line: statements, and commands that begin with a backslash."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from api.cli.statements import split_statements
from engine.errors import BadRequest
from engine.query.functions import FUNCTIONS, OPERATORS, SIGNATURES, TABLE_FUNCTIONS

if TYPE_CHECKING:
    from api.client import SqlTable

#: Formats that a terminal can show.
TERMINAL_FORMATS = ("table", "vertical", "csv", "json")
#: Values that ``\\l`` lists at most.
MAX_VALUES = 1_000
LEAVE = frozenset({"exit", "quit", "\\q", ".exit", ".quit"})
HELP = """\
End a statement with ; to run it.  Tab completes names and label values, the arrow keys recall history, Ctrl-C cancels.
  \\d             relations                    \\timing [on|off]   time, and what was read for it
  \\d NAME        columns of a relation        \\format FORMAT     table, vertical, csv or json
  \\l KEY         values of a label            \\pager [on|off]    long answers through $PAGER
  \\df [TEXT]     functions                    \\? this, \\q leaves
"""


class Source(Protocol):
    def sql(self, statement: str, *parameters: Any) -> SqlTable: ...


class Pager:
    """Shows what is longer or wider than the terminal through ``$PAGER``, by default ``less``."""

    def __init__(
        self, write: Callable[[str], object], *, size: Callable[[], tuple[int, int]] | None = None, on: bool = True
    ) -> None:
        self._write, self._size, self.on = write, size or _terminal_size, on

    def show(self, text: str) -> None:
        columns, rows = self._size()
        lines = text.split("\n")
        fits = len(lines) < rows and max(map(len, lines)) <= columns
        if not self.on or fits or not self._paged(text):
            self._write(text)

    def _paged(self, text: str) -> bool:
        """Show a text page by page; return False where no pager can be started."""
        command = shlex.split(os.environ.get("PAGER") or "less")
        environment = {"LESS": "-SFRX", **os.environ}
        try:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, env=environment, text=True)
        except (OSError, ValueError, IndexError):
            return False
        while True:
            try:
                process.communicate(text)
            except KeyboardInterrupt:
                # For the pager, which shares the terminal.
                text = ""
                continue
            except BrokenPipeError:
                process.wait()
            return True


def _terminal_size() -> tuple[int, int]:
    size = shutil.get_terminal_size()
    return size.columns, size.lines


class Shell:
    """One session.  ``answer(statement, form, timing)`` runs a statement and returns its rows as text."""

    def __init__(
        self,
        source: Source,
        *,
        answer: Callable[[str, str, bool], str],
        write: Callable[[str], object],
        form: str = "table",
        pager: Pager | None = None,
    ) -> None:
        self._source, self._answer, self._write = source, answer, write
        self.form, self.timing = form, False
        self.pager = pager or Pager(write, on=False)

    def run(self, text: str) -> bool:
        """Do what a line says; return False when the user leaves.  Raises what the source raises."""
        stripped = text.strip()
        if stripped.rstrip(";").lower() in LEAVE:
            return False
        if stripped.startswith("\\"):
            self._command(stripped.rstrip(";"))
        else:
            for statement in split_statements(text):
                self.pager.show(self._answer(statement, self.form, self.timing))
        return True

    def _command(self, text: str) -> None:
        name, _, rest = text.partition(" ")
        argument = rest.strip()
        commands: dict[str, Callable[[str], None]] = {
            "\\?": self._help,
            "\\h": self._help,
            "\\help": self._help,
            "\\d": self._describe,
            "\\dt": self._describe,
            "\\l": self._values,
            "\\df": self._functions,
            "\\timing": self._set_timing,
            "\\format": self._set_format,
            "\\pager": self._set_pager,
        }
        if name not in commands:
            raise BadRequest(f"cannot run {name}: there is no such command; \\? lists them")
        commands[name](argument)

    def _help(self, _: str) -> None:
        self._write(HELP)

    def _describe(self, name: str) -> None:
        statement = "SHOW TABLES"
        if name:
            statement = f"SELECT column_name, column_type FROM (DESCRIBE {_quoted(name)})"
        self.pager.show(self._answer(statement, "table", False))

    def _values(self, key: str) -> None:
        if not key:
            raise BadRequest("cannot list the values of a label: want its name, for example \\l host")
        statement = values_statement("label", key, "", MAX_VALUES)
        self.pager.show(self._answer(statement, "table", False))

    def _functions(self, text: str) -> None:
        names = sorted({*SIGNATURES, *(FUNCTIONS - OPERATORS), *TABLE_FUNCTIONS})
        found = [SIGNATURES.get(name, name) for name in names if text.lower() in name]
        self.pager.show("\n".join(found) + f"\n{len(found)} functions\n")

    def _set_timing(self, argument: str) -> None:
        self.timing = _switched(argument, self.timing, "\\timing")
        self._write(f"timing is {'on' if self.timing else 'off'}\n")

    def _set_pager(self, argument: str) -> None:
        self.pager.on = _switched(argument, self.pager.on, "\\pager")
        self._write(f"the pager is {'on' if self.pager.on else 'off'}\n")

    def _set_format(self, form: str) -> None:
        if form and form not in TERMINAL_FORMATS:
            raise BadRequest(f"cannot show answers as {form!r}: want one of {', '.join(TERMINAL_FORMATS)}")
        self.form = form or self.form
        self._write(f"the format is {self.form}\n")


def _switched(argument: str, now: bool, command: str) -> bool:
    if argument not in ("", "on", "off"):
        raise BadRequest(f"cannot set {command} to {argument!r}: want on or off")
    return not now if not argument else argument == "on"


def _quoted(name: str) -> str:
    inner = name[1:-1].replace('""', '"') if len(name) > 1 and name[0] == name[-1] == '"' else name
    return '"' + inner.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Return a string constant in single quotes."""
    return "'" + text.replace("'", "''") + "'"


def values_statement(kind: str, name: str, prefix: str, limit: int) -> str:
    """Return the SELECT of the values of a label, or of all metrics or measurements, that begin with ``prefix``."""
    if kind == "label":
        column, relation = f"labels[{literal(name)}]", "series"
    else:
        column, relation = name, "metrics"
    condition = f"starts_with({column}, {literal(prefix)})" if prefix else f"{column} IS NOT NULL"
    return f"SELECT DISTINCT {column} AS value FROM {relation} WHERE {condition} ORDER BY value LIMIT {limit}"
