"""The slow, obvious twin of engine.alerting: one rule, one series at a time, as a story of one dictionary."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass

from engine.config import Rule

OPERATORS = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}


def on_side(op: str, value: float, low: float, high: float | None) -> bool:
    """Say whether a value breaks a threshold, or is outside or inside of a band."""
    if op in OPERATORS:
        return bool(OPERATORS[op](value, low))
    assert high is not None
    inside = low <= value <= high
    return inside if op == "inside" else not inside


@dataclass
class SeriesStory:
    """What one series has been through under one rule."""

    rule: Rule
    stale_after_ns: int
    state: str = "inactive"
    since_ns: int = 0
    seen_ns: int = 0
    cleared_ns: int = 0
    quiet_until_ns: int = 0
    notified: bool = False
    stale: bool = False
    told_ns: int = 0

    def tick(self, value: float, time_ns: int, now_ns: int) -> list[tuple[str, bool]]:
        """Live through one tick; return what is told: (event, whether somebody is notified)."""
        rule = self.rule
        known = self.state != "inactive" or self.quiet_until_ns > self.told_ns
        self.told_ns = now_ns
        if not known:
            # Nothing is remembered of a series that is simply quiet.
            self.seen_ns = 0
        if not math.isnan(value):
            self.seen_ns = max(self.seen_ns, time_ns)
        usable = not math.isnan(value) and time_ns >= now_ns - self.stale_after_ns
        overdue = self.seen_ns < now_ns - self.stale_after_ns
        above = usable and on_side(rule.op, value, rule.threshold, rule.upper)
        clear = rule.threshold if rule.clear is None else rule.clear
        clear_upper = rule.upper if rule.clear_upper is None else rule.clear_upper
        held = usable and on_side(rule.op, value, clear, clear_upper)

        if overdue:
            # What silence decides, it decides when it has become too long.
            time_ns = self.seen_ns + self.stale_after_ns
        if rule.when_missing == "keep":
            overdue = False
        elif rule.when_missing == "firing" and overdue and (known or not math.isnan(value)):
            above = held = True
        by_silence = overdue and rule.when_missing in ("ok", "firing")

        if self.state == "inactive":
            if not above:
                return []
            self.since_ns = time_ns
            if usable:
                self.seen_ns = time_ns
            if (rule.for_ == 0 or now_ns - self.since_ns >= rule.for_) and (not rule.confirm or by_silence):
                return [self._fire(now_ns)]
            self.state = "pending"
            return [("pending", False)]

        if self.state == "pending":
            if (overdue or usable) and not above:
                self.state = "inactive"
                return [("cancelled", False)]
            waited = rule.for_ == 0 or now_ns - self.since_ns >= rule.for_
            confirmed = not rule.confirm or time_ns > self.since_ns or by_silence
            return [self._fire(now_ns)] if above and waited and confirmed else []

        told: list[tuple[str, bool]] = []
        if overdue and not by_silence:
            if not self.stale:
                self.stale = True
                told.append(("stale", False))
        elif usable or by_silence:
            if self.stale and usable:
                self.stale = False
                told.append(("fresh", False))
            if self.state == "clearing" and held:
                self.state = "firing"
                told.append(("held", False))
            elif not held:
                if self.state == "firing":
                    self.cleared_ns = time_ns
                if rule.keep_firing == 0 or now_ns - self.cleared_ns >= rule.keep_firing:
                    told.append(("resolved", self.notified))
                    if self.notified:
                        self.quiet_until_ns = now_ns + rule.cooldown
                    self.state, self.notified = "inactive", False
                    return told
                if self.state == "firing":
                    self.state = "clearing"
                    told.append(("clearing", False))
        if self.state == "firing" and not self.notified and now_ns >= self.quiet_until_ns:
            self.notified = True
            told.append(("notified", True))
        return told

    def _fire(self, now_ns: int) -> tuple[str, bool]:
        self.state = "firing"
        self.notified = now_ns >= self.quiet_until_ns
        return ("firing", self.notified)
