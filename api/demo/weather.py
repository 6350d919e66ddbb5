"""Rough weather for a simulated fleet: what real metrics have and smooth noise has not.

Heavy-tailed spikes of single readings, readings that do not come, regions out of reach for a minute or two, memory and
disks that go up and down by themselves, weekdays that differ.  Everything is a pure function of seed,
instance and time.
"""

from __future__ import annotations

import hashlib
import struct

import numpy as np

from engine.clock import NS_PER_SECOND

_SLOT_NS = 30 * NS_PER_SECOND
#: A region may get out of reach at the beginning of so many slots.
_HICCUP_SLOTS = 20
_DAY_SECONDS = 86_400
_DAYS = 4_000
#: Chance that a reading has a spike; the tail index of its size (Pareto) and its least size.
CPU_SPIKE, CPU_TAIL, CPU_LEAST_PERCENT = 0.003, 1.5, 6.0
RESPONSE_SPIKE, RESPONSE_TAIL = 0.01, 1.3
RESPONSE_MOST_MS = 20_000.0
QUEUE_SPIKE, QUEUE_TAIL, QUEUE_LEAST = 0.005, 1.5, 5.0
#: Chance that one reading of a host is lost, and that a region cannot be reached for 30 to 90 s of ten minutes.
LOST = 0.02
HICCUP = 0.04
#: Memory and disks rise by so much and fall at once: collections of garbage, rotations of logs.
MEMORY_SAW_PERCENT, MEMORY_SAW_SECONDS = 10.0, (3_600.0, 10_800.0)
DISK_SAW_PERCENT, DISK_SAW_SECONDS = 6.0, (14_400.0, 43_200.0)
#: How much there is to do from Monday to Sunday, and by how much one day differs from another.
WEEKDAYS = (1.0, 1.04, 1.03, 1.0, 0.95, 0.62, 0.58)
DAY_SCATTER = 0.04
DAY_SWING, SECOND_SWING = 0.3, 0.05
_FIRST_WEEKDAY = 1  # 2023-11-14, when the counters began, was a Tuesday.


def _drawn(*key: object) -> tuple[float, ...]:
    """Return eight numbers in (0, 1) that depend on the key alone."""
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=64).digest()
    return tuple((number + 0.5) / 2**64 for number in struct.unpack("<8Q", digest))


def _pareto(chance: float, tail: float) -> float:
    """Return a number of 1 or more, larger than x with probability x ** -tail."""
    return float(chance ** (-1.0 / tail))


class Weather:
    """The rough weather of one instance."""

    def __init__(self, seed: str, region: str) -> None:
        self._seed = seed
        self._region = f"{seed.partition('/')[0]}/{region}"
        phases = _drawn(seed, "saws")
        self._memory = _Saw(MEMORY_SAW_PERCENT, MEMORY_SAW_SECONDS, phases[0], phases[1])
        self._disk = _Saw(DISK_SAW_PERCENT, DISK_SAW_SECONDS, phases[2], phases[3])

    def cpu_percent(self, time_ns: int) -> float:
        """Return what is added to the CPU."""
        drawn = _drawn(self._seed, "cpu", time_ns // _SLOT_NS)
        return CPU_LEAST_PERCENT * _pareto(drawn[1], CPU_TAIL) if drawn[0] < CPU_SPIKE else 0.0

    def response_factor(self, time_ns: int) -> float:
        """Return what the response time is multiplied by."""
        drawn = _drawn(self._seed, "response", time_ns // _SLOT_NS)
        return _pareto(drawn[1], RESPONSE_TAIL) if drawn[0] < RESPONSE_SPIKE else 1.0

    def queue(self, time_ns: int) -> float:
        """Return what is added to the queue."""
        drawn = _drawn(self._seed, "queue", time_ns // _SLOT_NS)
        return QUEUE_LEAST * _pareto(drawn[1], QUEUE_TAIL) if drawn[0] < QUEUE_SPIKE else 0.0

    def memory_percent(self, seconds: float) -> float:
        """Return what is added to the memory in use."""
        return self._memory.at(seconds)

    def disk_percent(self, seconds: float) -> float:
        """Return what is added to the disk in use."""
        return self._disk.at(seconds)

    def silent(self, time_ns: int) -> bool:
        """Return whether the reading does not come."""
        if _drawn(self._seed, "lost", time_ns // _SLOT_NS)[0] < LOST:
            return True
        span, slot = divmod(time_ns // _SLOT_NS, _HICCUP_SLOTS)
        drawn = _drawn(self._region, "hiccup", span)
        return drawn[0] < HICCUP and slot < 1 + int(3 * drawn[1])


class _Saw:
    """Rises evenly and falls at once."""

    def __init__(self, height: float, periods: tuple[float, float], which: float, phase: float) -> None:
        self._height, self._phase = height, phase
        self._period = periods[0] + which * (periods[1] - periods[0])

    def at(self, seconds: float) -> float:
        return self._height * ((seconds / self._period + self._phase) % 1.0)


class WeekLoad:
    """More by day than by night, less at weekends, and no two days alike."""

    def __init__(self, seed: int) -> None:
        scatter = np.random.default_rng(seed).normal(0.0, DAY_SCATTER, _DAYS).clip(-2 * DAY_SCATTER, 2 * DAY_SCATTER)
        weekdays = np.array([WEEKDAYS[(_FIRST_WEEKDAY + day) % 7] for day in range(_DAYS)])
        self._levels = weekdays * (1.0 + scatter)
        # Each day's shape has the mean 1.
        self._before = np.concatenate([[0.0], np.cumsum(self._levels)]) * _DAY_SECONDS

    def at(self, seconds: float) -> float:
        day, within = divmod(seconds, _DAY_SECONDS)
        angle = 2 * np.pi * within / _DAY_SECONDS
        return float(self._level(int(day)) * (1.0 - DAY_SWING * np.cos(angle) + SECOND_SWING * np.sin(2 * angle)))

    def integral(self, seconds: float) -> float:
        day, within = divmod(seconds, _DAY_SECONDS)
        angle = 2 * np.pi * within / _DAY_SECONDS
        shape = angle - DAY_SWING * np.sin(angle) + SECOND_SWING * (1.0 - np.cos(2 * angle)) / 2
        done = shape * _DAY_SECONDS / (2 * np.pi)
        place = min(max(int(day), 0), _DAYS)
        return float(self._before[place] + self._level(int(day)) * done)

    def _level(self, day: int) -> float:
        return float(self._levels[min(max(day, 0), _DAYS - 1)])
