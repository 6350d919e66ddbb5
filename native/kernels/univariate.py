"""The univariate detector's inner loop: judge a sample against what its series did before, then learn it.

``docs/detectors.md`` explains what is computed and where the ideas come from; ``tests/oracles/univariate.py`` does the
same, slowly.  Times are ns since 1970; windows count samples unless they say otherwise.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import types

from native.kernels.compiling import changed, given, kernel, part
from native.kernels.lanes import any_of, choose, fetch, lane, least, load, most, size_of, store
from native.kernels.univariate_season import (
    DAY_NS,
    HOUR_NS,
    PLACE_NS,
    PLACES_AN_HOUR,
    expected_here,
    leave_place,
)
from native.kernels.univariate_state import (
    ALARM,
    AVERAGE,
    CELL_COUNT,
    CELL_SUM,
    CELLS,
    CENTRE,
    COUNT,
    COUNTER,
    DAILY,
    DAILY_STARTS,
    DAYS,
    FEATURES,
    LEVEL_WEEKLY,
    LIMIT,
    LOUDNESS,
    MEAN,
    NEWEST,
    NONE,
    NUMBERS,
    ORIGIN,
    PLACES,
    PREDICTORS,
    PREVIOUS,
    RISES,
    SCALE,
    SEASON,
    SINCE,
    SPREAD,
    STEP,
    STRANGE,
    TOP,
    UNSURE,
    USUAL,
    WEEKLY,
    WEEKLY_ENDS,
    WEEKLY_STARTS,
)
from native.kernels.univariate_week import FIRST_HOUR, choose_season, difference, leave_hour

#: The state of the series that is judged so many samples later is brought into the cache meanwhile, and how many
#: columns of ``numbers`` a line of the cache holds.
AHEAD = 6
LINE = 16

# Parameters: one set for all series, chosen over all the sets in docs/detectors.md.

#: 0.5 is the score from which something is worth a person's look.
ALARM_SCORE = 0.5
# Gains are arrays of LANES; 0 where nothing is followed.
PREDICTOR_GAINS = np.array([1.0, 1 / 3, 1 / 10, 1 / 30, 1 / 100, 1 / 1000, 0.0, 0.0])
SCALE_GAIN = 1 / 10000
#: An error counts for at most so many scales where scales are learned, and moves its mean by at most so many.
LARGEST_ERROR = 4.0
LARGEST_MOVE = 3.0
SMOOTHING = 0.4
#: The smoothed strangeness that scores half of ALARM_SCORE.
HALFWAY = 4.0
WARM_UP = 20

#: The feature of what the profile leaves over.
OF_SEASON = 6
AVERAGE_GAINS = np.array([1.0, 1 / 3, 1 / 15, 1 / 20, 1 / 200, 1 / 120, 1 / 20, 0.0])
#: What a weekly profile leaves over changes with the hours.
WEEKLY_GAINS = np.array([1.0, 1 / 3, 1 / 15, 1 / 20, 1 / 200, 1 / 120, 1 / 3, 0.0])
#: 0: the feature is its own distance.
CENTRE_GAINS = np.array([1 / 1500, 1 / 1500, 1 / 150, 0.0, 1 / 1500, 1 / 1500, 1 / 1500, 0.0])
#: 1 where a feature has a centre.
CENTRED = np.array([1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0])
#: 1 where a feature is of the value, of its changes, of its activity, of what the profile leaves over.
OF_VALUE = np.array([1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0])
OF_CHANGE = np.array([0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0])
OF_ACTIVITY = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0])
OF_LEFT = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0])
CENTRE_MOVE = 4.0
SPREAD_GAIN = 1 / 5000
LARGEST_SPREAD = 6.0
STEP_GAIN = 1 / 2000
#: Keeps the logarithm of a distance from minus infinity: this part of its mean is added.
BASE = 0.05
DAYS_REMEMBERED = 20.0
FIRST_UNSURE = 0.25
UNSURE_DAYS = 4.0
LEAST_UNSURE = 0.02
LEAST_STRENGTH = 0.95
#: After an alarm, another one must be so many times as strong; that fades with this time constant.
REPEAT = 4.5
REPEAT_NS = DAY_NS
STRENGTH_SCALE = 4.0
#: More than the rounding of the limits to float32 does to a strength.
ROUNDED = 1e-3

#: A value that has risen so often and never fallen is a counter; one that falls to more than this part of it is not.
#: (Only a series' beginning can make it a counter: a gap that somebody filled with a line rises for long, too.)
COUNTER_RISES = 64
COUNTER_RESET = 0.5
FARTHEST = 1e30
#: Differences smaller than this part of a value are rounding.
ROUNDING = 1e-7


@part
def forget(numbers: Any, exact: Any, times: Any, visits: Any, week: Any) -> None:
    """Make the state of a series that nothing is known of."""
    numbers[:] = 0.0
    exact[:] = 0.0
    times[:] = 0
    visits[:] = 0
    week[:] = 0


@part
def judged_value(time: int, value: float, numbers: Any, exact: Any, times: Any, visits: Any, week: Any) -> float:
    """Return what is judged: the value, or for a counter what it gained a second; starts over when that changes."""
    started = numbers[COUNT] > 0
    previous = exact[PREVIOUS]
    if started and value < previous:
        if numbers[COUNTER] > 0 and value > COUNTER_RESET * previous:
            forget(numbers, exact, times, visits, week)
        if numbers[COUNTER] == 0:
            numbers[RISES] = -1.0
    elif started and value > previous and numbers[RISES] >= 0 and numbers[COUNTER] == 0:
        numbers[RISES] += 1.0
        if numbers[RISES] >= COUNTER_RISES:
            newest = times[NEWEST]
            forget(numbers, exact, times, visits, week)
            numbers[COUNTER] = 1.0
            times[NEWEST] = newest
            exact[PREVIOUS] = previous
    if numbers[COUNTER] == 0:
        return value
    gained = value - previous if value >= previous else value
    return float(gained / max((time - times[NEWEST]) * 1e-9, 1e-3))


@part
def strangeness(x: float, plain: float, count: float, numbers: Any) -> float:
    """Return the smoothed root mean square of the errors of predictors from fast to slow, each in its own scale."""
    rounding = ROUNDING * abs(x) + 1e-30
    first = 1.0 / count
    mean, scale = load(numbers, MEAN), load(numbers, SCALE)
    error = plain - mean
    size = size_of(error)
    known = scale > rounding
    z = choose(known, least(size / scale, 1e4), choose(size > rounding, 3.0, 0.0))
    if count > WARM_UP:
        size = choose(known, least(size, LARGEST_ERROR * scale), size)
        largest = LARGEST_MOVE * scale
        error = choose(known, least(most(error, 0.0 - largest), largest), error)
    store(numbers, SCALE, scale + max(SCALE_GAIN, first) * (size - scale))
    store(numbers, MEAN, mean + most(load(PREDICTOR_GAINS, 0), first) * error)
    z = z * z
    total = lane(z, 0) + lane(z, 1) + lane(z, 2) + lane(z, 3) + lane(z, 4) + lane(z, 5)
    strange = numbers[STRANGE] + SMOOTHING * (math.sqrt(total / PREDICTORS) - numbers[STRANGE])
    numbers[STRANGE] = strange
    return float(strange)


@part
def end_day(numbers: Any) -> None:
    """Learn the largest distances of the day that ends, and from which distance an alarm is possible today."""
    for j in range(FEATURES):
        # What another profile left over says nothing of what this one does.
        days = numbers[SINCE] if j == OF_SEASON else numbers[DAYS]
        top = math.log(numbers[TOP + j] + BASE * numbers[SPREAD + j] + 1e-30)
        if days == 0:
            numbers[USUAL + j] = top
            numbers[UNSURE + j] = FIRST_UNSURE
        else:
            move = top - numbers[USUAL + j]
            unsure = numbers[UNSURE + j]
            counted = min(abs(move), 3.0 * unsure)
            numbers[USUAL + j] += max(1 / DAYS_REMEMBERED, 1.0 / (days + 1.0)) * move
            numbers[UNSURE + j] += max(1 / DAYS_REMEMBERED, 1.0 / (days + UNSURE_DAYS)) * (counted - unsure)
        numbers[TOP + j] = 0.0
        limit = numbers[USUAL + j] + LEAST_STRENGTH * max(numbers[UNSURE + j], LEAST_UNSURE)
        numbers[LIMIT + j] = math.exp(min(limit, 80.0))
    numbers[DAYS] = min(numbers[DAYS] + 1.0, 1e6)
    numbers[SINCE] = min(numbers[SINCE] + 1.0, 1e6)
    if numbers[SEASON] == NONE:
        numbers[SEASON] = DAILY_STARTS
    else:
        choose_season(numbers)


@part
def features(x: float, left: float, change: float, count: float, numbers: Any, distances: Any) -> bool:
    """Measure what the value, its level, its changes and its distance from the profile do over longer times.

    Writes each feature's distance from its centre; returns whether one is so far out that an alarm is possible.
    """
    first = 1.0 / count
    spread_gain = max(SPREAD_GAIN, first)
    usual_step = numbers[STEP]
    activity = min(change, 2.0 * usual_step) / usual_step if usual_step > 0 else 0.0
    capped = min(change, 3.0 * usual_step) if count > WARM_UP else change
    numbers[STEP] += max(STEP_GAIN, first) * (capped - usual_step)
    seen = load(OF_VALUE, 0) * x + load(OF_CHANGE, 0) * change
    seen = seen + (load(OF_ACTIVITY, 0) * activity + load(OF_LEFT, 0) * left)
    average = load(numbers, AVERAGE)
    gains = load(AVERAGE_GAINS, 0)
    if numbers[SEASON] == WEEKLY:
        gains = load(WEEKLY_GAINS, 0)
    average = average + most(gains, first) * (seen - average)
    store(numbers, AVERAGE, average)
    centred = load(CENTRED, 0)
    centre, spread = load(numbers, CENTRE), load(numbers, SPREAD)
    if count == 1:
        centre = centred * average
    off = average - centre
    distance = size_of(off)
    counted = distance
    if count > WARM_UP:
        counted = least(distance, LARGEST_SPREAD * spread)
    largest = CENTRE_MOVE * spread
    move = least(most(off, 0.0 - largest), largest)
    store(numbers, CENTRE, centre + most(load(CENTRE_GAINS, 0), first * centred) * move)
    spread = spread + spread_gain * (counted - spread)
    store(numbers, SPREAD, spread)
    store(numbers, TOP, most(load(numbers, TOP), distance))
    store(distances, 0, distance)
    beyond: bool = any_of(distance + BASE * spread > load(numbers, LIMIT))
    return beyond


@part
def alarm(time: int, numbers: Any, times: Any, distances: Any) -> tuple[float, int]:
    """Return how far beyond a day's largest distances this sample is, and its farthest feature; 0 for no alarm.

    A day's largest distance has, as a logarithm, a place and a width.  An alarm must be the louder the louder the last
    one was and the shorter ago.
    """
    bar = max(numbers[LOUDNESS] * REPEAT * math.exp(-(time - times[ALARM]) / REPEAT_NS), LEAST_STRENGTH)
    # No strength is above the largest z, and log(q) <= q - 1 bounds that one without a logarithm.
    bound = 0.0
    for j in range(FEATURES):
        beyond = (distances[j] + BASE * numbers[SPREAD + j]) / numbers[LIMIT + j] - 1.0
        bound = max(bound, beyond / max(numbers[UNSURE + j], LEAST_UNSURE))
    if LEAST_STRENGTH + bound + ROUNDED < bar:
        return 0.0, 0
    total = 0.0
    farthest = -1e9
    cause = 0
    for j in range(FEATURES):
        above = math.log(distances[j] + BASE * numbers[SPREAD + j] + 1e-30) - numbers[USUAL + j]
        z = min(max(above / max(numbers[UNSURE + j], LEAST_UNSURE), -20.0), 20.0)
        total += math.exp(z)
        if z > farthest:
            farthest = z
            cause = j
    strength = math.log(total / FEATURES)
    if strength < bar:
        return 0.0, 0
    numbers[LOUDNESS] = strength
    times[ALARM] = time
    return strength, cause


@kernel(
    given(types.int64),
    given(types.int64),
    given(types.float64),
    types.int64,
    types.int64,
    changed(types.float32, 2),
    changed(types.float64, 2),
    changed(types.int64, 2),
    changed(types.float32, 2),
    changed(types.uint8, 2),
    changed(types.uint16, 2),
    changed(types.float64),
    changed(types.float64, 2),
    changed(types.int64),
    changed(types.float64),
)
def advance(
    rows: Any,
    at: Any,
    values: Any,
    lowest: int,
    beyond: int,
    all_numbers: Any,
    all_exact: Any,
    all_times: Any,
    all_profiles: Any,
    all_visits: Any,
    all_weeks: Any,
    scores: Any,
    alarms: Any,
    found: Any,
    distances: Any,
) -> None:
    """Judge samples in order, each against the row of the state that it belongs to, and learn it after that.

    A tick gives one sample of each of many series, a batch many samples of one.  Samples of rows below ``lowest`` or
    from ``beyond`` on are passed over.  ``scores`` float64[n] is in [0, 1]; ``alarms`` float64[at least n, 5] has which
    sample, cause, what was seen, and what was expected at least and at most, ``found`` int64[1] says of how many.  A
    value that is not finite is a missing one: it scores 0 and is not learned.  A time before the newest one
    counts as the newest.  The state arrays have the rows of native.kernels.univariate_state;
    ``distances`` float64[LANES] is scratch.
    """
    told = 0
    for i in range(len(rows)):
        row = rows[i]
        if i + AHEAD < len(rows):
            coming = rows[i + AHEAD]
            if coming != row and lowest <= coming < beyond:
                for column in range(0, NUMBERS, LINE):
                    fetch(all_numbers, coming, column)
                fetch(all_numbers, coming, NUMBERS - 1)
                fetch(all_exact, coming, 0)
                fetch(all_times, coming, 0)
                place = at[i + AHEAD] % DAY_NS // PLACE_NS
                fetch(all_profiles, coming, place)
                fetch(all_visits, coming, place)
                fetch(all_weeks, coming, (at[i + AHEAD] // HOUR_NS + FIRST_HOUR) % CELLS)
        if not lowest <= row < beyond:
            continue
        scores[i] = 0.0
        value = values[i]
        if not math.isfinite(value):
            continue
        # Views of one row: with places known to be positive the compiler leaves out the test for negative ones.
        numbers, exact, times = all_numbers[row], all_exact[row], all_times[row]
        profile, visits, week = all_profiles[row], all_visits[row], all_weeks[row]
        time = at[i]
        if numbers[COUNT] == 0:
            forget(numbers, exact, times, visits, week)
            exact[PREVIOUS] = value
            times[NEWEST] = time
        time = max(time, times[NEWEST])
        previous = exact[PREVIOUS]
        judged = judged_value(time, value, numbers, exact, times, visits, week)
        if numbers[COUNT] == 0:
            exact[ORIGIN] = judged if numbers[COUNTER] == 0 else 0.0
        exact[PREVIOUS] = value
        x = min(max(judged - exact[ORIGIN], -FARTHEST), FARTHEST)
        count = min(numbers[COUNT] + 1.0, 1e7)
        numbers[COUNT] = count

        place, before = time // PLACE_NS, times[NEWEST] // PLACE_NS
        times[NEWEST] = time
        new_day = False
        if place != before and count > 1:
            leave_place(before % PLACES, numbers, profile, visits)
            if place // PLACES_AN_HOUR != before // PLACES_AN_HOUR:
                leave_hour(before // PLACES_AN_HOUR, numbers, week)
            new_day = place // PLACES != before // PLACES
        expected = expected_here(time, x, numbers, profile, visits)
        plain = x - expected
        season = numbers[SEASON]
        if season != NONE:
            numbers[CELL_SUM] += plain
            numbers[CELL_COUNT] += 1.0
        left = plain
        if season != DAILY and season != NONE:
            if season == DAILY_STARTS:
                # From here on the averages are of what the profile leaves over.
                for k in range(PREDICTORS):
                    numbers[MEAN + k] = plain
                numbers[COUNT] = min(count, 50.0)
            elif season != WEEKLY_ENDS:
                more = difference(place // PLACES_AN_HOUR, week) + numbers[LEVEL_WEEKLY]
                left -= more
                expected += more
            if season != WEEKLY:
                # This feature is of what another profile leaves over now.
                numbers[AVERAGE + OF_SEASON] = left
                numbers[CENTRE + OF_SEASON] = left
                numbers[SEASON] = WEEKLY if season == WEEKLY_STARTS else DAILY
        strange = strangeness(x, plain, count, numbers)
        scores[i] = ALARM_SCORE * strange / (strange + HALFWAY)

        if new_day:
            end_day(numbers)
        change = abs(x) if numbers[COUNTER] > 0 else min(abs(value - previous), FARTHEST)
        if not features(x, left, change, count, numbers, distances) or numbers[DAYS] == 0:
            continue
        strength, cause = alarm(time, numbers, times, distances)
        if strength == 0:
            continue
        scores[i] = ALARM_SCORE + (1.0 - ALARM_SCORE) * (1.0 - math.exp((LEAST_STRENGTH - strength) / STRENGTH_SCALE))
        usual = math.exp(min(numbers[USUAL + cause], 80.0))
        middle = numbers[CENTRE + cause]
        seen = numbers[AVERAGE + cause]
        if cause == OF_SEASON:
            middle += exact[ORIGIN] + expected
            seen += exact[ORIGIN] + expected
        elif cause < 3:
            middle += exact[ORIGIN]
            seen += exact[ORIGIN]
        alarms[told, 0] = i
        alarms[told, 1] = cause + 1.0
        alarms[told, 2] = seen
        alarms[told, 3] = middle - usual
        alarms[told, 4] = middle + usual
        told += 1
    found[0] = told
