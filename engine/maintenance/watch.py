"""The watch tick: read every rule's values, have them judged, count what happened."""

from __future__ import annotations

from collections.abc import Mapping

from engine.alerting.rules import RuleInput
from engine.alerting.watch import RuleWatch
from engine.catalog.catalog import Catalog
from engine.clock import Clock
from engine.config import Rule
from engine.query.observe import Observer
from engine.vitals import Vitals


class Watcher:
    """Feeds the rules of one engine."""

    def __init__(self, *, rules: RuleWatch, catalog: Catalog, observer: Observer, vitals: Vitals, clock: Clock) -> None:
        self._rules, self._catalog, self._observer = rules, catalog, observer
        self._vitals, self._clock = vitals, clock
        rules.restore(self._labels, clock.now_ns())

    def _labels(self, tagset_id: int) -> Mapping[str, str] | None:
        return self._catalog.labels(tagset_id) if tagset_id < self._catalog.native.tagset_count else None

    def tick(self) -> int:
        """Judge every rule once; return how many entries the alerts' history has got."""
        started = self._clock.monotonic()
        now_ns = self._clock.now_ns()
        inputs = {rule.name: self._input(rule, now_ns) for rule in self._rules.rules}
        events = self._rules.tick(inputs, self._labels, now_ns)
        for event in events:
            self._vitals.alert_transitions.labels(event.event).inc()
        self._vitals.rule_tick_seconds.observe(self._clock.monotonic() - started)
        return len(events)

    def _input(self, rule: Rule, now_ns: int) -> RuleInput:
        observed = self._observer.values(
            rule.metric,
            rule.match,
            now_ns,
            aggregate=rule.aggregate,
            over_ns=int(rule.over),
            divide_by=rule.divide_by,
            scale=rule.scale,
        )
        return RuleInput(observed.tagset_ids, observed.values, observed.times)
