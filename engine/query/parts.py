"""Answers in parts: the query process sends no more than the other side has room for.

Parts are made from the Arrow IPC stream as DuckDB gives its batches, so that neither process ever holds more of a large
answer than the window between them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

import pyarrow as pa

from engine.errors import Cancelled
from engine.query.deadlines import Stop

#: A smaller answer comes as a whole.
PART_BYTES = 256 << 10
#: Bytes of one answer that may be on their way between the processes.
WINDOW_BYTES = 1 << 20


class Statement:
    """A statement of the query process while it runs."""

    def __init__(self, window_bytes: int) -> None:
        self.stop = Stop()
        self._changed = threading.Condition()
        self._room = window_bytes
        self.stop.attach(self._wake)

    def taken(self, size: int) -> None:
        """Note that the other side has used ``size`` bytes."""
        with self._changed:
            self._room += size
            self._changed.notify_all()

    def take_room(self, size: int, paused: Callable[[], AbstractContextManager[None]]) -> None:
        """Wait until there is room for ``size`` bytes.

        Raises Cancelled when the statement is stopped meanwhile.
        """
        with self._changed:
            if self._room < size and not self.stop.asked:
                with paused():
                    self._changed.wait_for(lambda: self._room >= size or self.stop.asked)
            if self.stop.asked:
                raise Cancelled("cannot run SQL: it was cancelled")
            self._room -= size

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()


class Parts:
    """The sink of one answer."""

    def __init__(
        self,
        statement: Statement,
        send: Callable[..., None],
        paused: Callable[[], AbstractContextManager[None]],
    ) -> None:
        """``send`` takes the pieces of one part; ``paused``: the context to wait in."""
        self._statement, self._send, self._paused = statement, send, paused
        #: What has not been sent yet.
        self.left: list[memoryview] = []
        self._size = self._written = 0
        self.closed = self._sent = False

    def write(self, data: bytes | pa.Buffer) -> int:
        """Take the next bytes of the stream; waits while the other side has no room for more."""
        rest = memoryview(data)
        self._written += len(rest)
        while len(rest):
            piece = rest[: PART_BYTES - self._size]
            rest = rest[len(piece) :]
            self.left.append(piece)
            self._size += len(piece)
            if self._size == PART_BYTES:
                self._statement.take_room(PART_BYTES, self._paused)
                self._sent = True
                self._send(*self.left)
                self.left, self._size = [], 0
        return len(data)

    def restart(self) -> bool:
        """Forget what was written, for another beginning; False when part of it has been sent."""
        if self._sent:
            return False
        self.left, self._size, self._written, self.closed = [], 0, 0, False
        return True

    def tell(self) -> int:
        return self._written

    def flush(self) -> None:
        """Part of being a file: what is smaller than a part waits for the end."""

    def close(self) -> None:
        self.closed = True
