"""What Prometheus-shaped data takes on disk: scrapes of a real node exporter, sealed.

The scrapes are the files of ``--scrapes DIR`` (``<unix milliseconds>.prom``, as ``curl`` saved them), or are recorded
from the exporter of this machine.  Their times are moved by one amount: the newest is now, each jitter stays.
"""

from __future__ import annotations

import math
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

from benchmarks.measure import LOOPBACK, file_bytes, free_port
from benchmarks.report import SuiteReport
from benchmarks.server import SqlClient, TidegaugeServer, checked
from benchmarks.settings import Settings
from benchmarks.wire import Connection

EXPORTERS = ("prometheus-node-exporter", "node_exporter")
TARGET = "/v1/import/prometheus?label=job=node&label=instance=localhost:9100"
START_SECONDS = 10.0
EXACT = 0.0
MS = 1_000


def storage_pooled(settings: Settings, folder: Path) -> SuiteReport:
    """Bytes a sample of segments, catalogue and manifest after a graceful stop, and where they go."""
    report = SuiteReport(suite="", title="")
    if settings.scrapes is not None:
        recorded = saved_scrapes(Path(settings.scrapes))
        source = settings.scrapes
    else:
        count, interval = (8, 0.25) if settings.quick else (120, 1.0)
        found = record_scrapes(count, interval)
        if found is None:
            report.skipped = f"no node exporter is installed ({' or '.join(EXPORTERS)}) and no --scrapes were given"
            return report
        recorded, source = found, f"recorded every {interval:g} s"
    moved = time.time_ns() // 1_000_000 - recorded[-1][0]
    bodies = [stamped(body, time_ms + moved) for time_ms, body in recorded]
    samples = sum(body.count(b"\n") for body in bodies)
    report.data = {"scrapes": len(bodies), "samples": samples, "source": source}
    data = folder / "data"
    with TidegaugeServer(data) as server:
        server.start()
        with server.connect() as connection:
            for body in bodies:
                checked(connection.request("POST", TARGET, body, {"Content-Type": "text/plain"}), TARGET)
            _check_contents(report, connection, bodies, "in memory")
        server.stop()
    _add_sizes(report, data, samples)
    with TidegaugeServer(data) as server:
        server.start()
        with server.connect() as connection:
            _check_contents(report, connection, bodies, "sealed")
    return report


def saved_scrapes(folder: Path) -> list[tuple[int, bytes]]:
    """Return (time in ms, exposition) of each file of a folder, by time."""
    files = sorted(folder.glob("*.prom"), key=lambda path: int(path.stem))
    if not files:
        raise RuntimeError(f"cannot benchmark: there are no <unix milliseconds>.prom files in {folder}")
    return [(int(path.stem), path.read_bytes()) for path in files]


def record_scrapes(count: int, interval_seconds: float) -> list[tuple[int, bytes]] | None:
    """Return scrapes of an exporter started for this; None where none is installed."""
    program = next((found for name in EXPORTERS if (found := shutil.which(name))), None)
    if program is None:
        return None
    port = free_port()
    process = subprocess.Popen(
        [program, f"--web.listen-address={LOOPBACK}:{port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        url = f"http://{LOOPBACK}:{port}/metrics"
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                scrape(url)
                break
            except urllib.error.URLError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        scrapes: list[tuple[int, bytes]] = []
        for _ in range(count):
            scrapes.append((time.time_ns() // 1_000_000, scrape(url)))
            time.sleep(interval_seconds)
        return scrapes
    finally:
        process.kill()
        process.wait()


def scrape(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=START_SECONDS) as answer:
        body: bytes = answer.read()
    return body


def stamped(body: bytes, time_ms: int) -> bytes:
    """Return the samples of an exposition, each with its time."""
    stamp = b" %d\n" % time_ms
    return b"".join(line + stamp for line in body.splitlines() if line and not line.startswith(b"#"))


def _check_contents(report: SuiteReport, connection: Connection, bodies: list[bytes], when: str) -> None:
    values = [float(line.split()[-2]) for body in bodies for line in body.splitlines()]
    finite = [value for value in values if math.isfinite(value)]
    columns = SqlClient(connection).columns(
        "SELECT count(*) AS n, fsum(value) FILTER (isfinite(value)) AS total FROM samples"
    )
    got = int(str(columns["n"][0])), float(str(columns["total"][0]))
    want = len(values), math.fsum(finite)
    same = got[0] == want[0] and math.isclose(got[1], want[1], rel_tol=1e-12)
    report.check(f"samples are those of the scrapes, {when}", same, f"got {got}, want {want}")


def _add_sizes(report: SuiteReport, data: Path, samples: int) -> None:
    import pyarrow.parquet as pq

    segments = file_bytes(data / "segments")
    catalogue = file_bytes(data / "catalog.log") + file_bytes(data / "tagsets")
    manifest = max((file_bytes(path) for path in data.glob("manifest-*.json")), default=0)
    parts = {"raw storage": segments + catalogue + manifest, "segments": segments, "catalogue": catalogue}
    parts["manifest"] = manifest
    columns: dict[str, int] = {}
    for path in sorted((data / "segments").rglob("*.parquet")):
        metadata = pq.read_metadata(path)
        for group in range(metadata.num_row_groups):
            for index in range(metadata.num_columns):
                chunk = metadata.row_group(group).column(index)
                name = chunk.path_in_schema
                kind = name if name in ("tagset_id", "time") or name.split("_")[0] == "value" else "all tags"
                columns[kind] = columns.get(kind, 0) + chunk.total_compressed_size
    for name, size in sorted(columns.items(), key=lambda item: -item[1]):
        parts[f"column {name}" if name != "all tags" else "columns of tags"] = size
    parts["footers and page indexes"] = segments - sum(columns.values())
    for name, size in parts.items():
        report.add(name, size / samples, "bytes/sample", "lower", spread=EXACT)
    report.add("log after the stop", file_bytes(data / "wal"), "bytes", "lower", spread=EXACT)
