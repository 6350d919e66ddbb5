"""The slow, obvious twin of engine.scaling.policy: tries every number of instances, forgets nothing.

Values are fractions, so nothing is rounded.  It answers with the desired number alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction

from engine.config import ScaleTarget
from engine.scaling.policy import Observed


@dataclass
class TargetStory:
    """One target from its first decision on."""

    target: ScaleTarget
    asked: int | None = None
    went_up_ns: list[int] = field(default_factory=list)
    went_down_ns: list[int] = field(default_factory=list)
    recommended: list[tuple[int, int]] = field(default_factory=list)

    def tick(self, observed: Observed, now_ns: int) -> int | None:
        """Live through one decision and return the number of instances asked for."""
        target = self.target
        allowed = range(target.min, target.max + 1)

        def nearest_allowed(instances: int) -> int:
            return min(allowed, key=lambda number: abs(number - instances))

        current = observed.current
        if current == 0 and target.instances is None:
            current = None

        start = self.asked if self.asked is not None else current
        if start is None:
            return None
        recent = [t for t in self.went_up_ns + self.went_down_ns if now_ns - t < target.cooldown]
        if self.asked is not None and current is not None and not recent and current > start:
            start = max(start, min(current, target.max))
        held = nearest_allowed(start)

        needs: list[int] = []
        proposals: list[str] = []
        by_demand = 0
        cpu = [s for s in target.signals if s.kind == "cpu" and s.across == "avg" and 0 < s.up < 100][:1]
        for signal in target.signals:
            reading = next((found for found in observed.readings if found.kind == signal.kind), None)
            if reading is None or reading.value is None or reading.time_ns is None or reading.stale:
                proposals.append("silent")
                continue
            if now_ns - reading.time_ns > target.stale_after or not current:
                proposals.append("silent")
                continue
            if observed.demand is not None and signal in cpu:
                load, high, up = Fraction(observed.demand.now), Fraction(observed.demand.high), Fraction(signal.up)
                while by_demand * up < 100 * load or by_demand * (up + 100) / 2 < 100 * high:
                    by_demand += 1
                needs += [by_demand] if by_demand != current else []
                proposals.append("up" if by_demand > current else "down" if by_demand < current else "hold")
                continue
            value, aim = Fraction(reading.value), (Fraction(signal.up) + Fraction(signal.down)) / 2
            if signal.down <= value <= signal.up or abs(value / aim - 1) <= Fraction(target.tolerance):
                proposals.append("hold")
                continue
            proposals.append("up" if value > signal.up else "down")
            needed = 0
            while (needed == 0 and value > 0) or (needed and value * current / needed > aim):
                needed += 1
            needs.append(needed)
            if proposals[-1] == "down":
                assert not needed or value * current / needed <= signal.up

        want = held
        if "up" in proposals:
            ups = [need for need, proposal in zip(needs, without(proposals), strict=True) if proposal == "up"]
            want = max(held, *ups)
        elif all(proposal == "down" for proposal in proposals):
            fewer_than_asked = target.instances is None and current is not None and current < held
            some_are_silent = fewer_than_asked and observed.silent > 0
            if not some_are_silent:
                want = min(held, max(needs))
        want = nearest_allowed(want)

        answer = want
        if want < held and target.stabilisation:
            window = [number for t, number in self.recommended if t >= now_ns - target.stabilisation]
            if not window:
                self.recommended.append((now_ns, held))
                window = [held]
            answer = min(held, max([want, *window]))
        self.recommended.append((now_ns, want))

        waits_for = self.went_up_ns if answer > held else self.went_up_ns + self.went_down_ns
        if any(now_ns - t < target.cooldown for t in waits_for):
            # The demand's need does not wait.
            answer = max(held, min(answer, nearest_allowed(by_demand)))
        if answer > start:
            self.went_up_ns.append(now_ns)
        if answer < start:
            self.went_down_ns.append(now_ns)
        self.asked = answer
        return answer


def without(proposals: list[str]) -> list[str]:
    """Return the proposals that come with a need."""
    return [proposal for proposal in proposals if proposal in ("up", "down")]
