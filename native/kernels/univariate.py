"""The univariate detector's inner loop: judge a sample against what its series did before, then learn it.

``docs/detectors.md`` explains what is computed and where the ideas come from; ``tests/oracles/univariate.py`` does the
same, slowly.  Times are ns since 1970; windows count samples unless they say otherwise.
"""

from __future__ import annotations

import math
from typing import Any

from numba import types

from native.kernels.compiling import changed, given, kernel, part
from native.kernels.univariate_state import (
    ALARM,
    AVERAGE,
    CENTRE,
    COUNT,
    COUNTER,
    DAY,
    DAYS,
    EXACT,
    FEATURES,
    LIMIT,
    LOUDNESS,
    MEAN,
    NEWEST,
    NUMBERS,
    ORIGIN,
    PLACE,
    PLACE_COUNT,
    PLACE_SUM,
    PLACES,
    PREDICTORS,
    PREVIOUS,
    RISES,
    SCALE,
    SEASON,
    SPREAD,
    STEP,
    STRANGE,
    TIMES,
    TOP,
    UNSURE,
    USUAL,
    WAITING,
    WAITING_PLACE,
)

DAY_NS = 86_400_000_000_000

# Parameters: one set for all series, chosen over all the sets in docs/detectors.md.

#: 0.5 is the score from which something is worth a person's look.
ALARM_SCORE = 0.5
PREDICTOR_GAINS = (1.0, 1 / 3, 1 / 10, 1 / 30, 1 / 100, 1 / 1000)
SCALE_GAIN = 1 / 10000
#: An error counts for at most so many scales where scales are learned, and moves its mean by at most so many.
LARGEST_ERROR = 4.0
LARGEST_MOVE = 3.0
SMOOTHING = 0.4
#: The smoothed strangeness that scores half of ALARM_SCORE.
HALFWAY = 4.0
WARM_UP = 20

AVERAGE_GAINS = (1.0, 1 / 3, 1 / 15, 1 / 20, 1 / 200, 1 / 120, 1 / 20)
#: 0: the feature is its own distance.
CENTRE_GAINS = (1 / 1500, 1 / 1500, 1 / 150, 0.0, 1 / 1500, 1 / 1500, 1 / 1500)
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

PROFILE_DAYS = 21.0
PROFILE_MOVE = 3.0

#: A value that has risen so often and never fallen is a counter; one that falls to more than this part of it is not.
#: (Only a series' beginning can make it a counter: a gap that somebody filled with a line rises for long, too.)
COUNTER_RISES = 64
COUNTER_RESET = 0.5
FARTHEST = 1e30
#: Differences smaller than this part of a value are rounding.
ROUNDING = 1e-7


@part
def forget(row: int, numbers: Any, exact: Any, times: Any, visits: Any) -> None:
    """Make the state of a series that nothing is known of."""
    n, e, m, p = row * NUMBERS, row * EXACT, row * TIMES, row * PLACES
    numbers[n : n + NUMBERS] = 0.0
    exact[e : e + EXACT] = 0.0
    times[m : m + TIMES] = 0
    times[m + PLACE] = -1
    visits[p : p + PLACES] = 0


@part
def judged_value(row: int, time: int, value: float, numbers: Any, exact: Any, times: Any, visits: Any) -> float:
    """Return what is judged: the value, or for a counter what it gained a second; starts over when that changes."""
    n, e, m = row * NUMBERS, row * EXACT, row * TIMES
    started = numbers[n + COUNT] > 0
    previous = exact[e + PREVIOUS]
    if started and value < previous:
        if numbers[n + COUNTER] > 0 and value > COUNTER_RESET * previous:
            forget(row, numbers, exact, times, visits)
        if numbers[n + COUNTER] == 0:
            numbers[n + RISES] = -1.0
    elif started and value > previous and numbers[n + RISES] >= 0 and numbers[n + COUNTER] == 0:
        numbers[n + RISES] += 1.0
        if numbers[n + RISES] >= COUNTER_RISES:
            newest = times[m + NEWEST]
            forget(row, numbers, exact, times, visits)
            numbers[n + COUNTER] = 1.0
            times[m + NEWEST] = newest
            exact[e + PREVIOUS] = previous
    if numbers[n + COUNTER] == 0:
        return value
    gained = value - previous if value >= previous else value
    return float(gained / max((time - times[m + NEWEST]) * 1e-9, 1e-3))


@part
def learn_waiting(row: int, numbers: Any, profile: Any, visits: Any) -> None:
    """Let the profile learn the mean of the place that the series has left."""
    n, p = row * NUMBERS, row * PLACES
    place = int(numbers[n + WAITING_PLACE]) - 1
    numbers[n + WAITING_PLACE] = 0.0
    if visits[p + place] == 0:
        profile[p + place] = numbers[n + WAITING]
        visits[p + place] = 1
        return
    move = numbers[n + WAITING] - profile[p + place]
    if numbers[n + SEASON] > 0:
        most = PROFILE_MOVE * numbers[n + SCALE + PREDICTORS - 1]
        move = min(max(move, -most), most)
    profile[p + place] += max(1.0 / (visits[p + place] + 1.0), 1 / PROFILE_DAYS) * move
    if visits[p + place] < 255:
        visits[p + place] += 1


@part
def expected_here(row: int, time: int, x: float, numbers: Any, times: Any, profile: Any, visits: Any) -> float:
    """Return the profile's value for this time of day, 0 without a profile, and give the sample to the profile.

    The value lies on the line between the middles of two places.  What the series does today must not be compared with
    itself: a place that has been left is learned only when the line does not touch it any more.
    """
    n, m, p = row * NUMBERS, row * TIMES, row * PLACES
    where = (time % DAY_NS) / (DAY_NS // PLACES) - 0.5  # a division: samples lie exactly on the borders of places
    below = math.floor(where)
    share = where - below
    left = int(below) if below >= 0 else PLACES - 1
    right = left + 1 if left + 1 < PLACES else 0
    here = left if share < 0.5 else right
    if times[m + PLACE] != here:
        if numbers[n + WAITING_PLACE] > 0:
            learn_waiting(row, numbers, profile, visits)
        if times[m + PLACE] >= 0:
            numbers[n + WAITING] = numbers[n + PLACE_SUM] / numbers[n + PLACE_COUNT]
            numbers[n + WAITING_PLACE] = times[m + PLACE] + 1
        times[m + PLACE] = here
        numbers[n + PLACE_SUM] = 0.0
        numbers[n + PLACE_COUNT] = 0.0
    if numbers[n + WAITING_PLACE] > 0 and numbers[n + WAITING_PLACE] != left + 1:
        learn_waiting(row, numbers, profile, visits)
    numbers[n + PLACE_SUM] += x
    numbers[n + PLACE_COUNT] += 1.0
    if numbers[n + SEASON] == 0:
        return 0.0
    weight_left = 1.0 - share if visits[p + left] > 0 else 0.0
    weight_right = share if visits[p + right] > 0 else 0.0
    if weight_left + weight_right == 0:
        # Never been here at this time of day: what came just before has to do.
        if numbers[n + WAITING_PLACE] > 0:
            return float(numbers[n + WAITING])
        for back in range(PLACES):
            before = (left - back + PLACES) % PLACES
            if visits[p + before] > 0:
                return float(profile[p + before])
        return x
    return float((profile[p + left] * weight_left + profile[p + right] * weight_right) / (weight_left + weight_right))


@part
def strangeness(row: int, x: float, plain: float, count: float, numbers: Any) -> float:
    """Return the smoothed root mean square of the errors of predictors from fast to slow, each in its own scale."""
    n = row * NUMBERS
    squares = 0.0
    rounding = ROUNDING * abs(x) + 1e-30
    first = 1.0 / count
    scale_gain = max(SCALE_GAIN, first)
    for k in range(PREDICTORS):
        error = plain - numbers[n + MEAN + k]
        size = abs(error)
        scale = numbers[n + SCALE + k]
        if scale > rounding:
            z = min(size / scale, 1e4)
            squares += z * z
            if count > WARM_UP:
                size = min(size, LARGEST_ERROR * scale)
                most = LARGEST_MOVE * scale
                error = min(max(error, -most), most)
        elif size > rounding:
            squares += 9.0
        numbers[n + SCALE + k] += scale_gain * (size - scale)
        numbers[n + MEAN + k] += max(PREDICTOR_GAINS[k], first) * error
    strange = numbers[n + STRANGE] + SMOOTHING * (math.sqrt(squares / PREDICTORS) - numbers[n + STRANGE])
    numbers[n + STRANGE] = strange
    return float(strange)


@part
def end_day(row: int, day: int, numbers: Any, times: Any) -> None:
    """Learn the largest distances of the day that ends, and from which distance an alarm is possible today."""
    n, m = row * NUMBERS, row * TIMES
    times[m + DAY] = day
    days = numbers[n + DAYS]
    for j in range(FEATURES):
        top = math.log(numbers[n + TOP + j] + BASE * numbers[n + SPREAD + j] + 1e-30)
        if days == 0:
            numbers[n + USUAL + j] = top
            numbers[n + UNSURE + j] = FIRST_UNSURE
        else:
            move = top - numbers[n + USUAL + j]
            unsure = numbers[n + UNSURE + j]
            counted = min(abs(move), 3.0 * unsure)
            numbers[n + USUAL + j] += max(1 / DAYS_REMEMBERED, 1.0 / (days + 1.0)) * move
            numbers[n + UNSURE + j] += max(1 / DAYS_REMEMBERED, 1.0 / (days + UNSURE_DAYS)) * (counted - unsure)
        numbers[n + TOP + j] = 0.0
        limit = numbers[n + USUAL + j] + LEAST_STRENGTH * max(numbers[n + UNSURE + j], LEAST_UNSURE)
        numbers[n + LIMIT + j] = math.exp(min(limit, 80.0))
    numbers[n + DAYS] = min(days + 1.0, 1e6)
    if numbers[n + SEASON] == 0:
        numbers[n + SEASON] = 1.0


@part
def features(row: int, x: float, plain: float, change: float, count: float, numbers: Any, distances: Any) -> bool:
    """Measure what the value, its level, its changes and its distance from the profile do over longer times.

    Writes each feature's distance from its centre; returns whether one is so far out that an alarm is possible.
    """
    n = row * NUMBERS
    first = 1.0 / count
    spread_gain = max(SPREAD_GAIN, first)
    usual_step = numbers[n + STEP]
    activity = min(change, 2.0 * usual_step) / usual_step if usual_step > 0 else 0.0
    capped = min(change, 3.0 * usual_step) if count > WARM_UP else change
    numbers[n + STEP] += max(STEP_GAIN, first) * (capped - usual_step)
    possible = False
    for j in range(FEATURES):
        if j < 3:
            seen = x
        elif j < 5:
            seen = change
        elif j == 5:
            seen = activity
        else:
            seen = plain
        average = numbers[n + AVERAGE + j]
        average += max(AVERAGE_GAINS[j], first) * (seen - average)
        numbers[n + AVERAGE + j] = average
        spread = numbers[n + SPREAD + j]
        distance = average
        if CENTRE_GAINS[j] > 0:
            if count == 1:
                numbers[n + CENTRE + j] = average
            off = average - numbers[n + CENTRE + j]
            distance = abs(off)
            most = CENTRE_MOVE * spread
            numbers[n + CENTRE + j] += max(CENTRE_GAINS[j], first) * min(max(off, -most), most)
        counted = min(distance, LARGEST_SPREAD * spread) if count > WARM_UP else distance
        spread += spread_gain * (counted - spread)
        numbers[n + SPREAD + j] = spread
        if distance > numbers[n + TOP + j]:
            numbers[n + TOP + j] = distance
        distances[j] = distance
        if distance + BASE * spread > numbers[n + LIMIT + j]:
            possible = True
    return possible


@part
def alarm(row: int, time: int, numbers: Any, times: Any, distances: Any) -> tuple[float, int]:
    """Return how far beyond a day's largest distances this sample is, and its farthest feature; 0 for no alarm.

    A day's largest distance has, as a logarithm, a place and a width.  An alarm must be the louder the louder the last
    one was and the shorter ago.
    """
    n, m = row * NUMBERS, row * TIMES
    total = 0.0
    farthest = -1e9
    cause = 0
    for j in range(FEATURES):
        above = math.log(distances[j] + BASE * numbers[n + SPREAD + j] + 1e-30) - numbers[n + USUAL + j]
        z = min(max(above / max(numbers[n + UNSURE + j], LEAST_UNSURE), -20.0), 20.0)
        total += math.exp(z)
        if z > farthest:
            farthest = z
            cause = j
    strength = math.log(total / FEATURES)
    bar = numbers[n + LOUDNESS] * REPEAT * math.exp(-(time - times[m + ALARM]) / REPEAT_NS)
    if strength < LEAST_STRENGTH or strength < bar:
        return 0.0, 0
    numbers[n + LOUDNESS] = strength
    times[m + ALARM] = time
    return strength, cause


@kernel(
    given(types.int64),
    given(types.int64),
    given(types.float64),
    changed(types.float32),
    changed(types.float64),
    changed(types.int64),
    changed(types.float32),
    changed(types.uint8),
    changed(types.float64),
    changed(types.float64, 2),
    changed(types.float64),
)
def advance(
    rows: Any,
    at: Any,
    values: Any,
    numbers: Any,
    exact: Any,
    times: Any,
    profile: Any,
    visits: Any,
    scores: Any,
    reasons: Any,
    distances: Any,
) -> None:
    """Judge samples in order, each against the row of the state that it belongs to, and learn it after that.

    A tick gives one sample of each of many series, a batch many samples of one.  ``scores`` float64[n] is in [0, 1];
    ``reasons`` float64[n, 4] is cause (0: no alarm), what was seen, and what was expected at least and at most.  A
    value that is not finite is a missing one: it scores 0 and is not learned.  A time before the newest one
    counts as the newest.  The state arrays hold the rows of native.kernels.univariate_state one after the other;
    ``distances`` float64[FEATURES] is scratch.
    """
    for i in range(len(rows)):
        reasons[i, 0] = 0.0
        scores[i] = 0.0
        value = values[i]
        if not math.isfinite(value):
            continue
        row = rows[i]
        n, e, m = row * NUMBERS, row * EXACT, row * TIMES
        time = at[i]
        if numbers[n + COUNT] == 0:
            forget(row, numbers, exact, times, visits)
            exact[e + PREVIOUS] = value
            times[m + NEWEST] = time
        time = max(time, times[m + NEWEST])
        previous = exact[e + PREVIOUS]
        judged = judged_value(row, time, value, numbers, exact, times, visits)
        if numbers[n + COUNT] == 0:
            exact[e + ORIGIN] = judged if numbers[n + COUNTER] == 0 else 0.0
            times[m + DAY] = time // DAY_NS
        exact[e + PREVIOUS] = value
        times[m + NEWEST] = time
        x = min(max(judged - exact[e + ORIGIN], -FARTHEST), FARTHEST)
        count = min(numbers[n + COUNT] + 1.0, 1e7)
        numbers[n + COUNT] = count

        expected = expected_here(row, time, x, numbers, times, profile, visits)
        plain = x - expected
        if numbers[n + SEASON] == 1:
            # From here on the averages are of what the profile leaves over.
            for k in range(PREDICTORS):
                numbers[n + MEAN + k] = plain
            numbers[n + AVERAGE + 6] = plain
            numbers[n + CENTRE + 6] = plain
            numbers[n + SEASON] = 2.0
            numbers[n + COUNT] = min(count, 50.0)
        strange = strangeness(row, x, plain, count, numbers)
        scores[i] = ALARM_SCORE * strange / (strange + HALFWAY)

        day = time // DAY_NS
        if day != times[m + DAY]:
            end_day(row, day, numbers, times)
        change = abs(x) if numbers[n + COUNTER] > 0 else min(abs(value - previous), FARTHEST)
        if not features(row, x, plain, change, count, numbers, distances) or numbers[n + DAYS] == 0:
            continue
        strength, cause = alarm(row, time, numbers, times, distances)
        if strength == 0:
            continue
        scores[i] = ALARM_SCORE + (1.0 - ALARM_SCORE) * (1.0 - math.exp((LEAST_STRENGTH - strength) / STRENGTH_SCALE))
        usual = math.exp(min(numbers[n + USUAL + cause], 80.0))
        middle = numbers[n + CENTRE + cause]
        seen = numbers[n + AVERAGE + cause]
        if cause == 6:
            middle += exact[e + ORIGIN] + expected
            seen += exact[e + ORIGIN] + expected
        elif cause < 3:
            middle += exact[e + ORIGIN]
            seen += exact[e + ORIGIN]
        reasons[i, 0] = cause + 1.0
        reasons[i, 1] = seen
        reasons[i, 2] = middle - usual
        reasons[i, 3] = middle + usual
