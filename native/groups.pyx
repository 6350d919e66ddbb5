"""One value a group from the newest values of its series: what rules over groups read at every tick."""

from libc.math cimport INFINITY, NAN
from libc.stdint cimport INT64_MIN, int32_t, int64_t, uint32_t
from libcpp.vector cimport vector

from native.arguments cimport checked_array, same_length

import numpy as np

cdef enum How:
    COUNT
    SUM
    AVG
    MIN
    MAX

HOWS = {"count": COUNT, "sum": SUM, "avg": AVG, "min": MIN, "max": MAX}


cdef inline void take_in(
    int how, double value, int64_t time, double *found, int64_t *newest, int64_t *count
) noexcept nogil:
    count[0] += 1
    if time > newest[0]:
        newest[0] = time
    if how == MIN:
        found[0] = value if value < found[0] else found[0]
    elif how == MAX:
        found[0] = value if value > found[0] else found[0]
    else:
        found[0] += value


def aggregate_groups(values, times, groups, Py_ssize_t group_count, str how, int64_t oldest_ns):
    """Return float64[g] and int64[g]: ``how`` over the series of each group, and the time of its newest sample.

    ``values`` float64[n], NaN where there is none, ``times`` int64[n] ns, ``groups`` int32[n], each 0..g - 1.  ``how``:
    count, sum, avg, min or max.  Those older than ``oldest_ns`` count only in a group that has no other.  A group
    without a value has NaN and the earliest time there is.  Sums are taken in the order of the rows.  Raises KeyError
    for another aggregate, ValueError for a group that is not one, TypeError or ValueError for other arrays.
    """
    cdef const double[::1] given = checked_array(values, "values", np.float64, 1)
    cdef Py_ssize_t rows = given.shape[0], row, group
    same_length(checked_array(times, "times", np.int64, 1), "times", rows, "values")
    same_length(checked_array(groups, "groups", np.int32, 1), "groups", rows, "values")
    cdef const int64_t[::1] at = times
    cdef const int32_t[::1] group_of = groups
    cdef int kind = HOWS[how]
    cdef double first = INFINITY if kind == MIN else -INFINITY if kind == MAX else 0.0
    cdef bint silent = False
    cdef Py_ssize_t wrong = 0
    out_values, out_times = np.full(group_count, first), np.full(group_count, INT64_MIN, np.int64)
    cdef double[::1] found = out_values
    cdef int64_t[::1] newest = out_times
    cdef vector[int64_t] counts
    cdef vector[bint] has_fresh
    counts.resize(group_count)
    with nogil:
        for row in range(rows):
            wrong += <uint32_t>group_of[row] >= <uint32_t>group_count
        if not wrong:
            for row in range(rows):
                if at[row] >= oldest_ns and given[row] == given[row]:
                    group = group_of[row]
                    take_in(kind, given[row], at[row], &found[group], &newest[group], &counts[group])
            has_fresh.resize(group_count)
            for group in range(group_count):
                has_fresh[group] = counts[group] != 0
                silent |= counts[group] == 0
            if silent:
                for row in range(rows):
                    group = group_of[row]
                    if not has_fresh[group] and given[row] == given[row]:
                        take_in(kind, given[row], at[row], &found[group], &newest[group], &counts[group])
            for group in range(group_count):
                if counts[group] == 0:
                    found[group] = NAN
                elif kind == COUNT:
                    found[group] = <double>counts[group]
                elif kind == AVG:
                    found[group] /= <double>counts[group]
    if wrong:
        raise ValueError(
            f"cannot aggregate groups: got {wrong} rows of groups that there are not, want 0 to {group_count - 1}"
        )
    return out_values, out_times
