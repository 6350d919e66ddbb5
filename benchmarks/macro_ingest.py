"""Ingest suites: a real server on an empty folder, loaded by a process of its own.

Every figure counts acknowledged samples, and an acknowledgement means that the samples are fsynced: the
server runs with its default sync policy.  Each repetition starts a new server, so that start-up effects are
in every one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.batches import BatchFile
from benchmarks.load import PreparedLoad
from benchmarks.measure import percentile, summarise
from benchmarks.remote_write import HEADERS as REMOTE_WRITE_HEADERS
from benchmarks.report import SuiteReport
from benchmarks.sender import SendOrder, SendReport, send
from benchmarks.server import ARROW_STREAM, SqlClient, TidegaugeServer
from benchmarks.settings import Settings
from benchmarks.verify import stored_differences

NS_PER_SECOND = 1e9


@dataclass(slots=True)
class LoadFigures:
    """What repeated loads gave, one entry for each repetition."""

    samples_per_second: list[float] = field(default_factory=list)
    server_cpu_seconds: list[float] = field(default_factory=list)
    sender_cpu_seconds: list[float] = field(default_factory=list)
    ack_p50_seconds: list[float] = field(default_factory=list)
    ack_p99_seconds: list[float] = field(default_factory=list)
    retries: int = 0

    def add(self, sent: SendReport, server_cpu_seconds: float) -> None:
        self.samples_per_second.append(sent.samples / sent.wall_seconds)
        self.server_cpu_seconds.append(server_cpu_seconds)
        self.sender_cpu_seconds.append(sent.cpu_seconds)
        self.ack_p50_seconds.append(percentile(sent.ack_seconds, 0.5))
        self.ack_p99_seconds.append(percentile(sent.ack_seconds, 0.99))
        self.retries += sent.retries

    def report(self, report: SuiteReport, samples: int, prefix: str = "") -> None:
        """Add the figures; processor time is until the last acknowledgement, work left for later is not in
        it.
        """
        per_sample = NS_PER_SECOND / samples
        report.add_summary(f"{prefix}acknowledged", summarise(self.samples_per_second), "samples/s", "higher")
        report.add_summary(
            f"{prefix}server CPU", summarise(self.server_cpu_seconds), "ns/sample", "lower", scale=per_sample
        )
        report.add_summary(
            f"{prefix}sender CPU",
            summarise(self.sender_cpu_seconds),
            "ns/sample",
            "neither",
            scale=per_sample,
        )
        report.add_summary(f"{prefix}ack p50", summarise(self.ack_p50_seconds), "ms", "lower", scale=1e3)
        report.add_summary(f"{prefix}ack p99", summarise(self.ack_p99_seconds), "ms", "lower", scale=1e3)
        report.add(f"{prefix}turned away and sent again", self.retries, "requests", "neither")


def line_protocol(settings: Settings, folder: Path) -> SuiteReport:
    """POST /write with many lines a body."""
    load = _prepared(settings, folder, hosts=1_000, hours=6.0, quick_hosts=200, quick_hours=2.0)
    report = _report(settings, load, {"batch_lines": settings.batch_lines})
    _measure(report, settings, load, load.lines, "/write?precision=ns", {}, folder)
    return report


def one_field_lines(settings: Settings, folder: Path) -> SuiteReport:
    """POST /write with one sample a line: the parser's and the tag sets' cost is not shared by many
    fields.
    """
    load = _prepared(settings, folder, hosts=1_000, hours=2.0, quick_hosts=100, quick_hours=2.0)
    report = _report(settings, load, {"batch_lines": settings.batch_lines, "fields_per_line": 1})
    report.data["samples"] = load.one_field_lines.samples
    _measure(
        report, settings, load, load.one_field_lines, "/write?precision=ns", {}, folder, one_field=True, quick_runs=1
    )
    return report


def arrow(settings: Settings, folder: Path) -> SuiteReport:
    """POST /v1/ingest with Arrow IPC streams of 100,000 rows."""
    load = _prepared(settings, folder, hosts=1_000, hours=6.0, quick_hosts=200, quick_hours=2.0)
    report = _report(settings, load, {"batches": len(load.arrow_streams)})
    headers = {"Content-Type": ARROW_STREAM}
    _measure(report, settings, load, load.arrow_streams, "/v1/ingest", headers, folder)
    return report


def remote_write(settings: Settings, folder: Path) -> SuiteReport:
    """POST /api/v1/write with Prometheus remote write requests, one sample of a series in each."""
    load = _prepared(settings, folder, hosts=1_000, hours=1.0, quick_hosts=100, quick_hours=0.5)
    report = _report(settings, load, {"batches": len(load.remote_write)})
    _measure(
        report,
        settings,
        load,
        load.remote_write,
        "/api/v1/write",
        REMOTE_WRITE_HEADERS,
        folder,
        pooled=True,
        quick_runs=1,
    )
    return report


def _prepared(
    settings: Settings, folder: Path, *, hosts: int, hours: float, quick_hosts: int, quick_hours: float
) -> PreparedLoad:
    shape = settings.shape(hosts=hosts, hours=hours, quick_hosts=quick_hosts, quick_hours=quick_hours)
    return PreparedLoad(shape, folder, settings.batch_lines)


def _report(settings: Settings, load: PreparedLoad, shape: Mapping[str, object]) -> SuiteReport:
    return SuiteReport(
        suite="",
        title="",
        data=load.shape.describe(),
        shape={"connections": settings.connections, **shape},
    )


def _measure(
    report: SuiteReport,
    settings: Settings,
    load: PreparedLoad,
    batches: BatchFile,
    target: str,
    headers: Mapping[str, str],
    folder: Path,
    *,
    one_field: bool = False,
    pooled: bool = False,
    quick_runs: int = 2,
) -> None:
    figures = LoadFigures()
    repetitions = settings.repetitions(full=5, quick=quick_runs)
    for repetition in range(repetitions):
        with TidegaugeServer(folder / f"data-{repetition}") as server:
            server.start()
            sent = load_server(server, batches, target, headers, settings.connections, figures)
            if any(answer.startswith("HTTP 404") for answer in sent.refused):
                report.skipped = f"the server has no {target}"
                return
            report.check(
                f"load {repetition + 1}: every sample was acknowledged",
                sent.samples == batches.samples,
                f"{sent.samples} of {batches.samples}; {'; '.join(sent.refused)}",
            )
            if repetition == repetitions - 1:
                # A failure to verify must not hide figures that were measured.
                try:
                    with server.connect() as connection:
                        _verify(report, SqlClient(connection), load, one_field=one_field, pooled=pooled)
                except (RuntimeError, OSError) as error:
                    report.check("what is stored could be verified", False, f"{error}\n{server.log_tail()}")
    figures.report(report, batches.samples)
    report.add("body", batches.body_bytes / batches.samples, "bytes/sample", "neither", spread=0.0)


def load_server(
    server: TidegaugeServer,
    batches: BatchFile,
    target: str,
    headers: Mapping[str, str],
    connections: int,
    figures: LoadFigures | None = None,
) -> SendReport:
    """Send all bodies to a running server, noting the figures of this load."""
    cpu_seconds = server.cpu_seconds()
    order = SendOrder(
        port=server.port,
        target=target,
        path=str(batches.path),
        headers=dict(headers),
        connections=connections,
    )
    sent = send(order)
    if figures is not None and sent.ack_seconds:
        figures.add(sent, server.cpu_seconds() - cpu_seconds)
    return sent


def _verify(report: SuiteReport, sql: SqlClient, load: PreparedLoad, *, one_field: bool, pooled: bool) -> None:
    if pooled:
        columns = sql.columns("SELECT count(*) AS n, sum(value) AS total FROM samples")
        expected = load.generator.aggregates()
        want = (load.shape.samples, sum(float(each.sum.sum()) for each in expected.values()))
        got = (int(str(columns["n"][0])), float(str(columns["total"][0] or 0.0)))
        same = got[0] == want[0] and abs(got[1] - want[1]) <= 1e-9 * abs(want[1])
        report.check("stored samples are the generated ones", same, f"got {got}, want {want}")
        return
    for name, difference in stored_differences(sql, load.generator, one_field=one_field).items():
        report.check(f"every series of {name} is stored as generated", not difference, difference)
