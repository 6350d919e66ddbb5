"""Promote, hold or roll back: the metrics of a canary against those of the baseline that runs beside it.

A pure function of the samples.  What is asked of each metric, and why, is in docs/gate.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from engine.deploys.samples import more_events, more_often, shift, superiority
from engine.detection.semantics import Kind, read_metric
from engine.errors import BadRequest
from engine.model.rows import Float64Array

PROMOTE: Literal["promote"] = "promote"
HOLD: Literal["hold"] = "hold"
ROLL_BACK: Literal["roll back"] = "roll back"
BETTER, SAME, WORSE, UNCLEAR, NO_DATA = "better", "same", "worse", "unclear", "no data"
UP, DOWN, EITHER = "up", "down", "either"
DIRECTIONS = (UP, DOWN, EITHER)

DEFAULT_CONFIDENCE = 0.98
DEFAULT_TOLERANCE = 0.1
DEFAULT_MINIMUM = 8
#: A metric may be worse by this part of the baseline's noise beside the tolerance.
NOISE = 1.0
MAD_SPREADS = 1.4826
#: The share of pairs with the canary above from which on a difference counts (a "medium" one, Vargha & Delaney).
LEAST_SHARE = 0.64
#: Counts below this mean are compared as events.
SPARSE_MEAN = 5.0
LEAST_RATIO = 1.5
#: The tail: the baseline's worst tenth; so many times as often, and at least so many samples, count.
TAIL = 0.9
TAIL_RATIO = 2.0
TAIL_LEAST = 3
#: Between this chance and that of the confidence a difference that matters is a reason to wait.
DOUBTFUL = 0.1
BEYOND_DOUBT = 1e-4


@dataclass(frozen=True, slots=True)
class Comparison:
    """One metric.  ``shift``: canary less baseline, with its 90 % interval; ``share``: of pairs in which the canary is
    above; ``p_value``: of the test that speaks the loudest against the canary, corrected for their number; ``margin``:
    by how much it may be worse, NaN for counts of rare events."""

    metric: str
    direction: str
    finding: str
    reason: str
    baseline_samples: int
    canary_samples: int
    baseline_median: float
    canary_median: float
    shift: float
    shift_low: float
    shift_high: float
    share: float
    p_value: float
    margin: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """``verdict``: promote, hold or roll back; ``reasons``: sentences, the weightiest first."""

    verdict: str
    reasons: tuple[str, ...]
    metrics: tuple[Comparison, ...]


def gate(
    baseline: Mapping[str, npt.ArrayLike] | npt.ArrayLike,
    canary: Mapping[str, npt.ArrayLike] | npt.ArrayLike,
    *,
    directions: Mapping[str, str] | str | None = None,
    required: Sequence[str] | None = None,
    confidence: float = DEFAULT_CONFIDENCE,
    tolerance: float = DEFAULT_TOLERANCE,
    minimum: int = DEFAULT_MINIMUM,
    warm_up: int = 0,
) -> Verdict:
    """Judge a canary by samples of its metrics against those of the baseline over the same time.

    ``baseline``, ``canary``: arrays by metric, or one array each; NaN is no sample; in order of time.  ``directions``:
    which way is worse, ``up``, ``down`` or ``either``, for all or by metric; what is left out follows from the name.
    ``required``: metrics that must have data, all of the baseline's by default.  ``confidence``: of a rollback;
    ``tolerance``: part of the baseline's median by which a metric may be worse; ``minimum``: samples on either side
    without which nothing is said; ``warm_up``: first samples of the canary that do not count.

    Raises BadRequest for arguments that cannot be.
    """
    old, new = _columns(baseline, "baseline"), _columns(canary, "canary")
    _check(confidence, tolerance, minimum, warm_up)
    names = [*old, *(name for name in new if name not in old)]
    needed = set(names if required is None else required)
    unknown = needed - set(names)
    if not names:
        raise BadRequest("cannot judge a deployment: there are no metrics")
    empty = np.empty(0)
    found = [
        _compare(
            name,
            _direction(name, directions),
            _known(old.get(name, empty)),
            _known(new.get(name, empty)[warm_up:]),
            tolerance,
            minimum,
        )
        for name in names
    ]
    judged = _judged(found, 1.0 - confidence)
    return _verdict(judged, needed, sorted(unknown))


def _compare(
    name: str, direction: str, old: Float64Array, new: Float64Array, tolerance: float, minimum: int
) -> Comparison:
    """Return the comparison with its p-value not corrected yet; ``finding`` is empty where the test decides."""
    nan = math.nan
    empty = Comparison(name, direction, NO_DATA, "", len(old), len(new), nan, nan, nan, nan, nan, nan, nan, nan)
    if len(old) < minimum or len(new) < minimum:
        reason = f"{name}: {len(old)} samples of the baseline and {len(new)} of the canary, want {minimum} of each"
        return replace(empty, reason=reason)
    median, low, high = shift(old, new)
    base = replace(
        empty,
        finding="",
        baseline_median=float(np.median(old)),
        canary_median=float(np.median(new)),
        shift=median,
        shift_low=low,
        shift_high=high,
        share=superiority(old, new).share,
        margin=nan if _sparse(old, new) else _margin(old, tolerance),
    )
    sides = {UP: [1.0], DOWN: [-1.0], EITHER: [1.0, -1.0]}[direction]
    looks = [look for sign in sides for look in _looks(name, sign, old, new, tolerance)]
    material = [look for look in looks if look.matters]
    count = len(looks)
    # Of several that are beyond doubt the middle, which comes first, says it best.
    certain = [look for look in material if look.p_value < BEYOND_DOUBT]
    loudest = certain[0] if certain else min(material or looks, key=lambda look: look.p_value)
    return replace(
        base,
        p_value=min(1.0, loudest.p_value * count),
        finding=WORSE if material else "",
        reason=loudest.sentence,
    )


def _margin(old: Float64Array, tolerance: float) -> float:
    median = float(np.median(old))
    return tolerance * abs(median) + NOISE * MAD_SPREADS * float(np.median(np.abs(old - median)))


@dataclass(frozen=True, slots=True)
class _Look:
    """One test in one direction: its chance, whether the difference is large enough to matter, and what it says."""

    p_value: float
    matters: bool
    sentence: str


def _looks(name: str, sign: float, old: Float64Array, new: Float64Array, tolerance: float) -> list[_Look]:
    way = "above" if sign > 0 else "below"
    found = superiority(sign * old, sign * new)
    median, _, _ = shift(sign * old, sign * new)
    matters = found.share >= LEAST_SHARE and median > tolerance * abs(float(np.median(old)))
    size = f"{abs(median):.4g} {way} the baseline's {np.median(old):.4g}"
    looks = [_Look(found.p_value, matters, f"{name} is {size} ({_percent(found.share)} of pairs)")]
    if _sparse(old, new):
        if sign > 0:
            ratio = (new.mean() + 1e-12) / (old.mean() + 1e-12)
            sentence = (
                f"{name}: {new.sum():g} events in {len(new)} samples, {old.sum():g} in {len(old)} of the baseline"
            )
            return [_Look(more_events(old, new), ratio >= LEAST_RATIO, sentence)]
        return looks
    worst = float(np.quantile(sign * old, TAIL))
    edge = worst + tolerance * abs(worst)
    far_old, far_new = int((sign * old > edge).sum()), int((sign * new > edge).sum())
    more = far_new >= TAIL_LEAST and far_new / len(new) >= TAIL_RATIO * max(far_old / len(old), 1.0 - TAIL)
    sentence = (
        f"{name} is {way} {sign * edge:.4g}, where the baseline rarely is, in {far_new} of {len(new)} samples"
        f" ({far_old} of {len(old)} of the baseline)"
    )
    looks.append(_Look(more_often(far_old, len(old), far_new, len(new)), more, sentence))
    return looks


def _judged(found: Sequence[Comparison], alpha: float) -> list[Comparison]:
    """Correct the chances for their number (Holm 1979) and say what each metric's is."""
    tested = sorted((each.p_value, index) for index, each in enumerate(found) if each.finding != NO_DATA)
    corrected: dict[int, float] = {}
    highest = 0.0
    for place, (p_value, index) in enumerate(tested):
        highest = max(highest, min(1.0, p_value * (len(tested) - place)))
        corrected[index] = highest
    judged = []
    for index, each in enumerate(found):
        if each.finding == NO_DATA:
            judged.append(each)
            continue
        p_value = corrected[index]
        finding, reason = _finding(each, p_value, alpha)
        judged.append(replace(each, p_value=p_value, finding=finding, reason=reason))
    return judged


def _finding(each: Comparison, p_value: float, alpha: float) -> tuple[str, str]:
    if each.finding == WORSE and p_value <= alpha:
        return WORSE, f"{each.reason}; by chance in {_percent(p_value)} of cases"
    if each.finding == WORSE and p_value <= DOUBTFUL:
        return UNCLEAR, f"{each.reason}; by chance in {_percent(p_value)} of cases, want {_percent(alpha)} or less"
    low, high = each.shift_low, each.shift_high
    worst = {UP: high, DOWN: -low, EITHER: max(high, -low)}[each.direction]
    if worst > each.margin:
        return UNCLEAR, (
            f"{each.metric} may still be worse by {worst:.4g}, want {each.margin:.4g} or less to go on"
            f" ({each.canary_samples} samples of the canary, {each.baseline_samples} of the baseline)"
        )
    good = {UP: high < 0.0, DOWN: low > 0.0, EITHER: False}[each.direction]
    return (BETTER if good else SAME), ""


def _verdict(judged: Sequence[Comparison], needed: set[str], unknown: Sequence[str]) -> Verdict:
    worse = [each for each in judged if each.finding == WORSE]
    missing = [each.reason for each in judged if each.finding == NO_DATA and each.metric in needed]
    missing += [f"{name}: no samples of either" for name in unknown]
    unclear = [each.reason for each in judged if each.finding == UNCLEAR]
    if worse:
        reasons = [each.reason for each in sorted(worse, key=lambda each: each.p_value)]
        return Verdict(ROLL_BACK, (*reasons, *unclear, *missing), tuple(judged))
    if missing or unclear:
        return Verdict(HOLD, (*unclear, *missing), tuple(judged))
    told = [each for each in judged if each.finding != NO_DATA]
    if not told:
        return Verdict(HOLD, tuple(each.reason for each in judged), tuple(judged))
    better = sum(each.finding == BETTER for each in told)
    sentence = f"none of {len(told)} metrics is worse" + (f", {better} better" if better else "")
    return Verdict(PROMOTE, (sentence,), tuple(judged))


def _columns(given: Mapping[str, npt.ArrayLike] | npt.ArrayLike, side: str) -> dict[str, Float64Array]:
    columns = given if isinstance(given, Mapping) else {"value": given}
    found = {}
    for name, values in columns.items():
        array: npt.NDArray[Any] = np.asarray(values)
        if array.ndim != 1 or (array.dtype.kind not in "iufb" and len(array)):
            raise BadRequest(
                f"cannot judge a deployment: got {array.dtype}{list(array.shape)} for {name!r} ({side}), want numbers"
            )
        found[str(name)] = array.astype(np.float64)
    return found


def _known(values: Float64Array) -> Float64Array:
    return values[np.isfinite(values)]


def _sparse(old: Float64Array, new: Float64Array) -> bool:
    """Whether both are counts of rare events."""
    both = np.concatenate([old, new])
    return bool((both >= 0).all() and (both == np.round(both)).all() and both.mean() < SPARSE_MEAN)


def _direction(name: str, directions: Mapping[str, str] | str | None) -> str:
    given = directions if isinstance(directions, str) else (directions or {}).get(name)
    if given is not None and given not in DIRECTIONS:
        raise BadRequest(f"cannot judge {name!r}: got direction {given!r}, want {', '.join(DIRECTIONS)}")
    if given is not None:
        return given
    kind = read_metric(name).kind
    if kind is Kind.SUCCESS:
        return DOWN
    return EITHER if kind in (Kind.TRAFFIC, Kind.OTHER) else UP


def _check(confidence: float, tolerance: float, minimum: int, warm_up: int) -> None:
    if not 0.5 <= confidence < 1.0:
        raise BadRequest(f"cannot judge a deployment: got confidence {confidence}, want 0.5 to below 1")
    if not 0.0 <= tolerance < math.inf:
        raise BadRequest(f"cannot judge a deployment: got tolerance {tolerance}, want 0 or more")
    if minimum < 3:
        raise BadRequest(f"cannot judge a deployment: got minimum {minimum}, want 3 or more")
    if warm_up < 0:
        raise BadRequest(f"cannot judge a deployment: got warm_up {warm_up}, want 0 or more")


def _percent(share: float) -> str:
    return "less than 0.01 %" if share < 1e-4 else f"{100.0 * share:.2g} %"
