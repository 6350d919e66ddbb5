"""The host agent: reads the sensors at every tick and hands the reading to the pusher."""

from __future__ import annotations

from collections.abc import Callable

from engine.clock import Clock
from engine.collect.points import Point, encode_lines
from engine.collect.push import Pusher
from engine.collect.sensors import HostSensors

#: How long after the first reading the second one follows, which is the first with rates and shares of time.
PRIME_SECONDS = 1.0
#: How long the pusher may spend on the buffer between two readings.
_DRAIN_SHARE = 0.5


class Agent:
    """Ties sensors and pusher to a rhythm.

    ``wait(seconds)`` waits and returns True when the agent should stop; ``report`` takes sentences for an
    operator.
    """

    def __init__(
        self,
        sensors: HostSensors,
        pusher: Pusher,
        clock: Clock,
        *,
        host: str,
        interval_seconds: float,
        wait: Callable[[float], bool],
        report: Callable[[str], None],
    ) -> None:
        self._sensors = sensors
        self._pusher = pusher
        self._clock = clock
        self._host = host
        self._interval_seconds = interval_seconds
        self._wait = wait
        self._report = report
        self._failures: frozenset[str] = frozenset()
        self._failed_reads = 0

    def once(self) -> bool:
        """Push one whole reading; return whether it was delivered (it waits in the buffer otherwise)."""
        self._sensors.read()
        self._wait(PRIME_SECONDS)
        return self.tick()

    def run(self) -> None:
        """Push a reading every interval until told to stop.

        The ticks keep their rhythm whatever reading and sending take; one that comes too late is left out
        and said.
        """
        self._sensors.read()
        if self._wait(min(PRIME_SECONDS, self._interval_seconds)):
            return
        due = self._clock.monotonic()
        while True:
            self.tick()
            self._pusher.drain(seconds=self._interval_seconds * _DRAIN_SHARE)
            due += self._interval_seconds
            late = self._clock.monotonic() - due
            if late > 0:
                missed = int(late // self._interval_seconds) + 1
                due += missed * self._interval_seconds
                self._report(f"reading and sending took too long: left out {missed} readings")
            if self._wait(max(0.0, due - self._clock.monotonic())):
                return

    def tick(self) -> bool:
        """Read and push once; return whether it was delivered."""
        started = self._clock.monotonic()
        reading = self._sensors.read()
        seconds = self._clock.monotonic() - started
        self._failed_reads += len(reading.failures)
        for failure in reading.failures:
            if failure not in self._failures:
                self._report(failure)
        self._failures = frozenset(reading.failures)
        own = Point(
            "agent",
            {"host": self._host},
            {
                "read_seconds": round(seconds, 4),
                "sensor_failures_total": self._failed_reads,
                "delivered_lines_total": self._pusher.delivered_lines,
                "refused_lines_total": self._pusher.refused_lines,
                "lost_lines_total": self._pusher.lost_lines,
                "buffered_batches": self._pusher.waiting_batches,
                "buffered_bytes": self._pusher.waiting_bytes,
            },
        )
        return self._pusher.push(reading.lines() + encode_lines([own], reading.time_ns))
