"""Root cause: which services, and which of their metrics, an incident most likely comes from.

Evidence by metric (``evidence.py``) becomes suspicion by service along the call graph (``suspicion.py``); how near in
time a service was changed is the prior.

The parts are known, their combination is ours: explaining a caller's symptom by its callees goes back to
MonitorRank (Kim, Sumbaly, Shah, SIGMETRICS 2013) and CauseInfer (Chen et al., INFOCOM 2014); robust deviation as the
base to BARO (Pham, Ha, Zhang, FSE 2024); changes as prior to ChangeRCA (Yu et al., FSE 2024).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.detection.evidence import Evidence, weigh
from engine.detection.semantics import Metric, is_address, read_metric
from engine.detection.suspicion import ADDRESS, Calls, suspect
from engine.errors import BadRequest

Float64Array = npt.NDArray[np.float64]

#: What counts for the service where the symptom is seen from.
VANTAGE = 0.15
#: What counts for a service with a change just before the first abnormal row, and for one without.
CHANGED, UNCHANGED = 4.0, 0.15
#: Suspicion that any service has when changes are known: a change may show in no metric.
UNSEEN = 0.3
#: Steps in which the suspicion of a change before the incident, and of one after its first row, falls to 1/e.
CHANGE_BEFORE_STEPS, CHANGE_AFTER_STEPS = 3.0, 0.5
#: How much the service's suspicion lifts its metrics.
BY_SERVICE = 0.5


@dataclass(frozen=True, slots=True)
class Cause:
    """One suspect: ``suspicion`` orders them and has no unit; ``metrics``: columns of evidence, strongest first;
    ``first_row``: the first abnormal row in which one of these deviates, -1 when none does.
    """

    service: str
    suspicion: float
    metrics: tuple[str, ...]
    first_row: int
    reason: str


@dataclass(frozen=True, slots=True)
class Ranking:
    """``metrics`` and ``services``, most suspicious first, all of them; ``causes``: the services with their reasons."""

    metrics: tuple[str, ...]
    services: tuple[str, ...]
    causes: tuple[Cause, ...]


@dataclass(frozen=True, slots=True)
class Analysis:
    """A ranking with what it rests on: each column as it was read, and its evidence."""

    ranking: Ranking
    metrics: tuple[Metric, ...]
    evidence: Evidence
    callees: Calls


def rank_causes(
    columns: Sequence[str],
    normal: npt.ArrayLike,
    abnormal: npt.ArrayLike,
    *,
    entry: str | None = None,
    graph: Sequence[tuple[str, str]] | None = None,
    changes: Sequence[tuple[str, float]] | None = None,
    step_seconds: float | None = None,
) -> Ranking:
    """Rank the services of an incident.

    ``columns``: "service/metric"; ``normal`` float64[n, k] from before, ``abnormal`` float64[m, k] from during, NaN for
    "not reported".  ``entry``: the column in which the symptom is seen.  ``graph``: (caller, callee).  ``changes``:
    (service, seconds from the first abnormal row, negative before it).  ``step_seconds``: between rows, default 60.
    Raises BadRequest when the arrays do not fit the columns.
    """
    return analyse(
        columns, normal, abnormal, entry=entry, graph=graph, changes=changes, step_seconds=step_seconds
    ).ranking


def analyse(
    columns: Sequence[str],
    normal: npt.ArrayLike,
    abnormal: npt.ArrayLike,
    *,
    entry: str | None = None,
    seen_from_outside: bool = True,
    graph: Sequence[tuple[str, str]] | None = None,
    changes: Sequence[tuple[str, float]] | None = None,
    step_seconds: float | None = None,
) -> Analysis:
    """Rank as :func:`rank_causes` does, and return the evidence too.

    ``seen_from_outside``: the service of ``entry`` only sees the symptom, so it is hardly its cause.
    """
    before, during = _matrix("normal", normal, columns), _matrix("abnormal", abnormal, columns)
    metrics = [read_metric(column) for column in columns]
    evidence = weigh(metrics, before, during, entry)
    services = list(dict.fromkeys(metric.service for metric in metrics))
    callees = _callees(metrics, services, graph or ())
    suspicion = suspect(metrics, evidence, services, callees)
    vantage = None if entry is None or not seen_from_outside else entry.rpartition("/")[0]
    for service in services:
        suspicion[service] *= (ADDRESS if is_address(service) else 1.0) * (VANTAGE if service == vantage else 1.0)
    if changes:
        prior = _change_prior(changes, step_seconds or 60.0)
        for service in services:
            near = prior.get(service, 0.0)
            suspicion[service] = (suspicion[service] + UNSEEN) * (UNCHANGED + (CHANGED - UNCHANGED) * near)
    order = sorted(services, key=lambda service: -suspicion[service])
    strength = evidence.strength
    lifted = [strength[at] + BY_SERVICE * suspicion[metric.service] for at, metric in enumerate(metrics)]
    ranked = sorted(range(len(metrics)), key=lambda at: -lifted[at])
    changed = dict(changes or ())
    concerned = _concerned(metrics, services)
    ranking = Ranking(
        metrics=tuple(columns[at] for at in ranked),
        services=tuple(order),
        causes=tuple(
            _cause(service, suspicion[service], concerned[service], metrics, evidence, changed) for service in order
        ),
    )
    return Analysis(ranking, tuple(metrics), evidence, callees)


def _matrix(name: str, values: npt.ArrayLike, columns: Sequence[str]) -> Float64Array:
    matrix = np.asarray(values, np.float64)
    if matrix.ndim != 2 or matrix.shape[1] != len(columns) or not len(matrix):
        want = f"at least one row of {len(columns)} columns"
        raise BadRequest(f"cannot rank causes: got {name} rows of shape {matrix.shape}, want {want}")
    finite: Float64Array = np.where(np.isinf(matrix), np.nan, matrix)
    return finite


def _callees(
    metrics: Sequence[Metric], services: Sequence[str], graph: Sequence[tuple[str, str]]
) -> dict[str, list[str]]:
    known = set(services)
    calls = dict.fromkeys([*graph, *(metric.call for metric in metrics if metric.call is not None)])
    callees: dict[str, list[str]] = {service: [] for service in services}
    for caller, callee in calls:
        if caller != callee and caller in known and callee in known:
            callees[caller].append(callee)
    return callees


def _change_prior(changes: Sequence[tuple[str, float]], step_seconds: float) -> dict[str, float]:
    """Return for each changed service how well its nearest change fits: 1 just before or within the first row."""
    prior: dict[str, float] = {}
    for service, seconds in changes:
        steps = seconds / step_seconds
        if steps < 0:
            fit = math.exp(steps / CHANGE_BEFORE_STEPS)
        else:
            fit = math.exp(-max(0.0, steps - 1.0) / CHANGE_AFTER_STEPS)
        prior[service] = max(prior.get(service, 0.0), fit)
    return prior


def _concerned(metrics: Sequence[Metric], services: Sequence[str]) -> dict[str, list[int]]:
    """Return the columns of each service: its own and those about calls to it."""
    concerned: dict[str, list[int]] = {service: [] for service in services}
    for at, metric in enumerate(metrics):
        for service in {metric.service, metric.service if metric.call is None else metric.call[1]}:
            if service in concerned:
                concerned[service].append(at)
    return concerned


def _cause(
    service: str,
    suspicion: float,
    places: Sequence[int],
    metrics: Sequence[Metric],
    evidence: Evidence,
    changed: Mapping[str, float],
) -> Cause:
    concerned = [at for at in places if evidence.strength[at] > 0]
    concerned.sort(key=lambda at: -evidence.strength[at])
    telling = [at for at in concerned if evidence.strength[at] >= 0.5 * evidence.strength[concerned[0]]]
    rows = [int(evidence.first_row[at]) for at in telling if evidence.first_row[at] >= 0]
    said = [
        f"{metrics[at].column.rpartition('/')[2]} {evidence.found[at]:.4g} against {evidence.expected[at]:.4g}"
        for at in concerned[:3]
    ]
    if service in changed:
        seconds = changed[service]
        said.append(f"changed {abs(seconds):.0f} s {'before' if seconds < 0 else 'after'} the first abnormal row")
    return Cause(
        service=service,
        suspicion=float(suspicion),
        metrics=tuple(metrics[at].column for at in concerned),
        first_row=min(rows, default=-1),
        reason="; ".join(said) or "no metric of its own deviates",
    )
