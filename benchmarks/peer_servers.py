"""VictoriaMetrics, Prometheus and InfluxDB 1.x as servers on loopback, with the queries in their own
languages.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import numpy as np

from benchmarks.devops import CPU
from benchmarks.generator import NS_PER_SECOND
from benchmarks.measure import LOOPBACK, allocated_bytes, free_port
from benchmarks.peer_engine import ServerEngine, binary_absent
from benchmarks.queries import HIGH_CPU_PERCENT, LATEST_MINUTES, NO_HOST, Answer, Query
from benchmarks.query_sql import prometheus_times
from benchmarks.remote_write import HEADERS

NS_PER_MS = 1_000_000


def answer_from_cells(query: Query, cells: Mapping[str, Mapping[tuple[int, int], float]]) -> Answer:
    """Return rows from field -> (time, host) -> value; RuntimeError unless every field has the same rows."""
    keys = sorted(cells.get(query.fields[0], {}))
    values = np.empty((len(query.fields), len(keys)))
    for index, field in enumerate(query.fields):
        column = cells.get(field, {})
        if sorted(column) != keys:
            raise RuntimeError(f"cannot read answer: field {field} has other rows than {query.fields[0]}")
        values[index] = [column[key] for key in keys]
    places = np.array(keys, np.int64).reshape(-1, 2)
    return Answer(places[:, 0], places[:, 1], values)


class VictoriaMetrics(ServerEngine):
    name = "victoria-metrics"
    note = "line protocol on /write; acknowledges before its data is on disk; stored = data and index"

    @staticmethod
    def absent() -> str:
        return binary_absent("victoria-metrics")

    def command(self) -> list[str]:
        return [
            "victoria-metrics",
            f"-httpListenAddr={LOOPBACK}:{self.port}",
            f"-storageDataPath={self.data}",
            "-retentionPeriod=100y",
            "-selfScrapeInterval=0",
            "-loggerLevel=WARN",
            "-search.latencyOffset=0s",
            "-search.maxUniqueTimeseries=5000000",
            "-search.maxPointsPerTimeseries=100000",
            "-search.maxSamplesPerQuery=2000000000",
            "-search.maxQueryDuration=300s",
        ]

    def prepare(self) -> None:
        _ = self.load_data.lines

    def load(self) -> float:
        return self.send(self.load_data.lines, "/write?db=bench&precision=ns")

    def settle(self) -> None:
        for action in ("/internal/force_flush", "/internal/force_merge"):
            self.get(action)
            self.wait_until_quiet()

    def ask(self, query: Query) -> list[tuple[str, bytes]]:
        return [self._ask(query, query.fields)]

    def _ask(self, query: Query, fields: tuple[str, ...]) -> tuple[str, bytes]:
        """Return (the only field asked for or nothing, answer) of one request for some fields."""
        selector = _selector(fields, query.host_names)
        only = fields[0] if len(fields) == 1 else ""
        first, last, bucket = prometheus_times(query)
        window = f"{bucket:.0f}s"
        match query.kind:
            case "max-per-minute" | "max-per-hour" | "latest-minutes":
                by = "" if only else " by (__name__)"
                expression = f"max(max_over_time({selector}[{window}])){by}"
            case "mean-per-host-hour":
                by = "hostname" if only else "__name__, hostname"
                expression = f"avg(avg_over_time({selector}[{window}])) by ({by})"
            case "high-rows":
                step = self.load_data.shape.interval_ns / NS_PER_SECOND
                first, last, bucket = (
                    query.start_ns / NS_PER_SECOND,
                    query.end_ns / NS_PER_SECOND - step,
                    step,
                )
                user = _selector(("usage_user",), query.host_names)
                expression = f"{selector} and on (hostname) ({user} > {HIGH_CPU_PERCENT:g})"
            case "last-rows":
                time = query.end_ns / NS_PER_SECOND - self.load_data.shape.interval_ns / NS_PER_SECOND
                return only, self.get(f"/api/v1/query?{self._parameters(query=selector, time=f'{time:.3f}')}")
        parameters = self._parameters(query=expression, start=f"{first:.3f}", end=f"{last:.3f}", step=f"{bucket:.0f}")
        return only, self.get(f"/api/v1/query_range?{parameters}")

    def _parameters(self, **parameters: str) -> str:
        # Answers must be computed, not remembered.
        return urlencode({**parameters, "nocache": "1"})

    def stored_bytes(self) -> int:
        """Return the bytes of samples and index; the rest of the folder is caches that it writes when it
        stops.
        """
        return sum(allocated_bytes(self.data / part) for part in ("data", "indexdb"))

    def read(self, query: Query, raw: list[tuple[str, bytes]]) -> Answer:
        cells: dict[str, dict[tuple[int, int], float]] = {}
        shift_ns = 0 if query.kind in ("high-rows", "last-rows") else query.bucket_ns - NS_PER_MS
        for only, body in raw:
            for series in json.loads(body)["data"]["result"]:
                labels = series["metric"]
                name = labels.get("__name__", "").removeprefix(f"{CPU.name}_")
                host = int(labels["hostname"].rpartition("_")[2]) if "hostname" in labels else NO_HOST
                column = cells.setdefault(only or name, {})
                for time, value in series.get("values") or [series["value"]]:
                    column[round(time * 1000) * NS_PER_MS - shift_ns, host] = float(value)
        return answer_from_cells(query, cells)


def _selector(fields: tuple[str, ...], hosts: tuple[str, ...]) -> str:
    matchers = []
    if len(fields) > 1:
        matchers.append(f'__name__=~"{CPU.name}_({"|".join(fields)})"')
    if hosts:
        matchers.append(f'hostname="{hosts[0]}"' if len(hosts) == 1 else f'hostname=~"{"|".join(hosts)}"')
    name = f"{CPU.name}_{fields[0]}" if len(fields) == 1 else ""
    return f"{name}{{{', '.join(matchers)}}}"


class VictoriaMetricsRemoteWrite(VictoriaMetrics):
    name = "victoria-metrics-rw"
    note = "remote write, one sample of a series in a request; acknowledges before its data is on disk"

    def prepare(self) -> None:
        _ = self.load_data.remote_write

    def load(self) -> float:
        return self.send(self.load_data.remote_write, "/api/v1/write", HEADERS)


class Prometheus(VictoriaMetrics):
    name = "prometheus"
    note = (
        "remote write over one connection (it refuses samples out of order); its log is written but not "
        "synced before it acknowledges; a query of several fields is one request a field"
    )
    health = "/-/ready"

    @staticmethod
    def absent() -> str:
        return binary_absent("prometheus")

    def command(self) -> list[str]:
        config = self.folder / "prometheus.yml"
        config.write_text("global:\n  scrape_interval: 1h\n", encoding="ascii")
        return [
            "prometheus",
            f"--config.file={config}",
            f"--storage.tsdb.path={self.data}",
            "--storage.tsdb.retention.time=100y",
            f"--web.listen-address={LOOPBACK}:{self.port}",
            "--web.enable-remote-write-receiver",
            "--web.enable-admin-api",
            "--query.max-samples=1000000000",
            "--query.timeout=5m",
            "--log.level=warn",
        ]

    def prepare(self) -> None:
        _ = self.load_data.remote_write

    def load(self) -> float:
        return self.send(self.load_data.remote_write, "/api/v1/write", HEADERS, connections=1)

    def settle(self) -> None:
        self.wait_until_quiet()
        # The newest hours stay in memory; a snapshot writes them as a block, which is their long-term form.
        answer = self.connection.request("POST", "/api/v1/admin/tsdb/snapshot")
        name = json.loads(answer.body)["data"]["name"]
        self._snapshot_bytes = allocated_bytes(self.data / "snapshots" / name)

    def stored_bytes(self) -> int:
        return self._snapshot_bytes

    def ask(self, query: Query) -> list[tuple[str, bytes]]:
        if query.kind in ("max-per-minute", "max-per-hour", "mean-per-host-hour"):
            return [self._ask(query, (field,)) for field in query.fields]
        return [self._ask(query, query.fields)]

    def _parameters(self, **parameters: str) -> str:
        return urlencode(parameters)


class InfluxDB(ServerEngine):
    name = "influxdb"
    note = "version 1.x with the tsi1 index, line protocol on /write; acknowledged = fsynced"
    health = "/ping"

    @staticmethod
    def absent() -> str:
        return binary_absent("influxd")

    def command(self) -> list[str]:
        config = self.folder / "influxdb.conf"
        config.write_text("", encoding="ascii")
        return ["influxd", "run", "-config", str(config)]

    def environment(self) -> Mapping[str, str]:
        return {
            "INFLUXDB_REPORTING_DISABLED": "true",
            "INFLUXDB_BIND_ADDRESS": f"{LOOPBACK}:{free_port()}",
            "INFLUXDB_META_DIR": str(self.data / "meta"),
            "INFLUXDB_DATA_DIR": str(self.data / "data"),
            "INFLUXDB_DATA_WAL_DIR": str(self.data / "wal"),
            "INFLUXDB_DATA_INDEX_VERSION": "tsi1",
            "INFLUXDB_DATA_QUERY_LOG_ENABLED": "false",
            "INFLUXDB_DATA_CACHE_MAX_MEMORY_SIZE": "4g",
            "INFLUXDB_DATA_CACHE_SNAPSHOT_WRITE_COLD_DURATION": "5s",
            "INFLUXDB_DATA_COMPACT_FULL_WRITE_COLD_DURATION": "10s",
            "INFLUXDB_MONITOR_STORE_ENABLED": "false",
            "INFLUXDB_HTTP_BIND_ADDRESS": f"{LOOPBACK}:{self.port}",
            "INFLUXDB_HTTP_LOG_ENABLED": "false",
            "INFLUXDB_HTTP_MAX_BODY_SIZE": "0",
            "INFLUXDB_LOGGING_LEVEL": "warn",
        }

    def prepare(self) -> None:
        _ = self.load_data.lines

    def load(self) -> float:
        self.connection.request("POST", f"/query?{urlencode({'q': 'CREATE DATABASE bench'})}")
        return self.send(self.load_data.lines, "/write?db=bench&precision=ns")

    def settle(self) -> None:
        # Longer than the cold durations above, so that the cache is written and the files are compacted.
        self.wait_until_quiet(quiet_seconds=13.0)

    def ask(self, query: Query) -> bytes:
        return self.get(f"/query?{urlencode({'db': 'bench', 'epoch': 'ns', 'q': self.influxql(query)})}")

    @staticmethod
    def influxql(query: Query) -> str:
        """Return the query in InfluxQL."""

        def aggregated(function: str) -> str:
            return ", ".join(f"{function}({field}) AS {field}" for field in query.fields)

        where = f"time >= {query.start_ns} AND time < {query.end_ns}"
        if query.hosts:
            where = "(" + " OR ".join(f"hostname = '{name}'" for name in query.host_names) + f") AND {where}"
        match query.kind:
            case "max-per-minute":
                return f"SELECT {aggregated('max')} FROM cpu WHERE {where} GROUP BY time(1m) fill(none)"
            case "max-per-hour":
                return f"SELECT {aggregated('max')} FROM cpu WHERE {where} GROUP BY time(1h) fill(none)"
            case "mean-per-host-hour":
                means = aggregated("mean")
                return f"SELECT {means} FROM cpu WHERE {where} GROUP BY time(1h), hostname fill(none)"
            case "high-rows":
                fields = ", ".join(query.fields)
                return f"SELECT {fields}, hostname FROM cpu WHERE usage_user > {HIGH_CPU_PERCENT} AND {where}"
            case "last-rows":
                return f"SELECT {', '.join(query.fields)} FROM cpu GROUP BY hostname ORDER BY time DESC LIMIT 1"
            case "latest-minutes":
                return (
                    f"SELECT {aggregated('max')} FROM cpu WHERE time < {query.end_ns} GROUP BY time(1m) "
                    f"fill(none) ORDER BY time DESC LIMIT {LATEST_MINUTES}"
                )

    def read(self, query: Query, raw: bytes) -> Answer:
        cells: dict[str, dict[tuple[int, int], float]] = {}
        (result,) = json.loads(raw)["results"]
        if "error" in result:
            raise RuntimeError(f"cannot read answer: {result['error']}")
        for series in result.get("series", []):
            names: list[str] = series["columns"]
            tag = series.get("tags", {}).get("hostname")
            for row in series["values"]:
                named: dict[str, Any] = dict(zip(names, row, strict=True))
                host = named.get("hostname", tag)
                place = (named["time"], NO_HOST if host is None else int(host.rpartition("_")[2]))
                for field in query.fields:
                    cells.setdefault(field, {})[place] = float(named[field])
        return answer_from_cells(query, cells)
