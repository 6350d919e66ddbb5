"""``tidegauge import``: files into a server or a data directory, with a progress bar, resumable."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from api.bulk.pieces import BadRow, Piece, Place, format_of
from api.cli import DEFAULT_URL, TOKEN_VARIABLE, WrongUse, token_of

if TYPE_CHECKING:
    from api.bulk.loader import Account
    from api.bulk.tables import Columns
    from engine.ingest.batch import WriteResult

EXIT_REFUSED = 1
_TEXT_FORMATS = frozenset({"lp", "prom"})
_FORMATS = ("lp", "prom", "csv", "parquet", "arrow")
_EPILOG = f"""example:
  tidegauge import metrics.lp.gz
  tidegauge import january.parquet february.parquet --table cpu --time ts
  tidegauge import export.csv --table power --tag meter_id --unit s
  tidegauge import history.lp --data ./tidegauge-data
  tidegauge import scrape.prom --label job=node --label instance=web1

Without --data the rows go to the server at --url (default: {DEFAULT_URL}).  Rows that are refused are reported
with file and line, the others are kept.  A load that was interrupted goes on where it stopped when the same command is
run again.
"""


class Destination(Protocol):
    """A client of a server, or the engine in this process."""

    def offer(self, data: Any, *, table: str | None = None, precision: str = "ns") -> WriteResult: ...


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = "Load files into a server or a data directory."
    parser.epilog = _EPILOG
    parser.add_argument("files", nargs="+", metavar="FILE", help="what to load, in this order")
    parser.add_argument("--format", choices=_FORMATS, help="default: by the suffix of each file")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--data", metavar="DIR", help="open this data directory; no server may be using it")
    where.add_argument("--url", metavar="URL", help=f"the server (default: {DEFAULT_URL})")
    parser.add_argument("--config", metavar="FILE", help="with --data: the configuration, for its limits and retention")
    parser.add_argument("--token", help=f"token with the scope write (default: ${TOKEN_VARIABLE})")
    parser.add_argument("--precision", default="ns", help="unit of line protocol's timestamps (default: ns)")
    parser.add_argument(
        "--label", metavar="NAME=VALUE", action="append", default=[], help="for every sample of Prometheus text"
    )
    tables = parser.add_argument_group("CSV, Parquet and Arrow")
    tables.add_argument(
        "--table", metavar="NAME", help="the table (default: what the file says, else its name up to its first dot)"
    )
    tables.add_argument(
        "--time",
        metavar="COLUMN",
        help="the column that holds the time (default: the first of time, timestamp, ts, _time, datetime, date)",
    )
    tables.add_argument("--unit", choices=("s", "ms", "us", "ns"), default="ns", help="of times that are numbers")
    tables.add_argument("--tag", metavar="COLUMN", action="append", default=[], help="a tag although it holds numbers")
    tables.add_argument("--drop", metavar="COLUMN", action="append", default=[], help="a column to leave out")
    tables.add_argument("--delimiter", default=",", help="between the cells of a CSV file (default: a comma)")
    parser.add_argument("--restart", action="store_true", help="begin again even if an earlier load was interrupted")
    parser.add_argument("--errors", type=int, default=20, metavar="N", help="refused rows to print (default: 20)")


def run(arguments: argparse.Namespace) -> int:
    from api.bulk.journal import Journal, default_directory
    from api.bulk.loader import Loader, start_of, why
    from engine.clock import SystemClock
    from engine.errors import TidegaugeError

    _check(arguments)
    jobs = [(file, arguments.format or format_of(file)) for file in arguments.files]
    current = jobs[0]
    started = time.perf_counter()
    printed = _Reports(arguments.errors)
    with _open(arguments) as destination, _progress(arguments.files) as progress:
        loader = Loader(
            lambda piece: destination.offer(_sent(piece, current, arguments), precision=arguments.precision),
            tell=printed,
            progressed=progress.show,
            clock=SystemClock(),
            sleep=time.sleep,
        )
        for file, form in jobs:
            where = os.path.abspath(arguments.data) if arguments.data else (arguments.url or DEFAULT_URL)
            journal = Journal(default_directory(), file, where, _options(arguments, form))
            start = start_of(journal, restart=arguments.restart)
            if start.offset:
                _say(f"{file}: going on from line {start.line + 1}, where an earlier load stopped")
            progress.begin(file)
            current = (file, form)
            try:
                loader.load(file, _pieces(file, form, arguments, start), journal)
            except TidegaugeError as error:
                if loader.account.rows or start.offset:
                    error.message = why(error)
                raise
            except KeyboardInterrupt:
                _say(f"{file}: interrupted; the same command goes on from there")
                raise
    _say(_summary(loader.account, time.perf_counter() - started, printed))
    return EXIT_REFUSED if loader.account.refused else 0


def _check(arguments: argparse.Namespace) -> None:
    from api.exposition import labels_of
    from engine.errors import BadRequest
    from engine.ingest.lines import precision_ns

    if arguments.data is not None and arguments.token is not None:
        raise WrongUse("cannot use --token with --data: a data directory asks for none")
    if arguments.config is not None and arguments.data is None:
        raise WrongUse("cannot use --config without --data: a running server has its own")
    if arguments.errors < 0:
        raise WrongUse(f"cannot print {arguments.errors} refused rows: want --errors 0 or more")
    if len(arguments.delimiter) != 1:
        raise WrongUse(f"cannot use delimiter {arguments.delimiter!r}: want one character")
    try:
        precision_ns(arguments.precision)
        labels_of(arguments.label)
    except BadRequest as error:
        raise WrongUse(error.message) from None
    for file in arguments.files:
        if not os.path.isfile(file):
            raise WrongUse(f"cannot load {file}: there is no such file")


def _sent(piece: Piece, job: tuple[str, str], arguments: argparse.Namespace) -> Any:
    """Return a piece as it is sent: Prometheus text says that it is."""
    file, form = job
    if form != "prom" or not isinstance(piece.data, bytes):
        return piece.data
    from api.exposition import PrometheusText, labels_of

    return PrometheusText(piece.data, labels_of(arguments.label), open_metrics=".openmetrics" in file.lower())


def _options(arguments: argparse.Namespace, form: str) -> str:
    if form in _TEXT_FORMATS:
        return f"{form} {arguments.precision} {arguments.label}" if arguments.label else f"{form} {arguments.precision}"
    named = (arguments.table, arguments.time, arguments.unit, arguments.tag, arguments.drop, arguments.delimiter)
    return " ".join([form, *map(repr, named)])


def _pieces(file: str, form: str, arguments: argparse.Namespace, start: Place) -> Iterator[Piece]:
    if form in _TEXT_FORMATS:
        from api.bulk.text import text_pieces

        return text_pieces(file, start)
    columns = _columns(file, form, arguments)
    if form == "csv":
        from api.bulk.csvfile import csv_pieces

        return csv_pieces(file, columns, start, delimiter=arguments.delimiter)
    from api.bulk.tables import arrow_pieces, parquet_pieces

    return (parquet_pieces if form == "parquet" else arrow_pieces)(file, columns, start)


def _columns(file: str, form: str, arguments: argparse.Namespace) -> Columns:
    from api.bulk.tables import Columns, named_table

    table = arguments.table or (named_table(file, form) if form != "csv" else None)
    table = table or os.path.basename(file).split(".")[0]
    if not table:
        raise WrongUse(f"cannot load {file}: its name gives no table; use --table NAME")
    return Columns(table, arguments.time, arguments.unit, tuple(arguments.tag), tuple(arguments.drop))


def _open(arguments: argparse.Namespace) -> AbstractContextManager[Destination]:
    import tidegauge

    if arguments.data is None:
        return tidegauge.connect(arguments.url or DEFAULT_URL, token=token_of(arguments.token))
    return tidegauge.open(arguments.data, config=arguments.config)


class _Reports:
    """Prints the first refused rows on standard error and counts the others."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.printed = 0

    def __call__(self, file: str, bad: BadRow) -> None:
        if self.printed < self._most:
            self.printed += 1
            _say(
                f"{file}:{bad.line}: {bad.cause}: {bad.message}" if bad.line else f"{file}: {bad.cause}: {bad.message}"
            )


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr)


def _summary(account: Account, seconds: float, reports: _Reports) -> str:
    rate = account.samples / seconds if seconds > 0 else 0.0
    parts = [f"stored {account.rows} rows, {account.samples} samples in {seconds:.1f} s ({rate:,.0f} samples/s)"]
    if account.rounded:
        parts.append(f"{account.rounded} integers beyond 2^53 rounded to the nearest float")
    if account.refused:
        causes = ", ".join(f"{cause} {count}" for cause, count in sorted(account.refused.items()))
        hidden = account.refused_count - reports.printed
        parts.append(
            f"refused {account.refused_count} ({causes})" + (f"; {hidden} of them not shown" if hidden else "")
        )
        if "too_old" in account.refused:
            parts.append("what is older than retention.raw is refused: raise it to load history")
    if account.waited_seconds:
        parts.append(f"waited {account.waited_seconds:.0f} s for the destination")
    return "; ".join(parts)


class _Progress(Protocol):
    def begin(self, file: str) -> None: ...

    def show(self, piece: Piece, account: Account) -> None: ...

    def __enter__(self) -> _Progress: ...

    def __exit__(self, *_: object) -> None: ...


def _progress(files: list[str]) -> _Progress:
    return _Bar(files) if sys.stderr.isatty() else _Silent()


class _Silent:
    """No bar where nobody is watching."""

    def begin(self, file: str) -> None:
        """Nothing to show."""

    def show(self, piece: Piece, account: Account) -> None:
        """Nothing to show."""

    def __enter__(self) -> _Silent:
        return self

    def __exit__(self, *_: object) -> None:
        return None


class _Bar:
    """A bar over the bytes of all files, with the rate in samples and the time left."""

    def __init__(self, files: list[str]) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._before = self._size = 0
        self._started = time.perf_counter()
        self._task = self._bar.add_task("", total=sum(os.path.getsize(file) for file in files), rate="")

    def begin(self, file: str) -> None:
        self._before += self._size
        self._size = os.path.getsize(file)
        self._bar.update(self._task, description=os.path.basename(file), completed=self._before)

    def show(self, piece: Piece, account: Account) -> None:
        rate = account.samples / max(1e-9, time.perf_counter() - self._started)
        self._bar.update(self._task, completed=self._before + piece.read_bytes, rate=f"{rate / 1e6:.2f} M samples/s")

    def __enter__(self) -> _Bar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
