"""An alert and its history as values: the record, its JSON form, and its columns for SQL."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from engine.model.times import time_text as time_text

PENDING = "pending"
FIRING = "firing"
RESOLVED = "resolved"
# A pending alert whose condition ended, or whose data did, before it fired.
CANCELLED = "cancelled"
STATES = (PENDING, FIRING, RESOLVED, CANCELLED)

NOTIFICATION_VERSION = 1
_SORTED = json.JSONEncoder(sort_keys=True, ensure_ascii=False)
HEARTBEAT = "heartbeat"
DIGEST = "digest"
GROUP = "group"

# The columns of the table ``alerts`` that make an Alert, in the order of its attributes.
STORED = (
    "id, fingerprint, tagset_id, rule, severity, category, labels, channels, state, value, threshold, "
    "summary, stale, started_ns, cause_time_ns, fired_ns, notified_ns, cleared_ns, resolved_ns, "
    "acknowledged_ns, acknowledged_by, acknowledged_note, acknowledged_until_ns, owed, "
    "escalate_from_ns, withheld, source, annotations, next_step_ns"
)


class Alert(msgspec.Struct, frozen=True, gc=False):
    """One alert: a rule broken by one series, from its first breaching sample to its end.

    ``value``: at the last change of state; None when it was not a number.  ``started_ns``: time of the first
    breaching sample.  ``cause_time_ns``: time of the sample that brought the present state.  ``fired_ns``,
    ``notified_ns``, ``resolved_ns``: when the server decided so; None when it has not.  ``stale``: firing,
    but the series has had no data for too long.  ``acknowledged_*``: the last acknowledgement, also when
    expired.  ``owed``: what a silence has held back of it, "firing" or "resolved".
    ``escalate_from_ns``: from when the steps of its escalation count; None before anybody was told.
    ``next_step_ns``: when the next of them is due, None where there is none or somebody has the alert in hand.
    ``source``: what its rule looks at (engine/alerting/evidence.py), None for one of an earlier version.
    ``withheld``: how many of its notifications were not sent, or not by themselves, by cause.  ``annotations``: further
    texts of its rule, as filled in when ``summary`` was.
    """

    id: int
    fingerprint: str
    tagset_id: int
    rule: str
    severity: str
    category: str
    labels: dict[str, str]
    channels: tuple[str, ...]
    state: str
    value: float | None
    threshold: float
    summary: str
    stale: bool
    started_ns: int
    cause_time_ns: int
    fired_ns: int | None = None
    notified_ns: int | None = None
    cleared_ns: int | None = None
    resolved_ns: int | None = None
    acknowledged_ns: int | None = None
    acknowledged_by: str | None = None
    acknowledged_note: str | None = None
    acknowledged_until_ns: int | None = None
    owed: str | None = None
    escalate_from_ns: int | None = None
    withheld: dict[str, int] = {}
    source: str | None = None
    annotations: dict[str, str] = {}
    next_step_ns: int | None = None

    @property
    def is_open(self) -> bool:
        return self.state in (PENDING, FIRING)

    def acknowledged(self, now_ns: int) -> bool:
        """Return whether somebody has the alert in hand at ``now_ns``."""
        if self.acknowledged_ns is None:
            return False
        return self.acknowledged_until_ns is None or now_ns < self.acknowledged_until_ns


class AlertEvent(msgspec.Struct, frozen=True, gc=False):
    """One entry of an alert's history, with the alert as it was right after it."""

    id: int
    time_ns: int
    event: str
    value: float | None
    detail: str
    alert: Alert


def alert_of_row(row: Sequence[Any]) -> Alert:
    """Return the alert in a row of the columns :data:`STORED`."""
    values = list(row)
    values[6] = json.loads(values[6])
    values[7] = tuple(json.loads(values[7]))
    values[12] = bool(values[12])
    for place in (25, 27):
        values[place] = json.loads(values[place]) if values[place] != "{}" else {}
    return Alert(*values)


def number_or_none(value: float | None) -> float | None:
    """Return ``value``, or None where JSON has no number for it."""
    return value if value is not None and math.isfinite(value) else None


def labels_json(labels: Mapping[str, str]) -> str:
    """Return labels as JSON with sorted keys: the same labels give the same text."""
    return _SORTED.encode(dict(labels))


def alert_json(alert: Alert) -> dict[str, Any]:
    """Return what a notification says about ``alert`` (docs/alerting.md)."""
    return {
        "id": alert.id,
        "fingerprint": alert.fingerprint,
        "rule": alert.rule,
        "severity": alert.severity,
        "category": alert.category,
        "state": alert.state,
        "labels": alert.labels,
        "value": number_or_none(alert.value),
        "threshold": number_or_none(alert.threshold),
        "summary": alert.summary,
        "annotations": alert.annotations,
        "stale": alert.stale,
        "started_at": time_text(alert.started_ns),
        "fired_at": time_text(alert.fired_ns),
        "resolved_at": time_text(alert.resolved_ns),
    }


def notification_body(event: str, shown: Mapping[str, Any], *, delivery: str, channel: str) -> str:
    """Return the JSON text that ``channel`` receives of an alert as :func:`alert_json` shows it."""
    return content_body(event, {"alert": shown}, delivery=delivery, channel=channel)


def content_body(event: str, content: Mapping[str, Any], *, delivery: str, channel: str) -> str:
    """Return the JSON text that ``channel`` receives; the same text at every attempt.

    ``content``: ``alert``, null for a notification that is not about one alert, which has a ``message`` then.
    """
    head: dict[str, Any] = {"version": NOTIFICATION_VERSION, "delivery": delivery, "event": event, "channel": channel}
    return msgspec.json.encode(head | dict(content)).decode()


def alerts_columns() -> tuple[tuple[str, str], ...]:
    """Return name and SQL type of the columns of the relation ``alerts``; a time is ns since 1970."""
    return (
        ("id", "BIGINT"),
        ("fingerprint", "VARCHAR"),
        ("rule", "VARCHAR"),
        ("severity", "VARCHAR"),
        ("category", "VARCHAR"),
        ("labels", "VARCHAR"),
        ("state", "VARCHAR"),
        ("value", "DOUBLE"),
        ("threshold", "DOUBLE"),
        ("summary", "VARCHAR"),
        ("stale", "BOOLEAN"),
        ("started_at", "TIMESTAMP_NS"),
        ("cause_time", "TIMESTAMP_NS"),
        ("fired_at", "TIMESTAMP_NS"),
        ("notified_at", "TIMESTAMP_NS"),
        ("resolved_at", "TIMESTAMP_NS"),
        ("acknowledged", "BOOLEAN"),
        ("acknowledged_at", "TIMESTAMP_NS"),
        ("acknowledged_by", "VARCHAR"),
        ("acknowledged_note", "VARCHAR"),
        ("acknowledged_until", "TIMESTAMP_NS"),
        ("withheld", "VARCHAR"),
        ("evidence", "VARCHAR"),
        ("annotations", "VARCHAR"),
    )


def alert_events_columns() -> tuple[tuple[str, str], ...]:
    """Return name and SQL type of the columns of the relation ``alert_events``."""
    return (
        ("id", "BIGINT"),
        ("alert_id", "BIGINT"),
        ("time", "TIMESTAMP_NS"),
        ("event", "VARCHAR"),
        ("value", "DOUBLE"),
        ("detail", "VARCHAR"),
    )


def alerts_table(
    alerts: Iterable[Alert], now_ns: int, links_of: Callable[[Alert], Mapping[str, str]]
) -> dict[str, list[Any]]:
    """Return the columns of :func:`alerts_columns` as lists of equal length.

    ``links_of``: where there is something to look at of an alert (engine/alerting/evidence.py).
    """
    rows = [
        (
            alert.id,
            alert.fingerprint,
            alert.rule,
            alert.severity,
            alert.category,
            labels_json(alert.labels),
            alert.state,
            alert.value,
            alert.threshold,
            alert.summary,
            alert.stale,
            alert.started_ns,
            alert.cause_time_ns,
            alert.fired_ns,
            alert.notified_ns,
            alert.resolved_ns,
            alert.acknowledged(now_ns),
            alert.acknowledged_ns,
            alert.acknowledged_by,
            alert.acknowledged_note,
            alert.acknowledged_until_ns,
            json.dumps(alert.withheld),
            json.dumps(links_of(alert)),
            labels_json(alert.annotations),
        )
        for alert in alerts
    ]
    return columns_of(alerts_columns(), rows)


def columns_of(columns: tuple[tuple[str, str], ...], rows: Sequence[Sequence[Any]]) -> dict[str, list[Any]]:
    """Return ``rows`` turned into one list for each of ``columns``."""
    return {name: [row[index] for row in rows] for index, (name, _) in enumerate(columns)}
