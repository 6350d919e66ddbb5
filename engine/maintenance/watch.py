"""The watch tick: read every rule's values, have them judged, count what happened."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from engine.alerting.alerts import AlertEvent
from engine.alerting.notifying import Notifying
from engine.alerting.watch import Changes, RuleWatch
from engine.clock import Clock
from engine.config import Config
from engine.maintenance.inputs import RuleInputs
from engine.vitals import Vitals


class Watcher:
    """Feeds the rules of one engine."""

    def __init__(self, *, rules: RuleWatch, inputs: RuleInputs, vitals: Vitals, clock: Clock) -> None:
        self._rules, self.inputs = rules, inputs
        self._vitals, self._clock = vitals, clock
        # What has been read for some rules is never judged by others.
        self._lock = threading.Lock()
        self._count(rules.restore(inputs.labels, clock.now_ns(), inputs.groups.number))

    def tick(self) -> int:
        """Judge every rule once; return how many entries the alerts' history has got."""
        started = self._clock.monotonic()
        with self._lock:
            now_ns = self._clock.now_ns()
            inputs = self.inputs.of_all(self._rules.rules, now_ns)
            events = self._rules.tick(inputs, self.inputs.labels, now_ns)
        self._count(events)
        self._vitals.rule_tick_seconds.observe(self._clock.monotonic() - started)
        return len(events)

    def replace(self, config: Config) -> Changes:
        """Put the rules of ``config``, and what it says about notifications, in force between two ticks."""
        notifying = Notifying.configured(config)
        with self._lock:
            self.inputs.forget()
            changes, events = self._rules.replace(
                config.effective_rules,
                self.inputs.labels,
                self._clock.now_ns(),
                self.inputs.groups.number,
                notifying,
            )
        self._count(events)
        return changes

    def _count(self, events: Sequence[AlertEvent]) -> None:
        for event in events:
            self._vitals.alert_transitions.labels(event.event).inc()
        for cause, count in self._rules.take_withheld().items():
            self._vitals.notifications_withheld.labels(cause).inc(count)

    def prepare(self) -> None:
        """Read ahead of time what rules compare with, so that no tick waits for it."""
        self.inputs.prepare(self._rules.rules, self._clock.now_ns())
