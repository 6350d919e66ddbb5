"""Answers to SQL on their way from the query process, taken a part at a time."""

from __future__ import annotations

import queue
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Protocol

import msgspec
import pyarrow as pa
import pyarrow.ipc

from engine.errors import Cancelled, Unavailable
from engine.query import wire
from engine.query.deadlines import Stop
from engine.query.parts import WINDOW_BYTES
from engine.query.process import Pending, QueryProcess
from engine.query.sources import SqlAnswer, SqlRequest
from engine.query.supervisor import Supervisor

#: A statement whose worker ended for another one's sake is run once more.
STATEMENT_ATTEMPTS = 2


def answer_of(reply: wire.Answered, stream: bytearray | bytes) -> SqlAnswer:
    return SqlAnswer(
        stream=bytes(stream),
        rows=reply.rows,
        elapsed_seconds=reply.elapsed_seconds,
        rows_read=reply.rows_read,
        files=reply.files,
    )


class AnswerParts(Protocol):
    """An answer on its way: an iterator over the bytes of an Arrow IPC stream."""

    #: What is known of it at the end; its ``stream`` is empty.
    answer: SqlAnswer | None

    def __iter__(self) -> Iterator[bytes | bytearray]: ...

    def close(self) -> None:
        """End the statement, if it has not ended, and wait until it has."""


class WholeAnswer:
    """An answer that has come as a whole."""

    def __init__(self, answer: SqlAnswer) -> None:
        self.answer: SqlAnswer | None = msgspec.structs.replace(answer, stream=b"")
        self._stream = answer.stream

    def __iter__(self) -> Iterator[bytes | bytearray]:
        yield self._stream

    def close(self) -> None:
        """There is nothing to be ended."""


class ArrivingAnswer:
    """An answer that comes from the query process as its reader has use for it; one thread at a time reads it."""

    def __init__(self, supervisor: Supervisor, request: SqlRequest, stop: Stop, *, grace_seconds: float) -> None:
        """The statement is sent at once.  Raises what keeps the query process from running."""
        self.answer: SqlAnswer | None = None
        self._supervisor, self._request, self._stop = supervisor, request, stop
        self._seconds = request.limits.timeout_seconds
        self._grace_seconds = grace_seconds
        self._begin()
        stop.attach(self._ask)

    def __iter__(self) -> Iterator[bytes | bytearray]:
        attempts, begun = STATEMENT_ATTEMPTS, False
        while True:
            part = self._next_part()
            if part is not None:
                begun = True
                yield part
                continue
            reply = self._pending.reply
            if isinstance(reply, wire.Answered):
                self.answer = answer_of(reply, b"")
                yield self._pending.attachment
                return
            if isinstance(reply, wire.Failed):
                raise wire.error_of(reply)
            if self._stop.asked:
                raise Cancelled("cannot run SQL: it was cancelled")
            error = self._supervisor.fate(self._process, self._pending, self._seconds)
            if error is not None:
                raise error
            attempts -= 1
            if begun or not attempts:
                # What has been handed on cannot be taken back.
                raise Unavailable(
                    f"cannot reach the query process: it ended before the answer did ({self._process.ended_by})"
                )
            self._supervisor.count_repeated()
            self._begin()

    def close(self) -> None:
        """End the statement, if it has not ended, and wait until it has."""
        if not self._pending.done.is_set():
            self._ask()
            while self._next_part() is not None:
                pass

    def _begin(self) -> None:
        self._process: QueryProcess = self._supervisor.ready()
        self._pending = Pending(True, queue.SimpleQueue())
        request = self._request
        self._supervisor.submit(self._process, lambda number: wire.RunSql(number, request, WINDOW_BYTES), self._pending)
        if self._stop.asked:
            self._ask()

    def _next_part(self) -> bytearray | None:
        """Return the next part, None behind the last one; a worker that gives neither in time is killed."""
        parts = self._pending.parts
        assert parts is not None
        try:
            part = parts.get(timeout=self._seconds + self._grace_seconds)
        except queue.Empty:
            self._supervisor.kill(self._process, self._pending)
            part = parts.get()
        if part is not None:
            self._supervisor.tell(self._process, wire.Taken(self._pending.number, len(part)))
        return part

    def _ask(self) -> None:
        self._supervisor.tell(self._process, wire.StopSql(self._pending.number))


class SqlStream:
    """An answer with what it was made from.  A context manager, which ends the statement; one thread at a time."""

    def __init__(self, parts: AnswerParts, known: Mapping[str, Any], held: ExitStack) -> None:
        """``known``: what can be told before the answer; ``held``: what must not go before its end, taken over from
        whoever made it once the answer has begun.

        Raises what the statement raises before its first rows.
        """
        self.known, self._parts = dict(known), parts
        pieces = iter(parts)
        first = next(pieces)
        #: The answer is here as a whole: it was small.
        self.whole = parts.answer is not None
        source = pa.py_buffer(first) if self.whole else pa.PythonFile(_Pieces(first, pieces), mode="r")
        self._reader = pa.ipc.open_stream(source)
        self._held = held.pop_all()

    @property
    def schema(self) -> pa.Schema:
        return self._reader.schema

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the rows; raises what ends the statement early."""
        return iter(self._reader)

    def begin(self, most_bytes: int) -> tuple[list[pa.RecordBatch], Iterator[pa.RecordBatch] | None]:
        """Read the rows until they are more than ``most_bytes`` of Arrow; the rest comes beside, None without one."""
        return first_of(self.batches(), most_bytes)

    @property
    def metadata(self) -> dict[str, Any]:
        """What the answer says about itself (docs/sql.md), complete once all rows have been read."""
        answer = self._parts.answer
        if answer is None:
            return self.known
        return {
            "rows": answer.rows,
            "elapsed_seconds": round(answer.elapsed_seconds, 6),
            **self.known,
            "files": answer.files,
            "rows_read": answer.rows_read,
        }

    def __enter__(self) -> SqlStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._held.__exit__(kind, error, traceback)


def first_of(
    batches: Iterator[pa.RecordBatch], most_bytes: int
) -> tuple[list[pa.RecordBatch], Iterator[pa.RecordBatch] | None]:
    """Take batches until they are more than ``most_bytes``; return them and the iterator, None when it has ended."""
    first: list[pa.RecordBatch] = []
    size = 0
    for batch in batches:
        first.append(batch)
        size += batch.nbytes
        if size > most_bytes:
            return first, batches
    return first, None


class _Pieces:
    """Pieces of bytes as a file to read from."""

    closed = False

    def __init__(self, first: bytes | bytearray, rest: Iterator[bytes | bytearray]) -> None:
        self._view, self._rest = memoryview(first), rest

    def read(self, size: int) -> bytes:
        found: list[memoryview] = []
        while size:
            if not self._view:
                piece = next(self._rest, None)
                if piece is None:
                    break
                self._view = memoryview(piece)
            found.append(self._view[:size])
            size -= len(found[-1])
            self._view = self._view[len(found[-1]) :]
        return b"".join(found)

    def close(self) -> None:
        """The statement is ended elsewhere."""
