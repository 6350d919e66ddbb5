"""All rules in force with what each remembers: one call a tick, and one after a restart."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from engine.alerting import alerts
from engine.alerting.alerts import AlertEvent
from engine.alerting.evaluator import evaluate
from engine.alerting.inforce import looks_at
from engine.alerting.notifying import Notifying
from engine.alerting.rules import GroupNumber, LabelsOf, RuleInput
from engine.alerting.states import CLEARING, EMPTY_STATE, FIRING, PENDING, RuleState
from engine.alerting.store import AlertStore
from engine.config import Rule

_LOOKS_ELSEWHERE = "the rule looks at other series now"
_NO_INPUT = RuleInput(np.empty(0, dtype=np.int32), np.empty(0, dtype=np.float64), np.empty(0, dtype=np.int64))


@dataclass(frozen=True, slots=True)
class RuleStatus:
    """How a rule stands: ``series`` and ``judged_ns`` are of the last tick, None before the first.

    ``series`` counts those with a value; 0 means that the rule has no input and cannot fire.
    """

    rule: Rule
    series: int | None
    judged_ns: int | None
    pending: int
    firing: int
    stale: int


@dataclass(frozen=True, slots=True)
class Changes:
    """What a reload has changed of rules or channels: the names of those added, changed, removed and kept."""

    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    kept: tuple[str, ...]

    @staticmethod
    def between(before: Mapping[str, object], after: Mapping[str, object]) -> Changes:
        """Return what has changed from ``before`` to ``after``, both by name."""
        changed = [name for name, each in after.items() if name in before and before[name] != each]
        return Changes(
            added=tuple(name for name in after if name not in before),
            changed=tuple(changed),
            removed=tuple(name for name in before if name not in after),
            kept=tuple(name for name in after if name in before and name not in changed),
        )

    @property
    def sentence(self) -> str:
        """Such as ``1 added (a), 0 changed, 2 removed (b, c), 7 kept``."""

        def told(what: str, names: tuple[str, ...]) -> str:
            return f"{len(names)} {what} ({', '.join(names)})" if names else f"0 {what}"

        parts = (told("added", self.added), told("changed", self.changed), told("removed", self.removed))
        return f"{', '.join(parts)}, {len(self.kept)} kept"


class RuleWatch:
    """Judges the enabled ones of ``rules``, and stores what comes of it.

    A tick's changes are stored first and remembered after: when storing fails, the same changes are found
    again at the next tick.  Methods may be called from any thread.
    """

    def __init__(
        self,
        rules: Sequence[Rule],
        store: AlertStore,
        *,
        stale_after_ns: int,
    ) -> None:
        self.rules = tuple(rule for rule in rules if rule.enabled)
        self._store = store
        self._stale_after_ns = stale_after_ns
        self._lock = threading.Lock()
        self._states: dict[str, RuleState] = {rule.name: EMPTY_STATE for rule in self.rules}
        self._series: dict[str, int] = {}
        self._judged_ns: int | None = None

    def restore(self, labels_of: LabelsOf, now_ns: int, group_number: GroupNumber | None = None) -> list[AlertEvent]:
        """Take up the open alerts in the store, as :meth:`replace` does from the rules that were last in force; to be
        called first.  Returns what has ended.

        ``labels_of``: labels of a tag set or, for a negative number, of a group of series; ``group_number``: the number
        of a group's labels.
        """
        with self._lock:
            ended = self._store.close_except({rule.name for rule in self.rules}, now_ns)
            ended += self._store.close_of(self._store.in_force.moved(self.rules), _LOOKS_ELSEWHERE, now_ns)
            for rule in self.rules:
                self._states[rule.name] = self._store.restore(rule, labels_of, now_ns, group_number)
            # After the ends: when they cannot be stored, the next start must find the same reason for them.
            self._store.in_force.remember(self.rules)
        return ended

    def replace(
        self,
        rules: Sequence[Rule],
        labels_of: LabelsOf,
        now_ns: int,
        group_number: GroupNumber | None = None,
        notifying: Notifying | None = None,
    ) -> tuple[Changes, list[AlertEvent]]:
        """Put other rules in force; return what is new about them and what happened.

        ``notifying``: who is told from then on; None for the same as before.

        A rule that is the same remembers everything.  One that has changed keeps its open alerts and cooldowns, which
        are judged by what it says now, unless it looks at other series or groups: then its open alerts end, as do those
        of rules that are gone.  Raises what the store raises; the rules are then those of before.
        """
        enabled = tuple(rule for rule in rules if rule.enabled)
        with self._lock:
            before = {rule.name: rule for rule in self.rules}
            after = {rule.name: rule for rule in enabled}
            changed = [name for name, rule in after.items() if name in before and before[name] != rule]
            elsewhere = {name for name in changed if looks_at(before[name]) != looks_at(after[name])}
            events = self._store.close_except(set(after), now_ns)
            events += self._store.close_of(elsewhere, _LOOKS_ELSEWHERE, now_ns)
            states = {
                name: self._states[name]
                if name in before and name not in changed
                else self._store.restore(rule, labels_of, now_ns, group_number)
                for name, rule in after.items()
            }
            self._store.in_force.remember(enabled)
            self.rules, self._states = enabled, states
            if notifying is not None:
                self._store.take_up(notifying)
            self._series = {name: count for name, count in self._series.items() if name in after}
        return Changes.between(before, after), events

    def tick(self, inputs: Mapping[str, RuleInput], labels_of: LabelsOf, now_ns: int) -> list[AlertEvent]:
        """Judge every rule on its input, by rule name, and return what happened.

        A rule without an input is judged on no series.  Raises what the store raises; nothing has changed
        then.
        """
        with self._lock:
            changes = [
                (
                    rule,
                    evaluate(
                        rule,
                        self._states[rule.name],
                        inputs.get(rule.name, _NO_INPUT),
                        now_ns,
                        stale_after_ns=self._stale_after_ns,
                    ),
                )
                for rule in self.rules
            ]
            # An end that is owed goes before the next firing of the same series.
            events = self._store.end_silences(alerts.RESOLVED, now_ns)
            events += self._store.record(changes, labels_of, now_ns)
            for rule, transitions in changes:
                self._states[rule.name] = transitions.next_state
            self._forget_silent_ends(events)
            self._series = {name: int(np.count_nonzero(~np.isnan(given.values))) for name, given in inputs.items()}
            self._judged_ns = now_ns
        events += self._store.expire_acks(now_ns)
        events += self._store.end_silences(alerts.FIRING, now_ns)
        events += self._store.escalate(now_ns)
        self._store.sum_up(now_ns)
        self._store.send_digests(now_ns)
        self._store.tell_groups(now_ns)
        # Here and nowhere else: who does not judge the rules has no pulse.
        self._store.beat(now_ns)
        return events

    def take_withheld(self) -> dict[str, int]:
        """Return how many notifications were withheld since this was last asked, by cause."""
        return self._store.take_withheld()

    def _forget_silent_ends(self, events: Sequence[AlertEvent]) -> None:
        """Begin no cooldown after an alert of which a silence has told nobody: the next one is news."""
        silent: dict[str, list[int]] = defaultdict(list)
        for event in events:
            alert = event.alert
            if event.event == "resolved" and alert.notified_ns is None and alert.owed is not None:
                silent[alert.rule].append(alert.tagset_id)
        for name, tagset_ids in silent.items():
            self._states[name] = self._states[name].unquieted(tagset_ids)

    def close(self, alert_id: int, *, by: str, note: str = "", now_ns: int) -> AlertEvent:
        """End an open alert by hand; while its series still breaks the rule it opens anew, in cooldown.

        Raises NotFound and BadRequest as the store does.
        """
        with self._lock:
            closed = self._store.close(alert_id, by=by, note=note, now_ns=now_ns)
            rule = next((rule for rule in self.rules if rule.name == closed.alert.rule), None)
            if rule is not None:
                quiet_until_ns = 0 if closed.alert.notified_ns is None else now_ns + rule.cooldown
                state = self._states[rule.name]
                self._states[rule.name] = state.closed(closed.alert.tagset_id, quiet_until_ns)
        return closed

    def status(self) -> list[RuleStatus]:
        """Return how each rule stands."""
        with self._lock:
            return [self._status(rule) for rule in self.rules]

    def _status(self, rule: Rule) -> RuleStatus:
        state = self._states[rule.name]
        firing = (state.states == FIRING) | (state.states == CLEARING)
        return RuleStatus(
            rule=rule,
            series=None if self._judged_ns is None else self._series.get(rule.name, 0),
            judged_ns=self._judged_ns,
            pending=int(np.count_nonzero(state.states == PENDING)),
            firing=int(np.count_nonzero(firing)),
            stale=int(np.count_nonzero(state.stale)),
        )
