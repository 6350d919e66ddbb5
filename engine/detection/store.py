"""Anomalies on disk: what was noted, when, about which series, and why."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from engine.catalog.callers import EVERYONE, Caller
from engine.catalog.control import ControlDatabase
from engine.model.matchers import Matcher

DEFAULT_LIST_LIMIT = 1_000
#: So many are kept: SQL reads them all.
MOST = 100_000
_VALUES = "time_ns, series_id, metric, labels, value, score, cause, expected_low, expected_high, reason"


@dataclass(frozen=True, slots=True)
class Anomaly:
    """One sample that was worth a person's look."""

    time_ns: int
    series_id: int
    metric: str
    labels: Mapping[str, str]
    value: float
    score: float
    cause: str
    expected_low: float
    expected_high: float
    reason: str


class AnomalyStore:
    """The anomalies of one control database."""

    def __init__(self, control: ControlDatabase) -> None:
        self._control = control

    def record(self, anomalies: Sequence[Anomaly]) -> None:
        """Store what one tick has found, in one transaction."""
        if not anomalies:
            return
        with self._control.transaction() as connection:
            connection.executemany(
                f"INSERT INTO anomalies ({_VALUES}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        found.time_ns,
                        found.series_id,
                        found.metric,
                        json.dumps(found.labels, sort_keys=True),
                        found.value,
                        found.score,
                        found.cause,
                        found.expected_low,
                        found.expected_high,
                        found.reason,
                    )
                    for found in anomalies
                ],
            )

    def find(
        self,
        *,
        metric: str | None = None,
        since_ns: int | None = None,
        until_ns: int | None = None,
        matchers: Sequence[Matcher] = (),
        least_score: float = 0.0,
        before_id: int | None = None,
        limit: int = DEFAULT_LIST_LIMIT,
        caller: Caller = EVERYONE,
    ) -> dict[str, list[Any]]:
        """Return anomalies of the caller, newest first, as the columns of :func:`anomalies_columns`.

        ``matchers``: what the labels must be.  Times are inclusive.
        """
        conditions = ["score >= ?"]
        parameters: list[Any] = [least_score]
        for condition, value in (
            ("metric = ?", metric),
            ("time_ns >= ?", since_ns),
            ("time_ns <= ?", until_ns),
            ("id < ?", before_id),
        ):
            if value is not None:
                conditions.append(condition)
                parameters.append(value)
        where = f"WHERE {' AND '.join(conditions)} ORDER BY id DESC"
        if not caller.limited and not matchers:
            return self._columns(f"{where} LIMIT ?", (*parameters, limit))
        wanted = Caller(caller.name, (*caller.matchers, *matchers))
        found = _seen_by(wanted, self._columns(where, parameters))
        return {name: values[:limit] for name, values in found.items()}

    def anomalies_table(self, caller: Caller = EVERYONE) -> dict[str, list[Any]]:
        """Return every stored anomaly of the caller, oldest first, as the columns of :func:`anomalies_columns`."""
        return _seen_by(caller, self._columns("ORDER BY id", ()))

    def prune(self, before_ns: int) -> int:
        """Forget anomalies older than ``before_ns`` and all but the newest :data:`MOST`; return how many."""
        with self._control.transaction() as connection:
            return connection.execute(
                "DELETE FROM anomalies WHERE time_ns < ? OR id <= (SELECT max(id) FROM anomalies) - ?",
                (before_ns, MOST),
            ).rowcount

    def _columns(self, where: str, parameters: Sequence[Any]) -> dict[str, list[Any]]:
        rows = self._control.rows(f"SELECT id, {_VALUES} FROM anomalies {where}", parameters)
        return {name: [row[index] for row in rows] for index, (name, _) in enumerate(anomalies_columns())}


def _seen_by(caller: Caller, columns: dict[str, list[Any]]) -> dict[str, list[Any]]:
    if not caller.limited:
        return columns
    kept = [index for index, labels in enumerate(columns["labels"]) if caller.sees(json.loads(labels))]
    return {name: [values[index] for index in kept] for name, values in columns.items()}


def anomalies_columns() -> tuple[tuple[str, str], ...]:
    """Return name and SQL type of the columns of ``anomalies``; a time is ns since 1970, labels are JSON."""
    return (
        ("id", "BIGINT"),
        ("time", "TIMESTAMP_NS"),
        ("series_id", "BIGINT"),
        ("metric", "VARCHAR"),
        ("labels", "VARCHAR"),
        ("value", "DOUBLE"),
        ("score", "DOUBLE"),
        ("cause", "VARCHAR"),
        ("expected_low", "DOUBLE"),
        ("expected_high", "DOUBLE"),
        ("reason", "VARCHAR"),
    )
