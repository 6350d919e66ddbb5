"""Interrupts statements that run too long or are no longer wanted, from one thread for all of them."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

#: DuckDB forgets an interrupt that comes between two statements, so it is repeated until the watch ends.
REPEAT_SECONDS = 0.05


class Interruptible(Protocol):
    def interrupt(self) -> None: ...


class Stop:
    """The wish, from another thread, that a statement end now; made once and kept."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._hooks: list[Callable[[], object]] = []
        self.asked = False

    def ask(self) -> None:
        with self._lock:
            self.asked = True
            hooks, self._hooks = self._hooks, []
        for hook in hooks:
            hook()

    def attach(self, hook: Callable[[], object]) -> None:
        """Call ``hook`` when a stop is asked for, at once if it has been."""
        with self._lock:
            if not self.asked:
                self._hooks.append(hook)
                return
        hook()


@dataclass(slots=True, eq=False)
class Watch:
    """One statement under watch; ``expired`` says that its time is up, ``cancelled`` that it is not wanted any more."""

    connection: Interruptible | None
    deadline: float
    expired: bool = False
    cancelled: bool = False


class Deadlines:
    """The watches of one database."""

    def __init__(self) -> None:
        self._watches: set[Watch] = set()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    @contextmanager
    def watch(self, connection: Interruptible | None, seconds: float) -> Iterator[Watch]:
        """Interrupt ``connection`` once ``seconds`` have passed, as long as the block is not left.

        Without one the watch expires all the same; see :meth:`on`.
        """
        watch = Watch(connection, time.monotonic() + seconds)
        with self._changed:
            self._watches.add(watch)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="query-deadlines", daemon=True)
                self._thread.start()
            self._changed.notify()
        try:
            yield watch
        finally:
            with self._changed:
                self._watches.discard(watch)

    @contextmanager
    def on(self, watch: Watch, connection: Interruptible) -> Iterator[None]:
        """Let a watch interrupt this connection while the block runs."""
        with self._changed:
            watch.connection = connection
        try:
            yield
        finally:
            with self._changed:
                watch.connection = None

    def cancel(self, watch: Watch) -> None:
        """Let one watch expire now, because nobody wants the answer."""
        with self._changed:
            watch.cancelled = True
            watch.deadline = 0.0
            self._changed.notify()

    @contextmanager
    def paused(self, watch: Watch) -> Iterator[None]:
        """Let the time stand still while the block runs; it is not the statement's."""
        began = time.monotonic()
        with self._changed:
            left, watch.deadline = watch.deadline - began, 0.0 if watch.cancelled else math.inf
        try:
            yield
        finally:
            with self._changed:
                watch.deadline = 0.0 if watch.cancelled or not watch.deadline else time.monotonic() + left
                self._changed.notify()

    def expire_all(self) -> None:
        """Let every watch expire now."""
        with self._changed:
            for watch in self._watches:
                watch.deadline = 0.0
            self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
            thread = self._thread
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                for watch in self._watches:
                    if watch.deadline <= now:
                        watch.expired = True
                        if watch.connection is not None:
                            watch.connection.interrupt()
                waits = [
                    max(watch.deadline - now, REPEAT_SECONDS) for watch in self._watches if watch.deadline < math.inf
                ]
                self._changed.wait(min(waits) if waits else None)
