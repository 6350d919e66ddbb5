"""The writes of one transaction: alerts, their history and the notifications that tell of them."""

from __future__ import annotations

import json
import math
import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from engine.alerting import steps
from engine.alerting.alerts import (
    CANCELLED,
    FIRING,
    PENDING,
    RESOLVED,
    STORED,
    Alert,
    AlertEvent,
    alert_json,
    alert_of_row,
)
from engine.alerting.evaluator import (
    BECAME_FRESH,
    BECAME_PENDING,
    BECAME_STALE,
    BEGAN_CLEARING,
    FIRED,
    HELD_AGAIN,
    NOTIFY_NOW,
    Transitions,
)
from engine.alerting.evaluator import (
    RESOLVED as BECAME_RESOLVED,
)
from engine.alerting.evidence import SourceWriter
from engine.alerting.groups import Groups
from engine.alerting.holding import BUDGET, COOLDOWN, FLAPPING, GROUPED, Hold, Holds
from engine.alerting.notifying import Notifying
from engine.alerting.outgoing import Outgoing
from engine.alerting.rules import LabelsOf, fingerprint, level_of, render_summary, rule_annotations, rule_labels
from engine.alerting.writes import Writes
from engine.config import Escalation, Rule
from engine.model.times import time_text

RECORDED_AT_ONCE = 10_000
_OPEN = "WHERE rule = ? AND fingerprint IN (SELECT value FROM json_each(?)) AND state IN ('pending', 'firing')"


class Journal:
    """Writes through the ``connection`` of an open transaction, as of ``now_ns``.

    ``events`` collects the new entries of the history.  ``instance``: identity of the database, which makes
    the delivery keys of two servers differ.  ``notifying``: who is told.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        instance: str,
        now_ns: int,
        notifying: Notifying,
    ) -> None:
        self._connection = connection
        self._now_ns = now_ns
        self._writes = Writes(connection)
        #: What goes to channels without being about one alert.
        self.outgoing = Outgoing(self.read, self._writes, instance, notifying, now_ns)
        self._holds = Holds(self.read, notifying.inhibitions, notifying.flapping, now_ns)
        self._groups = Groups(self.read, self._writes, notifying.groupings, now_ns)
        self._steps, self._router = notifying.steps, notifying.router
        self._rescheduled: set[int] = set()
        #: Whether a step of an escalation was taken, and whether flapping held back something owed.
        self.taken_steps = self.flapped = False
        # The open alerts of the series that are being recorded, by fingerprint.
        self._open: dict[str, Alert] = {}
        self.events: list[AlertEvent] = []
        #: How many notifications were withheld, by cause (engine/alerting/holding.py).
        self.withheld: Counter[str] = Counter()

    def read(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Return what a SELECT gives after everything that has been written so far."""
        self._writes.flush()
        return self._connection.execute(sql, parameters).fetchall()

    def flush(self) -> None:
        """Write what has been kept back; to be called before the transaction ends."""
        self._writes.flush()
        if self._rescheduled:
            self._connection.execute(steps.SOME, (self._steps.text, steps.some(self._rescheduled)))
            self._rescheduled.clear()

    def reschedule(self, alert: Alert) -> None:
        """Find out anew, at the end, when the next step of the alert's escalation is due."""
        self._rescheduled.add(alert.id)

    def reschedule_all(self) -> None:
        """Find that out for every firing alert, and keep for which steps."""
        self.flush()
        self._connection.execute(steps.ALL, (self._steps.text,))
        self._connection.execute(
            "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            (steps.KEPT_AS, self._steps.text),
        )

    def select(self, where: str, parameters: Sequence[Any]) -> list[Alert]:
        return [alert_of_row(row) for row in self.read(f"SELECT {STORED} FROM alerts {where}", parameters)]

    def record(self, rule: Rule, transitions: Transitions, labels_of: LabelsOf) -> None:
        """Write the changes of one rule; nothing where it has been written before."""
        sources = SourceWriter(rule)
        for first in range(0, len(transitions), RECORDED_AT_ONCE):
            tagset_ids = transitions.tagset_ids[first : first + RECORDED_AT_ONCE].tolist()
            labels = [labels_of(tagset_id) or {} for tagset_id in tagset_ids]
            keys = [fingerprint(rule.name, each) for each in labels]
            wanted = json.dumps(keys)
            self._open = {alert.fingerprint: alert for alert in self.select(_OPEN, (rule.name, wanted))}
            self._holds.expect(wanted)
            for row, key, each in zip(range(first, len(transitions)), keys, labels, strict=False):
                self._record(rule, transitions, row, key, each, sources)

    def _record(
        self,
        rule: Rule,
        transitions: Transitions,
        row: int,
        key: str,
        labels: Mapping[str, str],
        sources: SourceWriter,
    ) -> None:
        kind = int(transitions.kinds[row])
        number = float(transitions.values[row])
        value = None if math.isnan(number) else number
        alert = self._open.get(key)
        if kind not in (BECAME_PENDING, FIRED):
            if alert is not None:
                self._move(alert, kind, value, transitions, row)
            return
        tagset_id = int(transitions.tagset_ids[row])
        if alert is not None and (kind == BECAME_PENDING or alert.state == FIRING):
            # Told before.  After a repair of the catalogue the series may go by another number.
            if alert.tagset_id != tagset_id:
                self.update(alert, tagset_id=tagset_id)
            return
        news: dict[str, Any] = {
            "value": value,
            "summary": render_summary(rule, labels, number),
            "annotations": rule_annotations(rule, labels, number),
            "cause_time_ns": int(transitions.times[row]),
        }
        given = {**labels, **rule_labels(rule, labels)} if alert is None else alert.labels
        if kind == FIRED:
            news["state"] = FIRING
            news["fired_ns"] = self._now_ns
            # Where an alert goes is decided when it fires.
            news["channels"] = self._router.channels_of(rule, given, self._now_ns)
        if alert is None:
            news["started_ns"] = int(transitions.since_ns[row])
            news["source"] = sources.text(labels)
            alert = self._insert(rule, key, tagset_id, given, news)
        else:
            alert = self.update(alert, **news)
        if kind == FIRED:
            self._holds.fired(alert)
        silent = f"no data since {time_text(int(transitions.times[row]))}" if transitions.stale[row] else ""
        if kind == BECAME_PENDING:
            self.tell(alert, "pending", silent)
        elif transitions.notify[row]:
            self.notify(alert, "firing", FIRING, silent)
        else:
            until = time_text(int(transitions.quiet_until_ns[row]))
            why = f"not notified: in the cooldown of the last alert until {until}"
            self.tell(self._count(alert, COOLDOWN), "firing", f"{silent}; {why}" if silent else why)

    def _move(self, alert: Alert, kind: int, value: float | None, transitions: Transitions, row: int) -> None:
        """Write a change of an alert that is open already."""
        time_ns = int(transitions.times[row])
        if kind == BECAME_FRESH:
            self.tell(self.update(alert, stale=False), "fresh")
        elif kind == BECAME_STALE:
            self.tell(self.update(alert, stale=True), "stale", f"no data since {time_text(time_ns)}")
        elif kind == BEGAN_CLEARING:
            self.tell(self.update(alert, value=value, cleared_ns=time_ns), "clearing")
        elif kind == HELD_AGAIN:
            self.tell(self.update(alert, value=value, cleared_ns=None), "held")
        elif kind == NOTIFY_NOW:
            if alert.state == FIRING and alert.notified_ns is None:
                self.notify(alert, "notified", FIRING, "the cooldown is over and the alert still fires")
        elif transitions.stale[row]:
            self.end(alert, f"no data since {time_text(time_ns)}")
        elif kind == BECAME_RESOLVED:
            self.end(self.update(alert, value=value, cause_time_ns=time_ns))
        else:
            self.end(self.update(alert, value=value, cause_time_ns=time_ns), "the condition no longer holds")

    def _insert(
        self,
        rule: Rule,
        key: str,
        tagset_id: int,
        labels: dict[str, str],
        news: Mapping[str, Any],
    ) -> Alert:
        alert = self._writes.insert(
            {
                "fingerprint": key,
                "tagset_id": tagset_id,
                "rule": rule.name,
                "severity": rule.severity,
                "category": rule.category,
                "labels": labels,
                "channels": (),
                "state": PENDING,
                "threshold": level_of(rule, news["value"] if news["value"] is not None else math.nan),
                "stale": False,
                **news,
            }
        )
        self._open[key] = alert
        return alert

    def update(self, alert: Alert, **columns: Any) -> Alert:
        """Write these columns of ``alert`` and return it with them."""
        alert = self._writes.update(alert, columns)
        if alert.is_open:
            self._open[alert.fingerprint] = alert
        else:
            self._open.pop(alert.fingerprint, None)
        return alert

    def _count(self, alert: Alert, cause: str) -> Alert:
        """Take note that a notification of ``alert`` was not sent, or not by itself."""
        self.withheld[cause] += 1
        return self.update(alert, withheld={**alert.withheld, cause: alert.withheld.get(cause, 0) + 1})

    def end(self, alert: Alert, detail: str = "") -> AlertEvent:
        """Resolve a firing alert, telling whoever was told of it, or cancel a pending one."""
        if alert.state == PENDING:
            return self.tell(self.update(alert, state=CANCELLED, resolved_ns=self._now_ns), "cancelled", detail)
        self._holds.ended(alert)
        alert = self.update(alert, state=RESOLVED, resolved_ns=self._now_ns, cleared_ns=None)
        called_flapping = self._holds.flaps(alert) is not None and self._holds.told_of_flapping(alert)
        if alert.notified_ns is None and not called_flapping:
            held_back = "it was held back" if alert.owed else "nor was the firing"
            silent = f"not notified: {held_back}"
            return self.tell(alert, "resolved", f"{detail}; {silent}" if detail else silent)
        return self.notify(alert, "resolved", RESOLVED, detail)

    def tell(self, alert: Alert, event: str, detail: str = "") -> AlertEvent:
        """Append to the history of ``alert``."""
        number = self._writes.number("alert_events")
        self._writes.add("alert_events", number, alert.id, self._now_ns, event, alert.value, detail)
        told = AlertEvent(number, self._now_ns, event, alert.value, detail, alert)
        self.events.append(told)
        return told

    def notify(self, alert: Alert, event: str, tells: str, detail: str = "") -> AlertEvent:
        """Append to the history and put one notification for each of the alert's channels into the outbox.

        ``tells``: what the receivers are told, "firing" or "resolved".  While something holds it back, the
        notification is owed instead.
        """
        hold = self._holds.reason(alert)
        flaps = self._holds.flaps(alert) if hold is None else None
        if flaps is not None:
            self._writes.forgive(alert)
            if self._holds.told_of_flapping(alert):
                hold = Hold(FLAPPING, flaps)
        if hold is not None:
            because = f"not notified: {hold.text}"
            held_back = self._count(self.update(alert, owed=tells), hold.cause)
            return self.tell(held_back, event, f"{detail}; {because}" if detail else because)
        # After word of the flapping, how it ends is still owed.
        owed = None if flaps is None else tells
        news: dict[str, Any] = {"owed": owed} if alert.owed != owed else {}
        if tells == FIRING and alert.notified_ns is None:
            news |= {
                "notified_ns": self._now_ns,
                "escalate_from_ns": self._now_ns,
                "next_step_ns": self._steps.first_ns(alert, self._now_ns),
            }
        if news:
            alert = self.update(alert, **news)
        if flaps is not None:
            self.tell(alert, event, detail)
            self._holds.called_flapping(alert)
            return self._send(alert, "flapping", "flapping", alert.channels, flaps)
        return self._send(alert, event, tells, alert.channels, detail)

    def escalate(self, alert: Alert, step: Escalation) -> AlertEvent | None:
        """Tell the channels of ``step``, once for each alert; nothing while something holds it back.

        A step without a wait leaves out the channels that the alert goes to anyway.  Whoever is told here is
        told of the end too.
        """
        if self._holds.reason(alert) is not None:
            return None
        self.taken_steps = True
        self._writes.add("escalations", alert.id, step.name, self._now_ns)
        self.reschedule(alert)
        new = tuple(channel for channel in step.channels if channel not in alert.channels)
        channels = step.channels if step.after else new
        if not channels:
            return None
        if new:
            alert = self.update(alert, channels=(*alert.channels, *new))
        within = f" within {step.after.text}" if step.after else ""
        detail = f"step {step.name}: neither acknowledged nor resolved{within}"
        return self._send(alert, "escalated", "escalated", channels, detail)

    def _send(self, alert: Alert, event: str, tells: str, channels: Sequence[str], detail: str) -> AlertEvent:
        names = ", ".join(
            f"{channel}, with its group" if self._groups.groups(channel) else channel for channel in channels
        )
        to_whom = f"notifies {names}" if names else "notifies nobody: no channel is configured"
        told = self.tell(alert, event, f"{detail}; {to_whom}" if detail else to_whom)
        shown = alert_json(alert)
        for channel in channels:
            if self._groups.groups(channel):
                self._groups.add(channel, alert, tells, told.id)
                alert = self._count(alert, GROUPED)
                continue
            if self.outgoing.has_room(channel):
                self.outgoing.put(channel, tells, {"alert": shown}, key=str(told.id), alert_id=alert.id)
            else:
                alert = self._count(alert, BUDGET)
                self.outgoing.withhold(channel, alert.rule, tells)
        return told

    def tell_groups(self) -> None:
        """Send the messages of the groups that are due; one whose channel has used up its budget waits."""
        for number, channel in self._groups.due():
            if self.outgoing.has_room(channel):
                self._groups.tell(
                    number, self.select, lambda alert: self._holds.reason(alert) is not None, self.outgoing.put_group
                )

    def acknowledged_time_ns(self, alert: Alert) -> int:
        """Return how long an acknowledgement that has expired, or ends now, has stopped the alert's escalation."""
        if alert.acknowledged_ns is None or alert.escalate_from_ns is None:
            return 0
        end_ns = self._now_ns
        if alert.acknowledged_until_ns is not None:
            end_ns = min(end_ns, alert.acknowledged_until_ns)
        return max(0, end_ns - max(alert.acknowledged_ns, alert.escalate_from_ns))

    def pay(self, alert: Alert) -> AlertEvent | None:
        """Send what is owed of ``alert`` unless something holds it back still."""
        if alert.owed is None or self._holds.reason(alert) is not None:
            return None
        if self._holds.flaps(alert) is not None:
            self.flapped = True
            return None
        return self.notify(alert, "unsilenced", alert.owed, "nothing holds it back any more")
