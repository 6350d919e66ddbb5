"""Prometheus' ways in over HTTP, and the metrics by their own names on every way out."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cramjam
import pytest

from api.app import Application
from api.cli.main import main
from engine.clock import ManualClock
from engine.config import Config, Ingest, Query, Rule, Server
from engine.runtime import Engine
from tests.api.test_error_shape import Caller
from tests.oracles.prometheus import series, symbols_request

HEADERS = {"Content-Type": "application/x-protobuf", "Content-Encoding": "snappy"}
TEXT = {"Content-Type": "text/plain; version=0.0.4"}
JSON = {"Content-Type": "application/json"}
STALE = 0x7FF0000000000002


def bits_of(value: float) -> int:
    return int(struct.unpack("<Q", struct.pack("<d", value))[0])


def named(name: bytes, **labels: bytes) -> list[tuple[bytes, bytes]]:
    return [(b"__name__", name), *((key.encode(), value) for key, value in labels.items())]


def packed(body: bytes) -> bytes:
    return bytes(cramjam.snappy.compress_raw(body))


class Served:
    """A whole engine behind its application, called without a socket."""

    def __init__(self, path: Path, **changes: Any) -> None:
        config = Config(query=Query(in_process=True), server=Server(max_body=16384, max_decoded_body=65536), **changes)
        self.clock = ManualClock()
        self.engine = Engine.open(str(path / "data"), config, clock=self.clock)
        self.call = Caller(Application(self.engine, config))

    @property
    def now_ms(self) -> int:
        return self.clock.now_ns() // 1_000_000

    def write(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        return self.call("POST", "/api/v1/write", packed(body), HEADERS)

    def json(self, path: str) -> Any:
        status, _, raw = self.call("GET", path)
        assert status == 200, raw
        return json.loads(raw)

    def sql(self, statement: str) -> list[list[Any]]:
        status, _, raw = self.call("POST", "/v1/sql", json.dumps({"sql": statement}).encode(), JSON)
        assert status == 200, raw
        rows: list[list[Any]] = json.loads(raw)["rows"]
        return rows


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    opened = Served(tmp_path)
    yield opened
    opened.engine.close()


def test_remote_write_is_stored_and_answered_as_its_specification_says(server: Served) -> None:
    now = server.now_ms
    body = series(named(b"up", job=b"node"), [(bits_of(1.0), now - 1000), (bits_of(0.0), now)])
    status, headers, raw = server.write(body)
    assert (status, raw, headers["x-tidegauge-samples"]) == (204, b"", "2")
    rows = server.sql("SELECT metric, labels, value FROM samples ORDER BY time")
    assert [row[2] for row in rows] == [1.0, 0.0]
    assert rows[0][0] == "up"
    assert server.sql("SELECT job, value FROM prometheus ORDER BY time DESC LIMIT 1") == [["node", 0.0]]


@pytest.mark.parametrize(
    ("body", "headers", "status", "words"),
    [
        (b"not snappy", HEADERS, 400, "cannot decompress"),
        (packed(b"\x0a\x7f"), HEADERS, 400, "no protobuf at offset"),
        (packed(b""), HEADERS | {"Content-Type": "text/plain"}, 415, "prometheus.WriteRequest"),
        (
            packed(b""),
            HEADERS | {"Content-Type": "application/x-protobuf;proto=io.prometheus.write.v3.Request"},
            415,
            "prometheus.WriteRequest",
        ),
        (packed(b"x" * 70_000), HEADERS, 413, "once decompressed"),
        (b"x" * 20_000, HEADERS, 413, "16384"),
    ],
)
def test_mistakes_of_senders_are_told_in_text(
    server: Served, body: bytes, headers: dict[str, str], status: int, words: str
) -> None:
    found, answered, raw = server.call("POST", "/api/v1/write", body, headers)
    assert (found, answered["content-type"]) == (status, "text/plain; charset=utf-8")
    assert raw.decode().startswith("cannot ")
    assert words in raw.decode()
    assert raw.endswith(b"\n")


def test_version_2_is_stored_and_counted(server: Served) -> None:
    now = server.now_ms
    symbols = [b"", b"__name__", b"up", b"job", b"node"]
    body = symbols_request(symbols, [([1, 2, 3, 4], [(bits_of(1.0), now)]), ([1, 9], [(bits_of(1.0), now)])])
    headers = HEADERS | {
        "Content-Type": "application/x-protobuf;proto=io.prometheus.write.v2.Request",
        "X-Prometheus-Remote-Write-Version": "2.0.0",
    }
    good = symbols_request(symbols, [([1, 2, 3, 4], [(bits_of(2.0), now - 1)])])
    counted = {}
    for sent, status in ((good, 204), (body, 400)):
        found, answered, raw = server.call("POST", "/api/v1/write", packed(sent), headers)
        assert found == status, raw
        counted = {name: value for name, value in answered.items() if name.endswith("-written")}
        assert counted == {
            "x-prometheus-remote-write-samples-written": "1",
            "x-prometheus-remote-write-histograms-written": "0",
            "x-prometheus-remote-write-exemplars-written": "0",
        }
    assert b"time series 2: cannot keep the sample: want an even number of label references" in raw
    assert server.sql("SELECT metric, labels['job'], value FROM samples ORDER BY time") == [
        ["up", "node", 2.0], ["up", "node", 1.0]
    ]  # fmt: skip


def test_a_named_message_of_version_1_is_taken(server: Served) -> None:
    headers = HEADERS | {"Content-Type": "application/x-protobuf;proto=prometheus.WriteRequest"}
    assert server.call("POST", "/api/v1/write", packed(b""), headers)[0] == 204


def test_part_of_a_request_is_refused_and_the_rest_kept(server: Served) -> None:
    now = server.now_ms
    body = series(named(b"up"), [(bits_of(1.0), 0), (bits_of(2.0), now)]) + series(named(b"bad\xff"), [(0, now)])
    status, headers, raw = server.write(body)
    assert (status, headers["x-tidegauge-samples"]) == (400, "1")
    assert headers["x-prometheus-remote-write-samples-written"] == "1"
    assert b"stored 1 samples; refused: 1 not_utf8, 1 too_old; time series 1: cannot keep the sample" in raw
    text = server.engine.vitals.render().decode()
    assert 'tidegauge_ingest_refused_total{cause="too_old",protocol="remote_write"} 1.0' in text
    assert server.sql("SELECT value FROM samples") == [[2.0]]


def test_nan_bits_survive_until_they_are_read_from_a_segment(server: Served) -> None:
    now = server.now_ms
    odd = [STALE, 0x7FF8000000000001, 0xFFF8000000000000, bits_of(-0.0), bits_of(float("inf"))]
    assert server.write(series(named(b"up"), [(bits, now - place) for place, bits in enumerate(odd)]))[0] == 204
    for _ in range(2):
        table_id = server.engine.catalog.table_id("prometheus")
        assert table_id is not None
        rows = server.engine.samples.collect(table_id, 0, 2**63 - 1)
        assert rows.values.view("uint64")[0].tolist() == odd[::-1]
        server.engine.sealer.seal()
        assert server.engine.samples.segments()


def test_text_is_stored_at_one_time_with_the_labels_of_the_request(server: Served) -> None:
    body = b'# HELP go_info About.\ngo_info{version="1"} 1\nload 0.5\nload 0.75 # {a="b"} 1\n'
    path = "/v1/import/prometheus?label=job=node&label=instance=host%3A9100"
    status, headers, raw = server.call("POST", path, body, TEXT)
    assert (status, raw) == (204, b"")
    assert (headers["x-tidegauge-samples"], headers["x-tidegauge-dropped"]) == ("3", "1")
    assert server.sql("SELECT metric, value, labels['instance'] FROM samples ORDER BY metric") == [
        ["go_info", 1.0, "host:9100"],
        ["load", 0.75, "host:9100"],
    ]


def test_text_is_taken_as_curl_sends_it(server: Served) -> None:
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    assert server.call("POST", "/v1/import/prometheus", b"curled 1\n", headers)[0] == 204
    assert server.sql("SELECT value FROM samples WHERE metric = 'curled'") == [[1.0]]


@pytest.mark.parametrize(
    ("path", "headers", "status", "code"),
    [
        ("?label=job", TEXT, 400, "bad_request"),
        ("?label=a=1&label=a=2", TEXT, 400, "bad_request"),
        ("", {"Content-Type": "application/json"}, 415, "unsupported_media_type"),
    ],
)
def test_mistakes_in_imports(server: Served, path: str, headers: dict[str, str], status: int, code: str) -> None:
    found, _, raw = server.call("POST", f"/v1/import/prometheus{path}", b"up 1\n", headers)
    assert (found, json.loads(raw)["error"]) == (status, code)
    assert json.loads(raw)["message"].startswith("cannot ")


def test_lines_that_are_refused_are_named(server: Served) -> None:
    status, headers, raw = server.call("POST", "/v1/import/prometheus", b"up 1\nnonsense\n", TEXT)
    answer = json.loads(raw)
    assert (status, headers["x-tidegauge-rows"]) == (400, "1")
    assert [(each["position"], each["cause"]) for each in answer["details"]["refusals"]] == [(2, "malformed")]


def test_open_metrics_has_its_times_in_seconds(server: Served) -> None:
    seconds = server.clock.now_ns() // 10**9
    body = b"up 1 %d.5\n# EOF\n" % (seconds - 10)
    headers = {"Content-Type": "application/openmetrics-text; version=1.0.0"}
    assert server.call("POST", "/v1/import/prometheus", body, headers)[0] == 204
    assert server.sql("SELECT epoch_ns(time) FROM samples") == [[(seconds - 10) * 10**9 + 500_000_000]]


def test_a_limit_on_tables_turns_the_whole_request_away(tmp_path: Path) -> None:
    server = Served(tmp_path, ingest=Ingest(max_tables=1))
    assert server.call("POST", "/write", b"cpu x=1")[0] == 204
    status, _, raw = server.write(series(named(b"up"), [(0, server.now_ms)]))
    assert status == 400
    assert b"ingest.max_tables" in raw
    server.engine.close()


def test_metrics_go_by_their_own_names_everywhere(server: Served) -> None:
    now = server.now_ms
    body = b"".join(
        series(named(name, host=host), [(bits_of(float(value)), now - 60_000 + second * 1000) for second in range(60)])
        for name, host, value in [(b"up", b"a", 1), (b"up", b"b", 0), (b"load", b"a", 3)]
    )
    assert server.write(body)[0] == 204
    assert server.write(series([(b"job", b"nameless")], [(bits_of(9.0), now - 1000)]))[0] == 204
    server.call("POST", "/write", b"cpu,host=a usage=5")
    assert server.json("/v1/metrics-names") == {"metrics": ["cpu_usage", "load", "prometheus_value", "up"]}
    found = server.json("/v1/series?metric=up")["series"]
    assert [(each["metric"], each["labels"]) for each in found] == [("up", {"host": "a"}), ("up", {"host": "b"})]
    assert len(server.json("/v1/series")["series"]) == 5
    assert [each["metric"] for each in server.json("/v1/series?match=__name__=%22load%22")["series"]] == ["load"]
    only = server.json("/v1/series?metric=prometheus_value")["series"]
    assert [each["labels"] for each in only] == [{"job": "nameless"}]

    answer = server.json("/v1/query?metric=up&start=-5m&step=5m&agg=max")
    assert sorted((line["labels"]["host"], line["values"][0]) for line in answer["series"]) == [("a", 1.0), ("b", 0.0)]
    assert all("__name__" not in line["labels"] for line in answer["series"])
    assert server.json("/v1/query?metric=prometheus_value&start=-5m&step=5m")["series"][0]["values"] == [9.0]
    loaded = server.json("/v1/query?metric=load&start=-5m&step=5m&agg=sum&match=host=%22a%22")["series"]
    assert sum(loaded[0]["values"]) == 180.0

    assert server.sql("SELECT DISTINCT metric FROM samples ORDER BY metric") == [
        ["cpu_usage"], ["load"], ["prometheus_value"], ["up"]
    ]  # fmt: skip
    assert server.sql("SELECT metric, series_count FROM metrics WHERE measurement = 'prometheus' ORDER BY metric") == [
        ["load", 1], ["prometheus_value", 1], ["up", 2]
    ]  # fmt: skip
    assert server.sql("SELECT count(*) FROM samples WHERE metric = 'up'") == [[120]]
    assert server.sql("SELECT metric, sum(count) FROM rollup_1h GROUP BY metric ORDER BY metric") == [
        ["cpu_usage", 1], ["load", 60], ["prometheus_value", 1], ["up", 120]
    ]  # fmt: skip
    server.engine.sealer.seal()
    assert server.sql("SELECT metric, sum(value) FROM samples GROUP BY metric ORDER BY metric") == [
        ["cpu_usage", 5.0], ["load", 180.0], ["prometheus_value", 9.0], ["up", 60.0]
    ]  # fmt: skip


def test_verify_finds_nothing_wrong_with_routed_segments(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = Served(tmp_path)
    now = server.now_ms
    kinds = {b"level": 7.0, b"count": 1.0, b"share": 0.01, b"duration": 1e-9, b"noise": 2**0.5}
    for name, unit in kinds.items():
        samples = [
            (bits_of(unit * (step * step if unit != 7.0 else 1)), now - 600_000 + step * 1000) for step in range(400)
        ]
        assert server.write(series(named(name), samples))[0] == 204
    server.engine.close()
    (meta,) = server.engine.samples.segments()
    assert len(meta.columns) >= 3
    assert main(["verify", "--data", str(tmp_path / "data")]) == 0, capsys.readouterr().out


def test_rules_watch_pooled_metrics(tmp_path: Path) -> None:
    rule = Rule(name="down", metric="up", op="<", threshold=1.0)
    server = Served(tmp_path, rules=(rule,))
    now = server.now_ms
    server.write(series(named(b"up", host=b"a"), [(0, now)]) + series(named(b"load", host=b"a"), [(0, now)]))
    server.engine.watcher.tick()
    alerts = server.json("/v1/alerts")["alerts"]
    assert [(alert["rule"], alert["labels"]) for alert in alerts] == [("down", {"host": "a"})]
    ratio = server.engine.observer.values("up", (), server.clock.now_ns(), divide_by="load")
    assert len(ratio.values) == 0  # a divisor of zero
    server.engine.close()
