"""Tidegauge itself in the comparison, as a server over HTTP like its peers."""

from __future__ import annotations

import sys
from collections.abc import Mapping

from benchmarks.measure import LOOPBACK, allocated_bytes
from benchmarks.peer_engine import ServerEngine
from benchmarks.queries import Answer, Query
from benchmarks.server import ARROW_STREAM, python_path
from benchmarks.tidegauge_queries import native_request


class Tidegauge(ServerEngine):
    name = "tidegauge"
    note = (
        "line protocol on /write; acknowledged = fsynced; /v1/query for aggregates, "
        "/v1/rows for rows; stored = the whole data folder with rollups after a graceful stop"
    )
    health = "/health/ready"

    @staticmethod
    def absent() -> str:
        return ""

    def command(self) -> list[str]:
        listen = f"{LOOPBACK}:{self.port}"
        return [sys.executable, "-P", "-m", "api.cli.main", "serve", "--data", str(self.data), "--listen", listen]

    def environment(self) -> Mapping[str, str]:
        return {"PYTHONPATH": python_path()}

    def prepare(self) -> None:
        _ = self.load_data.lines

    def load(self) -> float:
        return self.send(self.load_data.lines, "/write?precision=ns")

    def settle(self) -> None:
        # A flush of rollups begins every five seconds: quiet for longer means that none is outstanding.
        self.wait_until_quiet(quiet_seconds=6.0)

    def raw_bytes(self) -> int:
        return allocated_bytes(self.data / "segments")

    def ask(self, query: Query) -> bytes:
        return native_request(self.connection, query).send(self.connection)

    def read(self, query: Query, raw: bytes) -> Answer:
        return native_request(self.connection, query).read(raw)


class TidegaugeArrow(Tidegauge):
    name = "tidegauge-arrow"
    note = "Arrow IPC streams of 100,000 rows on /v1/ingest; acknowledged = fsynced"

    def prepare(self) -> None:
        _ = self.load_data.arrow_streams

    def load(self) -> float:
        return self.send(self.load_data.arrow_streams, "/v1/ingest", {"Content-Type": ARROW_STREAM})
