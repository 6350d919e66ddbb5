"""Starting on nothing, and starting again after a kill -9 with everything still in the log."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.load import PreparedLoad
from benchmarks.macro_ingest import load_server
from benchmarks.measure import file_bytes, peak_rss_bytes, summarise, wait_until_quiet
from benchmarks.report import SuiteReport
from benchmarks.server import SqlClient, TidegaugeServer
from benchmarks.settings import Settings
from benchmarks.verify import stored_differences

MIB = float(1 << 20)
# Everything stays in the log until the kill, unless memory has reached its limit by then, which is the default.
KEEP_IN_LOG = """\
[storage]
wal_limit = "16GiB"
"""


def startup(settings: Settings, folder: Path) -> SuiteReport:
    """Time to ready and to the first accepted write on an empty folder; memory when nothing happens."""
    runs = settings.repetitions(full=7, quick=2)
    report = SuiteReport(suite="", title="", shape={"runs": runs})
    ready, first_write, stopped = [], [], []
    rss, pss, processes = [], [], 0
    for run in range(runs):
        with TidegaugeServer(folder / f"data-{run}") as server:
            began = time.perf_counter()
            ready.append(server.start())
            server.wait_for("POST", "/write", b"startup,host=a value=1")
            first_write.append(time.perf_counter() - began)
            wait_until_quiet(server.pid, quiet_seconds=1.0, limit_seconds=20.0)
            usage = server.usage()
            rss.append(usage.rss_bytes / MIB)
            pss.append(usage.pss_bytes / MIB)
            processes = usage.processes
            stopped.append(server.stop())
    report.add_summary("ready", summarise(ready), "s", "lower")
    report.add_summary("first write acknowledged", summarise(first_write), "s", "lower")
    report.add_summary("idle PSS of all processes", summarise(pss), "MiB", "lower", note=f"{processes} processes")
    report.add_summary("idle RSS of all processes", summarise(rss), "MiB", "lower", note="shared pages count twice")
    report.add_summary("graceful stop", summarise(stopped), "s", "lower")
    return report


def recovery(settings: Settings, folder: Path) -> SuiteReport:
    """kill -9 while all data is only in the log, then the time to the first accepted write and to ready.

    Ready means that every sample is back and queries are answered; writes are taken before that.
    """
    shape = settings.shape(hosts=1_000, hours=6.0, quick_hosts=100, quick_hours=2.0)
    load = PreparedLoad(shape, folder, settings.batch_lines)
    runs = settings.repetitions(full=3, quick=1)
    config = folder / "tidegauge.toml"
    config.write_text(KEEP_IN_LOG, encoding="ascii")
    data = folder / "data"
    report = SuiteReport(suite="", title="", data=shape.describe(), shape={"runs": runs})
    with TidegaugeServer(data, config=config) as server:
        server.start()
        sent = load_server(server, load.lines, "/write?precision=ns", {}, settings.connections)
        report.check("every sample was acknowledged", sent.samples == shape.samples, "; ".join(sent.refused))
        server.kill()
    log_bytes = file_bytes(data / "wal")
    ready, first_write, first_write_cpu, memory = [], [], [], []
    for run in range(runs):
        with TidegaugeServer(data, config=config) as server:
            start = _start_and_write(server)
            ready.append(start.ready_seconds)
            first_write.append(start.write_seconds)
            first_write_cpu.append(start.write_cpu_seconds)
            memory.append(start.peak_bytes / MIB)
            if run == runs - 1:
                with server.connect() as connection:
                    for name, difference in stored_differences(SqlClient(connection), load.generator).items():
                        report.check(f"{name} lost and doubled nothing", not difference, difference)
            server.kill()
    report.add("log to replay", log_bytes / MIB, "MiB", "neither", spread=0.0)
    report.add("log to replay of a sample", log_bytes / shape.samples, "bytes/sample", "lower", spread=0.0)
    report.add_summary("first write acknowledged", summarise(first_write), "s", "lower")
    report.add_summary("CPU until the first write", summarise(first_write_cpu), "s", "lower", note="all processes")
    report.add_summary("ready", summarise(ready), "s", "lower", note="every sample is back, queries are answered")
    report.add_summary("peak RSS until ready", summarise(memory), "MiB", "lower", note="the server's process")
    rates = [shape.samples / seconds for seconds in ready]
    report.add_summary("replayed until ready", summarise(rates), "samples/s", "higher")
    return report


@dataclass(frozen=True, slots=True)
class _Start:
    """Seconds from the start of the process; CPU of all processes until the first write; peak of the server's RSS."""

    ready_seconds: float
    write_seconds: float
    write_cpu_seconds: float
    peak_bytes: int


def _start_and_write(server: TidegaugeServer) -> _Start:
    """Start the server and ask at the same time when it is ready and when it accepts a write."""
    began = time.perf_counter()
    server.launch()
    written: list[tuple[float, float]] = []

    def write() -> None:
        server.wait_for("POST", "/write", b"recovery,host=a value=1")
        written.append((time.perf_counter() - began, server.cpu_seconds()))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        server.wait_ready()
        ready = time.perf_counter() - began
    finally:
        writer.join()
    if not written:
        raise RuntimeError(f"cannot measure recovery: no write was accepted\n{server.log_tail()}")
    return _Start(ready, *written[0], peak_rss_bytes(server.pid))
