"""Tidegauge beside its peers: one data set, the same queries, one engine at a time in one run.

With ``grow`` everything is measured again with so many times the hosts, to show how cost grows with data.

Each engine is driven from a process of its own, in a fresh folder and on a free loopback port, and is stopped
before the next one starts.  An engine that is not installed is listed as absent.  Every engine's answers are
compared with those computed by numpy from the generated values, so engines that agree with them agree with
each other.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.generator import DataShape, DevopsGenerator
from benchmarks.load import PreparedLoad
from benchmarks.measure import ending_on_sigterm, scratch_folder, summarise
from benchmarks.peer_embedded import ClickHouse, DuckDB
from benchmarks.peer_engine import Engine
from benchmarks.peer_servers import InfluxDB, Prometheus, VictoriaMetrics, VictoriaMetricsRemoteWrite
from benchmarks.peer_tidegauge import Tidegauge, TidegaugeArrow
from benchmarks.queries import QUERY_TYPES, ExpectedAnswers, difference, make_queries
from benchmarks.report import SuiteReport, format_value
from benchmarks.settings import Settings
from engine.errors import BadInput

ENGINES: tuple[type[Engine], ...] = (
    Tidegauge,
    TidegaugeArrow,
    VictoriaMetrics,
    VictoriaMetricsRemoteWrite,
    InfluxDB,
    Prometheus,
    ClickHouse,
    DuckDB,
)
# Of each query type so many answers are compared with the expected ones; reading JSON answers takes long.
CHECKED_ANSWERS = 2
# A query type is given up after this long, provided that some runs are done.
QUERY_LIMIT_SECONDS = 60.0
LEAST_RUNS = 3


class QueryFigures(msgspec.Struct, kw_only=True):
    """Seconds of each run; ``wrong`` says how the first wrong answer differs, ``error`` why there is none."""

    seconds: list[float] = []
    wrong: str = ""
    error: str = ""


class EngineFigures(msgspec.Struct, kw_only=True):
    """What was measured of one engine; ``error`` where it could not be measured to the end."""

    name: str
    note: str
    load_seconds: float = 0.0
    load_cpu_seconds: float = 0.0
    settled_seconds: float = 0.0
    settled_cpu_seconds: float = 0.0
    stored_bytes: int = 0
    raw_bytes: int = 0
    peak_rss_bytes: int = 0
    queries: dict[str, QueryFigures] = {}
    error: str = ""


def run(settings: Settings, folder: Path) -> SuiteReport:
    """Measure every engine that is installed and chosen."""
    shape = settings.shape(hosts=1_000, hours=6.0, quick_hosts=100, quick_hours=2.0)
    runs = settings.repetitions(full=9, quick=5)
    report = SuiteReport(
        suite="peers",
        title="",
        data=shape.describe(),
        shape={"connections": settings.connections, "batch_lines": settings.batch_lines, "query_runs": runs},
    )
    measured = _measured(settings, shape, folder, runs, report, "")
    grown: list[EngineFigures] = []
    if settings.grow is not None:
        larger = dataclasses.replace(shape, hosts=shape.hosts * settings.grow)
        report.shape["grown_to_hosts"] = larger.hosts
        with scratch_folder(str(folder)) as own:
            grown = _measured(settings, larger, own, runs, report, f"x{settings.grow} ")
    report.table = comparison_table(measured, shape, grown)
    return report


def _measured(
    settings: Settings, shape: DataShape, folder: Path, runs: int, report: SuiteReport, prefix: str
) -> list[EngineFigures]:
    """Measure every engine with one data set and add its figures, named with ``prefix``."""
    PreparedLoad(shape, folder, settings.batch_lines)
    measured = []
    for engine in _chosen(settings.engines):
        if reason := engine.absent():
            report.check(f"{prefix}{engine.name}", True, f"absent: {reason}")
            print(f"  {engine.name}: absent, {reason}", flush=True)
            continue
        began = time.perf_counter()
        figures = _in_own_process(engine, shape, folder, settings.batch_lines, settings.connections, runs)
        state = figures.error or f"measured in {time.perf_counter() - began:.0f} s"
        print(f"  {prefix}{engine.name}: {state}\n    {engine.note}", flush=True)
        measured.append(figures)
        _add_figures(report, figures, shape, prefix)
    return measured


def _chosen(names: str | None) -> Sequence[type[Engine]]:
    if names is None:
        return ENGINES
    known = {engine.name: engine for engine in ENGINES}
    unknown = [name for name in names.split(",") if name not in known]
    if unknown:
        raise BadInput(f"cannot compare engines: got {', '.join(unknown)}, want some of {', '.join(known)}")
    return [known[name] for name in names.split(",")]


def _in_own_process(kind: type[Engine], *arguments: Any) -> EngineFigures:
    """Run :func:`measure_engine` in a new process, which is told to end when this one is interrupted."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure_and_send, args=(sender, kind, *arguments))
    process.start()
    sender.close()
    try:
        figures: EngineFigures = receiver.recv()
    except EOFError:
        process.join()
        error = f"the measuring process ended with code {process.exitcode}"
        figures = EngineFigures(name=kind.name, note=kind.note, error=error)
    except BaseException:
        process.terminate()
        raise
    finally:
        process.join()
        receiver.close()
    return figures


def _measure_and_send(sender: Connection, kind: type[Engine], *arguments: Any) -> None:
    with ending_on_sigterm():
        sender.send(measure_engine(kind, *arguments))


def measure_engine(
    kind: type[Engine], shape: DataShape, folder: Path, batch_lines: int, connections: int, runs: int
) -> EngineFigures:
    """Start, load, settle, query and stop one engine; an error becomes part of the figures."""
    figures = EngineFigures(name=kind.name, note=kind.note)
    load = PreparedLoad(shape, folder, batch_lines)
    with scratch_folder(str(folder)) as own:
        engine = kind(load, own / "engine", connections)
        try:
            engine.prepare()
            engine.start()
            cpu, began = engine.cpu_seconds(), time.perf_counter()
            figures.load_seconds = engine.load()
            figures.load_cpu_seconds = engine.cpu_seconds() - cpu
            engine.settle()
            figures.settled_seconds = time.perf_counter() - began
            figures.settled_cpu_seconds = engine.cpu_seconds() - cpu
            figures.peak_rss_bytes = engine.peak_rss_bytes()
            _measure_queries(engine, shape, runs, figures)
            engine.stop()
            figures.stored_bytes = engine.stored_bytes()
            figures.raw_bytes = engine.raw_bytes()
        except Exception as error:  # one engine's failure must not hide the others' figures
            figures.error = f"{type(error).__name__}: {error}"
        finally:
            engine.stop()
    return figures


def _measure_queries(engine: Engine, shape: DataShape, runs: int, figures: EngineFigures) -> None:
    expected = ExpectedAnswers(DevopsGenerator(shape))
    for name, queries in make_queries(shape, runs).items():
        result = figures.queries[name] = QueryFigures()
        try:
            engine.ask(queries[0])
            began = time.perf_counter()
            for number, query in enumerate(queries):
                asked = time.perf_counter()
                raw = engine.ask(query)
                result.seconds.append(time.perf_counter() - asked)
                if number < CHECKED_ANSWERS and not result.wrong:
                    result.wrong = difference(engine.read(query, raw), expected.answer(query))
                if time.perf_counter() - began > QUERY_LIMIT_SECONDS and number + 1 >= LEAST_RUNS:
                    break
        except NotImplementedError as error:
            result.error = f"cannot be expressed: {error}"
        except Exception as error:  # a query that fails is a finding, the others are still worth measuring
            result.error = f"{type(error).__name__}: {error}"


def _add_figures(report: SuiteReport, figures: EngineFigures, shape: DataShape, prefix: str) -> None:
    name = f"{prefix}{figures.name}"
    report.check(f"{name} was measured", not figures.error, figures.error)
    if figures.load_seconds:
        report.add(f"{name}: load", shape.samples / figures.load_seconds, "samples/s", "higher")
        report.add(f"{name}: CPU to load", figures.load_cpu_seconds / shape.samples * 1e9, "ns/sample", "lower")
        settled = figures.settled_cpu_seconds / shape.samples * 1e9
        report.add(f"{name}: CPU to settle", settled, "ns/sample", "lower")
    if figures.stored_bytes:
        report.add(f"{name}: stored", figures.stored_bytes / shape.samples, "bytes/sample", "lower")
        report.add(f"{name}: stored raw samples", figures.raw_bytes / shape.samples, "bytes/sample", "lower")
        report.add(f"{name}: peak RSS", figures.peak_rss_bytes / (1 << 20), "MiB", "lower")
    for query, result in figures.queries.items():
        if result.seconds:
            report.add_summary(f"{name}: {query}", summarise(result.seconds), "ms", "lower", scale=1e3)
        report.check(
            f"{name}: {query} answers rightly",
            not (result.wrong or result.error),
            result.wrong or result.error,
        )


def comparison_table(
    measured: Sequence[EngineFigures], shape: DataShape, grown: Sequence[EngineFigures] = ()
) -> list[list[str]]:
    """Return one column for each engine: load, processor time, bytes, memory, then median (p90) of each query.

    ``grown``: the same engines with more data; what a query takes with it stands behind an arrow.  The last column is
    the first engine's median by that of the fastest engine that is not ours.
    """

    def row(title: str, values: Sequence[float | None]) -> list[str]:
        return [title, *("-" if value is None else format_value(value) for value in values), ""]

    def each(value: str, scale: float) -> list[float | None]:
        return [getattr(one, value) * scale or None for one in measured]

    rates = [shape.samples / one.load_seconds if one.load_seconds else None for one in measured]
    rows = [
        ["", *(one.name for one in measured), "to the fastest peer"],
        row("load, samples/s", rates),
        row("CPU to load, ns/sample", each("load_cpu_seconds", 1e9 / shape.samples)),
        row("CPU to settle, ns/sample", each("settled_cpu_seconds", 1e9 / shape.samples)),
        row("stored, bytes/sample", each("stored_bytes", 1 / shape.samples)),
        row("of it raw samples", each("raw_bytes", 1 / shape.samples)),
        row("peak RSS, MiB", each("peak_rss_bytes", 1 / (1 << 20))),
    ]
    larger = {one.name: one for one in grown}
    for described in QUERY_TYPES:
        name = described.name
        cells = []
        for one in measured:
            cell = _query_cell(one.queries.get(name))
            if one.name in larger:
                cell += f" -> {_query_cell(larger[one.name].queries.get(name))}"
            cells.append(cell)
        ratios = [_to_fastest_peer(each, name) for each in (measured, grown) if each]
        rows.append([f"{name}, ms", *cells, " -> ".join(ratios)])
    return rows


def _to_fastest_peer(measured: Sequence[EngineFigures], query: str) -> str:
    """Return by how much our median of a query is that of the fastest peer; a dash where either is missing."""
    medians = {
        one.name: summarise(result.seconds).median
        for one in measured
        if (result := one.queries.get(query)) is not None and result.seconds and not (result.error or result.wrong)
    }
    ours = [median for name, median in medians.items() if name.startswith(Tidegauge.name)]
    peers = [median for name, median in medians.items() if not name.startswith(Tidegauge.name)]
    return f"{min(ours) / min(peers):.2f}" if ours and peers else "-"


def _query_cell(result: QueryFigures | None) -> str:
    if result is None:
        return "-"
    if result.error or not result.seconds:
        return "n/a" if result.error.startswith("cannot be expressed") else "error"
    summary = summarise(result.seconds)
    text = f"{format_value(summary.median * 1e3)} ({format_value(summary.p90 * 1e3)})"
    return f"WRONG {text}" if result.wrong else text
