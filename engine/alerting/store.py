"""Alerts on disk: their states, their history and, in the same transaction, the notifications they cause.

A change of state and the notifications that tell of it are committed together, so a crash at any instant
leaves both or neither: nothing is lost and nothing is told twice.  What each rule remembers is rebuilt from
here after a restart.  Recording the same transition again changes nothing.
"""

from __future__ import annotations

import json
import math
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from engine.alerting import states
from engine.alerting.alerts import (
    FIRING,
    HEARTBEAT,
    PENDING,
    Alert,
    AlertEvent,
)
from engine.alerting.evaluator import Transitions
from engine.alerting.groups import DUE
from engine.alerting.holding import may_inhibit
from engine.alerting.inforce import RulesInForce
from engine.alerting.journal import Journal
from engine.alerting.notifying import Notifying
from engine.alerting.reading import AlertReader
from engine.alerting.rules import GroupNumber, LabelsOf, fingerprint, may_be_of, own_labels
from engine.alerting.states import RuleState, row_of_state, state_of_rows
from engine.alerting.steps import KEPT_AS
from engine.catalog.control import ControlDatabase
from engine.config import Config, Escalation, Rule
from engine.errors import BadRequest, NotFound
from engine.model.rows import NEVER_NS
from engine.model.times import time_text

# SQLite would take the index of states, through all that fires.
_STEP_DUE = "INDEXED BY alerts_next_step WHERE state = 'firing' AND next_step_ns <= ?"


class AlertStore(AlertReader):
    """The alerts of one control database; ``notifying``: who is told of them."""

    def __init__(self, control: ControlDatabase, notifying: Notifying, *, service_labels: Sequence[str] = ()) -> None:
        super().__init__(control, service_labels)
        self.in_force = RulesInForce(control)
        self._notifying, self._steps_known = notifying, False
        # What held back everything that is owed, by what it tells, and each step that is due; looked at again once that
        # is otherwise.
        self._all_owed_held: dict[str, tuple[object, ...]] = {}
        self._all_due_held: tuple[object, ...] | None = None
        self._counting = threading.Lock()
        self._withheld: Counter[str] = Counter()

    @classmethod
    def configured(cls, control: ControlDatabase, config: Config) -> AlertStore:
        """Return the store of ``control`` with what ``config`` says about channels and notifications."""
        return cls(control, Notifying.configured(config), service_labels=config.bottlenecks.service_labels)

    def take_up(self, notifying: Notifying) -> None:
        """Tell others, or otherwise, from now on.  Alerts that fire keep the channels that they took."""
        self._notifying, self._steps_known = notifying, False

    @contextmanager
    def _journal(self, now_ns: int) -> Iterator[Journal]:
        """Lend the journal of one transaction."""
        with self._control.transaction() as connection:
            journal = Journal(
                connection,
                self._control.instance,
                now_ns,
                self._notifying,
            )
            yield journal
            journal.flush()
        with self._counting:
            self._withheld.update(journal.withheld)

    def take_withheld(self) -> dict[str, int]:
        """Return how many notifications were withheld since this was last asked, by cause."""
        with self._counting:
            counts = dict(self._withheld)
            self._withheld.clear()
        return counts

    # ---- transitions -----------------------------------------------------------------------------

    def record(self, changes: Sequence[tuple[Rule, Transitions]], labels_of: LabelsOf, now_ns: int) -> list[AlertEvent]:
        """Store what one tick changed, in one transaction, and return the new entries of the history.

        ``labels_of``: tag set number -> its labels.  Only when this has returned may the transitions'
        ``next_state`` be taken over; when it raises, nothing has been stored.
        """
        if not any(len(transitions) for _, transitions in changes):
            return []
        with self._journal(now_ns) as journal:
            # Causes before consequences, or those of the same tick would be told.
            for rule, transitions in sorted(changes, key=lambda change: not self._may_inhibit(change[0])):
                journal.record(rule, transitions, labels_of)
        return journal.events

    def _may_inhibit(self, rule: Rule) -> bool:
        return may_inhibit(self._notifying.inhibitions, rule.name, rule.severity, rule.category)

    def restore(
        self, rule: Rule, labels_of: LabelsOf, now_ns: int, group_number: GroupNumber | None = None
    ) -> RuleState:
        """Return what ``rule`` remembered when the server stopped.

        Groups, whose numbers are negative and last as long as a process, go by the number of their labels now.

        Firing stays firing, pending keeps its start, a cooldown goes on.  A series counts as seen at
        ``now_ns``, so that data has ``stale_after`` to come in again.  An alert whose tag set number means
        other labels now is orphaned: pending it is cancelled, firing it stays, marked stale.  One of groups that
        the rule no longer makes is ended.
        """
        quiet_until_ns: dict[str, int] = {}
        rows: dict[str, dict[str, Any]] = {}
        for key, tagset_id, labels_text, resolved_ns in self._control.rows(
            "SELECT fingerprint, tagset_id, labels, max(resolved_ns) FROM alerts "
            "WHERE rule = ? AND state = 'resolved' AND notified_ns IS NOT NULL AND resolved_ns > ? "
            "GROUP BY fingerprint",
            (rule.name, now_ns - rule.cooldown),
        ):
            labels = json.loads(labels_text)
            if not may_be_of(rule, tagset_id, labels):
                continue
            quiet_until_ns[key] = resolved_ns + rule.cooldown
            if tagset_id < 0 and group_number is not None:
                tagset_id = group_number(own_labels(rule, labels))
            if fingerprint(rule.name, labels_of(tagset_id) or {}) == key:
                rows[key] = row_of_state(tagset_id, now_ns, quiet_until_ns=quiet_until_ns[key])
        orphans: list[Alert] = []
        found = self._select("WHERE rule = ? AND state IN ('pending', 'firing')", (rule.name,))
        foreign = [alert for alert in found if not may_be_of(rule, alert.tagset_id, alert.labels)]
        if foreign:
            with self._journal(now_ns) as journal:
                for alert in foreign:
                    journal.end(alert, "the rule looks at other series now")
            found = [alert for alert in found if alert not in foreign]
        for alert in found if group_number is None else self._renumbered(rule, found, group_number, now_ns):
            found_labels = labels_of(alert.tagset_id)
            if found_labels is None or fingerprint(rule.name, found_labels) != alert.fingerprint:
                orphans.append(alert)
                continue
            state = states.PENDING
            if alert.state == FIRING:
                state = states.FIRING if alert.cleared_ns is None else states.CLEARING
            rows[alert.fingerprint] = row_of_state(
                alert.tagset_id,
                now_ns,
                states=state,
                since_ns=alert.started_ns,
                values=math.nan if alert.value is None else alert.value,
                cleared_ns=alert.cleared_ns or 0,
                quiet_until_ns=quiet_until_ns.get(alert.fingerprint, 0),
                notified=alert.notified_ns is not None or alert.owed is not None,
                stale=alert.stale,
            )
        self._orphan(orphans, now_ns)
        return state_of_rows(list(rows.values()))

    def _renumbered(self, rule: Rule, found: Sequence[Alert], group_number: GroupNumber, now_ns: int) -> list[Alert]:
        """Return the alerts of groups under the numbers that their labels have now, others as they are."""
        numbers = [
            group_number(own_labels(rule, alert.labels)) if alert.tagset_id < 0 else alert.tagset_id for alert in found
        ]
        if numbers == [alert.tagset_id for alert in found]:
            return list(found)
        with self._journal(now_ns) as journal:
            return [journal.update(alert, tagset_id=number) for alert, number in zip(found, numbers, strict=True)]

    def _orphan(self, orphans: Sequence[Alert], now_ns: int) -> None:
        orphans = [alert for alert in orphans if not alert.stale]
        if not orphans:
            return
        with self._journal(now_ns) as journal:
            for alert in orphans:
                detail = "the series is no longer in the catalogue"
                if alert.state == PENDING:
                    journal.end(alert, detail)
                else:
                    journal.tell(journal.update(alert, stale=True), "stale", detail)

    def close_except(self, rule_names: Collection[str], now_ns: int) -> list[AlertEvent]:
        """End the open alerts of every rule that is not among ``rule_names``: nothing judges them any more.

        The history says so, and whoever was told of the firing is told of the end.
        """
        return self._close(lambda name: name not in rule_names, "the rule is no longer configured", now_ns)

    def close_of(self, rule_names: Collection[str], reason: str, now_ns: int) -> list[AlertEvent]:
        """End the open alerts of the rules ``rule_names`` for a ``reason``, telling whoever was told of them."""
        return self._close(lambda name: name in rule_names, reason, now_ns)

    def _close(self, is_over: Callable[[str], bool], reason: str, now_ns: int) -> list[AlertEvent]:
        open_alerts = self._select("WHERE state IN ('pending', 'firing')", ())
        ended = [alert for alert in open_alerts if is_over(alert.rule)]
        if not ended:
            return []
        with self._journal(now_ns) as journal:
            for alert in ended:
                journal.end(alert, reason)
        return journal.events

    # ---- what people do --------------------------------------------------------------------------

    def ack(self, alert_id: int, *, by: str, note: str = "", expires_ns: int | None = None, now_ns: int) -> AlertEvent:
        """Note that ``by`` has the alert in hand, until ``expires_ns`` or for good; replaces an earlier one.

        Raises NotFound for an unknown alert, BadRequest for one that is over or an expiry in the past.
        """
        if not by:
            raise BadRequest(f"cannot acknowledge alert {alert_id}: got no name, want who acknowledges it")
        if expires_ns is not None and expires_ns <= now_ns:
            raise BadRequest(
                f"cannot acknowledge alert {alert_id}: got an expiry of {time_text(expires_ns)}, "
                f"want a time after {time_text(now_ns)}"
            )
        with self._journal(now_ns) as journal:
            alert = self._stop_clock(journal, self._open_in(journal, alert_id, "acknowledge"))
            alert = journal.update(
                alert,
                acknowledged_ns=now_ns,
                acknowledged_by=by,
                acknowledged_note=note,
                acknowledged_until_ns=expires_ns,
                next_step_ns=None,
            )
            until = "" if expires_ns is None else f" until {time_text(expires_ns)}"
            return journal.tell(alert, "acknowledged", f"by {by}{until}" + (f": {note}" if note else ""))

    def release(self, alert_id: int, *, by: str, note: str = "", now_ns: int) -> AlertEvent:
        """Take the acknowledgement of an open alert back: its escalation goes on with the time that was left.

        Raises NotFound for an unknown alert, BadRequest for one that is over or that nobody has acknowledged.
        """
        with self._journal(now_ns) as journal:
            alert = self._open_in(journal, alert_id, "release")
            if not alert.acknowledged(now_ns):
                raise BadRequest(f"cannot release alert {alert_id}: nobody has acknowledged it")
            alert = self._given_back(journal, alert)
            return journal.tell(alert, "unacknowledged", f"by {by}" + (f": {note}" if note else ""))

    def expire_acks(self, now_ns: int) -> list[AlertEvent]:
        """End the acknowledgements whose time is over; an alert that still fires notifies again."""
        # One look at the earliest end of all.
        due = "INDEXED BY alerts_acknowledged WHERE state IN ('pending', 'firing') AND acknowledged_until_ns <= ?"
        if not self._select(f"{due} LIMIT 1", (now_ns,)):
            return []
        with self._journal(now_ns) as journal:
            for alert in journal.select(f"{due} ORDER BY id", (now_ns,)):
                detail = f"the acknowledgement by {alert.acknowledged_by} has expired"
                alert = self._given_back(journal, alert)
                if alert.notified_ns is not None:
                    journal.notify(alert, "unacknowledged", FIRING, detail)
                else:
                    journal.tell(alert, "unacknowledged", detail)
        return journal.events

    def sum_up(self, now_ns: int) -> None:
        """Sum up for each channel what its budget has withheld, once there is room again."""
        if not self._control.rows("SELECT 1 FROM withheld LIMIT 1"):
            return
        with self._journal(now_ns) as journal:
            for (channel,) in journal.read("SELECT DISTINCT channel FROM withheld"):
                journal.outgoing.sum_up(channel)

    def send_digests(self, now_ns: int) -> None:
        """Send a digest to each channel whose last one is older than its interval; the first begins the count."""
        if not self._notifying.digests_ns:
            return
        last_ns = dict(self._control.rows("SELECT channel, sent_ns FROM digests"))
        due = [
            channel
            for channel, interval_ns in self._notifying.digests_ns.items()
            if not now_ns - interval_ns < last_ns.get(channel, now_ns - interval_ns) <= now_ns
        ]
        if due:
            with self._journal(now_ns) as journal:
                for channel in due:
                    journal.outgoing.send_digest(channel)

    def tell_groups(self, now_ns: int) -> None:
        """Send what has come to the groups of channels that group, where it is time."""
        if not self._control.rows(f"{DUE} LIMIT 1", (now_ns, json.dumps(list(self._notifying.groupings)))):
            return
        with self._journal(now_ns) as journal:
            journal.tell_groups()

    def beat(self, now_ns: int) -> None:
        """Put a heartbeat into the outbox for each channel whose last one is older than its interval."""
        due = [
            channel
            for channel, interval_ns in self._notifying.heartbeats_ns.items()
            if not now_ns - interval_ns < self._last_beat_ns(channel) <= now_ns
        ]
        if not due:
            return
        ((firing,),) = self._control.rows("SELECT count(*) FROM alerts WHERE state = 'firing'")
        with self._journal(now_ns) as journal:
            for channel in due:
                journal.outgoing.beat(channel, f"rules were judged at {time_text(now_ns)}, {firing} alerts fire")

    def _last_beat_ns(self, channel: str) -> int:
        # From the newest on: that of all notifications would be looked for among all that are kept.
        found = self._control.rows(
            "SELECT created_ns FROM notifications INDEXED BY notifications_recent WHERE channel = ? AND event = ? "
            "ORDER BY created_ns DESC LIMIT 1",
            (channel, HEARTBEAT),
        )
        return int(found[0][0]) if found else NEVER_NS

    @staticmethod
    def _stop_clock(journal: Journal, alert: Alert) -> Alert:
        """Leave the time under the acknowledgement that ends now out of the alert's escalation."""
        stopped_ns = journal.acknowledged_time_ns(alert)
        if not stopped_ns or alert.escalate_from_ns is None:
            return alert
        return journal.update(alert, escalate_from_ns=alert.escalate_from_ns + stopped_ns)

    def _given_back(self, journal: Journal, alert: Alert) -> Alert:
        """End the acknowledgement of an alert, whose escalation goes on with the time that was left."""
        journal.reschedule(alert)
        return journal.update(self._stop_clock(journal, alert), acknowledged_ns=None, acknowledged_until_ns=None)

    def escalate(self, now_ns: int) -> list[AlertEvent]:
        """Take every step that is due of alerts that are neither acknowledged nor resolved, each once."""
        self._know_steps(now_ns)
        if not self._control.rows(f"SELECT 1 FROM alerts {_STEP_DUE} LIMIT 1", (now_ns,)):
            return []
        ((count,),) = self._control.rows(f"SELECT count(*) FROM alerts {_STEP_DUE}", (now_ns,))
        holding = (*self._what_holds(now_ns), count)
        if holding == self._all_due_held:
            return []
        with self._journal(now_ns) as journal:
            for step in self._notifying.steps:
                for alert in journal.select(*_due(step, now_ns)):
                    journal.escalate(alert, step)
            self._all_due_held = None if journal.taken_steps else holding
        return journal.events

    def _what_holds(self, now_ns: int) -> tuple[object, ...]:
        """Return what decides what is held back, but for flapping: silences in force, what has happened to alerts."""
        silences = self._control.rows("SELECT id FROM silences WHERE start_ns <= ?1 AND end_ns > ?1", (now_ns,))
        events = self._control.rows("SELECT seq FROM sqlite_sequence WHERE name = 'alert_events'")
        return tuple(silences), tuple(events), self._notifying

    def _know_steps(self, now_ns: int) -> None:
        """Once: find out anew when the steps of every alert are due, where others were in force before."""
        if self._steps_known:
            return
        if self._control.rows("SELECT value FROM meta WHERE key = ?", (KEPT_AS,)) != [(self._notifying.steps.text,)]:
            with self._journal(now_ns) as journal:
                journal.reschedule_all()
        self._steps_known = True

    def end_silences(self, tells: str, now_ns: int) -> list[AlertEvent]:
        """Send what is no longer held back: once, and only of what still fires or was told of.

        ``tells``: "firing" or "resolved", the notifications to be sent now.
        """
        # SQLite would take the index of states, through all that is over.
        where = "INDEXED BY alerts_owed WHERE owed = ? AND state = ? ORDER BY id"
        if not self._select(f"{where} LIMIT 1", (tells, tells)):
            return []
        holding = self._what_holds(now_ns)
        if holding == self._all_owed_held.pop(tells, None):
            self._all_owed_held[tells] = holding
            return []
        with self._journal(now_ns) as journal:
            for alert in journal.select(where, (tells, tells)):
                journal.pay(alert)
            # What flaps settles with time alone.
            if not journal.flapped and not journal.events:
                self._all_owed_held[tells] = holding
        return journal.events

    def close(self, alert_id: int, *, by: str, note: str = "", now_ns: int) -> AlertEvent:
        """End an open alert by hand, for a series that will never report again.

        The rule's state must forget the series too: RuleWatch.close does both.  Raises NotFound, BadRequest.
        """
        with self._journal(now_ns) as journal:
            alert = self._open_in(journal, alert_id, "close")
            return journal.end(alert, f"closed by {by}" + (f": {note}" if note else ""))

    def _open_in(self, journal: Journal, alert_id: int, action: str) -> Alert:
        found = journal.select("WHERE id = ?", (alert_id,))
        if not found:
            raise NotFound(f"cannot {action} alert {alert_id}: there is no such alert")
        if not found[0].is_open:
            raise BadRequest(f"cannot {action} alert {alert_id}: it is {found[0].state}, want pending or firing")
        return found[0]

    # ---- upkeep ----------------------------------------------------------------------------------

    def prune(self, before_ns: int) -> int:
        """Forget alerts that ended before ``before_ns`` and owe nobody a notification; return how many."""
        with self._control.transaction() as connection:
            connection.execute(
                "DELETE FROM notifications WHERE alert_id IS NULL AND created_ns < ? "
                "AND (delivered_ns IS NOT NULL OR dead_ns IS NOT NULL)",
                (before_ns,),
            )
            return connection.execute(
                "DELETE FROM alerts WHERE state IN ('resolved', 'cancelled') AND resolved_ns < ? "
                "AND owed IS NOT 'resolved' AND NOT EXISTS (SELECT 1 FROM notifications WHERE alert_id = alerts.id "
                "AND delivered_ns IS NULL AND dead_ns IS NULL) "
                "AND NOT EXISTS (SELECT 1 FROM alert_group_news WHERE alert_id = alerts.id)",
                (before_ns,),
            ).rowcount


def _due(step: Escalation, now_ns: int) -> tuple[str, tuple[Any, ...]]:
    """Return the condition, and its parameters, of the alerts whose ``step`` is due."""
    where = (
        f"{_STEP_DUE} AND escalate_from_ns <= ? AND acknowledged_ns IS NULL "
        "AND category = coalesce(?, category) AND severity = coalesce(?, severity) "
        "AND NOT EXISTS (SELECT 1 FROM escalations WHERE alert_id = alerts.id AND step = ?) ORDER BY id"
    )
    return where, (now_ns, now_ns - step.after, step.category, step.severity, step.name)
