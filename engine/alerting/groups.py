"""Grouping: one message of a channel for many alerts, as of one transaction.

What a channel that groups is to be told waits with its group, written in the transaction of the event itself.
The message takes it out and goes into the outbox in one transaction, so each event is in exactly one message.
The timing is that of Prometheus' Alertmanager (docs, "Configuration", ``group_wait``, ``group_interval``,
``repeat_interval``).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from engine.alerting.alerts import FIRING, Alert, alert_json, labels_json
from engine.alerting.holding import Read
from engine.alerting.writes import Writes

#: A message lists so many alerts, those that fire first; all that it tells of are in ``notification_alerts``.
MOST_LISTED = 100
DUE = (
    "SELECT id, channel FROM alert_groups WHERE due_ns <= ?1 "
    "OR channel NOT IN (SELECT value FROM json_each(?2)) ORDER BY id"
)
_SEVERITIES = ("critical", "warning", "info")


@dataclass(frozen=True, slots=True)
class Grouping:
    """How a channel groups: by the values of the labels ``by``, also ``rule``, ``severity`` and ``category``.

    ``wait_ns``: from the first event to the message.  ``interval_ns``: between two messages of a group.
    ``repeat_ns``: after so long without news the group says what still fires; None for never.
    """

    by: tuple[str, ...]
    wait_ns: int
    interval_ns: int
    repeat_ns: int | None = None


# Of a channel that no longer groups: what waits goes at once.
_NO_LONGER = Grouping((), 0, 0)


@dataclass(frozen=True, slots=True)
class _Group:
    """``due_ns``: when to look at it; None when there is nothing to do.  ``sent_ns``: of its last message."""

    id: int
    channel: str
    labels: str
    due_ns: int | None
    sent_ns: int | None


class Groups:
    """The groups of all channels, read by ``read`` and changed through ``writes`` as of ``now_ns``."""

    def __init__(self, read: Read, writes: Writes, groupings: Mapping[str, Grouping], now_ns: int) -> None:
        self._read, self._writes, self._groupings, self._now_ns = read, writes, groupings, now_ns
        self._known: dict[str, dict[str, _Group]] = {}

    def groups(self, channel: str) -> bool:
        """Return whether the channel groups."""
        return channel in self._groupings

    def add(self, channel: str, alert: Alert, tells: str, event_id: int) -> None:
        """Let ``channel`` be told of an event of ``alert`` with its group's next message."""
        grouping = self._groupings[channel]
        values = {**alert.labels, "rule": alert.rule, "severity": alert.severity, "category": alert.category}
        labels = labels_json({name: values.get(name, "") for name in grouping.by})
        if channel not in self._known:
            rows = self._read("SELECT * FROM alert_groups WHERE channel = ?", (channel,))
            self._known[channel] = {group.labels: group for group in (_Group(*row) for row in rows)}
        group = self._known[channel].get(labels)
        due_ns = self._now_ns + grouping.wait_ns
        if group is None:
            self._write(_Group(self._writes.number("alert_groups"), channel, labels, due_ns, None))
        else:
            if group.sent_ns is not None:
                due_ns = max(due_ns, group.sent_ns + grouping.interval_ns)
            if group.due_ns is None or due_ns < group.due_ns:
                self._write(replace(group, due_ns=due_ns))
        self._writes.add("alert_group_news", self._known[channel][labels].id, event_id, alert.id, tells)

    def _write(self, group: _Group) -> None:
        if group.channel in self._known:
            self._known[group.channel][group.labels] = group
        self._writes.add("alert_groups", group.id, group.channel, group.labels, group.due_ns, group.sent_ns)

    def due(self) -> list[tuple[int, str]]:
        """Return number and channel of the groups that are to be looked at now."""
        channels = json.dumps(list(self._groupings))
        return [(number, channel) for number, channel in self._read(DUE, (self._now_ns, channels))]

    def tell(
        self,
        number: int,
        alerts_of: Callable[[str, Sequence[Any]], list[Alert]],
        held: Callable[[Alert], bool],
        send: Callable[[str, int, Mapping[str, Any]], int],
    ) -> None:
        """Send what has come to a group, or say again what still fires, or forget a group without alerts.

        ``alerts_of``: reads alerts by a condition.  ``held``: whether notifications of an alert are held back.
        ``send``: puts a message of (channel, group, content) into the outbox and returns its number.
        """
        (row,) = self._read("SELECT * FROM alert_groups WHERE id = ?", (number,))
        group = _Group(*row)
        grouping = self._groupings.get(group.channel, _NO_LONGER)
        events: dict[int, list[str]] = defaultdict(list)
        for alert_id, tells in self._read(
            "SELECT alert_id, tells FROM alert_group_news WHERE group_id = ? ORDER BY event_id", (number,)
        ):
            events[alert_id].append(tells)
        told = alerts_of("WHERE id IN (SELECT alert_id FROM alert_group_news WHERE group_id = ?)", (number,))
        if not told and grouping.repeat_ns is not None:
            told = [
                alert
                for alert in alerts_of(
                    "WHERE id IN (SELECT alert_id FROM alert_group_members WHERE group_id = ?)", (number,)
                )
                if alert.state == FIRING and not alert.acknowledged(self._now_ns) and not held(alert)
            ]
        if told:
            notification_id = send(group.channel, number, group_content(told, events, json.loads(group.labels)))
            for alert in told:
                self._writes.add("notification_alerts", notification_id, alert.id, ",".join(events.get(alert.id, ())))
            group = replace(group, sent_ns=self._now_ns)
        for statement in _TOLD:
            self._writes.execute(statement, (number,))
        self._go_on(group, grouping)

    def _go_on(self, group: _Group, grouping: Grouping) -> None:
        """Note when the group is to be looked at next; forget one that has nothing left to tell."""
        fires = bool(self._read("SELECT 1 FROM alert_group_members WHERE group_id = ? LIMIT 1", (group.id,)))
        # The next message keeps its distance from the last one even when everything has ended meanwhile.
        again_ns = self._now_ns if group.sent_ns is None else group.sent_ns + grouping.interval_ns
        if group.channel not in self._groupings or (not fires and again_ns <= self._now_ns):
            self._known.get(group.channel, {}).pop(group.labels, None)
            self._writes.execute("DELETE FROM alert_groups WHERE id = ?", (group.id,))
            return
        repeat_ns = None if grouping.repeat_ns is None else self._now_ns + grouping.repeat_ns
        self._write(replace(group, due_ns=repeat_ns if fires else again_ns))


_TOLD = (
    "INSERT OR IGNORE INTO alert_group_members SELECT group_id, alert_id FROM alert_group_news WHERE group_id = ?",
    "DELETE FROM alert_group_news WHERE group_id = ?",
    "DELETE FROM alert_group_members WHERE group_id = ? "
    "AND alert_id IN (SELECT id FROM alerts WHERE state <> 'firing')",
)


def group_content(
    alerts: Sequence[Alert], events: Mapping[int, Sequence[str]], labels: Mapping[str, str]
) -> dict[str, Any]:
    """Return what a group's message says about ``alerts``; ``events``: what each is told to have done, by number.

    An alert without events is one that has been told of before and still fires.
    """
    firing = [alert for alert in alerts if alert.state == FIRING]
    ordered = sorted(alerts, key=lambda alert: (alert.state != FIRING, _SEVERITIES.index(alert.severity), alert.id))
    again = not any(alert.id in events for alert in alerts)
    parts = []
    if firing:
        verb = "fire" if len(firing) > 1 else "fires"
        parts.append(f"{counted(len(firing))} {'still ' if again else ''}{verb}")
    if len(alerts) > len(firing):
        ended = len(alerts) - len(firing)
        verb = "are" if ended > 1 else "is"
        parts.append(f"{ended if firing else counted(ended)} {verb} resolved")
    shown_labels = ", ".join(f"{name}={value}" for name, value in sorted(labels.items()))
    return {
        "alert": None,
        "message": ", ".join(parts) + (f" ({shown_labels})" if shown_labels else ""),
        "group": dict(labels),
        "total": len(alerts),
        "firing": len(firing),
        "more": max(0, len(alerts) - MOST_LISTED),
        "alerts": [{"events": list(events.get(alert.id, ()))} | alert_json(alert) for alert in ordered[:MOST_LISTED]],
    }


def counted(count: int) -> str:
    """Return "1 alert", "2 alerts" and so on."""
    return f"{count} alert" if count == 1 else f"{count} alerts"
