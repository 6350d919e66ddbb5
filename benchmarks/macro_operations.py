"""Starting on nothing, and starting again after a kill -9 with everything still in the log."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from benchmarks.load import PreparedLoad
from benchmarks.macro_ingest import load_server
from benchmarks.measure import file_bytes, summarise, wait_until_quiet
from benchmarks.report import SuiteReport
from benchmarks.server import SqlClient, TidegaugeServer
from benchmarks.settings import Settings
from benchmarks.verify import stored_differences

MIB = float(1 << 20)
# Everything stays in the log until the kill: neither memory nor log reach a limit that makes the server seal.
KEEP_IN_LOG = """\
[storage]
hot_limit = "16GiB"
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
    """kill -9 while all data is only in the log, then the time to ready and to the first accepted write."""
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
    ready, first_write = [], []
    for run in range(runs):
        with TidegaugeServer(data, config=config) as server:
            ready_seconds, write_seconds = _start_and_write(server)
            ready.append(ready_seconds)
            first_write.append(write_seconds)
            if run == runs - 1:
                with server.connect() as connection:
                    for name, difference in stored_differences(SqlClient(connection), load.generator).items():
                        report.check(f"{name} lost and doubled nothing", not difference, difference)
            server.kill()
    report.add("log to replay", log_bytes / MIB, "MiB", "neither", spread=0.0)
    report.add("log to replay of a sample", log_bytes / shape.samples, "bytes/sample", "lower", spread=0.0)
    report.add_summary("ready", summarise(ready), "s", "lower")
    report.add_summary("first write acknowledged", summarise(first_write), "s", "lower")
    rates = [shape.samples / seconds for seconds in ready]
    report.add_summary("replayed while starting", summarise(rates), "samples/s", "higher")
    return report


def _start_and_write(server: TidegaugeServer) -> tuple[float, float]:
    """Start the server; return the seconds until it was ready and until it accepted a write, asked at the
    same time.
    """
    began = time.perf_counter()
    server.launch()
    written: list[float] = []

    def write() -> None:
        server.wait_for("POST", "/write", b"recovery,host=a value=1")
        written.append(time.perf_counter() - began)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        server.wait_ready()
        ready = time.perf_counter() - began
    finally:
        writer.join()
    if not written:
        raise RuntimeError(f"cannot measure recovery: no write was accepted\n{server.log_tail()}")
    return ready, written[0]
