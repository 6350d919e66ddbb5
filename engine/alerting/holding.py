"""What holds notifications back as of one transaction: silences, alerts that explain others, flapping."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engine.alerting.alerts import Alert
from engine.alerting.silences import Silence, active_silences
from engine.config import Inhibition
from engine.config_units import Duration
from engine.model.times import time_text


@dataclass(frozen=True, slots=True)
class Flapping:
    """A series flaps that fires and resolves more than ``changes`` times within ``window``; never for 0."""

    changes: int
    window: Duration


NEVER = Flapping(0, Duration(0))

_Sources = dict[tuple[int, tuple[str, ...]], set[int]]


class Holds:
    """Reads through the ``connection`` of an open transaction, as of ``now_ns``, and only when first asked.

    :meth:`fired` and :meth:`ended` tell it what the transaction has changed since.
    """

    def __init__(
        self, connection: sqlite3.Connection, inhibitions: Sequence[Inhibition], flapping: Flapping, now_ns: int
    ) -> None:
        self._connection, self._inhibitions, self._now_ns = connection, inhibitions, now_ns
        self._flapping = flapping
        self._silences: list[Silence] | None = None
        self._sources: _Sources | None = None

    def reason(self, alert: Alert) -> str | None:
        """Return what holds the alert's notifications back, None when nothing does."""
        if self._silences is None:
            self._silences = active_silences(self._connection, self._now_ns)
        silence = next((silence for silence in self._silences if silence.covers(alert)), None)
        if silence is not None:
            return f"silence {silence.id} by {silence.author} until {time_text(silence.end_ns)}"
        return self._inhibited(alert) if self._inhibitions else None

    def flaps(self, alert: Alert) -> str | None:
        """Return in words how often the alert's series has changed lately when that is too often, else None."""
        most, window = self._flapping.changes, self._flapping.window
        if not most:
            return None
        # Each row is at most two changes, so this many rows hold enough of them.
        ((changes,),) = self._connection.execute(
            "SELECT coalesce(sum((fired_ns > ?1) + coalesce(fired_ns IS NOT NULL AND resolved_ns > ?1, 0)), 0) FROM "
            "(SELECT fired_ns, resolved_ns FROM alerts WHERE fingerprint = ?2 ORDER BY id DESC LIMIT ?3)",
            (self._now_ns - window, alert.fingerprint, most + 1),
        )
        return f"flapping: more than {most} changes within {window.text}" if changes > most else None

    def told_of_flapping(self, alert: Alert) -> bool:
        """Return whether the alert's series has been called flapping within the window."""
        since_ns = self._now_ns - self._flapping.window
        found = self._connection.execute(
            "SELECT 1 FROM alerts JOIN alert_events ON alert_id = alerts.id WHERE fingerprint = ? "
            "AND (resolved_ns IS NULL OR resolved_ns > ?) AND event = 'flapping' AND time_ns > ? LIMIT 1",
            (alert.fingerprint, since_ns, since_ns),
        )
        return found.fetchone() is not None

    def _inhibited(self, alert: Alert) -> str | None:
        sources = self._loaded()
        labels = _matched(alert.labels, alert.rule, alert.severity, alert.category)
        for index, inhibition in enumerate(self._inhibitions):
            # An alert that is a source itself is no consequence: two of them would hush each other up.
            if _has(labels, inhibition.target) and not _has(labels, inhibition.source):
                causes = sources.get(_key(index, inhibition, labels))
                if causes:
                    return f"alert {min(causes)} fires ({inhibition.name})"
        return None

    def _loaded(self) -> _Sources:
        if self._sources is None:
            self._sources = {}
            for alert_id, *identity, labels in self._connection.execute(
                "SELECT id, rule, severity, category, labels FROM alerts WHERE state = 'firing'"
            ):
                self._add(alert_id, _matched(json.loads(labels), *identity))
        return self._sources

    def _add(self, alert_id: int, labels: Mapping[str, str]) -> None:
        assert self._sources is not None
        for index, inhibition in enumerate(self._inhibitions):
            if _has(labels, inhibition.source):
                self._sources.setdefault(_key(index, inhibition, labels), set()).add(alert_id)

    def fired(self, alert: Alert) -> None:
        """Take note of an alert that fires now."""
        if self._sources is not None:
            self._add(alert.id, _matched(alert.labels, alert.rule, alert.severity, alert.category))

    def ended(self, alert: Alert) -> None:
        """Take note of an alert that no longer fires."""
        for causes in (self._sources or {}).values():
            causes.discard(alert.id)


def may_inhibit(inhibitions: Sequence[Inhibition], rule: str, severity: str, category: str) -> bool:
    """Return whether alerts of a rule can be the source of an inhibition, whatever their labels."""
    known = {"rule": rule, "severity": severity, "category": category}
    return any(
        all(known.get(name, value) == value for name, value in inhibition.source.items()) for inhibition in inhibitions
    )


def _matched(labels: Mapping[str, str], rule: str, severity: str, category: str) -> dict[str, str]:
    return {**labels, "rule": rule, "severity": severity, "category": category}


def _has(labels: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    return all(labels.get(name, "") == value for name, value in wanted.items())


def _key(index: int, inhibition: Inhibition, labels: Mapping[str, str]) -> tuple[int, tuple[str, ...]]:
    return index, tuple(labels.get(name, "") for name in inhibition.equal)
