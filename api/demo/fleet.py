"""A fleet of simulated instances: every value is a pure function of seed, instance and time.

Asking for the same time twice gives the same bytes, so history can be written after the fact and a replay
agrees with the original.  Gauges swing with the day and with slower and faster waves of their own; counters
are exact integrals of their rates, so they never fall.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

from api.demo.incident import Incident
from engine.clock import NS_PER_SECOND
from engine.collect.points import Point, encode_lines

# One instance in five of each; two of the shop.
SERVICES = ("shop", "cart", "shop", "search", "billing")
REGIONS = ("eu-north", "eu-west", "us-east")
_COUNTERS_START_NS = 1_700_000_000 * NS_PER_SECOND
_DAY_SECONDS = 86_400.0
_DAY_SWING = 0.3
_WAVE_SWING = 0.1
_NORMAL_ERROR_SHARE = 0.004
_ORDERS_PER_REQUEST = 0.02
# What an incident at full level does.
_INCIDENT_CPU_PERCENT = 97.0
_INCIDENT_RESPONSE_MS = 2_900.0
_INCIDENT_QUEUE = 260.0
_INCIDENT_EXTRA_REQUESTS = 0.5
_INCIDENT_EXTRA_ERRORS = 0.25


@dataclass(frozen=True, slots=True)
class Wave:
    """Two sines of unrelated periods with an amplitude of 1 together; ``integral`` is in seconds."""

    periods_seconds: tuple[float, float]
    phases: tuple[float, float]

    def at(self, seconds: float) -> float:
        return 0.5 * sum(
            math.sin(2 * math.pi * seconds / period + phase)
            for period, phase in zip(self.periods_seconds, self.phases, strict=True)
        )

    def integral(self, seconds: float) -> float:
        """Return the integral from 0 to ``seconds``."""
        return 0.5 * sum(
            (math.cos(phase) - math.cos(2 * math.pi * seconds / period + phase)) * period / (2 * math.pi)
            for period, phase in zip(self.periods_seconds, self.phases, strict=True)
        )


_DAY = Wave((_DAY_SECONDS, _DAY_SECONDS / 2), (-math.pi / 2, 0.3))


class Instance:
    """One simulated host that runs one service."""

    def __init__(self, seed: int, number: int) -> None:
        service = SERVICES[number % len(SERVICES)]
        self.service = service
        self.tags = {
            "host": f"{service}-{number:02d}",
            "service": service,
            "region": REGIONS[number // len(SERVICES) % len(REGIONS)],
        }
        self._seed = f"{seed}/{number}"
        self._cpu_base = 40.0 + 8.0 * self._share("cpu")
        self._memory_base = 58.0 + 8.0 * self._share("memory")
        self._response_base = 90.0 + 80.0 * self._share("response")
        self._requests_per_second = 40.0 + 30.0 * self._share("requests")
        self._order_value = 30.0 + 20.0 * self._share("order")
        self._waves = {name: self._wave(name) for name in ("cpu", "memory", "response", "queue", "requests")}

    def _share(self, name: str) -> float:
        """Return a number in [0, 1) that depends on seed, instance and name alone."""
        digest = hashlib.blake2b(f"{self._seed}/{name}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") / 2**64

    def _wave(self, name: str) -> Wave:
        slow = 400.0 + 800.0 * self._share(f"{name}/slow")
        fast = 25.0 + 50.0 * self._share(f"{name}/fast")
        phases = (2 * math.pi * self._share(f"{name}/phase1"), 2 * math.pi * self._share(f"{name}/phase2"))
        return Wave((slow, fast), phases)

    def points(self, time_ns: int, incident: Incident | None) -> Iterator[Point]:
        """Yield what this instance reports at ``time_ns``."""
        seconds = (time_ns - _COUNTERS_START_NS) / NS_PER_SECOND
        level = full_seconds = 0.0
        if incident is not None and incident.service == self.service:
            level, full_seconds = incident.level(time_ns), incident.full_seconds(time_ns)
        load = 1.0 + _DAY_SWING * _DAY.at(seconds)

        cpu = self._cpu_base * load + 6.0 * self._waves["cpu"].at(seconds)
        cpu += level * (_INCIDENT_CPU_PERCENT - cpu)
        system = 0.2 * cpu
        yield Point(
            "cpu",
            self.tags,
            {
                "usage_percent": round(cpu, 2),
                "usage_user": round(cpu - system, 2),
                "usage_system": round(system, 2),
                "usage_idle": round(100.0 - cpu, 2),
                "load1": round(cpu / 25.0, 2),
            },
        )
        memory = self._memory_base + 3.0 * self._waves["memory"].at(seconds) + 6.0 * level
        yield Point("memory", self.tags, {"used_percent": round(memory, 2)})

        response_ms = self._response_base * load + 20.0 * self._waves["response"].at(seconds)
        queue = 4.0 * load + 3.0 * self._waves["queue"].at(seconds) + _INCIDENT_QUEUE * level
        requests = self._requests(seconds) + _INCIDENT_EXTRA_REQUESTS * self._requests_per_second * full_seconds
        errors = _NORMAL_ERROR_SHARE * self._requests(seconds)
        errors += _INCIDENT_EXTRA_ERRORS * self._requests_per_second * full_seconds
        yield Point(
            "app",
            self.tags,
            {
                "requests_total": int(requests),
                "errors_total": int(errors),
                "response_time_ms": round(response_ms + level * _INCIDENT_RESPONSE_MS, 1),
                "queue_length": int(queue),
                "in_flight": int(2.0 + 0.05 * self._requests_per_second * load + 30.0 * level),
            },
        )
        yield Point("probe", self.tags, {"up": 1})
        if self.service == "shop":
            orders = int(_ORDERS_PER_REQUEST * self._requests(seconds))
            revenue = round(orders * self._order_value, 2)
            yield Point("business", self.tags, {"orders_total": orders, "revenue_total": revenue})

    def _requests(self, seconds: float) -> float:
        """Return all requests since the counters began, without those of an incident."""
        swing = _DAY_SWING * _DAY.integral(seconds) + _WAVE_SWING * self._waves["requests"].integral(seconds)
        return self._requests_per_second * (seconds + swing)


class Fleet:
    """``instances`` simulated hosts.  An incident may be set at any time and changes nothing before it."""

    def __init__(self, seed: int = 1, instances: int = 20) -> None:
        self.instances = tuple(Instance(seed, number) for number in range(instances))
        self.incident: Incident | None = None

    def lines(self, now_ns: int) -> bytes:
        """Return what all instances report at ``now_ns``, as line protocol with nanoseconds."""
        points = (point for instance in self.instances for point in instance.points(now_ns, self.incident))
        return encode_lines(points, now_ns)

    def history(self, start_ns: int, end_ns: int, step_ns: int, *, steps_a_batch: int = 60) -> Iterator[bytes]:
        """Yield the lines of every step in [start, end), in batches."""
        times = range(start_ns, end_ns, step_ns)
        for first in range(0, len(times), steps_a_batch):
            yield b"".join(self.lines(time_ns) for time_ns in times[first : first + steps_a_batch])
