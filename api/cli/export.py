"""``tidegauge export``: samples, or the answer of a statement, into a file; with a progress bar, resumable."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote

from api.cli import DEFAULT_URL, TOKEN_VARIABLE, WrongUse, token_of

if TYPE_CHECKING:
    from rich.progress import TaskID

    from api.bulk.encode import Encoder, Wide
    from api.bulk.export import Progress, State
    from api.bulk.selection import Selection, Source

EXIT_LEFT_OUT = 1
FORMATS = ("csv", "parquet", "arrow", "lp", "prom")
_TABULAR = frozenset({"csv", "parquet", "arrow"})
_BINARY = frozenset({"parquet", "arrow"})
_CODECS = {".gz": "gzip", ".zst": "zstd"}
#: A statement of a window may take as long as ``query.timeout`` says; the socket waits for longer.
SOCKET_SECONDS = 600.0
_EPILOG = f"""example:
  tidegauge export --table cpu --output cpu.parquet
  tidegauge export --format parquet --output dump/
  tidegauge export --match 'host=~"web.*"' --start now-7d --output web.lp
  tidegauge export --table prometheus --match '__name__="up"' --output up.openmetrics
  tidegauge export --query "SELECT host, max(usage_user) FROM cpu GROUP BY host" --output worst.csv
  tidegauge export --output hours.csv --start 2026-01-01 --end 2026-02-01 --step 1d --query \\
      "SELECT * FROM rollup_1h WHERE time >= \\$1 AND time < \\$2"

Without --data the rows come from the server at --url (default: {DEFAULT_URL}).  An export that was interrupted goes
on where it stopped when the same command is run again.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = "Write samples, or the answer of a statement, to a file."
    parser.epilog = _EPILOG
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--query", metavar="SQL", help="the answer of one SELECT; with $1 and $2 one for each --step")
    what.add_argument("--table", metavar="NAME", help="the samples of one measurement (default: of all)")
    parser.add_argument("--match", metavar="MATCHERS", default="", help='only series with these labels: host="a"')
    parser.add_argument(
        "--start", metavar="TIME", help="from this time on: RFC 3339, epoch, or now-7d (default: the first)"
    )
    parser.add_argument("--end", metavar="TIME", help="before this time (default: all there is when the export begins)")
    parser.add_argument(
        "--step", metavar="DURATION", help="with --query: width of a window, whose bounds are $1 and $2"
    )
    parser.add_argument(
        "--as", dest="measurement", metavar="NAME", help="with --query: name of the measurement in lp, prom"
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--data", metavar="DIR", help="read this data directory, also while a server is using it")
    where.add_argument("--url", metavar="URL", help=f"the server (default: {DEFAULT_URL})")
    parser.add_argument("--token", help=f"token with the scope read (default: ${TOKEN_VARIABLE})")
    parser.add_argument(
        "--format", choices=FORMATS, help="default: by the suffix of --output, without .gz or .zst; else csv"
    )
    parser.add_argument("--delimiter", default=",", help="between the cells of a CSV file (default: a comma)")
    parser.add_argument(
        "--output", metavar="FILE", help="or a directory, for a file a measurement (default: standard output)"
    )
    parser.add_argument("--restart", action="store_true", help="begin again even if an earlier export was interrupted")


def run(arguments: argparse.Namespace) -> int:
    form = _checked(arguments)
    with _open(arguments) as source, _progress(arguments) as progress:
        if not _is_directory(arguments):
            return _export(source, arguments, form, progress)
        from api.bulk.selection import measurements

        done = _Done(arguments.output, _options(arguments, form), restart=arguments.restart)
        code = 0
        for relation in measurements(source) if arguments.table is None else [arguments.table]:
            if relation in done.names:
                _say(f"{relation}: written already by an earlier export that stopped")
                continue
            name = f"{quote(relation, safe='')}.{form}"
            named = {**vars(arguments), "table": relation, "output": os.path.join(arguments.output, name)}
            code = max(code, _export(source, argparse.Namespace(**named), form, progress))
            done.add(relation)
        done.forget()
        return code


def _export(source: Source, arguments: argparse.Namespace, form: str, progress: _Shown) -> int:
    """Export into one file, or to standard output."""
    from api.bulk.export import Exporter, PartialFile, Reader
    from engine.clock import SystemClock
    from engine.errors import TidegaugeError

    clock = SystemClock()
    started = time.perf_counter()
    file = PartialFile(arguments.output)
    options = _options(arguments, form)
    state = None if arguments.restart else file.found(options)
    if state is None:
        state = _begun(source, arguments, form, options, clock.now_ns())
    else:
        _say(f"{arguments.output}: going on behind {state.rows} rows, where an earlier export stopped")
    begun_with = state.rows
    progress.begin(arguments.output or "")
    file.open(state.bytes)
    exporter = Exporter(Reader(source, sleep=time.sleep), file, clock=clock, progressed=progress.show)
    try:
        _run(exporter, state, form, arguments)
        file.finish(parquet=form == "parquet", written=progress.converted)
    except (TidegaugeError, KeyboardInterrupt) as error:
        file.save()
        if isinstance(error, TidegaugeError) and arguments.output and state.rows:
            error.message += "; the same command goes on from where it stopped"
        raise
    finally:
        file.close()
    _tell(arguments, form, state, state.rows - begun_with, time.perf_counter() - started)
    return EXIT_LEFT_OUT if state.left_out else 0


def _is_directory(arguments: argparse.Namespace) -> bool:
    output = arguments.output
    return output is not None and (output.endswith(os.sep) or os.path.isdir(output))


class _Done:
    """Which measurements an export into a directory has written, kept there while it is under way."""

    def __init__(self, directory: str, options: str, *, restart: bool) -> None:
        import msgspec

        self._path = os.path.join(directory, "export.progress")
        self._options = options
        self.names: list[str] = []
        os.makedirs(directory, exist_ok=True)
        if not restart:
            with contextlib.suppress(OSError, msgspec.MsgspecError):
                with open(self._path, "rb") as file:
                    found_options, names = msgspec.json.decode(file.read(), type=tuple[str, list[str]])
                if found_options == options:
                    self.names = names

    def add(self, name: str) -> None:
        import msgspec

        self.names.append(name)
        with open(f"{self._path}.tmp", "wb") as file:
            file.write(msgspec.json.encode((self._options, self.names)))
        os.replace(f"{self._path}.tmp", self._path)

    def forget(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)


def _run(exporter: Any, state: State, form: str, arguments: argparse.Namespace) -> None:
    from api.bulk.encode import Wide, wide_of

    if arguments.query is None:
        exporter.selections(
            state,
            lambda selection: _encoder(
                form, arguments, Wide(selection.measurement, selection.tags, selection.fields, selection.pooled)
            ),
        )
        return
    step_ns = _step_ns(arguments)
    exporter.statement(
        state,
        arguments.query,
        step_ns,
        lambda schema: _encoder(form, arguments, None if form in _TABULAR else wide_of(schema, arguments.measurement)),
    )


def _checked(arguments: argparse.Namespace) -> str:
    """Return the format; raises WrongUse for what cannot be meant."""
    from engine.errors import BadRequest
    from engine.model.matchers import parse_matchers

    form = _format(arguments)
    if arguments.data is not None and arguments.token is not None:
        raise WrongUse("cannot use --token with --data: a data directory asks for none")
    if arguments.data is not None and not os.path.isdir(arguments.data):
        raise WrongUse(f"cannot open data directory {arguments.data}: there is none")
    if len(arguments.delimiter) != 1:
        raise WrongUse(f"cannot use delimiter {arguments.delimiter!r}: want one character")
    if form in _BINARY and arguments.output is None and (form == "parquet" or sys.stdout.isatty()):
        raise WrongUse(f"cannot write {form} to standard output: use --output FILE")
    into_directory = _is_directory(arguments)
    if into_directory and arguments.format is None:
        raise WrongUse(f"cannot tell the format of files in {arguments.output}: use --format")
    if into_directory and arguments.query is not None:
        raise WrongUse(f"cannot write an answer to {arguments.output}, which is a directory: want a file")
    if form in _TABULAR and arguments.query is None and arguments.table is None and not into_directory:
        raise WrongUse(
            f"cannot write all measurements as {form}, which holds one: use --table NAME, --format lp,"
            " or a directory as --output"
        )
    if arguments.query is None:
        for option in ("step", "measurement"):
            if getattr(arguments, option) is not None:
                raise WrongUse(f"cannot use --{'as' if option == 'measurement' else option} without --query")
    elif arguments.match:
        raise WrongUse("cannot use --match with --query: write it into the statement")
    elif form not in _TABULAR and not arguments.measurement:
        raise WrongUse(f"cannot write an answer as {form}: say the name of the measurement with --as")
    try:
        parse_matchers(arguments.match)
        _step_ns(arguments)
    except BadRequest as error:
        raise WrongUse(error.message) from None
    windowed = arguments.query is not None and "$1" in arguments.query
    given = [arguments.start, arguments.end, arguments.step]
    if windowed and not all(given):
        raise WrongUse("cannot fill in $1 and $2: want --start, --end and --step")
    if arguments.query is not None and not windowed and any(given):
        raise WrongUse("cannot use --start, --end and --step: want $1 and $2 in the statement, bounds of a window")
    return form


def _format(arguments: argparse.Namespace) -> str:
    from api.bulk.pieces import SUFFIXES

    name = (arguments.output or "").lower()
    for suffix in _CODECS:
        name = name.removesuffix(suffix)
    found = next((form for form, suffixes in SUFFIXES.items() if name.endswith(suffixes)), "csv")
    form: str = arguments.format or found
    if form in _BINARY and _codec(arguments) is not None:
        raise WrongUse(f"cannot compress {form} as {arguments.output}: want a name that ends in .{form}")
    return form


def _codec(arguments: argparse.Namespace) -> str | None:
    """Return how the file is compressed, by its name."""
    return _CODECS.get(os.path.splitext(arguments.output or "")[1].lower())


def _step_ns(arguments: argparse.Namespace) -> int | None:
    from api.arguments import parse_duration_ns

    if arguments.step is None:
        return None
    step_ns = parse_duration_ns(arguments.step)
    if step_ns <= 0:
        raise WrongUse(f"cannot use --step {arguments.step}: want more than 0")
    return step_ns


def _options(arguments: argparse.Namespace, form: str) -> str:
    where = os.path.abspath(arguments.data) if arguments.data else (arguments.url or DEFAULT_URL)
    named = (where, arguments.query, arguments.table, arguments.match, arguments.start, arguments.end, arguments.step)
    return " ".join([form, *map(repr, (*named, arguments.measurement, arguments.delimiter))])


def _begun(source: Source, arguments: argparse.Namespace, form: str, options: str, now_ns: int) -> State:
    from api.arguments import parse_time
    from api.bulk.export import State
    from api.bulk.selection import measurements, select
    from engine.errors import BadRequest
    from engine.model.matchers import parse_matchers

    try:
        start_ns = None if arguments.start is None else parse_time(arguments.start, now_ns)
        end_ns = None if arguments.end is None else parse_time(arguments.end, now_ns)
    except BadRequest as error:
        raise WrongUse(error.message) from None
    if start_ns is not None and end_ns is not None and end_ns <= start_ns:
        raise WrongUse(f"cannot export from {arguments.start} to {arguments.end}: the end is not behind the start")
    state = State(options=options, start_ns=start_ns, end_ns=end_ns)
    if arguments.query is None:
        matchers = parse_matchers(arguments.match)
        relations = [arguments.table] if arguments.table else measurements(source)
        found = (select(source, relation, matchers) for relation in relations)
        # The one that is asked for by name gets its columns all the same.
        state.selections = [each for each in found if arguments.table or not each.impossible]
        _check_prometheus(state.selections, form)
    return state


def _check_prometheus(selections: list[Selection], form: str) -> None:
    others = [each.measurement for each in selections if not each.pooled]
    if form == "prom" and others:
        _say(
            f"samples of {', '.join(others)} come back from Prometheus text as metrics of the table prometheus,"
            " named MEASUREMENT_FIELD; --format lp keeps measurements"
        )


def _encoder(form: str, arguments: argparse.Namespace, wide: Wide | None) -> Encoder:
    from api.bulk import encode

    encoder, codec = _plain_encoder(form, arguments, wide), _codec(arguments)
    return encoder if codec is None else encode.Packed(encoder, codec)


def _plain_encoder(form: str, arguments: argparse.Namespace, wide: Wide | None) -> Encoder:
    from api.bulk import encode

    if form == "csv":
        return encode.CsvEncoder(arguments.delimiter, keep_line_breaks=arguments.query is not None)
    if form in _BINARY:
        return encode.ArrowEncoder("zstd" if form == "parquet" else None)
    assert wide is not None
    if form == "lp":
        return encode.LineEncoder(wide)
    return encode.PrometheusEncoder(wide, open_metrics=".openmetrics" in (arguments.output or ""))


def _open(arguments: argparse.Namespace) -> AbstractContextManager[Source]:
    import tidegauge

    if arguments.data is None:
        return tidegauge.connect(arguments.url or DEFAULT_URL, token=token_of(arguments.token), timeout=SOCKET_SECONDS)
    return tidegauge.open(arguments.data, read_only=True)


def _tell(arguments: argparse.Namespace, form: str, state: State, rows: int, seconds: float) -> None:
    if not state.rows:
        _say(_nothing(arguments))
        return
    rate = rows / seconds if seconds > 0 else 0.0
    parts = [f"wrote {rows} rows in {seconds:.1f} s ({rate:,.0f} rows/s)"]
    if state.left_out:
        causes = "; ".join(f"{count} with {reason}" for reason, count in sorted(state.left_out.items()))
        parts.append(f"left out what {form} cannot hold: {causes}")
    _say("; ".join(parts))
    if form in _TABULAR and arguments.query is None and arguments.output and state.selections:
        _say(f"load it with: {_import_command(arguments, form, state.selections[0])}")
        for column, name in (*state.selections[0].tags, *state.selections[0].fields):
            if column != name:
                _say(f"column {column!r} is {name!r}, whose own name is taken in a table; --format lp keeps it")


def _nothing(arguments: argparse.Namespace) -> str:
    """Return in words that there was nothing to export."""
    if arguments.query is not None:
        said = "the answer of the statement has no rows"
    else:
        said = f"nothing matched: no sample of {arguments.table or 'any measurement'}"
        said += f" has labels {arguments.match}" if arguments.match else ""
        said += f" from {arguments.start} on" if arguments.start else ""
        said += f" before {arguments.end}" if arguments.end else ""
    return f"{said}; {arguments.output} holds none" if arguments.output else said


def _import_command(arguments: argparse.Namespace, form: str, selection: Selection) -> str:
    import shlex

    words = ["tidegauge", "import", arguments.output, "--format", form]
    if form == "csv":
        words += ["--table", selection.measurement]
        # A tag whose values look like numbers would be taken for a field.
        words += [word for column, _ in selection.tags for word in ("--tag", column)]
        words += ["--delimiter", arguments.delimiter] if arguments.delimiter != "," else []
    return shlex.join(words)


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr)


class _Shown(Protocol):
    def begin(self, name: str) -> None: ...

    def show(self, progress: Progress) -> None: ...

    def converted(self, rows: int) -> None: ...

    def __enter__(self) -> _Shown: ...

    def __exit__(self, *_: object) -> None: ...


def _progress(arguments: argparse.Namespace) -> _Shown:
    return _Bar() if sys.stderr.isatty() and arguments.output else _Silent()


class _Silent:
    """No bar where nobody is watching, or where the rows are on the terminal."""

    def begin(self, name: str) -> None:
        """Nothing to show."""

    def show(self, progress: Progress) -> None:
        """Nothing to show."""

    def converted(self, rows: int) -> None:
        """Nothing to show."""

    def __enter__(self) -> _Silent:
        return self

    def __exit__(self, *_: object) -> None:
        return None


class _Bar:
    """A bar over rows (over time where they are not counted), with the rate and the time left."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._task: TaskID | None = None
        self.begin("")

    def begin(self, name: str) -> None:
        self._started = time.perf_counter()
        self._first: int | None = None
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(os.path.basename(name), total=None, rate="")

    def show(self, progress: Progress) -> None:
        self._first = progress.rows if self._first is None else self._first
        seconds = max(1e-9, time.perf_counter() - self._started)
        rate = f"{progress.rows:,} rows, {(progress.rows - self._first) / seconds:,.0f} rows/s"
        assert self._task is not None
        self._bar.update(self._task, completed=progress.done, total=progress.total, rate=rate)

    def converted(self, rows: int) -> None:
        assert self._task is not None
        self._bar.update(self._task, rate=f"{rows:,} rows converted")

    def __enter__(self) -> _Bar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
