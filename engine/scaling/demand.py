"""What a target's load will be when instances that are asked for now are ready: learned from the load itself.

Load is counted in instances at 100 % of CPU: two at 60 % carry 1.2.  Time goes in slots of 15 s; a model expects the
highest load around eight slots ahead, the time that instances take to start.  docs/scaling.md explains the parts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from engine.clock import NS_PER_SECOND

SLOT_NS = 15 * NS_PER_SECOND
#: Slots that an instance takes to be ready, and how many around that time count: the highest is expected.
LEAD = 8
AROUND = 4
SLOPE_SLOTS = 6
DAY = 5_760
#: So many slots must have been seen before anything is expected; a longer gap starts over.
LEAST_SLOTS = 60
LONGEST_GAP = 40
#: The share of times that load stays below what is expected at most.
SHARE = 0.95
QUANTILE_GAIN = 0.02
SPREAD_GAIN = 0.03
ERROR_GAIN = 0.01
CAPACITY_GAIN = 0.2
LEAST_CPU_PERCENT = 1.0
LEAST_SPREAD = 0.005
LEAST_ERROR = 0.002
#: A prediction's weight is its relative error to minus this power.
POWER = 4
#: A day ago tells how load changes from here; its scale may differ by so much.
LARGEST_RATIO = 3.0


@dataclass(frozen=True, slots=True)
class Demand:
    """Load in instances at 100 %: ``now``, and ``high``, what it will hardly exceed within ``lead_seconds``."""

    now: float
    high: float
    lead_seconds: float = LEAD * SLOT_NS / NS_PER_SECOND


@dataclass(slots=True)
class _Awaited:
    predictions: tuple[float, float, float]
    mixed: float
    spread: float


class DemandModel:
    """Learns the load of one target.  Not for several threads at once."""

    def __init__(self) -> None:
        self._slots = np.full(DAY + LEAD + 1, np.nan)
        self._slot: int | None = None
        self._sum = self._count = 0.0
        self._seen = 0
        self._errors = [0.1, 0.1, 0.1]
        self._awaited: dict[int, _Awaited] = {}
        self._spread, self._quantile = 0.05, 2.0
        self._capacity: float | None = None

    def load_of(self, instances: int, cpu_percent: float, requests: float | None, waiting: bool) -> float:
        """Return the load that ``instances`` at ``cpu_percent`` on average carry.

        ``requests`` a second, where known, tell it also when CPU is at its end: what an instance serves is learned
        while nothing is ``waiting``.
        """
        load = instances * cpu_percent / 100.0
        if requests is None or not math.isfinite(requests):
            return load
        if not waiting and cpu_percent >= LEAST_CPU_PERCENT and load > 0:
            served = requests / load
            before = served if self._capacity is None else self._capacity
            self._capacity = before + CAPACITY_GAIN * (served - before)
        return requests / self._capacity if self._capacity else load

    def observe(self, now_ns: int, load: float) -> Demand | None:
        """Learn the load of now and return what to expect; None while too little is known.

        Times before the newest one (a clock that was set back) teach nothing.
        """
        slot = now_ns // SLOT_NS
        if self._slot is None or slot > self._slot:
            self._close(slot)
            self._slot, self._sum, self._count = slot, 0.0, 0.0
        if slot == self._slot:
            self._sum += load
            self._count += 1.0
            self._put(slot, self._sum / self._count)
        if self._seen < LEAST_SLOTS:
            return None
        awaited = self._predict(self._slot)
        self._awaited[self._slot] = awaited
        return Demand(load, max(load, awaited.mixed + self._quantile * awaited.spread))

    def _close(self, slot: int) -> None:
        """Learn from the slot that is over, and mark those without a load."""
        if self._slot is None:
            return
        if slot - self._slot > LONGEST_GAP:
            self._awaited.clear()
            self._seen = 0
        self._learn(self._slot)
        self._seen += 1
        if self._seen < LEAST_SLOTS:
            self._awaited[self._slot] = self._predict(self._slot)
        for missed in range(max(self._slot + 1, slot - len(self._slots)), slot):
            self._put(missed, math.nan)

    def _learn(self, slot: int) -> None:
        awaited = self._awaited.pop(slot - LEAD, None)
        if awaited is None:
            return
        highest = max((self._at(slot - back) for back in range(AROUND)), key=lambda load: (load == load, load))
        for index, predicted in enumerate(awaited.predictions):
            error = abs(highest - predicted) / max(highest, 1e-9)
            self._errors[index] += ERROR_GAIN * (error - self._errors[index])
        error = highest - awaited.mixed
        above = error / awaited.spread > self._quantile
        step = SHARE if above else SHARE - 1.0
        self._quantile = max(0.0, self._quantile + QUANTILE_GAIN * step * max(1.0, self._quantile))
        self._spread += SPREAD_GAIN * (abs(error) - self._spread)

    def _predict(self, slot: int) -> _Awaited:
        load = self._at(slot)
        earlier = self._at(slot - SLOPE_SLOTS)
        rising = load if math.isnan(earlier) else max(0.0, load + (load - earlier) / SLOPE_SLOTS * LEAD)
        then, next_then = self._at(slot - DAY), self._at(slot - DAY + LEAD)
        daily = load
        if not (math.isnan(then) or math.isnan(next_then)):
            ratio = min(max(load / max(then, 1e-9), 1.0 / LARGEST_RATIO), LARGEST_RATIO)
            daily = max(0.0, load + (next_then - then) * ratio)
        predictions = (load, rising, daily)
        weights = [(error + LEAST_ERROR) ** -POWER for error in self._errors]
        mixed = sum(w * p for w, p in zip(weights, predictions, strict=True)) / sum(weights)
        return _Awaited(predictions, mixed, self._spread + LEAST_SPREAD)

    def _at(self, slot: int) -> float:
        """Return the load of a slot, at most a day and the lead ago; NaN where it is not known."""
        if self._slot is not None and slot <= self._slot - len(self._slots):
            return math.nan
        return float(self._slots[slot % len(self._slots)])

    def _put(self, slot: int, load: float) -> None:
        self._slots[slot % len(self._slots)] = load
