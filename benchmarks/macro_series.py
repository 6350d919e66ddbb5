"""Many series: how fast they become known, what they take in memory, what asking costs; and names that change hourly.

Series are shaped as Prometheus' are: a metric's name, job, instance and five more labels, 150 to 170 bytes of text, one
field, a sample each 15 seconds.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.batches import BatchFile
from benchmarks.macro_ingest import load_server
from benchmarks.measure import file_bytes, wait_until_quiet
from benchmarks.report import SuiteReport
from benchmarks.sender import SendReport
from benchmarks.server import SqlClient, TidegaugeServer, checked, with_query
from benchmarks.settings import Settings
from benchmarks.wire import Connection

if TYPE_CHECKING:
    from engine.model.matchers import Matcher
    from engine.runtime import Engine

MIB = float(1 << 20)
SERIES = 1_000_000
QUICK_SERIES = 20_000
ROUNDS = 9
ROUND_SECONDS = 15
ROUND_NS = ROUND_SECONDS * 1_000_000_000
STEADY_ROUNDS = 4
MEMORY_LIMIT_MIB = 1024.0
CHURN_NAMES = 10_000
CHURN_HOURS = 168
CONFIG = """\
[ingest]
max_tag_sets = 20_000_000
max_tag_sets_per_table = 20_000_000
max_new_tag_sets_per_hour = 20_000_000

[[rules]]
name = "busy"
metric = "node_value"
op = ">"
threshold = 1_000_000
match = {region = "eu-west-3"}
"""


def series(number: int) -> str:
    """Return the key of one series in line protocol."""
    node, cpu = divmod(number, 64)
    return (
        f"node,__name__=node_cpu_seconds_total_{number % 37},cpu={cpu},instance=10.{node >> 16 & 255}.{node >> 8 & 255}"
        f".{node & 255}:9100,job=node-exporter,mode=user,namespace=monitoring-{node % 11},"
        f"pod=node-exporter-{node:06x}-x,region=eu-west-{node % 5}"
    )


def many(settings: Settings, folder: Path) -> SuiteReport:
    """Load one sample of each series again and again, then ask."""
    count = settings.hosts or (QUICK_SERIES if settings.quick else SERIES)
    rounds = 3 if settings.quick else ROUNDS
    keys = [series(number) for number in range(count)]
    report = SuiteReport(
        suite="",
        title="",
        data={"series": count, "rounds": rounds, "interval_seconds": ROUND_NS // 10**9},
        shape={"connections": settings.connections, "batch_lines": settings.batch_lines},
    )
    config = folder / "tidegauge.toml"
    config.write_text(CONFIG, encoding="ascii")
    start_ns = time.time_ns() - rounds * ROUND_NS
    with TidegaugeServer(folder / "data", config=config) as server:
        server.start()
        wait_until_quiet(server.pid, limit_seconds=20.0)
        empty = server.usage()
        peak = 0.0
        for turn in range(rounds):
            bodies = _bodies(keys, settings.batch_lines, start_ns + turn * ROUND_NS, turn)
            batches = BatchFile.write(folder / "bodies", bodies)
            cpu_seconds = server.cpu_seconds()
            sent = load_server(server, batches, "/write?precision=ns", {}, settings.connections)
            report.check(f"round {turn + 1}: every line was acknowledged", sent.samples == count, _said(sent))
            if turn == 0:
                spent = server.cpu_seconds() - cpu_seconds
                report.add("new series acknowledged", count / sent.wall_seconds, "series/s", "higher")
                report.add("server CPU a new series", spent / count * 1e6, "us", "lower")
            peak = max(peak, server.usage().pss_bytes / MIB)
        report.add("known series acknowledged", count / sent.wall_seconds, "samples/s", "higher")
        if not settings.quick:
            peak = max(peak, _steady(report, server, keys, folder, settings))
        report.add("PSS right after loading, the largest", peak, "MiB", "lower")
        quiet = wait_until_quiet(server.pid, limit_seconds=60.0 if settings.quick else 240.0)
        report.check("the server came to rest", quiet is not None)
        used = server.usage()
        report.add("PSS of all processes", used.pss_bytes / MIB, "MiB", "lower", note=f"{used.processes} processes")
        report.add("PSS beyond an empty server", (used.pss_bytes - empty.pss_bytes) / count, "bytes/series", "lower")
        report.check("memory below 1 GiB", used.pss_bytes / MIB < MEMORY_LIMIT_MIB, f"{used.pss_bytes / MIB:.0f} MiB")
        report.add("tag-set files", file_bytes(folder / "data" / "tagsets") / count, "bytes/series", "lower")
        _ask(report, server, count)
        after = server.usage().pss_bytes / MIB
        report.add("PSS after asking", after, "MiB", "lower")
    return report


def _steady(report: SuiteReport, server: TidegaugeServer, keys: list[str], folder: Path, settings: Settings) -> float:
    """Send every series each 15 seconds, as agents do, while tiers follow; return the largest PSS in MiB."""
    cpu_seconds, began = server.cpu_seconds(), time.perf_counter()
    slowest = peak = 0.0
    for turn in range(STEADY_ROUNDS):
        batches = BatchFile.write(folder / "bodies", _bodies(keys, settings.batch_lines, time.time_ns(), turn))
        sent = load_server(server, batches, "/write?precision=ns", {}, settings.connections)
        report.check(f"steady round {turn + 1}: every line was acknowledged", sent.samples == len(keys), _said(sent))
        slowest = max(slowest, sent.wall_seconds)
        peak = max(peak, server.usage().pss_bytes / MIB)
        time.sleep(max(0.0, began + (turn + 1) * ROUND_SECONDS - time.perf_counter()))
    share = (server.cpu_seconds() - cpu_seconds) / (time.perf_counter() - began)
    report.add("steady: share of one core, tiers included", share * 100.0, "%", "lower")
    report.add("steady: the slowest round took", slowest, "s", "lower", note=f"one each {ROUND_SECONDS} s")
    return max(peak, server.usage().pss_bytes / MIB)


def _bodies(keys: list[str], lines: int, time_ns: int, turn: int) -> Iterator[tuple[bytes, int]]:
    for first in range(0, len(keys), lines):
        part = keys[first : first + lines]
        yield "".join([f"{key} value={turn}.5 {time_ns}\n" for key in part]).encode(), len(part)


def _said(sent: SendReport) -> str:
    return f"{sent.samples} acknowledged; {'; '.join(sent.refused)}"


def _ask(report: SuiteReport, server: TidegaugeServer, count: int) -> None:
    """Time what finds series by their labels."""
    with server.connect() as connection:

        def get(name: str, path: str, **parameters: str) -> bytes:
            target = with_query(path, parameters) if parameters else path
            began = time.perf_counter()
            response = checked(connection.request("GET", target), target)
            report.add(name, (time.perf_counter() - began) * 1e3, "ms", "lower")
            return bytes(response.body)

        get("first label names", "/v1/labels")
        get("values of a label with few", "/v1/labels", label="region")
        get("values of a label with many", "/v1/labels", label="pod")
        get("series of one node", "/v1/series", metric="node_value", match='pod="node-exporter-000007-x"')
        get("query of one node", "/v1/query", metric="node_value", match='pod="node-exporter-000007-x"', agg="max")
        get("query by pattern", "/v1/query", metric="node_value", match='pod=~"node-exporter-00000.-x"', agg="max")
        get("query of a fifth, merged", "/v1/query", metric="node_value", match='region="eu-west-3"', agg="sum", by="")
        get("cardinality", "/v1/cardinality", top="10")
        sql = SqlClient(connection)
        began = time.perf_counter()
        counted = sql.columns("SELECT count(*) AS n FROM series WHERE labels['region'] = 'eu-west-3'")
        report.add("SQL: count series of a label", (time.perf_counter() - began) * 1e3, "ms", "lower")
        want = sum(number // 64 % 5 == 3 for number in range(count))
        report.check("SQL counts the series", counted["n"] == [want], f"got {counted['n']}, want [{want}]")
        ticks, seconds = _rule_ticks(connection)
        deadline = time.perf_counter() + 30.0
        while (later := _rule_ticks(connection))[0] < ticks + 2 and time.perf_counter() < deadline:
            time.sleep(0.25)
        if later[0] > ticks:
            report.add("rule tick", (later[1] - seconds) / (later[0] - ticks) * 1e3, "ms", "lower")
        report.check("rules were judged", later[0] > ticks)


def _rule_ticks(connection: Connection) -> tuple[float, float]:
    """Return how many ticks there were and their seconds."""
    text = bytes(checked(connection.request("GET", "/metrics"), "/metrics").body).decode()
    found = dict(line.rsplit(" ", 1) for line in text.splitlines() if line and line[0] != "#")
    return float(found["tidegauge_rule_tick_seconds_count"]), float(found["tidegauge_rule_tick_seconds_sum"])


def churn(settings: Settings, folder: Path) -> SuiteReport:
    """A simulated week in which every series gets another name each hour, in an engine with its query process."""
    from engine.clock import ManualClock
    from engine.config import Config, Watch
    from engine.config_units import Duration
    from engine.runtime import Engine

    names = settings.hosts or (300 if settings.quick else CHURN_NAMES)
    hours = 48 if settings.quick else CHURN_HOURS
    report = SuiteReport(suite="", title="", data={"names": names, "hours": hours, "series": names * hours})
    clock = ManualClock(time.time_ns())
    watch = Watch(tick=Duration.parse("5m"), default_rules=False)
    held: list[dict[str, float]] = []
    began = time.perf_counter()
    with Engine.open(str(folder / "data"), Config(watch=watch), clock=clock) as engine:
        for hour in range(hours):
            body = "".join([f"{series(number)},run=r{hour}-{number} value={hour}\n" for number in range(names)])
            engine.submit_lines(body.encode()).result()
            clock.advance(3_600)
            engine.flush_rollups()
            engine.sealer.seal()
            engine.keeper.run()
            if hour % 12 == 11:
                held.append(_held(engine))
        spent = time.perf_counter() - began
        answer = engine.keeper.cardinality(3)["tag_sets"]
        report.check("every name is known", answer["known"] == names * hours, str(answer))
        old = list(engine.catalog.series("node_value", _match(f'run="r5-{names // 2}"')))
        report.check("an old name is found by its label", len(old) == 1, f"{len(old)} found")
    early, last = held[1], held[-1]
    report.add("hours simulated a second", hours / spent, "1/s", "neither")
    for name in last:
        report.add(f"{name} after {hours} h", last[name], "MiB", "lower", note=f"{early[name]:.1f} MiB after 24 h")
    return report


def _match(text: str) -> tuple[Matcher, ...]:
    from engine.model.matchers import parse_matchers

    return parse_matchers(text)


def _held(engine: Engine) -> dict[str, float]:
    """Return what the engine counts, and the heap (not the mapped files) of both processes, in MiB."""
    import psutil

    catalogue = engine.catalog.native.memory_bytes + engine.hot.series_nbytes
    found = {"catalogue and newest values": catalogue / MIB}
    pids = [("server", os.getpid())] + [("query process", child.pid) for child in psutil.Process().children()]
    for name, pid in pids:
        with open(f"/proc/{pid}/status") as status:
            lines = dict(line.split(":", 1) for line in status)
        found[f"{name} heap"] = int(lines["RssAnon"].split()[0]) / 1024
    return found
