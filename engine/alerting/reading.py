"""Alerts and their history as they are on disk."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, get_args

from engine.alerting.alerts import (
    FIRING,
    PENDING,
    STATES,
    STORED,
    Alert,
    alert_events_columns,
    alert_of_row,
    alerts_table,
    columns_of,
)
from engine.alerting.evidence import evidence_links
from engine.catalog.callers import EVERYONE, Caller
from engine.catalog.control import ControlDatabase
from engine.config_base import Category, Severity
from engine.errors import BadRequest, NotFound

DEFAULT_LIST_LIMIT = 1_000


class AlertReader:
    """Reads the alerts of one control database."""

    def __init__(self, control: ControlDatabase, service_labels: Sequence[str] = ()) -> None:
        """``service_labels``: the labels by which bottlenecks name a service, the first that there is."""
        self._control = control
        self._service_labels = tuple(service_labels)

    def get(self, alert_id: int, caller: Caller = EVERYONE) -> Alert:
        """Return one alert.  Raises NotFound when there is none for the caller."""
        found = self._select("WHERE id = ?", (alert_id,))
        if not found or not caller.sees(found[0].labels):
            raise NotFound(f"cannot show alert {alert_id}: there is no such alert")
        return found[0]

    def find(
        self,
        *,
        states: Collection[str] = (PENDING, FIRING),
        rule: str | None = None,
        severity: str | None = None,
        category: str | None = None,
        labels: Mapping[str, str] | None = None,
        before_id: int | None = None,
        limit: int = DEFAULT_LIST_LIMIT,
        caller: Caller = EVERYONE,
    ) -> list[Alert]:
        """Return alerts, newest first, for which each filter that is given holds.

        ``states``: empty means every state.  ``labels``: exact values.  ``before_id``: only older ones, for
        the next page.  ``caller``: for whom they have to exist.  Raises BadRequest for a state that does not exist.
        """
        unknown = sorted(set(states) - set(STATES))
        if unknown:
            raise BadRequest(f"cannot list alerts: got state {unknown[0]!r}, want {', '.join(STATES)}")
        for column, value, allowed in (
            ("severity", severity, get_args(Severity)),
            ("category", category, get_args(Category)),
        ):
            if value is not None and value not in allowed:
                raise BadRequest(f"cannot list alerts: got {column} {value!r}, want one of {', '.join(allowed)}")
        conditions = ["1"]
        parameters: list[Any] = []
        if states:
            conditions.append(f"state IN ({', '.join('?' * len(states))})")
            parameters += states
        for column, value in (("rule", rule), ("severity", severity), ("category", category)):
            if value is not None:
                conditions.append(f"{column} = ?")
                parameters.append(value)
        if before_id is not None:
            conditions.append("id < ?")
            parameters.append(before_id)
        where = f"WHERE {' AND '.join(conditions)} ORDER BY id DESC"
        if not labels and not caller.limited:
            return self._select(f"{where} LIMIT ?", (*parameters, limit))
        wanted = (labels or {}).items()
        return [
            alert
            for alert in self._select(where, parameters)
            if wanted <= alert.labels.items() and caller.sees(alert.labels)
        ][:limit]

    def events(self, alert_id: int) -> dict[str, list[Any]]:
        """Return the history of one alert as columns (see ``alert_events_columns``).  Raises NotFound."""
        self.get(alert_id)
        return self._events("WHERE alert_id = ?", (alert_id,))

    def alerts_table(self, now_ns: int, caller: Caller = EVERYONE) -> dict[str, list[Any]]:
        """Return every alert of the caller as columns (see ``alerts_columns``), oldest first."""
        alerts = (each for each in self._select("ORDER BY id", ()) if caller.sees(each.labels))
        return alerts_table(alerts, now_ns, self.evidence_links)

    def evidence_links(self, alert: Alert) -> dict[str, str]:
        """Return the paths at which there is something to look at of an alert."""
        return evidence_links(alert, self._service_labels)

    def alert_events_table(self, caller: Caller = EVERYONE) -> dict[str, list[Any]]:
        """Return the history of every alert of the caller as columns (see ``alert_events_columns``), oldest first."""
        events = self._events("", ())
        if not caller.limited:
            return events
        alerts = {alert.id for alert in self._select("", ()) if caller.sees(alert.labels)}
        kept = [index for index, alert_id in enumerate(events["alert_id"]) if alert_id in alerts]
        return {name: [values[index] for index in kept] for name, values in events.items()}

    def _events(self, where: str, parameters: Sequence[Any]) -> dict[str, list[Any]]:
        rows = self._control.rows(
            f"SELECT id, alert_id, time_ns, event, value, detail FROM alert_events {where} ORDER BY id",
            parameters,
        )
        return columns_of(alert_events_columns(), rows)

    def _select(self, where: str, parameters: Sequence[Any]) -> list[Alert]:
        rows = self._control.rows(f"SELECT {STORED} FROM alerts {where}", parameters)
        return [alert_of_row(row) for row in rows]

    def count_owed(self) -> int:
        """Return how many alerts owe a notification that a silence, an inhibition or flapping holds back."""
        ((count,),) = self._control.rows("SELECT count(*) FROM alerts WHERE owed = state AND owed IS NOT NULL")
        return int(count)
