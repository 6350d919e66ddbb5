"""Incidents with a known course: they rise, hold and recover, and their level has a closed-form integral."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from engine.clock import NS_PER_SECOND

_APP = ("app_requests_total", "app_errors_total", "app_response_time_ms", "app_queue_length", "app_in_flight")
_BUSINESS = ("business_orders_total", "business_revenue_total")
_HOST = ("cpu_usage_percent", "memory_used_percent", "disk_used_percent", "probe_up")
EVERYTHING = frozenset((*_APP, *_BUSINESS, *_HOST))


@dataclass(frozen=True, slots=True)
class Kind:
    """What an incident at full level does to the instances that it touches.

    ``cpu_percent`` is where the CPU goes; ``memory_percent``, ``disk_percent``, ``response_ms``, ``queue`` and
    ``in_flight`` are added; ``requests`` and ``errors`` are further requests and failed ones, as shares of the usual
    requests; ``lost`` is the share of the requests that do not come.  ``flaps``: the probe fails every other minute.
    ``silent``: nothing is reported.  ``clock_seconds``: how far the host's clock is off.  ``restarts``: counters begin
    anew at its end.  ``metrics``: what an alert about it can be about.
    """

    name: str
    text: str
    metrics: frozenset[str] = frozenset()
    scope: Literal["host", "service"] = "service"
    cpu_percent: float | None = None
    memory_percent: float = 0.0
    disk_percent: float = 0.0
    response_ms: float = 0.0
    queue: float = 0.0
    in_flight: float = 0.0
    requests: float = 0.0
    errors: float = 0.0
    lost: float = 0.0
    flaps: bool = False
    silent: bool = False
    clock_seconds: float = 0.0
    restarts: bool = False


#: What the demo shows: too much load on a service.
OVERLOAD = Kind(
    "overload",
    "too much load",
    EVERYTHING,
    cpu_percent=97.0,
    memory_percent=6.0,
    response_ms=2_900.0,
    queue=260.0,
    in_flight=30.0,
    requests=0.5,
    errors=0.25,
)


@dataclass(frozen=True, slots=True)
class Incident:
    """An incident of ``service``, or of one ``host`` of it, from ``start_ns`` on, for ``seconds`` in all.

    It rises for ``ramp_seconds`` and falls for ``fall_seconds`` (None: as long).  ``size`` multiplies what is added.
    """

    start_ns: int
    service: str = "shop"
    seconds: float = 20.0
    ramp_seconds: float = 2.0
    fall_seconds: float | None = None
    kind: Kind = OVERLOAD
    host: str | None = None
    size: float = 1.0

    @property
    def end_ns(self) -> int:
        return self.start_ns + round(self.seconds * NS_PER_SECOND)

    @property
    def _fall(self) -> float:
        return self.ramp_seconds if self.fall_seconds is None else self.fall_seconds

    def touches(self, service: str, host: str) -> bool:
        return service == self.service and self.host in (None, host)

    def active(self, time_ns: int) -> bool:
        return self.start_ns <= time_ns < self.end_ns

    def level(self, time_ns: int) -> float:
        """Return how bad it is, 0 to 1."""
        since = (time_ns - self.start_ns) / NS_PER_SECOND
        rising = since / self.ramp_seconds
        falling = (self.seconds - since) / self._fall
        return max(0.0, min(1.0, rising, falling))

    def full_seconds(self, time_ns: int) -> float:
        """Return the integral of the level up to ``time_ns``, in seconds at full level."""
        since = min(max(0.0, (time_ns - self.start_ns) / NS_PER_SECOND), self.seconds)
        rise, fall = self.ramp_seconds, self._fall
        rising = min(since, rise)
        held = min(max(0.0, since - rise), self.seconds - rise - fall)
        falling = max(0.0, since - (self.seconds - fall))
        return rising * rising / (2 * rise) + held + falling - falling * falling / (2 * fall)
