"""Acknowledgement latency at half of the measured peak, with the disk's own sync beside it.

The load is open-loop: every body has a time at which it is due, and its acknowledgement is timed from then, so that a
server that falls behind is charged for the waiting.  While it runs, another thread appends to a file on the same disk
and syncs it: no acknowledgement can be faster than that.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.load import PreparedLoad
from benchmarks.macro_ingest import load_server
from benchmarks.measure import percentile
from benchmarks.report import SuiteReport
from benchmarks.sender import SendOrder, send
from benchmarks.server import TidegaugeServer
from benchmarks.settings import Settings

TARGET = "/write?precision=ns"
#: More than are ever waiting at half of the peak, so that no body waits for a connection.
OPEN_LOOP_CONNECTIONS = 16
SHARE_OF_PEAK = 0.5
SYNC_BYTES = 128 << 10
SYNC_PAUSE_SECONDS = 0.05


def run(settings: Settings, folder: Path) -> SuiteReport:
    """Find the peak with ``settings.connections``, then send half of that."""
    shape = settings.shape(hosts=1_000, hours=6.0, quick_hosts=200, quick_hours=2.0)
    load = PreparedLoad(shape, folder, settings.batch_lines)
    report = SuiteReport(
        suite="",
        title="",
        data=shape.describe(),
        shape={"batch_lines": settings.batch_lines, "open_loop_connections": OPEN_LOOP_CONNECTIONS},
    )
    with TidegaugeServer(folder / "peak") as server:
        server.start()
        peak = load_server(server, load.lines, TARGET, {}, settings.connections)
    report.check("peak: every sample was acknowledged", peak.samples == shape.samples, "; ".join(peak.refused))
    rate = peak.samples / peak.wall_seconds
    report.add("peak", rate, "samples/s", "higher")
    with TidegaugeServer(folder / "half") as server:
        server.start()
        order = SendOrder(
            port=server.port,
            target=TARGET,
            path=str(load.lines.path),
            connections=OPEN_LOOP_CONNECTIONS,
            samples_per_second=rate * SHARE_OF_PEAK,
        )
        with syncing(folder / "synced") as syncs:
            sent = send(order)
    report.check("half: every sample was acknowledged", sent.samples == shape.samples, "; ".join(sent.refused))
    report.add("half of it, as sent", sent.samples / sent.wall_seconds, "samples/s", "neither")
    report.add("bodies", sent.batches, "requests", "neither")
    for name, seconds in (("ack", sent.ack_seconds), ("bare sync of 128 KiB", syncs)):
        for share in (0.5, 0.99, 0.999):
            better = "lower" if name == "ack" else "neither"
            report.add(f"{name} p{share * 100:g}", percentile(seconds, share) * 1e3, "ms", better)  # type: ignore[arg-type]
    return report


@contextmanager
def syncing(path: Path) -> Iterator[list[float]]:
    """Append to a file and sync it every now and then; yield the seconds that each time took."""
    ending = threading.Event()
    seconds: list[float] = []

    def run() -> None:
        block = os.urandom(SYNC_BYTES)
        with path.open("wb", buffering=0) as file:
            while True:
                began = time.perf_counter()
                file.write(block)
                os.fdatasync(file.fileno())
                seconds.append(time.perf_counter() - began)
                if ending.wait(SYNC_PAUSE_SECONDS):
                    return

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield seconds
    finally:
        ending.set()
        thread.join()
