"""Where what is remembered of a series lies: the state of the univariate detector (native.kernels.univariate).

A series' state is one row of each of six arrays:

======== ============= ============================================================================
numbers  float32[90]   moving averages, scales, daily maxima: the fields named below
exact    float64[2]    what is subtracted from values before they are stored in float32; previous raw value
times    int64[2]      time of the newest sample and of the last alarm
profile  float32[144]  mean value by ten minutes of the day
visits   uint8[144]    days of which a place of the profile has been seen, up to 255
week     uint16[168]   by how much the hours of the week differ from it, as bfloat16; 0 for those that are not known
======== ============= ============================================================================

The first three (392 bytes) are what a tick reads and writes; daily profile and week are stores of their own (720 and
336 bytes), of which a tick touches two neighbouring places and one hour.  An all-zero row belongs to a series that
nothing is known of.  Nothing here imports numba.
"""

from __future__ import annotations

PLACES = 144  # of the daily profile
CELLS = 168  # hours of the week
PREDICTORS = 6
FEATURES = 7

#: What a sample changes of all predictors, or of all features, lies in so many columns, those left over unused: one
#: vector instruction handles them together.
LANES = 8

# Columns of ``numbers``.
MEAN = 0  # PREDICTORS moving averages of the value, the shortest first
SCALE = MEAN + LANES  # the mean absolute error of each
AVERAGE = SCALE + LANES  # FEATURES moving averages
CENTRE = AVERAGE + LANES  # the slow mean of each
SPREAD = CENTRE + LANES  # the mean distance from it
TOP = SPREAD + LANES  # the largest distance of this day
LIMIT = TOP + LANES  # the distance from which an alarm is possible this day
USUAL = LIMIT + LANES  # mean logarithm of a day's largest distance
UNSURE = USUAL + FEATURES  # mean absolute deviation of that logarithm
STRANGE = UNSURE + FEATURES  # smoothed strangeness
COUNT = STRANGE + 1  # samples learned
DAYS = COUNT + 1  # days that have ended
LOUDNESS = DAYS + 1  # strength of the last alarm
PLACE_SUM = LOUDNESS + 1  # of the samples in the present place of the profile
PLACE_COUNT = PLACE_SUM + 1
RISES = PLACE_COUNT + 1  # how often the value has risen, while it never fell; -1 once it has
COUNTER = RISES + 1  # 1 while differences are judged in place of values
SEASON = COUNTER + 1  # which profile is used: one of the numbers below
STEP = SEASON + 1  # mean absolute change, without the largest
WAITING = STEP + 1  # mean of the place before, which the profile has not learned yet
WAITING_PLACE = WAITING + 1  # which place that is, from 1; 0 for none
CELL_SUM = WAITING_PLACE + 1  # of what the daily profile left over in the present hour
CELL_COUNT = CELL_SUM + 1
LEVEL_DAILY = CELL_COUNT + 1  # mean of what the daily profile leaves over in an hour, and of what the weekly one does
LEVEL_WEEKLY = LEVEL_DAILY + 1
ERROR_DAILY = LEVEL_WEEKLY + 1  # mean distance from that
ERROR_WEEKLY = ERROR_DAILY + 1
COMPARED = ERROR_WEEKLY + 1  # hours of which both are known
SINCE = COMPARED + 1  # days that have ended since another profile is used
NUMBERS = SINCE + 1

#: The columns of ``numbers`` that are saved, in the order of docs/formats/detectors.md: without those left over.
SAVED = (
    *(first + each for first in (MEAN, SCALE) for each in range(PREDICTORS)),
    *(first + each for first in (AVERAGE, CENTRE, SPREAD, TOP, USUAL, UNSURE, LIMIT) for each in range(FEATURES)),
    *range(STRANGE, NUMBERS),
)

ORIGIN = 0  # columns of ``exact``
PREVIOUS = 1
EXACT = 2

NEWEST = 0  # columns of ``times``
ALARM = 1
TIMES = 2

# SEASON: a profile starts, or ends, with the next sample.
NONE = 0
DAILY_STARTS = 1
DAILY = 2
WEEKLY_STARTS = 3
WEEKLY = 4
WEEKLY_ENDS = 5

ALARM_COLUMNS = 5  # of what is told of an alarm: which sample, its cause, what was seen, expected least and most

# What an alarm is about: the number of the feature that is the farthest out, from 1.
CAUSE_VALUE = 1
CAUSE_SHORT_LEVEL = 2
CAUSE_LEVEL = 3
CAUSE_CHANGES = 4
CAUSE_SLOW_CHANGES = 5
CAUSE_ACTIVITY = 6
CAUSE_SEASON = 7
