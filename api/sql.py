"""The answer to ``/v1/sql`` or ``/v1/rows`` on its way to one client: whole when it is small, else a batch at a time.

Nothing of a large answer is read before there is room for it: the client's socket holds up this sender, which holds up
the statement.  A client that goes away ends its statement; one that is too slow is cut off, so that its turn is free.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa
from litestar import Request, Response

from api.asgi import Receive, Scope, Send, told_headers
from api.auth import caller_of
from api.intake import ABORT_KEY
from api.turns import QueryThreads, turn_of
from engine.catalog.callers import Caller
from engine.errors import Bug, TidegaugeError
from engine.query.deadlines import Stop
from engine.query.results import render
from engine.query.streams import FORMS, Form
from engine.query.turns import Turns

LOG = logging.getLogger("tidegauge.api")
#: A client that takes so many bytes a second is never too slow.
LEAST_BYTES_PER_SECOND = 256 << 10
#: An answer with more bytes of Arrow than this is sent as it comes.
WHOLE_BYTES = 4 << 20
#: Sent at once, at most; whoever stops reading is noticed after that and the socket's buffers.
SEND_BYTES = 256 << 10


class AnswerStream(Protocol):
    """An answer whose rows come in batches."""

    known: dict[str, Any]

    @property
    def schema(self) -> pa.Schema: ...

    @property
    def metadata(self) -> dict[str, Any]: ...

    def begin(self, most_bytes: int) -> tuple[list[pa.RecordBatch], Iterator[pa.RecordBatch] | None]: ...


#: Begins an answer for a caller, which a stop ends.
Opening = Callable[[Caller, Stop], AbstractContextManager[AnswerStream]]


class StreamedAnswers:
    """Sends answers whose rows come in batches."""

    def __init__(self, turns: Turns, threads: QueryThreads, patience_seconds: float) -> None:
        """``turns``: what answers take; ``patience_seconds``: how long a client may keep one waiting."""
        self._turns, self._threads, self._patience_seconds = turns, threads, patience_seconds

    async def answer(
        self, opening: Opening, media_type: str, form: str, request: Request[Any, Any, Any]
    ) -> Response[Any]:
        """Return the response: whole, or one that goes on holding its turn until it has been sent."""
        caller, stop = caller_of(request), Stop()
        async with AsyncExitStack() as held:
            gone = await held.enter_async_context(_watched(request, stop))
            await held.enter_async_context(turn_of(self._turns, caller, gone))
            opened = await self._threads.run(lambda: _open(opening(caller, stop), form))
            if isinstance(opened, _Whole):
                return Response(opened.body, media_type=media_type, headers=told_headers(opened.metadata))
            headers = {"content-type": media_type, "x-tidegauge-streamed": "true"} | told_headers(opened.stream.known)
            return _Streamed(opened, headers, self._threads, self._patience_seconds, stop, held.pop_all())


def _open(opening: AbstractContextManager[AnswerStream], form: str) -> _Whole | _Rendering:
    with ExitStack() as held:
        stream = held.enter_context(opening)
        first, rest = stream.begin(WHOLE_BYTES)
        if rest is not None:
            form_ = FORMS[form](stream.schema)
            return _Rendering(stream, form_, itertools.chain(first, rest), held.pop_all())
        table = pa.Table.from_batches(first, stream.schema)
    return _Whole(render(table, form, stream.metadata), stream.metadata)


@asynccontextmanager
async def _watched(request: Request[Any, Any, Any], stop: Stop) -> AsyncIterator[asyncio.Future[None]]:
    """Ask for a stop when the client goes away while the block runs; gives what is completed then."""

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        stop.ask()

    watching = asyncio.create_task(watch())
    try:
        yield watching
    finally:
        watching.cancel()


@dataclass(frozen=True, slots=True)
class _Whole:
    body: bytes
    metadata: Mapping[str, Any]


class _Rendering:
    """A large answer in its form, as an iterator whose steps block."""

    def __init__(self, stream: AnswerStream, form: Form, batches: Iterator[pa.RecordBatch], held: ExitStack) -> None:
        """``held``: what ends the answer."""
        self.stream, self._held = stream, held
        self._form, self._batches = form, batches
        self._chunks = self._rendered()
        # Should the sender be cancelled, the end comes while a step is still under way.
        self._stepping = threading.Lock()

    def next(self) -> bytes | None:
        """Return the next bytes, None behind the last; raises what ends the statement early."""
        with self._stepping:
            return next(self._chunks, None)

    def close(self, error: BaseException | None) -> bytes:
        """End the statement; return what tells the reader of an error."""
        said = b""
        with self._stepping:
            if isinstance(error, TidegaugeError):
                with contextlib.suppress(Exception):
                    said = self._form.fail(error)
            self._held.__exit__(None if error is None else type(error), error, None)
        return said

    def _rendered(self) -> Iterator[bytes]:
        yield self._form.begin()
        for batch in self._batches:
            yield from self._form.batch(batch)
        yield self._form.end(self.stream.metadata)


class _TooSlow(Exception):
    """The client does not take what it asked for."""


class _Streamed(Response[Any]):
    """Sends a large answer."""

    def __init__(
        self,
        rendering: _Rendering,
        headers: Mapping[str, str],
        threads: QueryThreads,
        patience_seconds: float,
        stop: Stop,
        held: AsyncExitStack,
    ) -> None:
        super().__init__(None)
        self._rendering, self._told, self._threads = rendering, headers, threads
        self._patience_seconds, self._stop, self._held = patience_seconds, stop, held
        self._left_seconds = patience_seconds
        self._sent_bytes = 0

    def to_asgi_response(self, *_: Any, **__: Any) -> Any:
        return self._answer

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._held:
            error: BaseException | None = None
            try:
                lines = [(name.lower().encode(), value.encode()) for name, value in self._told.items()]
                await send({"type": "http.response.start", "status": 200, "headers": lines})
                while (chunk := await self._threads.run(self._rendering.next)) is not None:
                    whole = memoryview(chunk)
                    for start in range(0, len(chunk), SEND_BYTES):
                        await self._send(send, whole[start : start + SEND_BYTES])
            except BaseException as raised:
                error = raised
                self._stop.ask()
                if not isinstance(raised, (Exception, asyncio.CancelledError)):
                    raise
            finally:
                said = await self._threads.run(lambda: self._rendering.close(error))
            await self._end(scope, send, error, said)

    async def _send(self, send: Send, chunk: bytes | memoryview) -> None:
        """Send some bytes; raises _TooSlow when the client has kept the answer waiting for too long."""
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            async with asyncio.timeout(self._left_seconds):
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        except TimeoutError:
            raise _TooSlow from None
        waited = clock() - began
        # What was read quickly is no licence to stop: what is left never exceeds the patience.
        earned = len(chunk) / LEAST_BYTES_PER_SECOND
        self._left_seconds = min(self._patience_seconds, self._left_seconds - waited + earned)
        self._sent_bytes += len(chunk)

    async def _end(self, scope: Scope, send: Send, error: BaseException | None, said: bytes) -> None:
        if error is None:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            return
        if isinstance(error, asyncio.CancelledError):
            raise error
        gone = isinstance(error, TidegaugeError) and self._stop.asked and error.code == "cancelled"
        if isinstance(error, _TooSlow):
            LOG.warning("cut off the reader of a large answer, who had taken %d bytes of it", self._sent_bytes)
        elif not gone:
            told = error if isinstance(error, TidegaugeError) else Bug(f"{type(error).__name__}: {error}")
            LOG.warning("a large answer ended early: %s", told.message)
            with contextlib.suppress(_TooSlow):
                # Whoever reads on finds the reason, and no end: the answer is not whole.
                await self._send(send, said)
                await asyncio.sleep(0)
        abort = scope.get(ABORT_KEY)
        if isinstance(error, _TooSlow) and abort is not None:
            abort()
