"""What the rollup tiers cost beside live ingest: samples come in order, time is passed in with them.

An engine with its query process takes a body, then the clock moves on to the body's newest sample and the background's
jobs for tiers and sealing run as they would have by then.  One thing happens at a time, so that each one's processor
time is known; nothing waits for the clock of the machine.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.load import PreparedLoad
from benchmarks.macro_storage import expected_tier_rows
from benchmarks.measure import tree_cpu_seconds
from benchmarks.report import SuiteReport
from benchmarks.settings import Settings

if TYPE_CHECKING:
    from engine.runtime import Engine

#: Sums are added up in another order than the generator's.
TOLERANCE = 1e-9


class _Meter:
    """Processor seconds by what was done: this process's by clock, those of its children as they stand."""

    def __init__(self) -> None:
        self.own: dict[str, float] = {}
        self._last = time.process_time()
        self._children = self._now()
        self.child_seconds = 0.0

    @staticmethod
    def _now() -> float:
        return tree_cpu_seconds(os.getpid()) - time.process_time()

    def charge(self, name: str) -> None:
        """Charge what this process has spent since the last call."""
        now = time.process_time()
        self.own[name] = self.own.get(name, 0.0) + now - self._last
        self._last = now

    def read_children(self) -> None:
        self.child_seconds = self._now() - self._children


def run(settings: Settings, folder: Path) -> SuiteReport:
    """Processor time of ingest, sealing and tiers, and the tiers' share."""
    from engine.clock import ManualClock
    from engine.config import Config, Detection, Watch
    from engine.config_bottlenecks import Bottlenecks
    from engine.runtime import Engine

    shape = settings.shape(hosts=1_000, hours=6.0, quick_hosts=100, quick_hours=2.0)
    load = PreparedLoad(shape, folder, settings.batch_lines)
    bodies = load.lines
    report = SuiteReport(
        suite="", title="", data=shape.describe(), shape={"batch_lines": settings.batch_lines, "time": "passed in"}
    )
    clock = ManualClock(shape.start_ns)
    config = Config(
        watch=Watch(default_rules=False), detection=Detection(enabled=False), bottlenecks=Bottlenecks(enabled=False)
    )
    with Engine.open(str(folder / "data"), config, clock=clock) as engine:
        # Its jobs run below, when the data's clock says so.
        engine._scheduler.close()
        engine.sql("SELECT 1")
        meter = _Meter()
        acknowledged = 0
        for body in bodies:
            acknowledged += engine.submit_lines(body).result().samples
            meter.charge("ingest")
            clock.set_ns(shape.start_ns + acknowledged // shape.samples_per_step * shape.interval_ns)
            engine.flush_rollups(due_only=True)
            meter.charge("tiers")
            engine.sealer.run()
            meter.charge("sealing")
        report.check("every sample was acknowledged", acknowledged == shape.samples, f"{acknowledged}")
        meter.charge("ingest")
        engine.flush_rollups()
        meter.charge("tiers")
        engine.sealer.seal()
        meter.charge("sealing")
        meter.read_children()
        per_sample = 1e9 / shape.samples
        tiers = meter.own["tiers"] + meter.child_seconds
        for name, seconds in (
            ("ingest", meter.own["ingest"]),
            ("sealing", meter.own["sealing"]),
            ("tiers, gathering", meter.own["tiers"]),
            ("tiers, packing", meter.child_seconds),
        ):
            report.add(name, seconds * per_sample, "ns/sample", "lower")
        report.add("tiers, both", tiers * per_sample, "ns/sample", "lower")
        whole = meter.own["ingest"] + meter.own["sealing"]
        report.add("share of the tiers", 100.0 * tiers / (whole + tiers), "%", "lower")
        report.add("tiers for each second of ingest and sealing", 100.0 * tiers / whole, "%", "lower")
        _check(report, engine, load)
    return report


def _check(report: SuiteReport, engine: Engine, load: PreparedLoad) -> None:
    aggregates = load.generator.aggregates().values()
    total = sum(float(one.sum.sum()) for one in aggregates)
    for tier, rows in expected_tier_rows(load.shape).items():
        table = engine.sql(f"SELECT count(*) AS rows, sum(count) AS samples, sum(sum) AS total FROM {tier}").table
        [found] = table.to_pylist()
        right = found["rows"] == rows and found["samples"] == load.shape.samples
        right = right and abs(found["total"] - total) <= TOLERANCE * abs(total)
        report.check(
            f"{tier} holds all samples", right, f"got {found}, want {rows} rows, {load.shape.samples}, {total}"
        )
