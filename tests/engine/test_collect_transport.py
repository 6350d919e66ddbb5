"""HTTP over real sockets: connections kept and reopened, early and broken answers."""

from __future__ import annotations

import socket
import threading

import pytest

from engine.collect.transport import HttpTransport, Response
from engine.errors import BadRequest
from tests.recording_server import Answer, RecordingServer


def test_request_and_response_travel_whole() -> None:
    with RecordingServer(lambda _: Answer(429, b"later", {"Retry-After": "3"})) as server:
        transport = HttpTransport(server.url + "/base/", token="t0")
        response = transport.request("POST", "/write?precision=ns", b"a b=1\n", {"Content-Type": "text/plain"})
        transport.close()
    (seen,) = server.seen
    assert (seen.method, seen.path, seen.body) == ("POST", "/base/write?precision=ns", b"a b=1\n")
    assert (seen.headers["authorization"], seen.headers["content-type"]) == ("Bearer t0", "text/plain")
    assert (response.status, response.body, response.headers["retry-after"]) == (429, b"later", "3")


def test_one_connection_serves_many_requests_and_a_closed_one_is_reopened() -> None:
    with RecordingServer() as server:
        transport = HttpTransport(server.url)
        for _ in range(3):
            transport.request("POST", "/", b"x")
        assert server.connections == 1
        server.answer = lambda _: Answer(204, close=True)
        transport.request("POST", "/", b"x")
        server.answer = lambda _: Answer(204)
        assert transport.request("POST", "/", b"last").status == 204
        transport.close()
    assert server.connections == 2
    assert [seen.body for seen in server.seen] == [b"x"] * 4 + [b"last"]


def raw_server(answer: bytes, *, read_bytes: int = 1) -> tuple[str, threading.Thread]:
    """Accept one connection, read a little, answer with ``answer`` and close; return the URL and the thread."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listener, listener.accept()[0] as connection:
            connection.recv(read_bytes)
            connection.sendall(answer)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(1 << 16):
                pass

    thread = threading.Thread(target=serve)
    thread.start()
    return f"http://127.0.0.1:{listener.getsockname()[1]}", thread


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "without response|closed"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", "in the middle"),
    ],
)
def test_no_whole_answer_is_an_os_error(answer: bytes, reason: str) -> None:
    url, thread = raw_server(answer, read_bytes=1 << 16)
    transport = HttpTransport(url)
    with pytest.raises(OSError, match=reason):
        transport.request("POST", "/", b"x")
    thread.join()
    transport.close()


def test_an_answer_before_the_body_was_read_counts() -> None:
    url, thread = raw_server(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
    transport = HttpTransport(url)
    assert transport.request("POST", "/", b"x" * (1 << 20)) == Response(
        413, {"content-length": "2", "connection": "close"}, b"no"
    )
    transport.close()
    thread.join()


def test_a_server_that_is_not_there_is_an_os_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        HttpTransport(f"http://127.0.0.1:{port}").request("GET", "/")


def test_a_server_that_does_not_answer_in_time_is_an_os_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        transport = HttpTransport(f"http://127.0.0.1:{listener.getsockname()[1]}", timeout_seconds=0.01)
        with pytest.raises(TimeoutError):
            transport.request("GET", "/")
        transport.close()


@pytest.mark.parametrize("url", ["", "localhost:8433", "ftp://h", "http://", "http://h:x", "http://h?q=1", "http://[h"])
def test_an_address_that_cannot_be_one_is_refused(url: str) -> None:
    with pytest.raises(BadRequest, match="cannot use server address"):
        HttpTransport(url)
