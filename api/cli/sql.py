"""``tidegauge sql``: one statement, statements from a file or a pipe, or a prompt."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from api.cli import DEFAULT_URL, TOKEN_VARIABLE, WrongUse, token_of
from api.cli.statements import split_statements

if TYPE_CHECKING:
    from api.client import SqlTable

FORMATS = ("table", "vertical", "csv", "json", "arrow", "parquet")
_BINARY = frozenset({"arrow", "parquet"})
_FORMAT_OF_SUFFIX = {".csv": "csv", ".json": "json", ".arrow": "arrow", ".parquet": "parquet"}
_EPILOG = f"""example:
  tidegauge sql "SELECT host, avg(usage_percent) FROM cpu GROUP BY host"
  tidegauge sql "SELECT * FROM rollup_1h" --format parquet --output hours.parquet
  tidegauge sql --data ./tidegauge-data "SHOW TABLES"
  tidegauge sql < report.sql
  tidegauge sql                         a prompt with history and completion

Without --data the statement goes to the server at --url (default: {DEFAULT_URL}).
"""


class Source(Protocol):
    """What answers SQL: a client of a server, or the engine in this process."""

    def sql(self, statement: str, *parameters: Any) -> SqlTable: ...

    def cancel(self) -> None: ...


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = "Run SQL against a server or a data directory."
    parser.epilog = _EPILOG
    parser.add_argument("statement", nargs="?", metavar="SQL", help="what to run (default: standard input)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--data", metavar="DIR", help="read this data directory, also while a server is using it")
    where.add_argument("--url", metavar="URL", help=f"the server (default: {DEFAULT_URL})")
    parser.add_argument("--token", help=f"token with the scope read (default: ${TOKEN_VARIABLE})")
    parser.add_argument("--format", choices=FORMATS, help="default: by the suffix of --output, else table")
    parser.add_argument("--output", metavar="FILE", help="write to FILE instead of standard output")


def run(arguments: argparse.Namespace) -> int:
    form = _format(arguments)
    if arguments.data is not None and arguments.token is not None:
        raise WrongUse("cannot use --token with --data: a data directory asks for none")
    if arguments.statement is not None:
        if not arguments.statement.strip():
            raise WrongUse("cannot run SQL: the statement is empty")
        with _open(arguments) as source:
            _write(arguments.output, _answer(source, arguments.statement, form))
        return 0
    if sys.stdin.isatty() and arguments.output is None:
        with _open(arguments) as source:
            _prompt(source, form)
        return 0
    statements = split_statements(sys.stdin.read())
    if not statements:
        raise WrongUse("cannot run SQL: got no statement, want one as an argument or on standard input")
    if len(statements) > 1 and form in _BINARY:
        raise WrongUse(f"cannot write {len(statements)} answers as {form}: want one statement")
    with _open(arguments) as source:
        _write(arguments.output, *(_answer(source, statement, form) for statement in statements))
    return 0


def _prompt(source: Source, form: str) -> None:
    from api.cli.prompt import new_session, run_prompt
    from api.cli.shell import Pager, Shell

    def answer(statement: str, form: str, timing: bool) -> str:
        return _answer(source, statement, form, timing=timing).decode()

    write = sys.stdout.write
    shell = Shell(source, answer=answer, write=write, form=form, pager=Pager(write))
    run_prompt(shell, new_session(source))


def _format(arguments: argparse.Namespace) -> str:
    suffix = os.path.splitext(arguments.output or "")[1].lower()
    form: str = arguments.format or _FORMAT_OF_SUFFIX.get(suffix, "table")
    if form in _BINARY and arguments.output is None and sys.stdout.isatty():
        raise WrongUse(f"cannot write {form} to a terminal: use --output FILE")
    return form


def _open(arguments: argparse.Namespace) -> AbstractContextManager[Source]:
    import tidegauge

    if arguments.data is None:
        return tidegauge.connect(arguments.url or DEFAULT_URL, token=token_of(arguments.token))
    if not os.path.isdir(arguments.data):
        raise WrongUse(f"cannot open data directory {arguments.data}: there is none")
    return tidegauge.open(arguments.data, read_only=True)


def _answer(source: Source, statement: str, form: str, *, timing: bool = False) -> bytes:
    """Run one statement and return its rows in the format; ``timing``: and what it took and read."""
    from api.cli.waiting import Stopwatch, waited

    started = time.perf_counter()
    with Stopwatch() as stopwatch:
        answer = waited(lambda: source.sql(statement), source.cancel, stopwatch)
    seconds = time.perf_counter() - started
    from api.cli import render

    told = f"{_told(answer.metadata, seconds)}\n".encode() if timing else b""
    texts = {"table": render.render_table, "vertical": render.render_vertical}
    if form in texts:
        return texts[form](answer.arrow, seconds=seconds).encode() + told
    renderers: dict[str, Callable[[Any], bytes]] = {
        "csv": render.render_csv,
        "json": render.render_json,
        "arrow": render.render_arrow,
        "parquet": render.render_parquet,
    }
    return renderers[form](answer.arrow) + told


def _told(metadata: dict[str, Any], seconds: float) -> str:
    """Return what an answer took and what it was made from."""
    parts = [f"time {1_000 * seconds:.1f} ms"]
    if (inside := metadata.get("elapsed_seconds")) is not None:
        parts.append(f"of it {1_000 * inside:.1f} ms in the query")
    if (rows := metadata.get("rows_read")) is not None:
        parts.append(f"{rows:,} rows read from {metadata.get('files', 0)} files")
    if metadata.get("tier"):
        parts.append(f"tier {metadata['tier']}")
    return ", ".join(parts)


def _write(path: str | None, *parts: bytes) -> None:
    """Write to the file, which appears whole or not at all, or to standard output."""
    if path is None:
        sys.stdout.flush()
        for part in parts:
            sys.stdout.buffer.write(part)
        sys.stdout.buffer.flush()
        return
    temporary = f"{path}.partial"
    try:
        with open(temporary, "wb") as file:
            file.writelines(parts)
        os.replace(temporary, path)
    except OSError as error:
        raise WrongUse(f"cannot write {path}: {error.strerror or error}") from None
