"""When the next step of each alert's escalation is due: told in the alert itself, so that a tick looks at those alone.

``alerts.next_step_ns`` is NULL where no step is left, nobody has been told yet, or somebody has the alert in hand.  It
follows from the steps in force; which these were is kept beside, so that others make it anew.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence

from engine.alerting.alerts import Alert
from engine.config import Escalation

#: Key of the table ``meta`` under which the steps that ``next_step_ns`` was made of stand.
KEPT_AS = "escalation"
_NEXT = """UPDATE alerts SET next_step_ns = CASE WHEN acknowledged_ns IS NULL THEN (
        SELECT min(alerts.escalate_from_ns + json_extract(step.value, '$.after')) FROM json_each(?1) AS step
        WHERE coalesce(json_extract(step.value, '$.category'), category) = category
        AND coalesce(json_extract(step.value, '$.severity'), severity) = severity
        AND NOT EXISTS (
            SELECT 1 FROM escalations WHERE alert_id = alerts.id AND step = json_extract(step.value, '$.name')
        )
    ) END"""
ALL = f"{_NEXT} WHERE state = 'firing'"
SOME = f"{_NEXT} WHERE id IN (SELECT value FROM json_each(?2))"


class Steps(tuple[Escalation, ...]):
    """The steps in force, the earliest first."""

    def __new__(cls, steps: Sequence[Escalation]) -> Steps:
        return super().__new__(cls, sorted(steps, key=lambda step: step.after))

    @property
    def text(self) -> str:
        """What ``next_step_ns`` depends on, as JSON."""
        return json.dumps(
            [
                {"name": step.name, "after": int(step.after), "category": step.category, "severity": step.severity}
                for step in self
            ]
        )

    def first_ns(self, alert: Alert, from_ns: int) -> int | None:
        """Return when the first step of an alert is due that was told of at ``from_ns``; None for one in hand."""
        if alert.acknowledged_ns is not None:
            return None
        return next((from_ns + step.after for step in self if concerns(step, alert)), None)


def concerns(step: Escalation, alert: Alert) -> bool:
    """Return whether a step is for alerts like this one."""
    return step.category in (None, alert.category) and step.severity in (None, alert.severity)


def some(ids: Collection[int]) -> str:
    """Return the second parameter of :data:`SOME`."""
    return json.dumps(sorted(ids))
