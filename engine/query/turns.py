"""Taking turns: so many queries at once, so many waiting, the rest told to come back."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from engine.errors import QueueFull


class Turns:
    """Lets ``at_once`` callers in, makes ``waiting`` more wait for at most ``patience_seconds``."""

    def __init__(self, at_once: int, waiting: int, patience_seconds: float) -> None:
        self._free = threading.Semaphore(at_once)
        self._lock = threading.Lock()
        self._limit, self._patience_seconds = waiting, patience_seconds
        self._waiting = 0

    @contextmanager
    def take(self) -> Iterator[None]:
        """Hold a turn while the block runs; raises QueueFull when too many wait or the wait is too long."""
        if not self._free.acquire(blocking=False):
            self._wait()
        try:
            yield
        finally:
            self._free.release()

    def _wait(self) -> None:
        with self._lock:
            if self._waiting >= self._limit:
                raise QueueFull(f"cannot start the query: {self._waiting} are waiting already (query.queue)")
            self._waiting += 1
        try:
            if not self._free.acquire(timeout=self._patience_seconds):
                raise QueueFull(f"cannot start the query: none of those running ended in {self._patience_seconds:g} s")
        finally:
            with self._lock:
                self._waiting -= 1
