"""The fifteen devops queries over HTTP, each run with other hosts and windows, each kind's answers
checked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.load import PreparedLoad
from benchmarks.macro_ingest import load_server
from benchmarks.macro_storage import expected_tier_rows, wait_for_tiers
from benchmarks.measure import summarise, wait_until_quiet
from benchmarks.queries import ExpectedAnswers, Query, difference, make_queries
from benchmarks.report import SuiteReport
from benchmarks.server import TidegaugeServer
from benchmarks.settings import Settings
from benchmarks.tidegauge_queries import Request, native_request, sql_request
from benchmarks.wire import Connection

CHECKED_ANSWERS = 3
MakeRequest = Callable[[Connection, Query], Request]


def run(settings: Settings, folder: Path) -> SuiteReport:
    """Measure with the newest data in memory, then again after a restart, when everything is in segments."""
    shape = settings.shape(hosts=1_000, hours=6.0, quick_hosts=100, quick_hours=2.0)
    runs = settings.repetitions(full=15, quick=5)
    load = PreparedLoad(shape, folder, settings.batch_lines)
    report = SuiteReport(suite="", title="", data=shape.describe(), shape={"connections": 1, "runs": runs})
    expected = ExpectedAnswers(load.generator)
    queries = make_queries(shape, runs)
    with TidegaugeServer(folder / "data") as server:
        server.start()
        sent = load_server(server, load.lines, "/write?precision=ns", {}, settings.connections)
        report.check("every sample was acknowledged", sent.samples == shape.samples, "; ".join(sent.refused))
        if not settings.quick:
            caught_up = wait_for_tiers(server, expected_tier_rows(shape)["rollup_1m"])
            report.check("the tiers caught up", caught_up is not None)
        wait_until_quiet(server.pid, quiet_seconds=1.0)
        _measure(report, server, queries, expected, "")
        server.stop()
    if not settings.quick:
        with TidegaugeServer(folder / "data") as server:
            server.start()
            _measure(report, server, queries, expected, "sealed: ")
    return report


def _measure(
    report: SuiteReport,
    server: TidegaugeServer,
    queries: dict[str, list[Query]],
    expected: ExpectedAnswers,
    prefix: str,
) -> None:
    with server.connect() as connection:
        for name, list_of_queries in queries.items():
            native = "rows" if list_of_queries[0].kind in ("high-rows", "last-rows") else "query"
            ways: list[tuple[str, MakeRequest]] = [
                (f"{name}, {native}", native_request),
                (f"{name}, sql", sql_request),
            ]
            for way, make in ways:
                _time_queries(report, connection, list_of_queries, make, expected, f"{prefix}{way}")


def _time_queries(
    report: SuiteReport,
    connection: Connection,
    queries: Sequence[Query],
    make: MakeRequest,
    expected: ExpectedAnswers,
    name: str,
) -> None:
    requests = [make(connection, query) for query in queries]
    seconds = []
    wrong = ""
    try:
        requests[0].send(connection)
        for number, request in enumerate(requests):
            began = time.perf_counter()
            raw = request.send(connection)
            seconds.append(time.perf_counter() - began)
            if number < CHECKED_ANSWERS and not wrong:
                wrong = difference(request.read(raw), expected.answer(request.query))
    except RuntimeError as error:
        wrong = str(error)
    report.check(f"{name} answers rightly", not wrong, wrong)
    if seconds:
        summary = summarise(seconds)
        note = f"p90 {summary.p90 * 1e3:.3g} ms"
        report.add_summary(name, summary, "ms", "lower", scale=1e3, note=note)
