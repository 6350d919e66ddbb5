"""The client and the sending process against a server of the standard library."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from benchmarks import wire
from benchmarks.batches import BatchFile
from benchmarks.generator import DataShape
from benchmarks.load import PreparedLoad
from benchmarks.sender import SendOrder, send
from benchmarks.server import checked
from benchmarks.wire import Connection


class RecordingServer(ThreadingHTTPServer):
    """Answers by path, keeps every body, and turns away the first ``turn_away`` writes."""

    daemon_threads = True
    bodies: list[bytes]
    closed: threading.Event
    turn_away = 0

    def shutdown_request(self, request: Any) -> None:
        super().shutdown_request(request)
        self.closed.set()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: RecordingServer

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.path == "/chunked":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"3\r\nabc\r\n" + b"5;x=y\r\ndefgh\r\n" + b"0\r\n\r\n")
            return
        self.close_connection = self.path == "/close"
        self.answer(404 if self.path == "/absent" else 200, self.path.encode() * 1000)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.turn_away > 0:
            self.server.turn_away -= 1
            self.answer(503, b"later")
            return
        if self.path == "/refuse":
            self.answer(400, b"no")
            return
        self.server.bodies.append(body)
        self.send_response(204)
        self.end_headers()

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def recording_server() -> Iterator[RecordingServer]:
    with RecordingServer(("127.0.0.1", 0), Handler) as server:
        server.bodies = []
        server.closed = threading.Event()
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def test_one_connection_carries_many_answers() -> None:
    with recording_server() as server, Connection(server.server_port) as connection:
        for _ in range(3):
            assert connection.request("GET", "/chunked").body == b"abcdefgh"
            assert connection.request("GET", "/x").body == b"/x" * 1000
            assert connection.request("POST", "/write", b"y" * 1_000_000).status == 204
            absent = connection.request("GET", "/absent")
            with pytest.raises(RuntimeError, match="HTTP 404"):
                checked(absent, "a path")


def test_a_closed_connection_is_an_error() -> None:
    with recording_server() as server:
        connection = Connection(server.server_port)
    connection.close()
    with pytest.raises(OSError):
        connection.request("GET", "/x")


def test_a_connection_closed_while_idle_is_opened_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "IDLE_SECONDS", -1.0)
    with recording_server() as server, Connection(server.server_port) as connection:
        for _ in range(3):
            assert connection.request("GET", "/close").body == b"/close" * 1000
            server.closed.wait(10)
            server.closed.clear()


def batch_file(folder: Path, count: int) -> BatchFile:
    return BatchFile.write(folder / "bodies", ((b"%d" % number * 100, number) for number in range(1, count + 1)))


def test_batch_file_reads_back(tmp_path: Path) -> None:
    written = batch_file(tmp_path, 12)
    opened = BatchFile.open(written.path)
    assert list(opened) == [b"%d" % number * 100 for number in range(1, 13)]
    assert (len(opened), opened.samples, opened.body_bytes) == (12, 78, 9 * 100 + 3 * 200)


@pytest.mark.parametrize("connections", [1, 3])
def test_every_body_is_sent_once(tmp_path: Path, connections: int) -> None:
    batches = batch_file(tmp_path, 20)
    with recording_server() as server:
        server.turn_away = 2
        report = send(
            SendOrder(port=server.server_port, target="/write", path=str(batches.path), connections=connections)
        )
        assert sorted(server.bodies) == sorted(batches)
    assert (report.samples, report.batches, report.retries) == (batches.samples, 20, 2)
    assert len(report.ack_seconds) == 20
    assert report.refused == []
    assert report.body_bytes == batches.body_bytes


def test_a_part_of_the_file_can_be_sent(tmp_path: Path) -> None:
    batches = batch_file(tmp_path, 10)
    with recording_server() as server:
        order = SendOrder(
            port=server.server_port,
            target="/write",
            path=str(batches.path),
            connections=1,
            from_batch=3,
            batches=4,
        )
        assert send(order).samples == 4 + 5 + 6 + 7
        assert server.bodies == list(batches)[3:7]


def test_a_refusal_ends_the_sending_and_is_told(tmp_path: Path) -> None:
    batches = batch_file(tmp_path, 50)
    with recording_server() as server:
        order = SendOrder(port=server.server_port, target="/refuse", path=str(batches.path), connections=1)
        report = send(order)
    assert report.samples == 0
    assert report.refused == ["HTTP 400 no"]
    assert report.batches == 1


def test_prepared_loads_count_samples(tmp_path: Path) -> None:
    shape = DataShape(use="devops", hosts=3, steps=20)
    load = PreparedLoad(shape, tmp_path, lines_per_batch=7)
    assert load.lines.samples == load.arrow_streams.samples == load.remote_write.samples == shape.samples
    for body, samples in zip(load.lines, load.lines.index.samples, strict=True):
        fields = [line.split(b" ")[1].count(b"=") for line in body.splitlines()]
        assert sum(fields) == samples
    assert load.one_field_lines.samples == shape.hosts * shape.steps
