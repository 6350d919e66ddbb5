"""What an SQL answer says about itself reaches the caller, by HTTP and in Python."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

import tidegauge
from api.client import SqlTable
from tests.api.test_prometheus import JSON, Served

LINES = "cpu,host=a busy=1 1700000000000000000\ncpu,host=b busy=2 1700000060000000000"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    opened = Served(tmp_path)
    opened.clock.set_ns(1_700_000_100_000_000_000)
    opened.engine.submit_lines(LINES.encode()).result(30)
    yield opened
    opened.engine.close()


def test_http_tells_what_was_read(server: Served) -> None:
    body = json.dumps(
        {"sql": "SELECT increase(busy, time) AS up FROM cpu WHERE host = $1", "parameters": ["b"]}
    ).encode()
    status, headers, raw = server.call("POST", "/v1/sql", body, JSON)
    assert status == 200
    answer = json.loads(raw)
    assert answer["rows"] == [[0.0]]
    assert (answer["tier"], answer["tables"], answer["files"]) == ("raw", ["cpu"], 1)
    assert (answer["rows_read"], answer["fresh_to"]) == (1, 1_700_000_060_000_000_000)
    assert headers["x-tidegauge-rows-read"] == "1"
    assert headers["x-tidegauge-fresh-to"] == "1700000060000000000"
    status, _, raw = server.call("POST", "/v1/sql", body, JSON | {"Accept": "application/vnd.apache.arrow.stream"})
    assert status == 200
    assert SqlTable(pa.ipc.open_stream(raw).read_all()).metadata["rows_read"] == 1


def test_an_embedded_engine_tells_the_same(tmp_path: Path) -> None:
    with tidegauge.open(str(tmp_path / "data")) as db:
        db.write("cpu,host=a busy=1\ncpu,host=b busy=2")
        answer = db.sql("SELECT host, latest(busy, time) AS busy FROM cpu GROUP BY host ORDER BY host")
        assert answer.rows() == [{"host": "a", "busy": 1.0}, {"host": "b", "busy": 2.0}]
        assert (answer.metadata["tier"], answer.metadata["rows_read"], answer.metadata["tables"]) == ("raw", 2, ["cpu"])
        tier = db.sql("SELECT sum(count) FROM rollup_1h")
        assert (tier.metadata["tier"], tier.metadata["rows_read"]) == ("rollup_1h", 2)
    assert SqlTable(pa.table({"a": [1]})).metadata == {}
