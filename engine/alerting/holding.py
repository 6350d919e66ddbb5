"""What holds notifications back as of one transaction: silences, alerts that explain others, flapping."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

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

#: Why a notification was not sent when it was due, or not by itself.
SILENCED, INHIBITED, FLAPPING, COOLDOWN, BUDGET, GROUPED = CAUSES = (
    *("silenced", "inhibited", "flapping", "cooldown", "budget", "grouped"),
)


class Hold(NamedTuple):
    """Why a notification is held back: one of :data:`CAUSES`, and a clause for people."""

    cause: str
    text: str


#: Runs a SELECT with its parameters and returns the rows.
Read = Callable[[str, Sequence[Any]], list[Any]]
_Sources = dict[tuple[int, tuple[str, ...]], set[int]]


class Holds:
    """Reads within an open transaction by ``read``, as of ``now_ns``, and only when first asked.

    :meth:`fired`, :meth:`ended` and :meth:`called_flapping` tell it what the transaction has changed since.
    """

    def __init__(self, read: Read, inhibitions: Sequence[Inhibition], flapping: Flapping, now_ns: int) -> None:
        self._read, self._inhibitions, self._now_ns = read, inhibitions, now_ns
        self._flapping = flapping
        self._silences: list[Silence] | None = None
        self._sources: _Sources | None = None
        # By fingerprint: how often a series has changed lately, and those that have been called flapping.
        self._changes: dict[str, int] = {}
        self._called: set[str] = set()

    def expect(self, fingerprints: str) -> None:
        """Read at once what :meth:`flaps` will be asked of the series in this JSON list."""
        most, since_ns = self._flapping.changes, self._now_ns - self._flapping.window
        if not most:
            return
        # Each alert is at most two changes, so the newest ones hold enough of them.
        for key, changes in self._read(
            "SELECT wanted.value, (SELECT coalesce(sum((fired_ns > ?1) + "
            "coalesce(fired_ns IS NOT NULL AND resolved_ns > ?1, 0)), 0) FROM (SELECT fired_ns, resolved_ns "
            "FROM alerts WHERE fingerprint = wanted.value ORDER BY id DESC LIMIT ?2)) FROM json_each(?3) AS wanted",
            (since_ns, most + 1, fingerprints),
        ):
            self._changes[key] = changes
        # Those that will have changed too often with the next change.
        often = json.dumps([key for key, changes in self._changes.items() if changes >= most])
        for (key,) in self._read(
            "SELECT DISTINCT fingerprint FROM alerts JOIN alert_events ON alert_id = alerts.id "
            "WHERE fingerprint IN (SELECT value FROM json_each(?1)) "
            "AND (resolved_ns IS NULL OR resolved_ns > ?2) AND event = 'flapping' AND time_ns > ?2",
            (often, since_ns),
        ):
            self._called.add(key)

    def reason(self, alert: Alert) -> Hold | None:
        """Return what holds the alert's notifications back, None when nothing does."""
        if self._silences is None:
            self._silences = active_silences(self._read, self._now_ns)
        silence = next((silence for silence in self._silences if silence.covers(alert)), None)
        if silence is not None:
            return Hold(SILENCED, f"silence {silence.id} by {silence.author} until {time_text(silence.end_ns)}")
        return self._inhibited(alert) if self._inhibitions else None

    def flaps(self, alert: Alert) -> str | None:
        """Return in words how often the alert's series has changed lately when that is too often, else None."""
        most, window = self._flapping.changes, self._flapping.window
        if not most:
            return None
        if alert.fingerprint not in self._changes:
            self.expect(json.dumps([alert.fingerprint]))
        often = self._changes[alert.fingerprint] > most
        return f"flapping: more than {most} changes within {window.text}" if often else None

    def told_of_flapping(self, alert: Alert) -> bool:
        """Return whether the alert's series, which flaps, has been called flapping within the window."""
        return alert.fingerprint in self._called

    def called_flapping(self, alert: Alert) -> None:
        """Take note that the alert's series is called flapping now."""
        self._called.add(alert.fingerprint)

    def _inhibited(self, alert: Alert) -> Hold | None:
        sources = self._loaded()
        labels = _matched(alert.labels, alert.rule, alert.severity, alert.category)
        for index, inhibition in enumerate(self._inhibitions):
            # An alert that is a source itself is no consequence: two of them would hush each other up.
            if _has(labels, inhibition.target) and not _has(labels, inhibition.source):
                causes = sources.get(_key(index, inhibition, labels))
                if causes:
                    return Hold(INHIBITED, f"alert {min(causes)} fires ({inhibition.name})")
        return None

    def _loaded(self) -> _Sources:
        if self._sources is None:
            self._sources = {}
            for alert_id, rule, severity, category, labels in self._read(
                "SELECT id, rule, severity, category, labels FROM alerts WHERE state = 'firing'", ()
            ):
                self._add(alert_id, _matched(json.loads(labels), rule, severity, category))
        return self._sources

    def _add(self, alert_id: int, labels: Mapping[str, str]) -> None:
        assert self._sources is not None
        for index, inhibition in enumerate(self._inhibitions):
            if _has(labels, inhibition.source):
                self._sources.setdefault(_key(index, inhibition, labels), set()).add(alert_id)

    def fired(self, alert: Alert) -> None:
        """Take note of an alert that fires now."""
        self._changed(alert)
        if self._sources is not None:
            self._add(alert.id, _matched(alert.labels, alert.rule, alert.severity, alert.category))

    def _changed(self, alert: Alert) -> None:
        if alert.fingerprint in self._changes:
            self._changes[alert.fingerprint] += 1

    def ended(self, alert: Alert) -> None:
        """Take note of an alert that no longer fires."""
        self._changed(alert)
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
