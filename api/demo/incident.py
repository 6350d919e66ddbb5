"""An incident with a known course: it rises, holds and recovers, and its level has a closed-form integral."""

from __future__ import annotations

from dataclasses import dataclass

from engine.clock import NS_PER_SECOND


@dataclass(frozen=True, slots=True)
class Incident:
    """Too much load on ``service`` from ``start_ns`` on, for ``seconds`` in all, of which two ramps."""

    start_ns: int
    service: str = "shop"
    seconds: float = 20.0
    ramp_seconds: float = 2.0

    @property
    def end_ns(self) -> int:
        return self.start_ns + round(self.seconds * NS_PER_SECOND)

    def level(self, time_ns: int) -> float:
        """Return how bad it is, 0 to 1."""
        since = (time_ns - self.start_ns) / NS_PER_SECOND
        rising = since / self.ramp_seconds
        falling = (self.seconds - since) / self.ramp_seconds
        return max(0.0, min(1.0, rising, falling))

    def full_seconds(self, time_ns: int) -> float:
        """Return the integral of the level up to ``time_ns``, in seconds at full level."""
        since = min(max(0.0, (time_ns - self.start_ns) / NS_PER_SECOND), self.seconds)
        ramp = self.ramp_seconds
        rising = min(since, ramp)
        held = min(max(0.0, since - ramp), self.seconds - 2 * ramp)
        falling = max(0.0, since - (self.seconds - ramp))
        return rising * rising / (2 * ramp) + held + falling - falling * falling / (2 * ramp)
