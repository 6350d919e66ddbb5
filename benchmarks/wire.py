"""A lean HTTP/1.1 client over one kept-alive connection, so that what is timed is the server and not the
client.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType

from benchmarks.measure import LOOPBACK

RECEIVE_BYTES = 1 << 18
HEADER_END = b"\r\n\r\n"
MAX_HEADER_BYTES = 1 << 16
# A connection idle for longer may have been closed by the server, which is no error.
IDLE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Response:
    """``headers``: lower-case name -> value; ``body``: all of it, with chunks put together."""

    status: int
    headers: Mapping[bytes, bytes]
    body: bytes

    def text(self, limit: int = 300) -> str:
        return self.body[:limit].decode("utf-8", "replace")


class Connection:
    """One TCP connection to a server on loopback; raises OSError when that fails or ends too early."""

    def __init__(self, port: int, *, timeout_seconds: float = 600.0) -> None:
        self._address = (LOOPBACK, port)
        self._timeout_seconds = timeout_seconds
        self._host = f"{LOOPBACK}:{port}"
        self._pending = b""
        self._open()

    def _open(self) -> None:
        self._socket = socket.create_connection(self._address, timeout=self._timeout_seconds)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._used_at = time.monotonic()

    def _revive(self) -> None:
        """Connect again when the server has closed the connection while it was idle."""
        readable, _, _ = select.select([self._socket], [], [], 0.0)
        if readable and not self._socket.recv(1, socket.MSG_PEEK):
            self._socket.close()
            self._pending = b""
            self._open()

    def __enter__(self) -> Connection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def head(self, method: str, target: str, headers: Mapping[str, str], body_bytes: int | None) -> bytes:
        """Return the bytes before the body, so that they can be made outside the timing."""
        lines = [f"{method} {target} HTTP/1.1", f"Host: {self._host}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if body_bytes is not None:
            lines.append(f"Content-Length: {body_bytes}")
        return "\r\n".join([*lines, "", ""]).encode("latin-1")

    def exchange(self, head: bytes, body: bytes | memoryview = b"") -> Response:
        """Send one request and return its answer, read to the last byte."""
        if time.monotonic() - self._used_at > IDLE_SECONDS:
            self._revive()
        if len(body) > RECEIVE_BYTES:
            self._socket.sendall(head)
            self._socket.sendall(body)
        else:
            self._socket.sendall(head + bytes(body))
        response = self._receive()
        self._used_at = time.monotonic()
        return response

    def request(
        self, method: str, target: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Response:
        sent = body if body is not None else (b"" if method == "POST" else None)
        head = self.head(method, target, headers or {}, None if sent is None else len(sent))
        return self.exchange(head, sent or b"")

    def _receive(self) -> Response:
        data = self._pending
        while (end := data.find(HEADER_END)) < 0:
            if len(data) > MAX_HEADER_BYTES:
                raise OSError(f"cannot read HTTP answer: got over {MAX_HEADER_BYTES} bytes of headers")
            data += self._more()
        lines = data[:end].split(b"\r\n")
        status = int(lines[0].split(b" ", 2)[1])
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(b":")
            headers[name.strip().lower()] = value.strip()
        rest = data[end + len(HEADER_END) :]
        if headers.get(b"transfer-encoding", b"").lower() == b"chunked":
            body = self._chunks(rest)
        elif status in (204, 304) or 100 <= status < 200:
            body, self._pending = b"", rest
        else:
            body, self._pending = self._exactly(int(headers.get(b"content-length", b"0")), rest)
        return Response(status, headers, body)

    def _more(self) -> bytes:
        received = self._socket.recv(RECEIVE_BYTES)
        if not received:
            raise OSError("cannot read HTTP answer: the server closed the connection")
        return received

    def _exactly(self, count: int, data: bytes) -> tuple[bytes, bytes]:
        """Return ``count`` bytes and what came after them."""
        if len(data) >= count:
            return data[:count], data[count:]
        parts, have = [data], len(data)
        while have < count:
            parts.append(self._more())
            have += len(parts[-1])
        joined = b"".join(parts)
        return joined[:count], joined[count:]

    def _chunks(self, data: bytes) -> bytes:
        parts: list[bytes] = []
        while True:
            while (end := data.find(b"\r\n")) < 0:
                data += self._more()
            size = int(data[:end].split(b";", 1)[0], 16)
            chunk, data = self._exactly(size + 2, data[end + 2 :])
            if size == 0:
                self._pending = data
                return b"".join(parts)
            parts.append(chunk[:size])
