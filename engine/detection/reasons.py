"""Why a sample was noted, in a sentence that a person can read."""

from __future__ import annotations

import math

from native.kernels import univariate_state as layout

#: What the ``cause`` of a stored anomaly is called.
CAUSES = {
    layout.CAUSE_VALUE: "value",
    layout.CAUSE_SHORT_LEVEL: "level",
    layout.CAUSE_LEVEL: "level",
    layout.CAUSE_CHANGES: "changes",
    layout.CAUSE_SLOW_CHANGES: "changes",
    layout.CAUSE_ACTIVITY: "activity",
    layout.CAUSE_SEASON: "hour",
}


def reason_of(cause: int, value: float, seen: float, low: float, high: float) -> str:
    """Return the reason for an alarm of the univariate detector.

    ``seen``, ``low`` and ``high`` are what the detector measured and what it is on ordinary days, at most; for values
    and levels in the metric's unit, for changes the mean step from sample to sample.
    """
    span = f"{number(low)}..{number(high)}"
    match CAUSES.get(cause):
        case "value":
            return f"value {number(value)} against expected {span}"
        case "level":
            return f"level {number(seen)} (now {number(value)}) against expected {span}"
        case "hour":
            return f"value {number(seen)} (now {number(value)}) against expected {span} for this hour"
        case "changes":
            return f"changes by {number(seen)} from sample to sample, on ordinary days by at most {number(high)}"
        case "activity":
            direction = "more" if seen > high else "less"
            return f"varies {direction} than on ordinary days: activity {number(seen)} against expected {span}"
        case _:
            return f"value {number(value)} is unusual"


def number(value: float) -> str:
    """Return a number with four digits, as short as it gets."""
    if not math.isfinite(value):
        return "very large"
    return f"{value:.4g}" if abs(value) < 1e4 or abs(value) >= 1e15 else f"{value:,.0f}"
