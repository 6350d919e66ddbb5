"""The DuckDB instances that statements run in, each with memory of its own, so that no statement takes another's.

DuckDB limits memory by instance, not by statement.  In one instance for all a statement that asks for everything makes
whichever asks next fail.  So each statement runs in a small instance, alone there.  One that needs more is run again in
the large instance, where there is one at a time.  Together they have what all statements may use.
"""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager

import duckdb

from engine.query.connection import connect, lock
from engine.query.deadlines import REPEAT_SECONDS

#: Address space that an instance takes beside its memory: heaps, and a stack for each of its threads.
INSTANCE_BYTES, THREAD_BYTES = 64 << 20, 10 << 20
#: What is given to small instances is at most this share of all memory.
SMALL_SHARE = 0.5
#: Statements that are remembered for what they needed.
MOST_REMEMBERED = 200
_VALUES = re.compile(r"'[^']*'|\d+")


class LargeBefore:
    """Which statements have needed more than a small instance has; numbers and texts in them make no difference."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[str, None] = OrderedDict()

    def note(self, sql: str) -> None:
        with self._lock:
            self._known[_VALUES.sub("?", sql)] = None
            while len(self._known) > MOST_REMEMBERED:
                self._known.popitem(last=False)

    def known(self, sql: str) -> bool:
        with self._lock:
            return bool(self._known) and _VALUES.sub("?", sql) in self._known


class Instances:
    """Instances for ``at_once`` statements, made when they are first needed; callable from any thread."""

    def __init__(
        self, memory_bytes: int, statement_bytes: int, at_once: int, threads: int, extensions: Collection[str]
    ) -> None:
        """``memory_bytes``: of all together; ``statement_bytes``: of a small one, less where that is too much for all.

        One is made at once, so that the first statement need not wait for it.  Raises duckdb.Error.
        """
        self.small_bytes = min(statement_bytes, int(memory_bytes * SMALL_SHARE) // at_once)
        self.large_bytes = memory_bytes - at_once * self.small_bytes
        self._at_once, self._threads, self._extensions = at_once, threads, tuple(extensions)
        self._changed = threading.Condition()
        self._free = [self._made(self.small_bytes)]
        self._made_count = 1
        self._large: duckdb.DuckDBPyConnection | None = None
        self._large_taken = False

    @contextmanager
    def small(self, go_on: Callable[[], bool]) -> Iterator[duckdb.DuckDBPyConnection | None]:
        """Give a cursor in a small instance, None when ``go_on`` says no more while all are taken."""
        instance = self._take_small(go_on)
        if instance is None:
            yield None
            return
        try:
            # Even that may find no memory.
            with closing(instance.cursor()) as cursor:
                yield cursor
        finally:
            with self._changed:
                self._free.append(instance)
                self._changed.notify_all()

    @contextmanager
    def large(self, go_on: Callable[[], bool]) -> Iterator[duckdb.DuckDBPyConnection | None]:
        """Give a cursor in the large instance, None when ``go_on`` says no more while another statement has it."""
        with self._changed:
            while self._large_taken:
                if not go_on():
                    break
                self._changed.wait(REPEAT_SECONDS)
            mine = not self._large_taken
            self._large_taken = True
        if not mine:
            yield None
            return
        try:
            if self._large is None:
                self._large = self._made(self.large_bytes)
            with closing(self._large.cursor()) as cursor:
                yield cursor
        finally:
            with self._changed:
                self._large_taken = False
                self._changed.notify_all()

    def close(self) -> None:
        """Close all; nothing may run in them any more."""
        for instance in [*self._free, *([] if self._large is None else [self._large])]:
            instance.close()

    def _take_small(self, go_on: Callable[[], bool]) -> duckdb.DuckDBPyConnection | None:
        with self._changed:
            while not self._free and self._made_count == self._at_once:
                if not go_on():
                    return None
                self._changed.wait(REPEAT_SECONDS)
            if self._free:
                # The one used last, so that those beyond what is usual stay unused.
                return self._free.pop()
            self._made_count += 1
        try:
            return self._made(self.small_bytes)
        except BaseException:
            with self._changed:
                self._made_count -= 1
                self._changed.notify_all()
            raise

    def _made(self, memory_bytes: int) -> duckdb.DuckDBPyConnection:
        instance = connect(None, memory_bytes, self._threads)
        try:
            lock(instance, self._extensions)
        except BaseException:
            instance.close()
            raise
        return instance


def reserved_bytes(at_once: int, threads: int) -> int:
    """Return the address space that all instances take beside their memory."""
    return (at_once + 1) * (INSTANCE_BYTES + threads * THREAD_BYTES)
