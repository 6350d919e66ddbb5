"""Bottlenecks: the suspects of a root-cause ranking, each with its resource, what mending it brings, and advice.

Two ways to be one.  *Changed*: the service ranks high as the cause of what differs between the abnormal and the normal
rows.  *Saturated*: a resource is used to so large a share that its users wait for it or it is about to run out,
whatever it was before.  Kept is what is expected to bring at least a given share: effect times confidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.detection import effects
from engine.detection.advice import recommend
from engine.detection.causes import Analysis, Cause, analyse
from engine.detection.effects import Effect
from engine.detection.resources import (
    QUEUEING,
    SATURATED_QUEUEING,
    SATURATED_SPACE,
    Resource,
    is_leftover,
    read_resource,
    utilisation,
)
from engine.detection.semantics import SYMPTOMS, Kind, Metric

Float64Array = npt.NDArray[np.float64]

#: What a finding must be expected to bring.
LEAST_GAIN = 0.1
#: Evidence of less is within what quiet systems show.
LEAST_STRENGTH = 1.0
#: The suspicions of the services, to this power and normed, are how sure each of them is (docs/detectors.md).
SHARPNESS = 2.0
#: A named resource is told in place of a stronger metric that is none, from this share of its evidence.
NAMED = 0.5
MOST_EVIDENCE = 5
#: A resource is saturated when it has been full in so many rows on end.
SATURATED_ROWS = 5


@dataclass(frozen=True, slots=True)
class Proof:
    """A metric that speaks for a finding.  ``first_row``: the first row that deviates, -1 for none."""

    column: str
    value: float
    expected: float
    first_row: int
    strength: float


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """One finding.  Rows count from the first abnormal one; normal rows have negative numbers.

    ``kind``: "changed" or "saturated".  ``metric``: the column that tells it, which was ``value`` and should be
    ``expected``.  ``first_row``: since when, None where it cannot be told.  ``confidence``: how likely it is right;
    ``gain``: the effect's share times that.
    """

    kind: str
    service: str
    resource: str
    aspect: str
    metric: str
    value: float
    expected: float
    first_row: int | None
    confidence: float
    effect: Effect
    evidence: tuple[Proof, ...]
    reason: str
    recommendation: str

    @property
    def gain(self) -> float:
        return self.confidence * self.effect.share


def find_bottlenecks(
    columns: Sequence[str],
    normal: Float64Array,
    abnormal: Float64Array,
    *,
    entry: str | None = None,
    seen_from_outside: bool = False,
    graph: Sequence[tuple[str, str]] | None = None,
    changes: Sequence[tuple[str, float]] | None = None,
    step_seconds: float = 60.0,
    least_gain: float = LEAST_GAIN,
) -> list[Bottleneck]:
    """Return what holds the services up, the largest gain first; the arguments are those of ``rank_causes``.

    ``seen_from_outside``: the service of ``entry`` only sees the symptom, so it is hardly its cause.
    """
    analysis = analyse(
        columns,
        normal,
        abnormal,
        entry=entry,
        seen_from_outside=seen_from_outside,
        graph=graph,
        changes=changes,
        step_seconds=step_seconds,
    )
    view = _View(analysis, normal, abnormal, entry, dict(changes or ()))
    found = {(each.service, each.resource): each for each in view.changed()}
    for each in view.saturated():
        found.setdefault((each.service, each.resource), each)
    kept = [each for each in found.values() if each.gain >= least_gain]
    return sorted(kept, key=lambda each: -each.gain)


class _View:
    """One analysis, looked at from each service."""

    def __init__(
        self,
        analysis: Analysis,
        normal: Float64Array,
        abnormal: Float64Array,
        entry: str | None,
        changed: dict[str, float],
    ) -> None:
        self._analysis, self._changes = analysis, changed
        self._metrics, self._evidence = analysis.metrics, analysis.evidence
        self._place = {metric.column: at for at, metric in enumerate(self._metrics)}
        self._of_service: dict[str, list[int]] = {}
        for at, metric in enumerate(self._metrics):
            self._of_service.setdefault(metric.service, []).append(at)
        self._entry = None if entry is None else self._place.get(entry)
        self._normal_rows = len(normal)
        self._rows = np.concatenate([normal, abnormal])
        self._callers: dict[str, list[str]] = {}
        for caller, callees in analysis.callees.items():
            for callee in callees:
                self._callers.setdefault(callee, []).append(caller)

    # --- what has changed

    def changed(self) -> list[Bottleneck]:
        causes = self._analysis.ranking.causes
        weights = np.array([cause.suspicion for cause in causes]) ** SHARPNESS
        confidences = weights / max(float(weights.sum()), 1e-12)
        found = []
        for cause, confidence in zip(causes, confidences.tolist(), strict=True):
            at = self._telling(cause)
            if at is not None:
                found.append(self._of_cause(cause, at, confidence))
        return found

    def _telling(self, cause: Cause) -> int | None:
        """Return the column that tells best what is wrong with a service: of a resource where there is one."""
        strength = self._evidence.strength
        own = [self._place[column] for column in cause.metrics]
        own = [at for at in own if strength[at] >= LEAST_STRENGTH]
        used = [at for at in own if self._metrics[at].kind not in SYMPTOMS]
        named = [
            at
            for at in used
            if not is_leftover(self._metrics[at])
            and read_resource(self._metrics[at]).aspect in ("utilisation", "saturation", "errors")
            and strength[at] >= NAMED * strength[used[0]]
        ]
        return next(iter([*named, *used, *own]), None)

    def _of_cause(self, cause: Cause, at: int, confidence: float) -> Bottleneck:
        metric, evidence = self._metrics[at], self._evidence
        resource = read_resource(metric)
        value, expected = float(evidence.found[at]), float(evidence.expected[at])
        since = self._changes.get(cause.service)
        return Bottleneck(
            kind="changed",
            service=cause.service,
            resource=resource.name,
            aspect=resource.aspect,
            metric=metric.column,
            value=value,
            expected=expected,
            first_row=cause.first_row if cause.first_row >= 0 else None,
            confidence=confidence,
            effect=self._effect(at, max(cause.first_row, 0)),
            evidence=self._proofs([self._place[column] for column in cause.metrics]),
            reason=cause.reason,
            recommendation=recommend(
                cause.service, resource, value, expected, self._load_change(cause.service), changed_seconds=since
            ),
        )

    def _effect(self, at: int, first_row: int) -> Effect:
        metric = self._metrics[at]
        rows = np.r_[np.arange(self._normal_rows), np.arange(self._normal_rows + first_row, len(self._rows))]
        symptom = at if metric.kind in SYMPTOMS else self._symptom(metric.service)
        if symptom is not None:
            felt = self._metrics[symptom]
            seen = effects.badness(felt, self._rows[:, symptom])
            effect = effects.by_symptom(felt, seen[rows], self._rows[rows, at], self._normal_rows)
            if effect.share > 0:
                return effect
        used = utilisation(metric, self._rows[:, at])
        if used is not None and read_resource(metric).name in QUEUEING:
            now, then = effects.level(used[rows[self._normal_rows :]]), effects.level(used[: self._normal_rows])
            return effects.by_queueing(metric.column, now, then)
        return effects.by_itself(metric, float(self._evidence.found[at]), float(self._evidence.expected[at]))

    def _symptom(self, service: str) -> int | None:
        """Return the strongest symptom of a service, else the entry, else that of those that call it."""
        strength = self._evidence.strength

        def strongest(services: Sequence[str]) -> int | None:
            places = [
                at
                for each in services
                for at in self._of_service.get(each, ())
                if self._metrics[at].kind in SYMPTOMS and strength[at] >= LEAST_STRENGTH
            ]
            return max(places, key=lambda at: float(strength[at]), default=None)

        own = strongest([service])
        if own is not None:
            return own
        return self._entry if self._entry is not None else strongest(self._all_callers(service))

    def _all_callers(self, service: str) -> list[str]:
        known, waiting = {service}, [service]
        while waiting:
            new = [caller for caller in self._callers.get(waiting.pop(), ()) if caller not in known]
            known.update(new)
            waiting.extend(new)
        return sorted(known - {service})

    def _load_change(self, service: str) -> float | None:
        """Return by which share the traffic of a service differs from its normal level, None without such a metric."""
        ratios = [
            float(self._evidence.found[at] / self._evidence.expected[at])
            for at in self._of_service.get(service, ())
            if self._metrics[at].kind is Kind.TRAFFIC and self._evidence.expected[at] > 0
        ]
        ratios = [ratio for ratio in ratios if np.isfinite(ratio)]
        return float(np.median(ratios)) - 1.0 if ratios else None

    def _proofs(self, places: Sequence[int]) -> tuple[Proof, ...]:
        evidence = self._evidence
        return tuple(
            Proof(
                self._metrics[at].column,
                float(evidence.found[at]),
                float(evidence.expected[at]),
                int(evidence.first_row[at]),
                float(evidence.strength[at]),
            )
            for at in places[:MOST_EVIDENCE]
        )

    # --- what is full

    def saturated(self) -> list[Bottleneck]:
        best: dict[tuple[str, str], Bottleneck] = {}
        for at, metric in enumerate(self._metrics):
            resource = read_resource(metric)
            finding = self._full(at, metric, resource)
            if finding is not None:
                known = best.get((metric.service, resource.name))
                if known is None or finding.gain > known.gain:
                    best[metric.service, resource.name] = finding
        return list(best.values())

    def _full(self, at: int, metric: Metric, resource: Resource) -> Bottleneck | None:
        used = utilisation(metric, self._rows[:, at])
        if used is None:
            return None
        queues = resource.name in QUEUEING
        limit = SATURATED_QUEUEING if queues else SATURATED_SPACE
        now = effects.level(used[self._normal_rows :])
        if not now >= limit:
            return None
        target = effects.TARGET_QUEUEING if queues else effects.TARGET_SPACE
        known = np.isfinite(used[self._normal_rows :])
        above = used >= limit
        # Since the last row that was below, or the first that was reported.
        since = int(np.flatnonzero(used < limit).max(initial=-1)) + 1
        full = since + np.flatnonzero(above[since:])
        if len(full) < SATURATED_ROWS:
            return None
        first = int(full[0])
        scale = float(np.nanmax(self._rows[:, at] / np.where(used > 0, used, np.nan)))
        value, expected = now * scale, target * scale
        effect = (
            effects.by_queueing(metric.column, now, target) if queues else effects.by_itself(metric, value, expected)
        )
        proof = Proof(metric.column, value, expected, first - self._normal_rows, float(self._evidence.strength[at]))
        return Bottleneck(
            kind="saturated",
            service=metric.service,
            resource=resource.name,
            aspect=resource.aspect,
            metric=metric.column,
            value=value,
            expected=expected,
            first_row=first - self._normal_rows,
            confidence=float(above[self._normal_rows :].sum() / max(1, known.sum())),
            effect=effect,
            evidence=(proof,),
            reason=f"{metric.column.rpartition('/')[2]} {value:.4g}, full from {limit * scale:.4g} on",
            recommendation=recommend(
                metric.service, resource, value, expected, self._load_change(metric.service), saturated=True
            ),
        )
