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

from api.cli.statements import is_finished, split_statements
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
_LEAVE = frozenset({"exit", "quit", "\\q", ".exit", ".quit"})
_HELP = "End a statement with ; to run it.  Tab completes names, the arrow keys recall history, \\q leaves."


class Source(Protocol):
    def sql(self, statement: str, *parameters: Any) -> SqlTable: ...


class SqlNames:
    """Names of relations and of their columns, asked for when first needed and then remembered."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._relations: list[str] | None = None
        self._columns: dict[str, list[str]] = {}

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
        word = document.get_word_before_cursor(pattern=_WORD)
        if word or complete_event.completion_requested:
            for name in self._names.candidates(word, document.text):
                yield Completion(name, start_position=-len(word), display_meta=SIGNATURES.get(name.lower()))


def run_prompt(
    source: Source,
    *,
    answer: Callable[[str], str],
    session: PromptSession[str] | None = None,
    write: Callable[[str], object] = sys.stdout.write,
) -> None:
    """Read and run statements until the user leaves; what goes wrong is said and the prompt goes on."""
    session = session or new_session(source)
    write(_HELP + "\n")
    while True:
        try:
            text = session.prompt("sql> ")
            if text.strip().rstrip(";").lower() in _LEAVE:
                return
            for statement in split_statements(text):
                write(answer(statement))
        except TidegaugeError as error:
            write(f"{error.message}\n")
        except KeyboardInterrupt:
            # At the prompt: forget what was typed.  During a statement: stop waiting for it.
            write("\n")
        except EOFError:
            return


def new_session(source: Source, **options: Any) -> PromptSession[str]:
    """Return a prompt in which Enter runs a finished statement and otherwise begins a new line."""

    @Condition
    def unfinished() -> bool:
        text = session.default_buffer.text.strip()
        return bool(text) and text.lower() not in _LEAVE and not is_finished(text)

    session: PromptSession[str] = PromptSession(
        history=_history(),
        completer=_SqlCompleter(SqlNames(source)),
        complete_while_typing=False,
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
