"""The univariate detector's week: by how much each of its 168 hours differs from the daily profile (docs/detectors.md).

An hour of the week is learned when it is over, as the mean of what the daily profile left over in it.  Before that both
profiles, without and with the difference, are judged by it, each against its own level of the last days, so that a
shift speaks for neither.  The weekly one is used while its mean error of the last weeks is smaller by far.
"""

from __future__ import annotations

from typing import Any

from native.kernels.bfloats import narrowed, widened
from native.kernels.compiling import part
from native.kernels.univariate_state import (
    CELL_COUNT,
    CELL_SUM,
    CELLS,
    COMPARED,
    DAILY,
    ERROR_DAILY,
    ERROR_WEEKLY,
    LEVEL_DAILY,
    LEVEL_WEEKLY,
    SEASON,
    SINCE,
    WEEKLY,
    WEEKLY_ENDS,
    WEEKLY_STARTS,
)

#: Hours from the beginning of a week, a Monday, to 1970.
FIRST_HOUR = 3 * 24
WEEK_GAIN = 1 / 4
LEVEL_GAIN = 1 / 48
ERROR_GAIN = 1 / 336
#: So many hours must have been compared, and the weekly error be so much of the daily one, before it is used; from the
#: second share on it is not used any more.
LEAST_COMPARED = 72.0
BETTER = 0.75
NOT_BETTER = 0.9
#: When another profile is used, what was remembered of the days before weighs as so many days.
DAYS_KEPT = 5.0
#: An hour moves what is known of it by at most so many weekly errors.
WEEK_MOVE = 3.0
#: Stands for "no difference": 0 is an hour of which nothing is known.
NO_DIFFERENCE = 1e-30


@part
def difference(hour: int, week: Any) -> float:
    """Return what is to be added to the daily profile in an hour since 1970, 0 where nothing is known."""
    return float(widened(week[(hour + FIRST_HOUR) % CELLS]))


@part
def leave_hour(hour: int, numbers: Any, week: Any) -> None:
    """Judge both predictions by the hour that is over, then learn it."""
    if numbers[CELL_COUNT] == 0:
        return
    mean = numbers[CELL_SUM] / numbers[CELL_COUNT]
    numbers[CELL_SUM] = 0.0
    numbers[CELL_COUNT] = 0.0
    cell = (hour + FIRST_HOUR) % CELLS
    learned = mean
    if week[cell] != 0:
        compared = numbers[COMPARED] + 1.0
        before = widened(week[cell])
        left = mean - before
        gain, level_gain = max(ERROR_GAIN, 1.0 / compared), max(LEVEL_GAIN, 1.0 / compared)
        numbers[ERROR_DAILY] += gain * (abs(mean - numbers[LEVEL_DAILY]) - numbers[ERROR_DAILY])
        numbers[ERROR_WEEKLY] += gain * (abs(left - numbers[LEVEL_WEEKLY]) - numbers[ERROR_WEEKLY])
        numbers[LEVEL_DAILY] += level_gain * (mean - numbers[LEVEL_DAILY])
        numbers[LEVEL_WEEKLY] += level_gain * (left - numbers[LEVEL_WEEKLY])
        numbers[COMPARED] = min(compared, 1e6)
        if compared > LEAST_COMPARED:
            most = WEEK_MOVE * numbers[ERROR_WEEKLY]
            left = min(max(left, -most), most)
        learned = before + max(WEEK_GAIN, 1.0 / (2.0 + compared / CELLS)) * left
    week[cell] = narrowed(learned if abs(learned) > NO_DIFFERENCE else NO_DIFFERENCE)


@part
def choose_season(numbers: Any) -> None:
    """Decide at the end of a day whether the next one is expected to be like others, or like those of its weekday."""
    season = numbers[SEASON]
    if season == DAILY and numbers[COMPARED] >= LEAST_COMPARED:
        if numbers[ERROR_WEEKLY] < BETTER * numbers[ERROR_DAILY]:
            numbers[SEASON] = WEEKLY_STARTS
            numbers[SINCE] = DAYS_KEPT
    elif season == WEEKLY and numbers[ERROR_WEEKLY] > NOT_BETTER * numbers[ERROR_DAILY]:
        numbers[SEASON] = WEEKLY_ENDS
        numbers[SINCE] = DAYS_KEPT
