"""What mending a bottleneck is expected to bring, and what it has brought.

An effect is a share by which a metric is expected to fall, said before; the outcome is the share by which it fell once
what was found had gone back.  Three ways, the first that applies:

symptom   the symptom of the service, else the one the incident is seen by, goes back to its normal level, as far as it
          has moved together with the finding's metric: (now - normal) / now times the squared correlation of the two
queueing  a resource that is busy for the share u makes its users wait in proportion to 1 / (1 - u), the mean response
          time of the M/M/1 queue (Kleinrock, Queueing Systems, 1975): 1 - (1 - u) / (1 - u')
own       the metric itself goes back to its normal level
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from engine.detection.semantics import Kind, Metric

Float64Array = npt.NDArray[np.float64]
How = Literal["symptom", "queueing", "own"]
#: Utilisation is cut here: a resource that is busy all the time makes its users wait longer than can be said.
BUSIEST = 0.99
#: Utilisation that a bottleneck should be brought down to where it was never lower.
TARGET_QUEUEING, TARGET_SPACE = 0.7, 0.75
#: A finding is over once this share of its metric's deviation has gone.
GONE = 0.5
#: An outcome is as expected from this share of the expectation to its inverse, and none at all below the other.
AS_EXPECTED, NOTHING = 0.5, 0.1


@dataclass(frozen=True, slots=True)
class Effect:
    """``metric``, a column, is expected to fall from ``now`` to ``then``, by ``share`` of ``now``."""

    metric: str
    share: float
    now: float
    then: float
    how: How


def badness(metric: Metric, values: Float64Array) -> Float64Array:
    """Return values of which less is better: failures in percent for a success rate, else the values."""
    if metric.kind is not Kind.SUCCESS:
        return values
    known = values[np.isfinite(values)]
    full = 100.0 if len(known) and known.max() > 1.5 else 1.0
    failures: Float64Array = (full - values) * (100.0 / full)
    return failures


def by_symptom(symptom: Metric, seen: Float64Array, cause: Float64Array, normal_rows: int) -> Effect:
    """Return the effect on a symptom; ``seen``, ``cause``: float64[n] of both metrics, the first rows normal."""
    now, then = level(seen[normal_rows:]), level(seen[:normal_rows])
    share = _share(now, then) * _moves_together(seen, cause)
    return Effect(symptom.column, share, now, now * (1.0 - share), "symptom")


def by_queueing(column: str, now: float, then: float) -> Effect:
    """Return the effect on the time that a busy resource takes; utilisation falls from ``now`` to ``then``."""
    share = max(0.0, 1.0 - (1.0 - min(now, BUSIEST)) / (1.0 - min(then, BUSIEST)))
    return Effect(column, share, waiting_at(now), waiting_at(now) * (1.0 - share), "queueing")


def by_itself(metric: Metric, now: float, then: float) -> Effect:
    """Return the effect of a metric that goes back to its normal level."""
    return Effect(metric.column, _share(now, then), now, then, "own")


def waiting_at(utilisation: float) -> float:
    """Return the time in the system as a multiple of the service time: what "queueing" effects are told in."""
    return 1.0 / (1.0 - min(max(utilisation, 0.0), BUSIEST))


def is_gone(found: float, expected: float, now: float) -> bool:
    """Return whether a metric that was ``found`` instead of ``expected`` has gone back."""
    deviation = abs(found - expected)
    return abs(now - expected) <= GONE * deviation or (now - expected) * (found - expected) < 0


def verdict(expected_share: float, outcome_share: float) -> str:
    """Return what is said of an outcome beside what was expected."""
    if outcome_share < NOTHING * expected_share:
        return "worse" if outcome_share < -NOTHING * expected_share else "no_effect"
    if outcome_share < AS_EXPECTED * expected_share:
        return "less"
    return "as_expected" if outcome_share <= expected_share / AS_EXPECTED else "more"


def _share(now: float, then: float) -> float:
    if not (np.isfinite(now) and np.isfinite(then)) or now <= 0 or now <= then:
        return 0.0
    return float(min(1.0, (now - max(then, 0.0)) / now))


def level(values: Float64Array) -> float:
    """Return the mean of what was reported, NaN for nothing."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else float("nan")


def _moves_together(one: Float64Array, other: Float64Array) -> float:
    """Return the squared correlation over the rows that have both; 0 where either stands still."""
    both = np.isfinite(one) & np.isfinite(other)
    if both.sum() < 3:
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        correlation = np.corrcoef(one[both], other[both])[0, 1]
    return float(correlation**2) if np.isfinite(correlation) else 0.0
