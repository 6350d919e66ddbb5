"""Where what is remembered of a series lies: the state of the univariate detector (native.kernels.univariate).

A series' state is one row of each of five arrays:

======== ============= ============================================================================
numbers  float32[73]   moving averages, scales, daily maxima: the fields named below
exact    float64[2]    what is subtracted from values before they are stored in float32; previous raw value
times    int64[4]      time of the newest sample, its day, time of the last alarm, its place in the profile
profile  float32[144]  mean value by ten minutes of the day
visits   uint8[144]    days of which a place of the profile has been seen, up to 255
======== ============= ============================================================================

The first three (340 bytes) are what a tick reads and writes; the profile is a store of its own (720 bytes), of which a
tick touches two neighbouring places.  An all-zero row belongs to a series that nothing is known of.  Nothing here
imports numba.
"""

from __future__ import annotations

PLACES = 144  # of the daily profile
PREDICTORS = 6
FEATURES = 7

# Columns of ``numbers``.
MEAN = 0  # PREDICTORS moving averages of the value, the shortest first
SCALE = MEAN + PREDICTORS  # the mean absolute error of each
AVERAGE = SCALE + PREDICTORS  # FEATURES moving averages
CENTRE = AVERAGE + FEATURES  # the slow mean of each
SPREAD = CENTRE + FEATURES  # the mean distance from it
TOP = SPREAD + FEATURES  # the largest distance of this day
USUAL = TOP + FEATURES  # mean logarithm of a day's largest distance
UNSURE = USUAL + FEATURES  # mean absolute deviation of that logarithm
LIMIT = UNSURE + FEATURES  # the distance from which an alarm is possible this day
STRANGE = LIMIT + FEATURES  # smoothed strangeness
COUNT = STRANGE + 1  # samples learned
DAYS = COUNT + 1  # days that have ended
LOUDNESS = DAYS + 1  # strength of the last alarm
PLACE_SUM = LOUDNESS + 1  # of the samples in the present place of the profile
PLACE_COUNT = PLACE_SUM + 1
RISES = PLACE_COUNT + 1  # how often the value has risen, while it never fell; -1 once it has
COUNTER = RISES + 1  # 1 while differences are judged in place of values
SEASON = COUNTER + 1  # 0 no profile yet, 1 the profile starts to be used, 2 in use
STEP = SEASON + 1  # mean absolute change, without the largest
WAITING = STEP + 1  # mean of the place before, which the profile has not learned yet
WAITING_PLACE = WAITING + 1  # which place that is, from 1; 0 for none
NUMBERS = WAITING_PLACE + 1

ORIGIN = 0  # columns of ``exact``
PREVIOUS = 1
EXACT = 2

NEWEST = 0  # columns of ``times``
DAY = 1
ALARM = 2
PLACE = 3
TIMES = 4

# What an alarm is about: the number of the feature that is the farthest out, from 1.
CAUSE_VALUE = 1
CAUSE_SHORT_LEVEL = 2
CAUSE_LEVEL = 3
CAUSE_CHANGES = 4
CAUSE_SLOW_CHANGES = 5
CAUSE_ACTIVITY = 6
CAUSE_SEASON = 7
