"""The samples that a deployment is judged by: what baseline and canary were like over a while."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.catalog.callers import Caller
from engine.clock import NS_PER_SECOND
from engine.deploys.gate import DEFAULT_CONFIDENCE, DEFAULT_TOLERANCE, HOLD, Verdict, gate
from engine.deploys.store import Deploy, DeployStore
from engine.deploys.verdict import settled
from engine.detection.semantics import SYMPTOMS, Kind, read_metric
from engine.errors import QueryLimit
from engine.model.matchers import equality_matchers, parse_matchers
from engine.model.rows import Float64Array
from engine.query.range import RangeAnswer, RangeQuery

if TYPE_CHECKING:
    from engine.runtime import Engine

#: Kinds of metrics that are judged unless somebody names others: what users feel and what instances use.
JUDGED = SYMPTOMS | {Kind.CPU, Kind.MEMORY}
COUNTER = "_total"
#: Parts of histograms and summaries: cumulative, and told by other metrics.
_PARTS = ("_bucket", "_sum", "_count")
NOW = "now"
#: More samples on a side would take seconds a metric.
MOST_SAMPLES = 200_000
DEFAULT_SERVICE_LABEL = "service"


def judged_metrics(source: Any, selector: str) -> list[str]:
    """Return the metrics of the series of ``selector`` that a deployment is judged by unless others are named."""
    found = {series["metric"] for series in source.series(selector)}
    return sorted(name for name in found if read_metric(name).kind in JUDGED and not name.endswith(_PARTS))


def samples(
    source: Any, metrics: Sequence[str], selector: str, *, start: str | int, end: str | int = NOW, step_seconds: int
) -> dict[str, Float64Array]:
    """Return the values of each metric's series, one a step, series by series, float64[n]; counters as increases.

    ``start``, ``end``: as in :meth:`tidegauge.client.query`.  Up to now the newest step is not over yet and left out.
    """
    found = {}
    for metric in metrics:
        answer: RangeAnswer = source.query(
            metric,
            match=selector,
            start=start,
            end=end,
            step=f"{step_seconds}s",
            agg="increase" if metric.endswith(COUNTER) else "avg",
        )
        parts = [line.values for line in answer.series]
        if end == NOW:
            newest = max((int(line.times[-1]) for line in answer.series if len(line.times)), default=0)
            parts = [line.values[line.times < newest] for line in answer.series]
        found[metric] = np.concatenate([np.empty(0), *parts])
    return found


class CallerSource:
    """The series of an engine as they exist for one caller, with what is used here of a client's verbs."""

    def __init__(self, engine: Engine, caller: Caller) -> None:
        self._engine, self._caller = engine, caller

    def series(self, selector: str) -> list[dict[str, Any]]:
        matchers = (*parse_matchers(selector), *self._caller.matchers)
        return [{"metric": series.metric} for series in self._engine.catalog.series(None, matchers)]

    def query(self, metric: str, *, match: str, start: int, end: int, step: str, agg: str) -> RangeAnswer:
        step_ns = int(step.removesuffix("s")) * NS_PER_SECOND
        answer = self._engine.query(RangeQuery(metric, start, end, step_ns, agg, parse_matchers(match)), self._caller)
        count = sum(len(line.values) for line in answer.series)
        if count > MOST_SAMPLES:
            raise QueryLimit(
                f"cannot judge {metric!r}: got {count} samples of {match}, want at most {MOST_SAMPLES};"
                " use a longer step or fewer series"
            )
        return answer


@dataclass(frozen=True, slots=True)
class DeployQuestion:
    """Over which time a deployment is judged, and by what.

    The last ``for_seconds`` before ``end_ns``, but not what was before the deployment and ``warm_up_seconds`` after it.
    """

    end_ns: int
    for_seconds: int
    step_seconds: int
    warm_up_seconds: int = 0
    metrics: tuple[str, ...] = ()
    directions: Mapping[str, str] = field(default_factory=dict)
    confidence: float = DEFAULT_CONFIDENCE
    tolerance: float = DEFAULT_TOLERANCE


@dataclass(frozen=True, slots=True)
class DeployVerdict:
    """A verdict with what it was made from: the selectors, empty where there is none, and the time."""

    verdict: Verdict
    baseline: str
    canary: str
    start_ns: int
    end_ns: int


def judge_deploy(
    source: Any, deploy: Deploy, store: DeployStore, question: DeployQuestion, service_labels: Sequence[str]
) -> DeployVerdict:
    """Judge a recorded deployment; whatever is missing is a reason to hold.

    ``service_labels``: the first of these by which the service has series names it.  Raises BadRequest for a question
    that makes no sense.
    """
    step_ns = question.step_seconds * NS_PER_SECOND
    since_ns = deploy.time_ns + question.warm_up_seconds * NS_PER_SECOND
    wanted_ns = question.for_seconds * NS_PER_SECOND
    # Whole steps alone, each over.
    start_ns = -(-max(since_ns, question.end_ns - wanted_ns) // step_ns) * step_ns
    end_ns = max(start_ns, question.end_ns // step_ns * step_ns)
    label = next((each for each in service_labels if source.series(_equals(each, deploy.service))), None)
    within = _equals(label or DEFAULT_SERVICE_LABEL, deploy.service)
    previous = store.before(deploy)
    canary = f"{within},{deploy.canary or _equals('version', deploy.version)}"
    old = deploy.baseline or (_equals("version", previous.version) if previous is not None else "")
    baseline = f"{within},{old}" if old else ""

    def told(verdict: Verdict) -> DeployVerdict:
        return DeployVerdict(verdict, baseline, canary, start_ns, end_ns)

    if not baseline:
        return told(
            _hold(f"no earlier version of {deploy.service} is recorded, and no 'baseline' says which series it has")
        )
    metrics = list(question.metrics) or judged_metrics(source, baseline)
    if not metrics and not source.series(baseline):
        return told(_hold(f"no series satisfies the baseline {baseline}"))
    if not metrics:
        return told(_hold(f"no series of {baseline} tells by its name what it is: say with 'metric' what to judge"))
    over: dict[str, Any] = {"start": start_ns, "end": end_ns, "step_seconds": question.step_seconds}
    none = {metric: np.empty(0) for metric in metrics}
    verdict = gate(
        samples(source, metrics, baseline, **over) if end_ns > start_ns else none,
        samples(source, metrics, canary, **over) if end_ns > start_ns else none,
        directions=question.directions,
        confidence=question.confidence,
        tolerance=question.tolerance,
    )
    return told(settled(verdict, age_ns=question.end_ns - since_ns, wanted_ns=wanted_ns))


def verdict_json(verdict: Verdict) -> dict[str, Any]:
    """Return a verdict as people and programs are shown it: what is not known is null."""
    told = asdict(verdict)
    for metric in told["metrics"]:
        metric |= {name: None for name, value in metric.items() if isinstance(value, float) and not np.isfinite(value)}
    return told


def _equals(label: str, value: str) -> str:
    return equality_matchers({label: value})[0].text


def _hold(reason: str) -> Verdict:
    return Verdict(HOLD, (reason,), ())
