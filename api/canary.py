"""The samples that a deployment is judged by: what baseline and canary were like over the last while."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.detection.semantics import SYMPTOMS, Kind, read_metric
from engine.model.rows import Float64Array

if TYPE_CHECKING:
    from engine.query.range import RangeAnswer

#: Kinds of metrics that are judged unless somebody names others: what users feel and what instances use.
JUDGED = SYMPTOMS | {Kind.CPU, Kind.MEMORY}
COUNTER = "_total"
#: Parts of histograms and summaries: cumulative, and told by other metrics.
_PARTS = ("_bucket", "_sum", "_count")


def judged_metrics(source: Any, selector: str) -> list[str]:
    """Return the metrics of the series of ``selector`` that a deployment is judged by unless others are named."""
    found = {series["metric"] for series in source.series(selector)}
    return sorted(name for name in found if read_metric(name).kind in JUDGED and not name.endswith(_PARTS))


def samples(
    source: Any, metrics: Sequence[str], selector: str, *, for_seconds: int, step_seconds: int
) -> dict[str, Float64Array]:
    """Return the values of each metric's series, one a step, series by series, float64[n]; counters as increases.

    The newest step is not over yet and left out.
    """
    found = {}
    for metric in metrics:
        answer: RangeAnswer = source.query(
            metric,
            match=selector,
            start=f"-{for_seconds + step_seconds}s",
            step=f"{step_seconds}s",
            agg="increase" if metric.endswith(COUNTER) else "avg",
        )
        newest = max((int(line.times[-1]) for line in answer.series if len(line.times)), default=0)
        parts = [line.values[line.times < newest] for line in answer.series]
        found[metric] = np.concatenate([np.empty(0), *parts])
    return found
