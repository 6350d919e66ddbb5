"""What the data takes on disk once everything is sealed, and how fast the rollup tiers catch up with a bulk
load.
"""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.generator import NS_PER_SECOND, DataShape
from benchmarks.load import PreparedLoad
from benchmarks.macro_ingest import load_server
from benchmarks.measure import allocated_bytes, file_bytes
from benchmarks.report import SuiteReport
from benchmarks.server import SqlClient, TidegaugeServer
from benchmarks.settings import Settings
from benchmarks.verify import stored_differences

TIER_SECONDS = {"rollup_1m": 60, "rollup_5m": 300, "rollup_15m": 900, "rollup_1h": 3_600, "rollup_1d": 86_400}
CATCH_UP_LIMIT_SECONDS = 300.0
POLL_SECONDS = 0.25
# Sizes do not depend on how busy the machine is.
EXACT = 0.0
RECOMPUTED_ROWS = "tidegauge_rollup_buckets_total"


def expected_tier_rows(shape: DataShape) -> dict[str, int]:
    """Return tier -> how many rows it must hold: the series times the buckets that the data touches."""
    times = shape.start_ns + np.arange(shape.steps, dtype=np.int64) * shape.interval_ns
    return {
        tier: len(np.unique(times // (seconds * NS_PER_SECOND))) * shape.samples_per_step
        for tier, seconds in TIER_SECONDS.items()
    }


def storage(settings: Settings, folder: Path) -> SuiteReport:
    """Bytes for a sample; in full size for whole numbers and for two decimals, unless one kind was asked for."""
    report = SuiteReport(suite="", title="", shape={"batch_lines": settings.batch_lines})
    both = settings.values == "int" and not settings.quick
    kinds = ("int", "two-decimals") if both else (settings.values,)
    for kind in kinds:
        chosen = msgspec.structs.replace(settings, values=kind)
        shape = chosen.shape(hosts=1_000, hours=6.0, quick_hosts=100, quick_hours=2.0)
        report.data = {**shape.describe(), "values": "/".join(kinds)}
        own = folder / kind
        own.mkdir()
        _measure_storage(report, PreparedLoad(shape, own, settings.batch_lines), own, f"{kind}: ")
    return report


def _measure_storage(report: SuiteReport, load: PreparedLoad, folder: Path, prefix: str) -> None:
    samples = load.shape.samples
    data = folder / "data"
    with TidegaugeServer(data) as server:
        server.start()
        sent = load_server(server, load.lines, "/write?precision=ns", {}, 2)
        report.check(f"{prefix}every sample was acknowledged", sent.samples == samples, "; ".join(sent.refused))
        stop_seconds = server.stop()
    segment_bytes = file_bytes(data / "segments")
    rollup_bytes = sum(file_bytes(path) for path in data.glob("rollups*"))
    log_bytes = file_bytes(data / "wal")
    rollup_rows = sum(expected_tier_rows(load.shape).values())
    report.add(f"{prefix}segments", segment_bytes / samples, "bytes/sample", "lower", spread=EXACT)
    report.add(f"{prefix}log after the stop", log_bytes, "bytes", "lower", spread=EXACT)
    report.add(f"{prefix}rollups", rollup_bytes / rollup_rows, "bytes/row", "lower", spread=EXACT)
    report.add(f"{prefix}rollups of a sample", rollup_bytes / samples, "bytes/sample", "lower", spread=EXACT)
    report.add(f"{prefix}whole folder", file_bytes(data) / samples, "bytes/sample", "lower", spread=EXACT)
    report.add(
        f"{prefix}whole folder, allocated", allocated_bytes(data) / samples, "bytes/sample", "lower", spread=EXACT
    )
    report.add(f"{prefix}graceful stop", stop_seconds, "s", "lower", note="seals what is in memory")
    with TidegaugeServer(data) as server:
        server.start()
        with server.connect() as connection:
            sql = SqlClient(connection)
            for name, difference in stored_differences(sql, load.generator).items():
                report.check(f"{prefix}{name} reads back from the segments", not difference, difference)
            _check_tiers(report, sql, load, prefix)


def rollup(settings: Settings, folder: Path) -> SuiteReport:
    """From the last acknowledgement of a bulk load until every tier holds all of it."""
    shape = settings.shape(hosts=1_000, hours=6.0, quick_hosts=100, quick_hours=2.0)
    load = PreparedLoad(shape, folder, settings.batch_lines)
    expected = expected_tier_rows(shape)
    report = SuiteReport(
        suite="",
        title="",
        data=shape.describe(),
        shape={"batch_lines": settings.batch_lines, "tiers": len(expected)},
    )
    with TidegaugeServer(folder / "data") as server:
        server.start()
        cpu_before = server.cpu_seconds()
        sent = load_server(server, load.lines, "/write?precision=ns", {}, settings.connections)
        report.check("every sample was acknowledged", sent.samples == shape.samples, "; ".join(sent.refused))
        cpu_acknowledged = server.cpu_seconds()
        seconds = wait_for_tiers(server, expected["rollup_1m"])
        cpu_done = server.cpu_seconds()
        report.check("the tiers caught up", seconds is not None, f"not within {CATCH_UP_LIMIT_SECONDS:.0f} s")
        if seconds is not None:
            note = "from the last acknowledgement; a flush begins every few seconds"
            report.add("tiers behind the load", seconds, "s", "lower", note=note)
            rate = shape.samples / (sent.wall_seconds + seconds)
            report.add("loaded and rolled up", rate, "samples/s", "higher")
            cpu = (cpu_done - cpu_before) / shape.samples * 1e9
            report.add("server CPU, load and rollup", cpu, "ns/sample", "lower")
            cpu = (cpu_done - cpu_acknowledged) / shape.samples * 1e9
            report.add("server CPU after the last ack", cpu, "ns/sample", "lower")
        for tier, rows in expected.items():
            report.add(f"rows of {tier}", rows, "rows", "neither", spread=EXACT)
        with server.connect() as connection:
            _check_tiers(report, SqlClient(connection), load, "")
    return report


def wait_for_tiers(server: TidegaugeServer, rows: int) -> float | None:
    """Return the seconds until the server has recomputed ``rows`` 1m rows and rests; None beyond the
    limit.
    """
    began = time.perf_counter()
    with server.connect() as connection:
        while time.perf_counter() - began < CATCH_UP_LIMIT_SECONDS:
            text = connection.request("GET", "/metrics").body.decode()
            values = [line.split()[-1] for line in text.splitlines() if line.startswith(RECOMPUTED_ROWS)]
            if values and float(values[0]) >= rows:
                return time.perf_counter() - began
            time.sleep(POLL_SECONDS)
    return None


def _check_tiers(report: SuiteReport, sql: SqlClient, load: PreparedLoad, prefix: str) -> None:
    """Compare each tier's rows, total count, sum, min and max with the generator's."""
    expected = load.generator.aggregates().values()
    want = (
        float(load.shape.samples),
        sum(float(each.sum.sum()) for each in expected),
        min(float(each.min.min()) for each in expected),
        max(float(each.max.max()) for each in expected),
    )
    for tier, rows in expected_tier_rows(load.shape).items():
        columns = sql.columns(
            'SELECT count(*) AS n, sum("count") AS c, sum("sum") AS s, min("min") AS low, max("max") AS high '
            f"FROM {tier}"
        )
        got = tuple(float(str(columns[name][0])) for name in ("c", "s", "low", "high"))
        same = int(str(columns["n"][0])) == rows and np.allclose(got, want, rtol=1e-9, atol=0.0)
        report.check(
            f"{prefix}{tier} is right",
            bool(same),
            f"got {columns['n'][0]} rows {got}, want {rows} rows {want}",
        )
