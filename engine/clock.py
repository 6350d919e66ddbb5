"""The clock as an argument: product code takes a :class:`Clock`, tests hand in a :class:`ManualClock`."""

from __future__ import annotations

import time
from typing import Protocol

NS_PER_MS = 1_000_000
NS_PER_SECOND = 1_000_000_000
NS_PER_MINUTE = 60 * NS_PER_SECOND
NS_PER_HOUR = 3_600 * NS_PER_SECOND
NS_PER_DAY = 86_400 * NS_PER_SECOND


class Clock(Protocol):
    """Wall-clock time for what is stored and monotonic time for what is measured."""

    def now_ns(self) -> int:
        """Return nanoseconds since 1970-01-01 UTC."""

    def monotonic(self) -> float:
        """Return seconds on a clock that never goes back."""


class SystemClock:
    """The machine's own clock."""

    def now_ns(self) -> int:
        return time.time_ns()

    def monotonic(self) -> float:
        return time.monotonic()


class ManualClock:
    """A clock that moves only when told to; for tests and for replaying history."""

    def __init__(self, now_ns: int = 1_700_000_000 * NS_PER_SECOND) -> None:
        self._now_ns = now_ns

    def now_ns(self) -> int:
        return self._now_ns

    def monotonic(self) -> float:
        return self._now_ns / NS_PER_SECOND

    def advance(self, seconds: float) -> None:
        """Move forward by ``seconds``."""
        self._now_ns += round(seconds * NS_PER_SECOND)

    def set_ns(self, now_ns: int) -> None:
        """Jump to ``now_ns`` nanoseconds since 1970-01-01 UTC, in either direction."""
        self._now_ns = now_ns
