"""A year of history loaded by ``tidegauge import`` while live samples keep arriving.

The live load is open-loop (see ``macro_latency``): what counts is how long live writers wait for their acknowledgements
before the import and during it.  The history is one Parquet file in time order, like an export of another engine.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

from benchmarks.generator import NS_PER_SECOND, DataShape, DevopsGenerator
from benchmarks.load import PreparedLoad
from benchmarks.measure import LOOPBACK, percentile
from benchmarks.report import SuiteReport
from benchmarks.sender import SendOrder, SendReport, send
from benchmarks.server import SqlClient, TidegaugeServer, python_path
from benchmarks.settings import Settings
from benchmarks.verify import stored_differences

HISTORY_DAYS = 365
HISTORY_INTERVAL_NS = 300 * NS_PER_SECOND
LIVE_SAMPLES_A_SECOND = 100_000
LIVE_LINES_A_BODY = 100
LIVE_CONNECTIONS = 16
LIVE_HOSTS = 100
DAY_NS = 86_400 * NS_PER_SECOND
QUIET_SECONDS = 8.0
#: The live load is made for an import at no less than this; a slower one fails the check that live writing lasted.
LEAST_IMPORT_RATE = 600_000
#: Raw samples have to be kept as long as the history is old.
CONFIG = '[retention]\nraw = "3y"\n'


def run(settings: Settings, folder: Path) -> SuiteReport:
    """Load ``hosts`` hosts x 10 fields, a value every five minutes for a year."""
    history = DataShape(
        hosts=settings.hosts or (8 if settings.quick else 40),
        steps=HISTORY_DAYS * DAY_NS // HISTORY_INTERVAL_NS,
        interval_ns=HISTORY_INTERVAL_NS,
        seed=settings.seed,
        values=settings.values,
    )
    live = DataShape(hosts=LIVE_HOSTS, seed=settings.seed + 1, values=settings.values)
    live_seconds = QUIET_SECONDS + history.samples / LEAST_IMPORT_RATE
    live = replace(live, steps=round(live_seconds * LIVE_SAMPLES_A_SECOND / live.samples_per_step))
    # Whole days of history, which end before the live samples begin.
    live = replace(live, start_ns=time.time_ns() // live.interval_ns * live.interval_ns - live.steps * live.interval_ns)
    history = replace(history, start_ns=(live.start_ns // DAY_NS - HISTORY_DAYS) * DAY_NS)
    report = SuiteReport(suite="", title="", data=history.describe())
    report.shape = {"live_samples_a_second": LIVE_SAMPLES_A_SECOND, "live_lines_a_body": LIVE_LINES_A_BODY}
    file = folder / "cpu.parquet"
    generator = _write_history(history, file)
    lines = PreparedLoad(live, folder, LIVE_LINES_A_BODY).lines
    config = folder / "server.toml"
    config.write_text(CONFIG)
    with TidegaugeServer(folder / "data", config=config) as server:
        server.start()
        sending = _Sending(server.port, lines.path)
        sending.start()
        time.sleep(QUIET_SECONDS)
        cpu_before, began = server.cpu_seconds(), time.perf_counter()
        outcome = _import(file, server.port, folder)
        import_seconds = time.perf_counter() - began
        cpu_seconds = server.cpu_seconds() - cpu_before
        sent = sending.result()
        report.check("import: every row was stored", outcome.returncode == 0, outcome.stderr[-300:])
        report.check("live: every sample was acknowledged", sent.samples == live.samples, "; ".join(sent.refused))
        report.check("live: lasted as long as the import", sent.wall_seconds > QUIET_SECONDS + import_seconds, "")
        report.add("import", history.samples / import_seconds, "samples/s", "higher")
        report.add("server CPU meanwhile", cpu_seconds / history.samples * 1e9, "ns/sample", "lower")
        quiet, during = _split(sent, QUIET_SECONDS, import_seconds)
        for name, seconds in (("live ack before", quiet), ("live ack during", during)):
            for share in (0.5, 0.99):
                report.add(f"{name} p{share * 100:g}", percentile(seconds, share) * 1e3, "ms", "lower")
        with server.connect() as connection:
            sql = SqlClient(connection)
            for measurement, difference in stored_differences(sql, generator, before_ns=live.start_ns).items():
                report.check(f"{measurement}: every series is what was written", not difference, difference)
            began = time.perf_counter()
            days = sql.columns(
                "SELECT count(DISTINCT time) AS days, sum(count) AS samples FROM rollup_1d"
                f" WHERE time < make_timestamp_ns({history.end_ns})"
            )
            report.add("first question to the tiers afterwards", time.perf_counter() - began, "s", "lower")
            found = {name: values[0] for name, values in days.items()}
            wanted = {"days": HISTORY_DAYS, "samples": history.samples}
            report.check("tiers: every day has its samples", found == wanted, f"got {found}, want {wanted}")
    return report


def _write_history(shape: DataShape, file: Path) -> DevopsGenerator:
    import pyarrow.parquet as pq

    load = PreparedLoad(shape, file.parent)
    writer = None
    for batch in load.record_batches(shape.measurements[0]):
        writer = writer or pq.ParquetWriter(file, batch.schema)
        writer.write_batch(batch)
    if writer is not None:
        writer.close()
    return load.generator


def _import(file: Path, port: int, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "api.cli.main", "import", str(file), "--url", f"http://{LOOPBACK}:{port}"]

    environment = {**os.environ, "PYTHONPATH": python_path(), "XDG_STATE_HOME": str(folder / "state")}
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)


class _Sending(threading.Thread):
    """The live load, sent by a process of its own while this thread waits for its report."""

    def __init__(self, port: int, path: Path) -> None:
        super().__init__()
        self._order = SendOrder(
            port=port,
            target="/write?precision=ns",
            path=str(path),
            connections=LIVE_CONNECTIONS,
            samples_per_second=LIVE_SAMPLES_A_SECOND,
        )
        self._report: SendReport | None = None
        self._error: Exception | None = None

    def run(self) -> None:
        try:
            self._report = send(self._order)
        except Exception as error:
            self._error = error

    def result(self) -> SendReport:
        """Wait for the end; raises what sending raised."""
        self.join()
        if self._report is None:
            raise self._error or RuntimeError("cannot benchmark: the live load gave no report")
        return self._report


def _split(sent: SendReport, quiet_seconds: float, import_seconds: float) -> tuple[list[float], list[float]]:
    """Return the acknowledgements of what was due before the import, and during it."""
    a_second = LIVE_SAMPLES_A_SECOND / (LIVE_LINES_A_BODY * 10)
    first = round(quiet_seconds * a_second)
    return sent.ack_seconds[:first], sent.ack_seconds[first : first + round(import_seconds * a_second)]
