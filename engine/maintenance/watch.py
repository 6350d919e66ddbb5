"""The watch tick: read every rule's values, have them judged, count what happened."""

from __future__ import annotations

from engine.alerting.watch import RuleWatch
from engine.clock import Clock
from engine.maintenance.inputs import RuleInputs
from engine.vitals import Vitals


class Watcher:
    """Feeds the rules of one engine."""

    def __init__(self, *, rules: RuleWatch, inputs: RuleInputs, vitals: Vitals, clock: Clock) -> None:
        self._rules, self.inputs = rules, inputs
        self._vitals, self._clock = vitals, clock
        rules.restore(inputs.labels, clock.now_ns(), inputs.groups.number)

    def tick(self) -> int:
        """Judge every rule once; return how many entries the alerts' history has got."""
        started = self._clock.monotonic()
        now_ns = self._clock.now_ns()
        inputs = {rule.name: self.inputs.of(rule, now_ns) for rule in self._rules.rules}
        events = self._rules.tick(inputs, self.inputs.labels, now_ns)
        for event in events:
            self._vitals.alert_transitions.labels(event.event).inc()
        self._vitals.rule_tick_seconds.observe(self._clock.monotonic() - started)
        return len(events)

    def prepare(self) -> None:
        """Read ahead of time what rules compare with, so that no tick waits for it."""
        self.inputs.prepare(self._rules.rules, self._clock.now_ns())
