"""HTTP requests to one server over one kept connection, with the standard library alone.

What sends takes a :class:`Transport`; tests hand in one without a socket.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar
from urllib.parse import urlsplit

from engine.errors import BadRequest

USER_AGENT = "tidegauge"
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Response:
    """A status, the headers with names in lower case, and the whole body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class CutOff(ConnectionError):
    """The connection ended in the middle of a response, of which ``partial`` had come."""

    def __init__(self, message: str, partial: bytes) -> None:
        super().__init__(message)
        self.partial = partial


class Arriving:
    """A response whose body is read as it comes, as from a file."""

    closed = False

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers: Mapping[str, str] = {name.lower(): value for name, value in response.getheaders()}
        self._response = response

    def read(self, size: int = -1) -> bytes:
        """Return up to ``size`` bytes, all that are left for -1; raises CutOff when the connection ends before them."""
        try:
            return self._response.read(None if size < 0 else size)
        except http.client.IncompleteRead as error:
            raise CutOff("the connection ended in the middle of the response", error.partial) from error
        except http.client.HTTPException as error:
            raise ConnectionError(f"the answer is not HTTP: {error!r}") from error

    @property
    def at_end(self) -> bool:
        return self._response.isclosed()

    def close(self) -> None:
        """The transport closes."""


class Transport(Protocol):
    """Sends one request and returns the response, whatever its status."""

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Response:
        """Raises OSError when no whole response was received: refused, reset, timed out, not HTTP."""

    def arriving(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> AbstractContextManager[Arriving]:
        """Give a response whose body is still to be read; other requests wait until the block is left."""

    def abort(self) -> None:
        """End the request that another thread waits for, which then raises OSError; harmless when none does."""

    def close(self) -> None: ...


class HttpTransport:
    """One connection to the server at ``url``, ``http(s)://host:port/prefix``; reopened when it was closed.

    Threads take turns.  ``timeout_seconds`` is for each wait on the socket.  Raises BadRequest for an
    unusable url.
    """

    def __init__(self, url: str, *, token: str | None = None, timeout_seconds: float = 30.0) -> None:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            parts, host, port = urlsplit(""), None, None
        if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
            raise BadRequest(f'cannot use server address: got {url!r}, want for example "http://127.0.0.1:8433"')
        self.url = url.rstrip("/")
        self._prefix = parts.path.rstrip("/")
        self._headers = {"User-Agent": USER_AGENT}
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"
        self._lock = threading.Lock()
        self._aborted = False
        self._connection = (
            http.client.HTTPSConnection(host, port, timeout=timeout_seconds, context=ssl.create_default_context())
            if parts.scheme == "https"
            else http.client.HTTPConnection(host, port, timeout=timeout_seconds)
        )

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Response:
        with self._lock:
            return self._twice(lambda: self._exchange(method, path, body, headers or {}))

    @contextmanager
    def arriving(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Iterator[Arriving]:
        """See :class:`Transport`; a body that is not read to its end costs the connection."""
        with self._lock:
            arriving = Arriving(self._twice(lambda: self._begin(method, path, body, headers or {})))
            try:
                yield arriving
            finally:
                if not arriving.at_end:
                    self._connection.close()

    def _twice(self, exchange: Callable[[], _T]) -> _T:
        was_open = self._connection.sock is not None
        self._aborted = False
        try:
            return exchange()
        except (BrokenPipeError, ConnectionResetError, http.client.RemoteDisconnected):
            # The server may close a kept connection at any time; only a fresh one that fails is news.
            # Sending the same samples twice changes nothing.
            if self._aborted or not was_open:
                raise
            return exchange()

    def _exchange(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Response:
        arriving = Arriving(self._begin(method, path, body, headers))
        try:
            content = arriving.read()
        except BaseException:
            # Also when the caller is interrupted: the rest of this answer must not become the next one's.
            self._connection.close()
            raise
        return Response(arriving.status, arriving.headers, content)

    def _begin(
        self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]
    ) -> http.client.HTTPResponse:
        try:
            try:
                self._connection.request(method, self._prefix + path, body, {**self._headers, **headers})
            except (BrokenPipeError, ConnectionResetError):
                # The server may have answered and closed before it had read the whole body (413 does).
                return self._connection.getresponse()
            return self._connection.getresponse()
        except http.client.RemoteDisconnected:
            self._connection.close()
            raise
        except http.client.HTTPException as error:
            self._connection.close()
            raise ConnectionError(f"the answer is not HTTP: {error!r}") from error
        except BaseException:
            self._connection.close()
            raise

    def abort(self) -> None:
        """See :class:`Transport`; the server notices that the connection has ended."""
        self._aborted = True
        connected = self._connection.sock
        if connected is not None:
            with contextlib.suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with self._lock:
            self._connection.close()
