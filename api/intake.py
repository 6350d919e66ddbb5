"""How large bodies come in: from the socket straight into the memory that they are decoded from.

uvicorn's protocol hands a body on in pieces, each copied several times on the way.  That is right for bodies that are
looked at piece by piece; a write of some megabytes spends more time there than in its decoder.  ``IntakeProtocol``
stands between the transport and uvicorn's protocol.  It leaves everything to the latter until a request declares a
large body; then it gives the transport that body's own memory to read into, and takes the parser out of the way until
the last byte has arrived.  The application finds the body in its scope (:func:`whole_body`).

Requests that take less time to answer than to make a task of are answered where their headers end (``at_once``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, MutableMapping
from types import MappingProxyType
from typing import Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from native.slabs import Slab

#: Bodies of fewer bytes come as uvicorn gives them: they fit into one or two reads.
DIRECT_BYTES = 64 << 10
#: What one read takes while no large body is coming in.
READ_BYTES = 256 << 10
SCOPE_KEY = "tidegauge.body"
#: Where a request's scope has what ends its connection at once, dropping what has not been sent.
ABORT_KEY = "tidegauge.abort"
#: By path what returns the whole response to a request with this scope, or None.
AtOnce = Mapping[bytes, Callable[[MutableMapping[str, Any]], bytes | None]]
_NOTHING_AT_ONCE: AtOnce = MappingProxyType({})


class WholeBody:
    """A body of known length on its way into one piece of memory."""

    __slots__ = ("_ask", "_complete", "_filled", "_view")

    def __init__(self, size: int, loop: asyncio.AbstractEventLoop, ask: Callable[[], None]) -> None:
        """``ask`` is called when the body is wanted, for clients that wait to be asked."""
        self._view = memoryview(cast("Any", Slab(size)))
        self._filled = 0
        self._ask = ask
        self._complete: asyncio.Future[memoryview | None] = loop.create_future()

    @property
    def rest(self) -> memoryview:
        """The memory that is still to be filled."""
        return self._view[self._filled :]

    def take(self, data: bytes) -> None:
        self._view[self._filled : self._filled + len(data)] = data
        self.filled(len(data))

    def filled(self, size: int) -> None:
        self._filled += size
        if self._filled == len(self._view) and not self._complete.done():
            self._complete.set_result(self._view)

    def lost(self) -> None:
        """The connection ended before the body did."""
        if not self._complete.done():
            self._complete.set_result(None)

    async def complete(self) -> memoryview | None:
        """Return the body once it is there; None when it will not come."""
        if not self._complete.done():
            self._ask()
        return await self._complete


def whole_body(scope: Mapping[str, Any]) -> WholeBody | None:
    """Return the body that comes in beside ``receive``, or None when ``receive`` brings it."""
    found: WholeBody | None = scope.get(SCOPE_KEY)
    return found


class _Http(HttpToolsProtocol):
    """uvicorn's protocol, which lets go of large bodies of up to ``max_body`` bytes that are POSTed to ``paths``."""

    max_body = 0
    paths: frozenset[str] = frozenset()
    at_once: AtOnce = _NOTHING_AT_ONCE
    coming: WholeBody | None = None
    #: Whether the request that is being read has been answered already, and whether one of this read has.
    _answered = _answered_one = False

    def data_received(self, data: bytes) -> None:
        self._answered_one = False
        super().data_received(data)

    def on_headers_complete(self) -> None:
        if not self._answered_one and b"?" in self.url and self._answer_at_once():
            return
        super().on_headers_complete()
        scope = cast("dict[str, Any]", self.scope)
        scope[ABORT_KEY] = self.transport.abort
        size = _declared_size(self.headers)
        if not DIRECT_BYTES <= size <= self.max_body or scope["method"] != "POST" or scope["path"] not in self.paths:
            return
        if self.pipeline or self.parser.should_upgrade():
            # A body behind other requests waits its turn; what follows an upgrade is no body to the parser.
            return
        self.coming = scope[SCOPE_KEY] = WholeBody(size, self.loop, self._continue)

    def _answer_at_once(self) -> bool:
        """Answer the request without a task if there is something that does; return whether it has been."""
        path, _, query = self.url.partition(b"?")
        answer = self.at_once.get(path)
        if answer is None or b"#" in query or self.parser.get_method() != b"GET":
            return False
        busy = self.cycle is not None and not self.cycle.response_complete
        if busy or self.flow.write_paused or self.transport.is_closing() or self.expect_100_continue:
            return False
        parser = self.parser
        if parser.get_http_version() != "1.1" or not parser.should_keep_alive() or parser.should_upgrade():
            return False
        for name, _ in self.headers:
            if name in (b"content-length", b"transfer-encoding"):
                return False
        scope = cast("dict[str, Any]", self.scope)
        scope["method"], scope["path"], scope["raw_path"] = "GET", path.decode("ascii"), path
        scope["query_string"] = query
        response = answer(scope)
        if response is None:
            return False
        # One of those that come together: others wait their turn as tasks, or they could hold up everyone.
        self._answered = self._answered_one = True
        self.transport.write(response)
        self.server_state.total_requests += 1
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)
        return True

    def _continue(self) -> None:
        cycle = self.cycle
        if cycle.waiting_for_100_continue and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            cycle.waiting_for_100_continue = False

    def on_body(self, body: bytes) -> None:
        if self.coming is None:
            super().on_body(body)
        else:
            self.coming.take(body)

    def on_message_complete(self) -> None:
        if self._answered:
            self._answered = False
            return
        self.coming = None
        super().on_message_complete()

    def body_filled(self, size: int) -> None:
        """Note that ``size`` bytes of the body have been read past the parser."""
        assert self.coming is not None
        self._unset_keepalive_if_required()
        self.coming.filled(size)
        if not len(self.coming.rest):
            # The parser still waits for this body.  Requests that follow get one that never heard of it.
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            self.coming = None
            self.cycle.more_body = False
            self.cycle.message_event.set()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.coming is not None:
            self.coming.lost()
            self.coming = None
        super().connection_lost(exc)


class IntakeProtocol(asyncio.BufferedProtocol):
    """What uvicorn is told to use; made once a connection."""

    #: Reads that are no large body; one for all connections, since a read is dealt with before the next one begins.
    _scratch = memoryview(bytearray(READ_BYTES))

    def __init__(self, http: _Http) -> None:
        self._http = http
        self._into_body = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._http.connection_made(cast("asyncio.Transport", transport))

    def connection_lost(self, exc: Exception | None) -> None:
        self._http.connection_lost(exc)

    def eof_received(self) -> None:
        self._http.eof_received()

    def pause_writing(self) -> None:
        self._http.pause_writing()

    def resume_writing(self) -> None:
        self._http.resume_writing()

    def get_buffer(self, sizehint: int) -> memoryview:
        coming = self._http.coming
        self._into_body = coming is not None
        return self._scratch if coming is None else coming.rest

    def buffer_updated(self, nbytes: int) -> None:
        if self._into_body:
            self._http.body_filled(nbytes)
        else:
            self._http.data_received(bytes(self._scratch[:nbytes]))


def intake(max_body: int, paths: frozenset[str], at_once: AtOnce = _NOTHING_AT_ONCE) -> Callable[..., IntakeProtocol]:
    """Return what makes protocols for uvicorn.

    Only handlers of ``paths`` look for a :func:`whole_body`; bodies over ``max_body`` bytes are theirs to refuse.
    ``at_once``: by path what returns the whole response to a GET with parameters, or None where the application is to
    be called; it is given the request's scope and takes well under a millisecond.
    """

    def make(**options: Any) -> IntakeProtocol:
        http = _Http(**options)
        http.max_body, http.paths, http.at_once = max_body, paths, at_once
        return IntakeProtocol(http)

    return make


def _declared_size(headers: list[tuple[bytes, bytes]]) -> int:
    for name, value in headers:
        if name == b"content-length":
            return int(value) if value.isdigit() else 0
    return 0
