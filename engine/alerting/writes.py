"""What one transaction writes about alerts, kept back and written one statement for all rows of a kind.

A tick may change 200,000 alerts.  A statement for each of them, and a look at each before, costs several times
what the rows themselves do.
"""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from engine.alerting.alerts import Alert, labels_json

#: How many entries of the history are kept back at most.
MOST_HELD = 20_000

_COLUMNS = {
    "alert_events": ("id", "alert_id", "time_ns", "event", "value", "detail"),
    "escalations": ("alert_id", "step", "time_ns"),
    "notifications": (
        *("id", "delivery", "channel", "alert_id", "group_id", "event", "body", "created_ns", "next_attempt_ns"),
    ),
    "withheld": ("channel", "rule", "event"),
    "alert_groups": ("id", "channel", "labels", "due_ns", "sent_ns"),
    "alert_group_news": ("group_id", "event_id", "alert_id", "tells"),
    "notification_alerts": ("notification_id", "alert_id", "events"),
}
_OR = {"alert_groups": "ON CONFLICT (id) DO UPDATE SET due_ns = excluded.due_ns, sent_ns = excluded.sent_ns"}
_IN_JSON: dict[str, Callable[[Any], str]] = {
    "labels": labels_json,
    "channels": json.dumps,
    "withheld": json.dumps,
    "annotations": labels_json,
}
_UNOWED = "UPDATE alerts SET owed = NULL WHERE fingerprint = ? AND id <> ?"


class Writes:
    """Rows for the ``connection`` of an open transaction; nothing is there before :meth:`flush`.

    Rows are numbered here, as AUTOINCREMENT would: above every number there has ever been.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._last: dict[str, int] = {}
        self._new: dict[int, tuple[Alert, tuple[str, ...]]] = {}
        self._changed: dict[int, tuple[Alert, frozenset[str]]] = {}
        self._unowed: list[tuple[str, int]] = []
        self._rows: dict[str, list[tuple[Any, ...]]] = {table: [] for table in _COLUMNS}

    def number(self, table: str) -> int:
        """Return the number of the next row of ``table``."""
        if table not in self._last:
            found = self._connection.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (table,)).fetchone()
            self._last[table] = 0 if found is None else int(found[0])
        self._last[table] += 1
        return self._last[table]

    def insert(self, columns: Mapping[str, Any]) -> Alert:
        """Write a new alert with these attributes, and the defaults of the others; return it."""
        alert = Alert(id=self.number("alerts"), **columns)
        self._new[alert.id] = (alert, ("id", *columns))
        return alert

    def update(self, alert: Alert, columns: Mapping[str, Any]) -> Alert:
        """Write these attributes of ``alert`` and return it with them."""
        if alert.id in self._new:
            before, names = self._new[alert.id]
            alert = replace(before, **columns)
            self._new[alert.id] = (alert, (*names, *(name for name in columns if name not in names)))
        else:
            before, changed = self._changed.get(alert.id, (alert, frozenset()))
            alert = replace(before, **columns)
            self._changed[alert.id] = (alert, changed | columns.keys())
        return alert

    def add(self, table: str, *row: Any) -> None:
        """Write a row of a table other than alerts."""
        rows = self._rows[table]
        rows.append(row)
        if len(rows) >= MOST_HELD:
            self.flush()

    def execute(self, sql: str, parameters: Sequence[Any]) -> None:
        """Run a statement after everything that has been written so far."""
        self.flush()
        self._connection.execute(sql, parameters)

    def forgive(self, alert: Alert) -> None:
        """Let the other alerts of the same series owe nothing."""
        self._unowed.append((alert.fingerprint, alert.id))

    def flush(self) -> None:
        """Write what has been kept back."""
        by_columns: dict[tuple[str, ...], list[Alert]] = defaultdict(list)
        for alert, names in self._changed.values():
            by_columns[tuple(sorted(names))].append(alert)
        # Ends before beginnings: a series has one open alert at most, at every moment.
        for columns, alerts in by_columns.items():
            assignments = ", ".join(f"{name} = ?" for name in columns)
            rows = [(*_values(alert, columns), alert.id) for alert in alerts]
            self._connection.executemany(f"UPDATE alerts SET {assignments} WHERE id = ?", rows)
        self._changed.clear()
        by_columns.clear()
        for alert, columns in self._new.values():
            by_columns[columns].append(alert)
        for columns, alerts in by_columns.items():
            self._insert("alerts", columns, [_values(alert, columns) for alert in alerts])
        self._new.clear()
        if self._unowed:
            self._connection.executemany(_UNOWED, self._unowed)
            self._unowed.clear()
        for table, rows in self._rows.items():
            if rows:
                self._insert(table, _COLUMNS[table], rows)
                rows.clear()

    def _insert(self, table: str, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> None:
        places = ", ".join("?" * len(columns))
        self._connection.executemany(
            f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places}) {_OR.get(table, '')}", rows
        )


def _values(alert: Alert, columns: Sequence[str]) -> tuple[Any, ...]:
    return tuple(_IN_JSON[name](getattr(alert, name)) if name in _IN_JSON else getattr(alert, name) for name in columns)
