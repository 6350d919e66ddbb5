"""The prompt of ``tidegauge sql``: history across sessions, completion of names, statements of many lines."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.history import FileHistory, History, InMemoryHistory

from api.cli.shell import LEAVE, Shell, values_statement
from api.cli.statements import is_finished
from engine.errors import TidegaugeError
from engine.query.functions import FUNCTIONS, OPERATORS, SIGNATURES, TABLE_FUNCTIONS

if TYPE_CHECKING:
    from api.client import SqlTable

_KEYWORDS = (
    *("SELECT", "FROM", "WHERE", "GROUP", "BY", "ORDER", "HAVING", "LIMIT", "OFFSET", "WITH", "DISTINCT"),
    *("JOIN", "LEFT", "INNER", "ON", "USING", "AS", "UNION", "ALL", "ASC", "DESC", "INTERVAL"),
    *("AND", "OR", "NOT", "IN", "IS", "NULL", "LIKE", "BETWEEN", "CASE", "WHEN", "THEN", "ELSE", "END"),
    *("COUNT", "SUM", "AVG", "MIN", "MAX", "DESCRIBE", "SHOW", "TABLES", "EXPLAIN"),
)
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FUNCTIONS = (*SIGNATURES, *sorted((FUNCTIONS - OPERATORS) | TABLE_FUNCTIONS))
_GREETING = "End a statement with ; to run it.  Tab completes, the arrow keys recall history, \\? helps, \\q leaves."
#: A text that is being typed behind a comparison with a label, a tag's column, a metric or a measurement.
_VALUE = re.compile(
    r"""(?:\blabels\s*\[\s*'(?P<label>(?:[^']|'')+)'\s*\]|(?P<column>"(?:[^"]|"")+"|\b[A-Za-z_]\w*))
        \s*(?:=|==|!=|<>|\b(?:NOT\s+)?I?LIKE\b|\b(?:NOT\s+)?IN\s*\((?:\s*'(?:[^']|'')*'\s*,)*)
        \s*'(?P<typed>(?:[^']|'')*)\Z""",
    re.VERBOSE | re.IGNORECASE,
)
_LABEL = re.compile(r"\blabels\s*\[\s*'(?P<typed>(?:[^']|'')*)\Z", re.IGNORECASE)
_NAMES_OF_METRICS = ("metric", "measurement")
#: Values that are offered at once, and what is remembered of what has been asked for.
_MAX_OFFERED = 100
_MAX_REMEMBERED = 1_000


class Source(Protocol):
    def sql(self, statement: str, *parameters: Any) -> SqlTable: ...


class SqlNames:
    """Names of relations and of their columns, asked for when first needed and then remembered."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._relations: list[str] | None = None
        self._columns: dict[str, list[str]] = {}
        self._keys: list[str] | None = None
        self._values: dict[tuple[str, str, str], list[str]] = {}

    def values(self, before: str) -> tuple[str, list[str]] | None:
        """Return what has been typed of a text between quotes, and what it may become; None outside of such a text.

        ``before``: the statement up to the cursor.  Behind a comparison these are values of the label, in
        ``labels['`` the labels there are.
        """
        if found := _LABEL.search(before):
            typed = found["typed"].replace("''", "'")
            return typed, [key for key in self._all_keys() if key.startswith(typed)]
        found = _VALUE.search(before)
        if found is None:
            return None
        typed = found["typed"].replace("''", "'")
        if found["label"] is not None:
            return typed, self._values_of("label", found["label"].replace("''", "'"), typed)
        column = found["column"]
        name = column[1:-1].replace('""', '"') if column.startswith('"') else column
        if name.lower() in _NAMES_OF_METRICS:
            return typed, self._values_of("name", name.lower(), typed)
        return typed, self._values_of("label", name, typed)

    def _values_of(self, kind: str, name: str, typed: str) -> list[str]:
        asked = (kind, name, typed)
        if asked not in self._values:
            if len(self._values) >= _MAX_REMEMBERED:
                self._values.clear()
            self._values[asked] = self._first_column(values_statement(kind, name, typed, _MAX_OFFERED))
        return self._values[asked]

    def _all_keys(self) -> list[str]:
        if self._keys is None:
            self._keys = self._first_column("SELECT DISTINCT unnest(map_keys(labels)) AS key FROM series ORDER BY key")
        return self._keys

    def candidates(self, word: str, text: str) -> list[str]:
        """Return what may stand for ``word``, typed so far, in the statement ``text``.

        Columns of the relations it mentions first, then relations, then keywords and functions in the case of the word.
        """
        relations = self._all_relations()
        mentioned = {found.lower() for found in _WORD.findall(text)}
        columns = [
            column for relation in relations if relation.lower() in mentioned for column in self._columns_of(relation)
        ]
        keywords = [name.lower() if word.islower() else name for name in _KEYWORDS]
        functions = [name.upper() if word.isupper() else name for name in _FUNCTIONS]
        start = word.lower()
        offered = dict.fromkeys([*columns, *relations, *keywords, *functions])
        return [name for name in offered if name.lower().startswith(start)]

    def _all_relations(self) -> list[str]:
        if self._relations is None:
            self._relations = self._first_column("SHOW TABLES")
        return self._relations

    def _columns_of(self, relation: str) -> list[str]:
        if relation not in self._columns:
            quoted = relation.replace('"', '""')
            self._columns[relation] = self._first_column(f'DESCRIBE "{quoted}"')
        return self._columns[relation]

    def _first_column(self, statement: str) -> list[str]:
        try:
            table = self._source.sql(statement)
        except TidegaugeError:
            # Completion must never get in the way; the statement itself will tell what is wrong.
            return []
        return [str(name) for name in table.arrow[0].to_pylist()]


class _SqlCompleter(Completer):
    def __init__(self, names: SqlNames) -> None:
        self._names = names

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        quoted = self._names.values(document.text_before_cursor)
        if quoted is not None:
            typed, values = quoted
            width = len(typed.replace("'", "''"))
            for value in values:
                yield Completion(value.replace("'", "''"), start_position=-width, display=value)
            return
        word = document.get_word_before_cursor(pattern=_WORD)
        if word or complete_event.completion_requested:
            for name in self._names.candidates(word, document.text):
                yield Completion(name, start_position=-len(word), display_meta=SIGNATURES.get(name.lower()))


def run_prompt(shell: Shell, session: PromptSession[str], *, write: Callable[[str], object] = sys.stdout.write) -> None:
    """Read and run lines until the user leaves; what goes wrong is said and the prompt goes on."""
    write(_GREETING + "\n")
    while True:
        try:
            if not shell.run(session.prompt("sql> ")):
                return
        except TidegaugeError as error:
            write(f"{error.message}\n")
        except KeyboardInterrupt:
            # At the prompt: forget what was typed.  During a statement: it has been cancelled.
            write("\n")
        except EOFError:
            return


def new_session(source: Source, **options: Any) -> PromptSession[str]:
    """Return a prompt in which Enter runs a finished statement and otherwise begins a new line."""

    @Condition
    def unfinished() -> bool:
        text = session.default_buffer.text.strip()
        return bool(text) and text.lower() not in LEAVE and not text.startswith("\\") and not is_finished(text)

    session: PromptSession[str] = PromptSession(
        history=_history(),
        completer=_SqlCompleter(SqlNames(source)),
        complete_while_typing=False,
        complete_in_thread=True,
        multiline=unfinished,
        prompt_continuation="...> ",
        enable_history_search=True,
        **options,
    )
    return session


def _history() -> History:
    """Return the history in the user's state directory, in memory where that cannot be written."""
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    directory = os.path.join(state, "tidegauge")
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        path = os.path.join(directory, "sql-history")
        with open(path, "ab"):
            pass
        os.chmod(path, 0o600)
    except OSError:
        return InMemoryHistory()
    return FileHistory(path)
