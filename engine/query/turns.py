"""Taking turns: so many queries at once, fairly among callers; so many waiting, the rest told to come back.

Of the callers that wait, the one that has had the least time for its weight goes next (stride scheduling by time used:
Waldspurger and Weihl, "Stride Scheduling", 1995; what runs counts as it goes).  One that has been away starts from
where the others are: time not used is not saved up.  A caller's own queries go in order of arrival.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from dataclasses import dataclass, field

from prometheus_client import Counter

from engine.catalog.callers import Caller
from engine.errors import Cancelled, QueueFull
from engine.query.deadlines import Stop
from engine.vitals import Vitals

#: A turn costs at least this, so that very short ones alternate too.
LEAST_SECONDS = 0.001
LONGEST_RETRY_AFTER_SECONDS = 60
#: How fast the mean length of a turn follows: each turn counts for a tenth.
SHARE_OF_LAST = 0.1


@dataclass(slots=True, eq=False)
class _Line:
    """One caller's queries.  ``used``: seconds divided by weight, of turns that are over."""

    name: str
    weight: int = 1
    at_once: int | None = None
    used: float = 0.0
    waiting: deque[Turn] = field(default_factory=deque)
    running: dict[Turn, float] = field(default_factory=dict)
    #: By outcome, and that of seconds spent under the empty text.
    counters: dict[str, Counter] = field(default_factory=dict)

    def may_run(self) -> bool:
        return self.at_once is None or len(self.running) < self.at_once

    def due(self, now: float) -> float:
        return self.used + sum(now - since for since in self.running.values()) / self.weight


class Turn:
    """A place in the queue; ``granted`` is completed when the query may run."""

    __slots__ = ("granted", "line", "number")

    def __init__(self, line: _Line, number: int) -> None:
        self.line, self.number = line, number
        self.granted: Future[None] = Future()


class Turns:
    """Lets ``at_once`` queries in, makes ``waiting`` more wait for at most ``patience_seconds``.

    Callers by name may have ``caller_at_once`` and ``caller_waiting`` of these, unless they come with numbers of their
    own; whoever has no name, and so is everyone, is not held to them.
    """

    def __init__(
        self,
        path: str,
        at_once: int,
        waiting: int,
        patience_seconds: float,
        *,
        caller_at_once: int,
        caller_waiting: int,
        monotonic: Callable[[], float],
        vitals: Vitals,
    ) -> None:
        """``path`` names the queue in metrics and messages."""
        self._path, self._at_once, self._limit, self.patience_seconds = path, at_once, waiting, patience_seconds
        self._caller_at_once, self._caller_waiting = caller_at_once, caller_waiting
        self._monotonic, self._vitals = monotonic, vitals
        self._lock = threading.Lock()
        self._lines: dict[str, _Line] = {}
        self._running = self._waiting = self._arrived = 0
        self._virtual = 0.0
        self._mean_seconds = 0.0

    @contextmanager
    def take(self, caller: Caller, stop: Stop | None = None) -> Iterator[None]:
        """Hold a turn while the block runs; raises QueueFull when too many wait or the wait is too long.

        ``stop`` ends the wait, which then raises Cancelled.
        """
        turn = self.enter(caller)
        try:
            if stop is not None:
                stop.attach(turn.granted.cancel)
            try:
                turn.granted.result(self.patience_seconds)
            except TimeoutError:
                raise self.impatient(turn) from None
            except CancelledError:
                raise Cancelled("cannot start the query: it was cancelled") from None
            yield
        finally:
            self.leave(turn)

    def enter(self, caller: Caller) -> Turn:
        """Return a turn, granted or waiting, which must be left in the end; raises QueueFull."""
        with self._lock:
            line = self._line(caller)
            mine = caller.queue if caller.queue is not None else self._caller_waiting if caller.name else self._limit
            self._arrived += 1
            turn = Turn(line, self._arrived)
            line.waiting.append(turn)
            self._waiting += 1
            self._grant()
            if turn.granted.done():
                return turn
            if len(line.waiting) > mine or self._waiting > self._limit:
                line.waiting.remove(turn)
                self._waiting -= 1
                self._count(line, "refused")
                raise self._full(line, mine)
            self._show(line)
            return turn

    def leave(self, turn: Turn) -> None:
        """End a turn, or no longer wait for one; harmless when repeated."""
        line = turn.line
        with self._lock:
            since = line.running.pop(turn, None)
            if since is not None:
                seconds = self._monotonic() - since
                line.used += seconds / line.weight
                self._running -= 1
                self._mean_seconds += SHARE_OF_LAST * (seconds - self._mean_seconds)
                self._spent(line, seconds)
                self._grant()
            elif turn in line.waiting:
                line.waiting.remove(turn)
                self._waiting -= 1
                self._count(line, "left")
            self._show(line)

    def may_pass(self, caller: Caller) -> bool:
        """Return whether a query of the caller would be let in now, with nobody waiting before it."""
        with self._lock:
            return not self._waiting and self._running < self._at_once and self._line(caller).may_run()

    def passed(self, caller: Caller, seconds: float) -> None:
        """Count a query that was too short to take its turn as one that has."""
        with self._lock:
            line = self._line(caller)
            self._virtual = max(self._virtual, line.used)
            line.used += (LEAST_SECONDS + seconds) / line.weight
            self._mean_seconds += SHARE_OF_LAST * (seconds - self._mean_seconds)
            self._count(line, "granted")
            self._spent(line, seconds)

    def impatient(self, turn: Turn) -> QueueFull:
        """Return the error of a turn that was waited for in vain."""
        return QueueFull(
            f"cannot start the query: its turn did not come within {self.patience_seconds:g} s",
            retry_after_seconds=self._retry_after(),
        )

    # --- under the lock

    def _line(self, caller: Caller) -> _Line:
        line = self._lines.get(caller.name)
        if line is None:
            line = self._lines[caller.name] = _Line(caller.name)
        line.weight = caller.weight
        line.at_once = caller.concurrency
        if line.at_once is None and caller.name:
            line.at_once = self._caller_at_once
        if not line.waiting and not line.running:
            line.used = max(line.used, self._virtual)
        return line

    def _grant(self) -> None:
        """Let in whom there is room for."""
        now = self._monotonic()
        while self._running < self._at_once:
            ready = [line for line in self._lines.values() if line.waiting and line.may_run()]
            if not ready:
                return
            line = min(ready, key=lambda each: (each.due(now), each.waiting[0].number))
            self._virtual = max(self._virtual, line.due(now))
            turn = line.waiting.popleft()
            self._waiting -= 1
            if not turn.granted.set_running_or_notify_cancel():
                # Nobody waits for it any more.
                self._count(line, "left")
                continue
            line.used += LEAST_SECONDS / line.weight
            line.running[turn] = now
            self._running += 1
            self._count(line, "granted")
            self._show(line)
            turn.granted.set_result(None)

    def _full(self, line: _Line, mine: int) -> QueueFull:
        if len(line.waiting) >= mine and line.name:
            message = f"cannot start the query: {len(line.waiting)} of {line.name!r} are waiting already"
        else:
            message = f"cannot start the query: {self._waiting} are waiting already (query.queue)"
        return QueueFull(message, retry_after_seconds=self._retry_after())

    def _retry_after(self) -> int:
        seconds = self._mean_seconds * (self._waiting + 1) / self._at_once
        return max(1, min(LONGEST_RETRY_AFTER_SECONDS, math.ceil(seconds)))

    def _count(self, line: _Line, outcome: str) -> None:
        # Looking counters up by their labels takes longer than the rest of letting a query in.
        counter = line.counters.get(outcome)
        if counter is None:
            counter = line.counters[outcome] = self._vitals.query_turns.labels(self._path, line.name, outcome)
        counter.inc()

    def _spent(self, line: _Line, seconds: float) -> None:
        counter = line.counters.get("")
        if counter is None:
            counter = line.counters[""] = self._vitals.query_turn_seconds.labels(self._path, line.name)
        counter.inc(max(0.0, seconds))

    def _show(self, line: _Line) -> None:
        self._vitals.query_running.labels(self._path, line.name).set(len(line.running))
        self._vitals.query_waiting.labels(self._path, line.name).set(len(line.waiting))
