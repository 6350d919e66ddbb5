"""Bottleneck analysis: reads what every service reports, has it judged, keeps findings and what became of them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

import numpy as np

from engine.alerting.alerts import FIRING, Alert
from engine.alerting.store import AlertStore
from engine.catalog.catalog import Catalog
from engine.clock import NS_PER_SECOND, Clock
from engine.config import Bottlenecks, Rule
from engine.config_bottlenecks import MAX_STEPS
from engine.detection import effects
from engine.detection.bottlenecks import Bottleneck, Proof, find_bottlenecks
from engine.detection.findings import FORGOTTEN_NS, Finding, FindingStore, Outcome
from engine.detection.resources import utilisation
from engine.detection.semantics import SYMPTOMS, Kind, read_metric
from engine.detection.store import AnomalyStore
from engine.detection.windows import Windows, choose_windows, recent_windows
from engine.errors import BadRequest
from engine.model.rows import Float64Array
from engine.model.times import time_text
from engine.query.panels import Panel, PanelReader
from engine.vitals import Vitals

#: Fewer rows say nothing about what is normal, or about what is not.
LEAST_NORMAL_ROWS, LEAST_ABNORMAL_ROWS = 5, 2
#: Bounds the memory of an analysis: series are left out where there are many steps.
MAX_CELLS = 10_000_000
#: Rows that tell the present level, for outcomes.
PRESENT_ROWS = 5
#: Deployments recorded so many steps before the time looked at are taken for a cause; the prior of an earlier one is
#: below 1 % (:data:`engine.detection.causes.CHANGE_BEFORE_STEPS`).
CHANGE_STEPS = 15
#: What a metric of several instances is called where its worst instance is looked at.
WORST = "max({})"
#: Kinds of which a steady rise is a fault to tell, not a counter without a counter's name.
_MAY_RISE = frozenset({Kind.MEMORY, Kind.RESOURCE, Kind.LATENCY, Kind.SUCCESS})
_ANOMALOUS = 0.5


@dataclass(frozen=True, slots=True)
class Question:
    """What to look at; None, or empty, is as configured.  ``changes``: (service, time in ns),
    beside the recorded deployments."""

    window_ns: int | None = None
    history_ns: int | None = None
    end_ns: int | None = None
    service_labels: tuple[str, ...] = ()
    entry: str | None = None
    graph: tuple[tuple[str, str], ...] = ()
    changes: tuple[tuple[str, int], ...] = ()
    metrics: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """One analysis.  ``problem``: why nothing could be said, None where something could."""

    analysed_ns: int
    windows: Windows
    entry: str | None
    services: int
    series: int
    left_out: int
    problem: str | None
    findings: tuple[Finding, ...]
    ids: tuple[int, ...] = ()


@dataclass(slots=True)
class _Table:
    """Columns ``service/metric`` with their values, float64[rows, columns], and the panel behind each."""

    columns: list[str] = field(default_factory=list)
    values: Float64Array = field(default_factory=lambda: np.empty((0, 0)))
    panels: dict[str, Panel] = field(default_factory=dict)


class BottleneckFinder:
    """Looks for the bottlenecks of one engine; callable from any thread, one analysis at a time."""

    def __init__(
        self,
        *,
        settings: Bottlenecks,
        rules: Sequence[Rule],
        counters: Sequence[str],
        catalog: Catalog,
        panels: PanelReader,
        alerts: AlertStore,
        anomalies: AnomalyStore,
        changes: Callable[[int, int], Sequence[tuple[str, int]]],
        store: FindingStore,
        vitals: Vitals,
        clock: Clock,
    ) -> None:
        """``counters``: globs of metrics that only rise.  ``changes``: start and end in ns -> (service, time) of the
        deployments recorded between them, first to last."""
        self._settings, self._counters = settings, tuple(counters)
        self._metric_of_rule = {rule.name: rule.metric for rule in rules}
        self._catalog, self._panels = catalog, panels
        self._alerts, self._anomalies, self._changes, self._store = alerts, anomalies, changes, store
        self._vitals, self._clock = vitals, clock
        self._lock = threading.Lock()
        self.latest: Report | None = None

    def tick(self) -> Report:
        """Look with the configured settings, and keep what is found and what has become of earlier findings."""
        with self._lock:
            report, table = self._analyse(Question())
            outcomes = [] if report.problem else self._outcomes(report, table)
            known = {each["id"] for each in self._store.find(limit=-1)}
            ids = self._store.record(report.findings, outcomes)
            self._vitals.bottlenecks.inc(len(set(ids) - known))
            for outcome in outcomes:
                self._vitals.bottleneck_outcomes.labels(outcome.verdict).inc()
            self.latest = replace(report, ids=tuple(ids))
            return self.latest

    def ask(self, question: Question) -> Report:
        """Look as the question says and keep nothing.  Raises BadRequest for one that makes no sense."""
        with self._lock:
            return self._analyse(question)[0]

    # --- what is looked at

    def _analyse(self, question: Question) -> tuple[Report, _Table]:
        started = self._clock.monotonic()
        settings, now_ns = self._settings, self._clock.now_ns()
        labels = question.service_labels or settings.service_labels
        step_ns = int(settings.step)
        alerts = self._recent_alerts(now_ns, question.history_ns or int(settings.history))
        windows = self._windows(question, now_ns, alerts)
        names = self._metric_names(question.metrics or settings.metrics)
        found = self._panels.read(
            names,
            self._is_counter,
            labels=labels,
            start_ns=windows.normal_start_ns,
            end_ns=windows.end_ns,
            step_ns=step_ns,
            max_series=min(settings.max_series, MAX_CELLS * step_ns // (windows.end_ns - windows.normal_start_ns)),
        )
        table = _table(found.panels)
        graph = question.graph or settings.graph
        split = (windows.start_ns - windows.normal_start_ns) // step_ns
        normal, abnormal = table.values[:split], table.values[split:]
        entry = question.entry or self._entry(alerts if windows.basis == "alerts" else [], labels, table)
        problem = _problem(table, normal, abnormal)
        if problem is None and question.entry is not None and question.entry not in table.columns:
            raise BadRequest(
                f"cannot look for bottlenecks: no series has samples for the entry {question.entry!r},"
                f" want SERVICE/METRIC such as {table.columns[0]!r}"
            )
        found_now: list[Bottleneck] = []
        if problem is None:
            found_now = find_bottlenecks(
                table.columns,
                normal,
                abnormal,
                entry=entry,
                seen_from_outside=_is_front(entry, graph),
                graph=graph,
                changes=[
                    (service, (at_ns - windows.start_ns) / NS_PER_SECOND)
                    for service, at_ns in self._all_changes(question, windows, step_ns, table)
                ],
                step_seconds=step_ns / NS_PER_SECOND,
                least_gain=settings.least_gain,
            )
        findings = tuple(_finding(each, windows, step_ns, now_ns, table, split) for each in found_now)
        self._vitals.bottleneck_seconds.observe(self._clock.monotonic() - started)
        services = len({panel.service for panel in found.panels})
        report = Report(now_ns, windows, entry, services, found.series, found.left_out, problem, findings)
        return report, table

    def _all_changes(self, question: Question, windows: Windows, step_ns: int, table: _Table) -> list[tuple[str, int]]:
        """Return the changes that the question names and those recorded, the last of a service last.

        A deployment long before anything was wrong, or of what reports nothing, speaks for and against no service.
        """
        services = {panel.service for panel in table.panels.values()}
        recorded = self._changes(windows.start_ns - CHANGE_STEPS * step_ns, windows.end_ns)
        known = [(service, at_ns) for service, at_ns in recorded if service in services]
        return sorted({*question.changes, *known}, key=lambda change: change[1])

    def _windows(self, question: Question, now_ns: int, alerts: Sequence[Alert]) -> Windows:
        settings, step_ns = self._settings, int(self._settings.step)
        window_ns, history_ns = question.window_ns or int(settings.window), question.history_ns or int(settings.history)
        end_ns = now_ns if question.end_ns is None else question.end_ns
        for name, value in (("window", window_ns), ("history", history_ns)):
            if value < 2 * step_ns:
                raise BadRequest(
                    f"cannot look for bottlenecks: got a {name} of {value / NS_PER_SECOND:g} s, "
                    f"want at least two steps of {step_ns / NS_PER_SECOND:g} s"
                )
        if window_ns + history_ns > MAX_STEPS * step_ns:
            raise BadRequest(
                f"cannot look for bottlenecks: got {(window_ns + history_ns) // step_ns} steps of "
                f"{step_ns / NS_PER_SECOND:g} s, want at most {MAX_STEPS}; shorten the history (bottlenecks.step)"
            )
        if question.window_ns is not None or question.end_ns is not None:
            return recent_windows(end_ns, window_ns=window_ns, history_ns=history_ns, step_ns=step_ns, basis="asked")
        anomalies = self._anomalies.find(since_ns=now_ns - history_ns, least_score=_ANOMALOUS)
        return choose_windows(
            end_ns,
            alerts_ns=[alert.started_ns for alert in alerts],
            anomalies_ns=anomalies["time"],
            window_ns=window_ns,
            history_ns=history_ns,
            step_ns=step_ns,
        )

    def _recent_alerts(self, now_ns: int, history_ns: int) -> list[Alert]:
        """Return the firing alerts that began within ``history_ns``, first to last."""
        firing = self._alerts.find(states=(FIRING,))
        return sorted(
            (alert for alert in firing if alert.started_ns >= now_ns - history_ns), key=lambda alert: alert.started_ns
        )

    def _entry(self, alerts: Sequence[Alert], labels: Sequence[str], table: _Table) -> str | None:
        """Return the column of the first alert about a symptom."""
        for alert in alerts:
            metric = self._metric_of_rule.get(alert.rule)
            service = next((alert.labels[label] for label in labels if alert.labels.get(label)), None)
            column = f"{service}/{metric}"
            if column in table.panels and read_metric(column).kind in SYMPTOMS:
                return column
        return None

    def _metric_names(self, patterns: Sequence[str]) -> list[str]:
        """Return the metrics to look at, those whose name says what they measure first."""
        names = [
            name
            for name in self._catalog.metric_names()
            if not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)
        ]
        return sorted(names, key=lambda name: read_metric(f"x/{name}").kind is Kind.OTHER)

    def _is_counter(self, metric: str) -> bool:
        return any(fnmatchcase(metric, pattern) for pattern in self._counters)

    # --- what became of it

    def _outcomes(self, report: Report, table: _Table) -> list[Outcome]:
        """Return what became of the open findings that were not found again."""
        again = {(each.service, each.resource) for each in report.findings}
        outcomes = []
        for known in self._store.find(limit=-1):
            if (known["service"], known["resource"]) in again:
                continue
            now = _present(table, known["metric"])
            if now is not None and effects.is_gone(known["value"], known["expected"], now):
                share = _fallen(table, known)
                verdict = "unknown" if share is None else effects.verdict(known["effect_share"], share)
                outcomes.append(Outcome(known["id"], verdict, report.analysed_ns, share))
            elif known["last_seen"] < report.analysed_ns - FORGOTTEN_NS:
                outcomes.append(Outcome(known["id"], "unknown", report.analysed_ns, None))
        return outcomes


def _present(table: _Table, column: str) -> float | None:
    """Return the newest level of a column, None where there is none."""
    place = _place(table, column)
    if place is None:
        return None
    values = table.values[-PRESENT_ROWS:, place]
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else None


def _place(table: _Table, column: str) -> int | None:
    """Return where a column is; of the worst instance where only one is left, that one's."""
    if column not in table.panels:
        service, _, name = column.rpartition("/")
        start, _, end = WORST.partition("{}")
        column = f"{service}/{name.removeprefix(start).removesuffix(end)}"
    return table.columns.index(column) if column in table.panels else None


def _fallen(table: _Table, known: Mapping[str, object]) -> float | None:
    """Return the share by which the metric of a finding's effect has fallen."""
    column, before = str(known["effect_metric"]), float(str(known["effect_from"]))
    place = _place(table, column)
    if place is None or before <= 0:
        return None
    metric, values = read_metric(column), table.values[:, place]
    if known["effect_by"] == "queueing":
        used = utilisation(metric, values)
        if used is None:
            return None
        values = np.array([effects.waiting_at(share) for share in used[-PRESENT_ROWS:]])
    else:
        values = effects.badness(metric, values)[-PRESENT_ROWS:]
    values = values[np.isfinite(values)]
    return 1.0 - float(np.median(values)) / before if len(values) else None


def _table(panels: Sequence[Panel]) -> _Table:
    """Return a column for each panel, and one of its worst instance where there are several."""
    table, columns = _Table(), []
    for panel in panels:
        values = _as_rates(panel)
        known = np.isfinite(values)
        any_known = known.any(axis=1)
        total = np.where(known, values, 0.0).sum(axis=1)
        merged = total if panel.counted else total / np.maximum(known.sum(axis=1), 1)
        of_panel = [(f"{panel.service}/{panel.metric}", merged)]
        if values.shape[1] > 1:
            of_panel.append(
                (f"{panel.service}/{WORST.format(panel.metric)}", np.where(known, values, -np.inf).max(axis=1))
            )
        for column, merged in of_panel:
            if column not in table.panels and any_known.any():
                table.panels[column] = panel
                table.columns.append(column)
                columns.append(np.where(any_known, merged, np.nan))
    if columns:
        table.values = np.column_stack(columns)
    return table


def _as_rates(panel: Panel) -> Float64Array:
    """Return the values, or their steps where they never fall and mostly rise: a counter without a counter's name."""
    if panel.counted or read_metric(f"x/{panel.metric}").kind in _MAY_RISE:
        return panel.values
    steps = np.diff(panel.values, axis=0, prepend=np.nan)
    known = steps[np.isfinite(steps)]
    if len(known) < 20 or (known < 0).any() or (known > 0).mean() <= 0.5:
        return panel.values
    return steps


def _problem(table: _Table, normal: Float64Array, abnormal: Float64Array) -> str | None:
    if not table.columns:
        return "no series of the time looked at belongs to a service"
    for name, rows, least in (("normal", normal, LEAST_NORMAL_ROWS), ("abnormal", abnormal, LEAST_ABNORMAL_ROWS)):
        known = int(np.isfinite(rows).any(axis=1).sum())
        if known < least:
            return f"only {known} {name} steps have samples, want at least {least}"
    return None


def _is_front(entry: str | None, graph: Sequence[tuple[str, str]]) -> bool:
    """Return whether the entry's service calls others and is called by none: it sees every symptom."""
    service = None if entry is None else entry.rpartition("/")[0]
    return any(caller == service for caller, _ in graph) and all(callee != service for _, callee in graph)


def _finding(
    found: Bottleneck, windows: Windows, step_ns: int, now_ns: int, table: _Table, normal_rows: int
) -> Finding:
    def at(row: int | None) -> int | None:
        return None if row is None else windows.start_ns + row * step_ns

    def proof(each: Proof) -> dict[str, object]:
        return {
            "metric": each.column,
            "value": each.value,
            "expected": each.expected,
            "first_moved": time_text(at(each.first_row if each.first_row != -1 or found.kind == "saturated" else None)),
            "strength": round(each.strength, 3),
        }

    return Finding(
        time_ns=now_ns,
        last_seen_ns=now_ns,
        first_moved_ns=at(found.first_row),
        kind=found.kind,
        service=found.service,
        instance=_instance(table.panels[found.metric], normal_rows),
        resource=found.resource,
        aspect=found.aspect,
        metric=found.metric,
        value=found.value,
        expected=found.expected,
        basis=windows.basis,
        confidence=found.confidence,
        gain=found.gain,
        effect_metric=found.effect.metric,
        effect_share=found.effect.share,
        effect_from=found.effect.now,
        effect_to=found.effect.then,
        effect_by=found.effect.how,
        reason=found.reason,
        recommendation=found.recommendation,
        evidence=json.dumps([proof(each) for each in found.evidence]),
    )


def _instance(panel: Panel, normal_rows: int) -> str:
    """Return the instance that has moved by far the most, the empty text where it is all of them."""
    if len(panel.instances) < 2:
        return panel.instances[0]
    moved = np.abs(_means(panel.values[normal_rows:]) - _means(panel.values[:normal_rows]))
    order = np.argsort(-moved)
    alone = moved[order[0]] > 2.0 * moved[order[1]]
    return panel.instances[int(order[0])] if alone else ""


def _means(values: Float64Array) -> Float64Array:
    known = np.isfinite(values)
    means: Float64Array = np.where(known, values, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    return means
