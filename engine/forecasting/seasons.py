"""The repetition that is usual for steps of a length."""

from __future__ import annotations

DAY_SECONDS = 86_400.0
DAYS_A_WEEK = 7


def usual_season(step_seconds: float) -> int:
    """Return the short repetition in steps: a day, a week of days, or none (1) where neither is whole steps."""
    a_day = DAY_SECONDS / step_seconds
    if a_day == 1.0:
        return DAYS_A_WEEK
    return round(a_day) if a_day > 1.0 and abs(a_day - round(a_day)) < 1e-9 else 1
