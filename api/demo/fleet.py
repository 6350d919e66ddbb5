"""A fleet of simulated instances: every value is a pure function of seed, instance and time.

Asking for the same time twice gives the same bytes, so history can be written after the fact and a replay
agrees with the original.  Gauges swing with the day and with slower and faster waves of their own; counters
are exact integrals of their rates, so they never fall.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from api.demo.incident import Incident
from api.demo.weather import RESPONSE_MOST_MS, Weather, WeekLoad
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
_FLAP_SECONDS = 60
# How far values with noise are off: in their units, or as a part of them.
_NOISE_CPU_PERCENT = 2.0
_NOISE_MEMORY_PERCENT = 0.4
_NOISE_RESPONSE = 0.12
_NOISE_QUEUE = 1.0
#: Counters are read this much too early or too late.
_NOISE_SECONDS = 1.5


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


_SILENCE = (0.0,) * 8
_DAY = Wave((_DAY_SECONDS, _DAY_SECONDS / 2), (-math.pi / 2, 0.3))


class Load(Protocol):
    """How much there is to do, around 1, at seconds since the counters began."""

    def at(self, seconds: float) -> float: ...

    def integral(self, seconds: float) -> float:
        """Return the integral from 0 to ``seconds``."""


class DailyLoad:
    """More by day than by night."""

    def at(self, seconds: float) -> float:
        return 1.0 + _DAY_SWING * _DAY.at(seconds)

    def integral(self, seconds: float) -> float:
        return seconds + _DAY_SWING * _DAY.integral(seconds)


class Instance:
    """One simulated host that runs one service.  With ``noisy`` values scatter as measured ones do, with ``rough`` they
    have :mod:`rough weather <api.demo.weather>` beside."""

    def __init__(self, seed: int, number: int, load: Load, *, noisy: bool = False, rough: bool = False) -> None:
        service = SERVICES[number % len(SERVICES)]
        self.service = service
        self.host = f"{service}-{number:02d}"
        self.tags = {
            "host": self.host,
            "service": service,
            "region": REGIONS[number // len(SERVICES) % len(REGIONS)],
        }
        self._seed, self._load, self._noisy = f"{seed}/{number}", load, noisy
        self._weather = Weather(self._seed, self.tags["region"]) if rough else None
        self._cpu_base = 40.0 + 8.0 * self._share("cpu")
        self._memory_base = 58.0 + 8.0 * self._share("memory")
        self._disk_base = 45.0 + 15.0 * self._share("disk")
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

    def _noise(self, time_ns: int) -> tuple[float, ...]:
        """Return eight numbers, about normal, that depend on seed, instance and time alone; zeros without noise."""
        if not self._noisy:
            return _SILENCE
        digest = hashlib.blake2b(f"{self._seed}@{time_ns}".encode(), digest_size=64).digest()
        drawn = struct.unpack("<32H", digest)
        # Four uniform numbers have a deviation of 65536 / sqrt(3) together.
        return tuple((sum(drawn[k : k + 4]) - 131_070) / 37_837 for k in range(0, 32, 4))

    def points(self, time_ns: int, incidents: Sequence[Incident] = ()) -> Iterator[Point]:
        """Yield what this instance reports at ``time_ns``."""
        seconds = (time_ns - _COUNTERS_START_NS) / NS_PER_SECOND
        mine = [each for each in incidents if each.start_ns <= time_ns and each.touches(self.service, self.host)]
        now = [(each.kind, each.level(time_ns), each.size) for each in mine if time_ns < each.end_ns]
        weather = self._weather
        if any(kind.silent for kind, _, _ in now) or (weather is not None and weather.silent(time_ns)):
            return
        noise = self._noise(time_ns)
        load = self._load.at(seconds)

        cpu = self._cpu_base * load + 6.0 * self._waves["cpu"].at(seconds) + _NOISE_CPU_PERCENT * noise[0]
        cpu += 0.0 if weather is None else weather.cpu_percent(time_ns)
        for kind, level, _ in now:
            if kind.cpu_percent is not None:
                cpu += level * (kind.cpu_percent - cpu)
        cpu = min(max(cpu, 0.0), 100.0)
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
        memory = self._memory_base + 3.0 * self._waves["memory"].at(seconds) + _NOISE_MEMORY_PERCENT * noise[1]
        memory += 0.0 if weather is None else weather.memory_percent(seconds)
        memory += sum(level * size * kind.memory_percent for kind, level, size in now)
        yield Point("memory", self.tags, {"used_percent": round(min(memory, 100.0), 2)})
        disk = self._disk_base + 2.0 * _DAY.at(seconds)
        disk += 0.0 if weather is None else weather.disk_percent(seconds)
        disk += sum(level * size * kind.disk_percent for kind, level, size in now)
        yield Point("disk", {**self.tags, "path": "/"}, {"used_percent": round(min(disk, 100.0), 2)})

        response_ms = self._response_base * load + 20.0 * self._waves["response"].at(seconds)
        response_ms *= math.exp(_NOISE_RESPONSE * noise[2])
        if weather is not None:
            response_ms = min(response_ms * weather.response_factor(time_ns), RESPONSE_MOST_MS)
        response_ms += sum(level * size * kind.response_ms for kind, level, size in now)
        queue = 4.0 * load + 3.0 * self._waves["queue"].at(seconds) + _NOISE_QUEUE * noise[3]
        queue += 0.0 if weather is None else weather.queue(time_ns)
        queue += sum(level * kind.queue for kind, level, _ in now)
        in_flight = 2.0 + 0.05 * self._requests_per_second * load
        in_flight += sum(level * kind.in_flight for kind, level, _ in now)
        requests, errors, orders = self._counted(time_ns, mine, noise)
        yield Point(
            "app",
            self.tags,
            {
                "requests_total": int(requests),
                "errors_total": int(errors),
                "response_time_ms": round(response_ms, 1),
                "queue_length": max(0, int(queue)),
                "in_flight": int(in_flight),
            },
        )
        down = any(kind.flaps for kind, _, _ in now) and seconds // _FLAP_SECONDS % 2 == 0
        yield Point("probe", self.tags, {"up": 0 if down else 1})
        if self.service == "shop":
            revenue = round(int(orders) * self._order_value, 2)
            yield Point("business", self.tags, {"orders_total": int(orders), "revenue_total": revenue})

    def clock_offset_ns(self, time_ns: int, incidents: Sequence[Incident]) -> int:
        """Return how far this host's clock is off."""
        off = (
            each.size * each.kind.clock_seconds
            for each in incidents
            if each.active(time_ns) and each.touches(self.service, self.host)
        )
        return round(sum(off) * NS_PER_SECOND)

    def _counted(self, time_ns: int, mine: Sequence[Incident], noise: Sequence[float]) -> tuple[float, float, float]:
        """Return requests, errors and orders since the counters began, or since the last restart."""
        now = self._totals(time_ns, mine, noise)
        began_ns = max((each.end_ns for each in mine if each.kind.restarts and each.end_ns <= time_ns), default=None)
        if began_ns is None:
            return now
        before = self._totals(began_ns, mine, _SILENCE)
        return max(0.0, now[0] - before[0]), max(0.0, now[1] - before[1]), max(0.0, now[2] - before[2])

    def _totals(self, time_ns: int, mine: Sequence[Incident], noise: Sequence[float]) -> tuple[float, float, float]:
        seconds = (time_ns - _COUNTERS_START_NS) / NS_PER_SECOND
        early, other = (_NOISE_SECONDS * min(max(each / 3, -1.0), 1.0) for each in noise[4:6])
        lost = self._lost(seconds, mine)
        usual = self._requests(seconds + early) - lost
        further = [(each.kind, each.size * each.full_seconds(time_ns) * self._requests_per_second) for each in mine]
        errors = _NORMAL_ERROR_SHARE * (self._requests(seconds + other) - lost)
        return (
            usual + sum(kind.requests * full for kind, full in further),
            errors + sum(kind.errors * full for kind, full in further),
            _ORDERS_PER_REQUEST * usual,
        )

    def _lost(self, seconds: float, mine: Sequence[Incident]) -> float:
        """Return the requests that did not come because of incidents."""
        lost = 0.0
        for each in mine:
            if each.kind.lost:
                start = (each.start_ns - _COUNTERS_START_NS) / NS_PER_SECOND
                end = min(seconds, start + each.seconds)
                if end <= start:
                    continue
                lost += each.kind.lost * (self._requests(end) - self._requests(start))
        return lost

    def _requests(self, seconds: float) -> float:
        """Return all requests since the counters began, without those of an incident."""
        swing = _WAVE_SWING * self._waves["requests"].integral(seconds)
        return self._requests_per_second * (self._load.integral(seconds) + swing)


class Fleet:
    """``instances`` simulated hosts.  Incidents may be set at any time and change nothing before they begin.

    With ``noisy`` readings must be 5 s apart or more, or counters would fall.
    """

    def __init__(
        self,
        seed: int = 1,
        instances: int = 20,
        *,
        load: Load | None = None,
        noisy: bool = False,
        rough: bool = False,
    ) -> None:
        load = load or (WeekLoad(seed) if rough else DailyLoad())
        self.instances = tuple(Instance(seed, number, load, noisy=noisy, rough=rough) for number in range(instances))
        self.incidents: tuple[Incident, ...] = ()

    def lines(self, now_ns: int) -> bytes:
        """Return what all instances report at ``now_ns``, as line protocol with nanoseconds."""
        return b"".join(
            encode_lines(
                instance.points(now_ns, self.incidents), now_ns + instance.clock_offset_ns(now_ns, self.incidents)
            )
            for instance in self.instances
        )

    def history(self, start_ns: int, end_ns: int, step_ns: int, *, steps_a_batch: int = 60) -> Iterator[bytes]:
        """Yield the lines of every step in [start, end), in batches."""
        times = range(start_ns, end_ns, step_ns)
        for first in range(0, len(times), steps_a_batch):
            yield b"".join(self.lines(time_ns) for time_ns in times[first : first + steps_a_batch])
