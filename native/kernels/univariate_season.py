"""The univariate detector's day: the mean of each ten minutes of it, over about three weeks (docs/detectors.md)."""

from __future__ import annotations

import math
from typing import Any

from native.kernels.compiling import part
from native.kernels.univariate_state import (
    NONE,
    PLACE_COUNT,
    PLACE_SUM,
    PLACES,
    PREDICTORS,
    SCALE,
    SEASON,
    WAITING,
    WAITING_PLACE,
)

DAY_NS = 86_400_000_000_000
HOUR_NS = DAY_NS // 24
PLACE_NS = DAY_NS // PLACES
PLACES_AN_HOUR = PLACES // 24

PROFILE_DAYS = 21.0
#: A place moves by at most so many of the slowest predictor's errors.
PROFILE_MOVE = 3.0


@part
def learn_waiting(numbers: Any, profile: Any, visits: Any) -> None:
    """Let the profile learn the mean of the place that the series has left."""
    place = int(numbers[WAITING_PLACE]) - 1
    numbers[WAITING_PLACE] = 0.0
    if visits[place] == 0:
        profile[place] = numbers[WAITING]
        visits[place] = 1
        return
    move = numbers[WAITING] - profile[place]
    if numbers[SEASON] > 0:
        most = PROFILE_MOVE * numbers[SCALE + PREDICTORS - 1]
        move = min(max(move, -most), most)
    profile[place] += max(1.0 / (visits[place] + 1.0), 1 / PROFILE_DAYS) * move
    if visits[place] < 255:
        visits[place] += 1


@part
def leave_place(place: int, numbers: Any, profile: Any, visits: Any) -> None:
    """Keep the mean of the place that is over, until the profile may learn it."""
    if numbers[WAITING_PLACE] > 0:
        learn_waiting(numbers, profile, visits)
    if numbers[PLACE_COUNT] > 0:
        numbers[WAITING] = numbers[PLACE_SUM] / numbers[PLACE_COUNT]
        numbers[WAITING_PLACE] = place + 1
    numbers[PLACE_SUM] = 0.0
    numbers[PLACE_COUNT] = 0.0


@part
def expected_here(time: int, x: float, numbers: Any, profile: Any, visits: Any) -> float:
    """Return the profile's value for this time of day, 0 without a profile, and give the sample to the profile.

    The value lies on the line between the middles of two places.  What the series does today must not be compared with
    itself: a place that has been left is learned only when the line does not touch it any more.
    """
    where = (time % DAY_NS) / PLACE_NS - 0.5  # a division: samples lie exactly on the borders of places
    below = math.floor(where)
    share = where - below
    left = int(below) if below >= 0 else PLACES - 1
    right = left + 1 if left + 1 < PLACES else 0
    if numbers[WAITING_PLACE] > 0 and numbers[WAITING_PLACE] != left + 1:
        learn_waiting(numbers, profile, visits)
    numbers[PLACE_SUM] += x
    numbers[PLACE_COUNT] += 1.0
    if numbers[SEASON] == NONE:
        return 0.0
    weight_left = 1.0 - share if visits[left] > 0 else 0.0
    weight_right = share if visits[right] > 0 else 0.0
    if weight_left + weight_right == 0:
        # Never been here at this time of day: what came just before has to do.
        if numbers[WAITING_PLACE] > 0:
            return float(numbers[WAITING])
        for back in range(PLACES):
            before = (left - back + PLACES) % PLACES
            if visits[before] > 0:
                return float(profile[before])
        return x
    return float((profile[left] * weight_left + profile[right] * weight_right) / (weight_left + weight_right))
