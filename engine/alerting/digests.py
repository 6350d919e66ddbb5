"""Digests: what a channel is told every so often about all alerts."""

from __future__ import annotations

from typing import Any

from engine.alerting.alerts import FIRING, STORED, alert_json, alert_of_row
from engine.alerting.groups import MOST_LISTED, counted
from engine.alerting.holding import Read
from engine.model.times import time_text

#: A digest names so many rules, those that fired most first.
MOST_RULES = 20


def digest_content(read: Read, since_event: int, since_ns: int, now_ns: int) -> dict[str, Any]:
    """Return what has happened after the entry ``since_event`` of the history, and what fires now.

    The form is that of a group's message (``message``, ``total``, ``firing``, ``alerts``), so the same templates
    do; beside it ``since``, ``fired``, ``resolved`` and ``rules``, what each rule has done.
    """
    rules = [
        {"rule": rule, "fired": fired, "resolved": resolved}
        for rule, fired, resolved in read(
            "SELECT rule, sum(event = 'firing'), sum(event = 'resolved') FROM alert_events JOIN alerts "
            "ON alerts.id = alert_id WHERE alert_events.id > ? AND event IN ('firing', 'resolved') "
            "GROUP BY rule ORDER BY 2 DESC, 3 DESC, 1",
            (since_event,),
        )
    ]
    ((firing,),) = read("SELECT count(*) FROM alerts WHERE state = 'firing'", ())
    shown = read(
        f"SELECT {STORED} FROM alerts WHERE state = 'firing' "
        "ORDER BY CASE severity WHEN 'critical' THEN 0 WHEN 'warning' THEN 1 ELSE 2 END, id LIMIT ?",
        (MOST_LISTED,),
    )
    alerts = [alert_of_row(row) for row in shown]
    fired, resolved = (sum(rule[what] for rule in rules) for what in ("fired", "resolved"))
    by_rule = ", ".join(f"{rule['fired']} x {rule['rule']}" for rule in rules[:MOST_RULES] if rule["fired"])
    message = f"since {time_text(since_ns)}: {counted(fired)} fired{f' ({by_rule})' if by_rule else ''}, "
    message += (
        f"{resolved} {'was' if resolved == 1 else 'were'} resolved, {firing} {'fires' if firing == 1 else 'fire'} now"
    )
    return {
        "alert": None,
        "message": message,
        "group": {},
        "total": firing,
        "firing": firing,
        "since": time_text(since_ns),
        "until": time_text(now_ns),
        "fired": fired,
        "resolved": resolved,
        "rules": rules[:MOST_RULES],
        "more": max(0, firing - len(alerts)),
        "alerts": [
            {"events": [], "acknowledged_by": alert.acknowledged_by if alert.acknowledged(now_ns) else None}
            | alert_json(alert)
            for alert in alerts
            if alert.state == FIRING
        ],
    }
