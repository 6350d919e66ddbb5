"""Bottlenecks on disk: what was found, what it was expected to bring, and what it brought."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from engine.catalog.control import ControlDatabase

DEFAULT_LIST_LIMIT = 100
#: So many are kept: SQL reads them all.
MOST = 10_000
#: A finding that has not been seen for longer, and whose metric has not gone back, is closed without an outcome.
FORGOTTEN_NS = 24 * 3_600 * 1_000_000_000
OPEN, CLOSED = "open", "closed"
STATES = (OPEN, CLOSED)
#: What is said of a finding that is over: whether the effect was what had been expected, or why that is not known.
OUTCOMES = ("as_expected", "more", "less", "no_effect", "worse", "unknown")

_COLUMNS: tuple[tuple[str, str], ...] = (
    ("id", "BIGINT"),
    ("time", "TIMESTAMP_NS"),
    ("last_seen", "TIMESTAMP_NS"),
    ("times_seen", "BIGINT"),
    ("first_moved", "TIMESTAMP_NS"),
    ("kind", "VARCHAR"),
    ("service", "VARCHAR"),
    ("instance", "VARCHAR"),
    ("resource", "VARCHAR"),
    ("aspect", "VARCHAR"),
    ("metric", "VARCHAR"),
    ("value", "DOUBLE"),
    ("expected", "DOUBLE"),
    ("basis", "VARCHAR"),
    ("confidence", "DOUBLE"),
    ("gain", "DOUBLE"),
    ("effect_metric", "VARCHAR"),
    ("effect_share", "DOUBLE"),
    ("effect_from", "DOUBLE"),
    ("effect_to", "DOUBLE"),
    ("effect_by", "VARCHAR"),
    ("reason", "VARCHAR"),
    ("recommendation", "VARCHAR"),
    ("evidence", "VARCHAR"),
    ("outcome", "VARCHAR"),
    ("outcome_time", "TIMESTAMP_NS"),
    ("outcome_share", "DOUBLE"),
)
_TIMES = {name: f"{name}_ns" for name, kind in _COLUMNS if kind == "TIMESTAMP_NS"}
_STORED = tuple(_TIMES.get(name, name) for name, _ in _COLUMNS)
#: What a finding says when it is made; what is not here is added later.
_STATED = tuple(name for name in _STORED if name not in ("id", "times_seen") and not name.startswith("outcome"))


@dataclass(frozen=True, slots=True)
class Finding:
    """One bottleneck as it was stated.  Metrics are columns ``service/metric``; ``evidence``: JSON, a list."""

    time_ns: int
    last_seen_ns: int
    first_moved_ns: int | None
    kind: str
    service: str
    instance: str
    resource: str
    aspect: str
    metric: str
    value: float
    expected: float
    basis: str
    confidence: float
    gain: float
    effect_metric: str
    effect_share: float
    effect_from: float
    effect_to: float
    effect_by: str
    reason: str
    recommendation: str
    evidence: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of finding ``id``.  ``share``: by which its effect's metric fell, None where it is not known."""

    id: int
    verdict: str
    time_ns: int
    share: float | None


class FindingStore:
    """The bottlenecks of one control database.  At most one is open for a service and a resource."""

    def __init__(self, control: ControlDatabase) -> None:
        self._control = control

    def record(self, found: Sequence[Finding], outcomes: Sequence[Outcome] = ()) -> list[int]:
        """Store what one run has found, in one transaction; return the number of each finding.

        One that is open already keeps what it stated first and counts as seen again.
        """
        with self._control.transaction() as connection:
            for outcome in outcomes:
                connection.execute(
                    "UPDATE bottlenecks SET outcome = ?, outcome_time_ns = ?, outcome_share = ? WHERE id = ?",
                    (outcome.verdict, outcome.time_ns, outcome.share, outcome.id),
                )
            return [self._record(connection, finding) for finding in found]

    @staticmethod
    def _record(connection: sqlite3.Connection, finding: Finding) -> int:
        known = connection.execute(
            "UPDATE bottlenecks SET last_seen_ns = ?, times_seen = times_seen + 1 "
            "WHERE service = ? AND resource = ? AND outcome IS NULL RETURNING id",
            (finding.last_seen_ns, finding.service, finding.resource),
        ).fetchone()
        if known is not None:
            return int(known[0])
        marks = ", ".join("?" * len(_STATED))
        values = [getattr(finding, name) for name in _STATED]
        made = connection.execute(f"INSERT INTO bottlenecks ({', '.join(_STATED)}) VALUES ({marks})", values)
        assert made.lastrowid is not None
        return made.lastrowid

    def find(
        self,
        *,
        states: Sequence[str] = (OPEN,),
        service: str | None = None,
        since_ns: int | None = None,
        seen_since_ns: int | None = None,
        until_ns: int | None = None,
        before_id: int | None = None,
        limit: int = DEFAULT_LIST_LIMIT,
    ) -> list[dict[str, Any]]:
        """Return findings, newest first, each with the columns of :func:`bottlenecks_columns`; evidence is decoded."""
        wanted = {OPEN: "outcome IS NULL", CLOSED: "outcome IS NOT NULL"}
        conditions = [f"({' OR '.join(wanted[state] for state in states)})"] if states else ["TRUE"]
        parameters: list[Any] = []
        for condition, value in (
            ("service = ?", service),
            ("time_ns >= ?", since_ns),
            ("last_seen_ns >= ?", seen_since_ns),
            ("time_ns <= ?", until_ns),
            ("id < ?", before_id),
        ):
            if value is not None:
                conditions.append(condition)
                parameters.append(value)
        rows = self._rows(f"WHERE {' AND '.join(conditions)} ORDER BY id DESC LIMIT ?", (*parameters, limit))
        names = [name for name, _ in _COLUMNS]
        found = [dict(zip(names, row, strict=True)) for row in rows]
        for finding in found:
            finding["evidence"] = json.loads(finding["evidence"])
        return found

    def table(self) -> dict[str, list[Any]]:
        """Return every finding, oldest first, as the columns of :func:`bottlenecks_columns`."""
        rows = self._rows("ORDER BY id", ())
        return {name: [row[index] for row in rows] for index, (name, _) in enumerate(_COLUMNS)}

    def prune(self, before_ns: int) -> int:
        """Forget findings not seen since ``before_ns`` and all but the newest :data:`MOST`; return how many."""
        with self._control.transaction() as connection:
            return connection.execute(
                "DELETE FROM bottlenecks WHERE last_seen_ns < ? OR id <= (SELECT max(id) FROM bottlenecks) - ?",
                (before_ns, MOST),
            ).rowcount

    def _rows(self, where: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
        return self._control.rows(f"SELECT {', '.join(_STORED)} FROM bottlenecks {where}", parameters)


def bottlenecks_columns() -> tuple[tuple[str, str], ...]:
    """Return name and SQL type of the columns of ``bottlenecks``; a time is ns since 1970, evidence is JSON."""
    return _COLUMNS
