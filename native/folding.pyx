"""Rows and bucket rows folded into cells, one for each (series, bucket), without sorting them first.

A *cell* is a place in arrays of counts and values.  Which one a row belongs to is found once for all of its fields.
Sums are plain additions in the order of the rows, beginning with the first term itself; of values that compare equal,
0.0 and -0.0, a minimum or maximum keeps the earlier one (docs/formats/rollups.md).
"""

from libc.stdint cimport INT32_MAX, INT64_MIN, int32_t, int64_t, uint64_t
from libc.string cimport memcpy
from libcpp.vector cimport vector

from native.arguments cimport checked_array, checked_output, same_length
from native.rollup cimport larger, smaller

import numpy as np

cdef enum How:
    SUM
    MIN
    MAX

HOWS = {"sum": SUM, "min": MIN, "max": MAX}


def locate_cells(tagset_ids, times, places, int64_t lowest, ranges, int64_t origin_ns, int64_t step_ns, steps):
    """Return int32[n]: the cell ``place * steps + step`` of each row, -1 for rows that are not asked for.

    ``tagset_ids`` int32[n] and ``times`` int64[n] (ns), in any order.  ``places`` int32[m]: the place of the tag set
    ``lowest + i``, -1 where it is not asked for.  ``ranges`` int64[2k]: ascending bounds of half-open ranges of time,
    all within ``steps`` steps of ``step_ns`` from ``origin_ns`` on.  Raises ValueError for ranges that are not, or more
    cells than 2^31 - 1; TypeError or ValueError for other arrays.
    """
    cdef const int32_t[::1] ids = checked_array(tagset_ids, "tagset_ids", np.int32, 1)
    cdef Py_ssize_t rows = ids.shape[0], row, at
    same_length(checked_array(times, "times", np.int64, 1), "times", rows, "tagset_ids")
    cdef const int64_t[::1] stamps = times
    cdef const int32_t[::1] place_of = checked_array(places, "places", np.int32, 1)
    cdef const int64_t[::1] bounds = checked_array(ranges, "ranges", np.int64, 1)
    cdef Py_ssize_t bound_count = bounds.shape[0], place_count = place_of.shape[0]
    cdef int64_t step_count = steps
    if step_ns <= 0 or step_count <= 0 or bound_count % 2:
        raise ValueError(f"cannot locate cells: got {bound_count} bounds, {steps} steps of {step_ns} ns")
    for at in range(bound_count):
        if (at and bounds[at] < bounds[at - 1]) or bounds[at] < origin_ns:
            raise ValueError(f"cannot locate cells: got ranges {ranges.tolist()}, want ascending ones from {origin_ns}")
    # Python's integers: the span may be beyond int64.
    if bound_count and int(bounds[bound_count - 1]) - int(origin_ns) > int(step_count) * int(step_ns):
        raise ValueError(f"cannot locate cells: got ranges {ranges.tolist()} beyond {steps} steps from {origin_ns}")
    cdef int64_t highest = -1
    for at in range(place_count):
        highest = place_of[at] if place_of[at] > highest else highest
    if (int(highest) + 1) * int(step_count) > INT32_MAX:
        raise ValueError(f"cannot locate cells: got {highest + 1} places of {steps} steps, want fewer")
    found = np.empty(rows, np.int32)
    cdef int32_t[::1] out = found
    if rows:
        with nogil:
            _locate(
                &ids[0], &stamps[0], rows, &place_of[0] if place_count else NULL, place_count, lowest,
                &bounds[0] if bound_count else NULL, bound_count, origin_ns, step_ns, step_count, &out[0],
            )
    return found


def locate_in_order(
    tagset_ids, times, places, int64_t lowest, int64_t start_ns, int64_t end_ns, int64_t origin_ns, int64_t step_ns, steps
):
    """Return int32[k] and int32[k]: the rows of ``[start_ns, end_ns)`` that are asked for, and their cells.

    As :func:`locate_cells`, of rows that ascend by (tag set, time), which is not checked: most are never looked at.
    """
    cdef const int32_t[::1] ids = checked_array(tagset_ids, "tagset_ids", np.int32, 1)
    cdef Py_ssize_t rows = ids.shape[0], at
    same_length(checked_array(times, "times", np.int64, 1), "times", rows, "tagset_ids")
    cdef const int64_t[::1] stamps = times
    cdef const int32_t[::1] place_of = checked_array(places, "places", np.int32, 1)
    cdef Py_ssize_t place_count = place_of.shape[0]
    cdef int64_t step_count = steps
    if step_ns <= 0 or step_count <= 0 or rows > INT32_MAX:
        raise ValueError(f"cannot locate {rows} rows: got {steps} steps of {step_ns} ns")
    if start_ns < origin_ns or int(end_ns) - int(origin_ns) > int(step_count) * int(step_ns):
        raise ValueError(f"cannot locate cells: got {start_ns} to {end_ns} beyond {steps} steps from {origin_ns}")
    cdef int64_t highest = -1
    for at in range(place_count):
        highest = place_of[at] if place_of[at] > highest else highest
    if (int(highest) + 1) * int(step_count) > INT32_MAX:
        raise ValueError(f"cannot locate cells: got {highest + 1} places of {steps} steps, want fewer")
    cdef vector[int32_t] found
    cdef vector[int32_t] cells
    if rows and place_count:
        with nogil:
            _look_up(
                &ids[0], &stamps[0], rows, &place_of[0], place_count, lowest, start_ns, end_ns, origin_ns, step_ns,
                step_count, found, cells,
            )
    out_rows, out_cells = np.empty(found.size(), np.int32), np.empty(found.size(), np.int32)
    cdef int32_t[::1] chosen = out_rows
    cdef int32_t[::1] cell_of = out_cells
    if found.size():
        memcpy(&chosen[0], found.data(), found.size() * sizeof(int32_t))
        memcpy(&cell_of[0], cells.data(), cells.size() * sizeof(int32_t))
    return out_rows, out_cells


def fold_rows(cells, times, values, str how, counts, folded):
    """Add samples to their cells; return how many, and the newest time among them, the earliest of int64 without one.

    ``cells`` int32[n], negative ones are left out; ``times`` int64[n] ns; ``values`` float64[n], NaN is no sample.
    ``how``: sum, min or max.  ``counts`` int64[c] and ``folded`` float64[c] are changed; a value counts only where its
    count is above 0.  Raises KeyError for another aggregate, ValueError for a cell that is not one, TypeError or
    ValueError for other arrays.
    """
    cdef const int32_t[::1] cell_of = checked_array(cells, "cells", np.int32, 1)
    cdef Py_ssize_t rows = cell_of.shape[0], row, cell
    same_length(checked_array(times, "times", np.int64, 1), "times", rows, "cells")
    same_length(checked_array(values, "values", np.float64, 1), "values", rows, "cells")
    cdef const int64_t[::1] stamps = times
    cdef const double[::1] given = values
    cdef int64_t[::1] count = checked_output(counts, "counts", np.int64, 1)
    cdef Py_ssize_t size = count.shape[0]
    same_length(checked_output(folded, "folded", np.float64, 1), "folded", size, "counts")
    cdef double[::1] out = folded
    cdef int kind = HOWS[how]
    cdef int64_t newest = INT64_MIN
    cdef double value
    cdef Py_ssize_t wrong, taken = 0
    with nogil:
        wrong = _outside(cell_of, size)
        if not wrong:
            for row in range(rows):
                cell = cell_of[row]
                value = given[row]
                if cell >= 0 and value == value:
                    out[cell] = _together(kind, value, out[cell]) if count[cell] else value
                    count[cell] += 1
                    taken += 1
                    newest = stamps[row] if stamps[row] > newest else newest
    if wrong:
        raise ValueError(f"cannot fold rows: got {wrong} rows of cells that there are not, want less than {size}")
    return taken, newest


def fold_buckets(cells, row_counts, values, str how, counts, folded, last_times=None):
    """Add bucket rows to their cells as :func:`fold_rows` adds samples; return the newest of ``last_times``.

    ``row_counts`` int64[n]: how many samples each row stands for, none of those with 0 counts; ``values`` float64[n]:
    their sum, minimum or maximum; ``last_times`` int64[n] ns.
    """
    cdef const int32_t[::1] cell_of = checked_array(cells, "cells", np.int32, 1)
    cdef Py_ssize_t rows = cell_of.shape[0], row, cell
    same_length(checked_array(row_counts, "row_counts", np.int64, 1), "row_counts", rows, "cells")
    same_length(checked_array(values, "values", np.float64, 1), "values", rows, "cells")
    cdef const int64_t[::1] held = row_counts
    cdef const double[::1] given = values
    cdef const int64_t[::1] stamps
    cdef bint timed = last_times is not None
    if timed:
        same_length(checked_array(last_times, "last_times", np.int64, 1), "last_times", rows, "cells")
        stamps = last_times
    cdef int64_t[::1] count = checked_output(counts, "counts", np.int64, 1)
    cdef Py_ssize_t size = count.shape[0]
    same_length(checked_output(folded, "folded", np.float64, 1), "folded", size, "counts")
    cdef double[::1] out = folded
    cdef int kind = HOWS[how]
    cdef int64_t newest = INT64_MIN
    cdef Py_ssize_t wrong
    with nogil:
        wrong = _outside(cell_of, size)
        if not wrong:
            for row in range(rows):
                cell = cell_of[row]
                if cell >= 0 and held[row] > 0:
                    out[cell] = _together(kind, given[row], out[cell]) if count[cell] else given[row]
                    count[cell] += held[row]
                    if timed and stamps[row] > newest:
                        newest = stamps[row]
    if wrong:
        raise ValueError(f"cannot fold buckets: got {wrong} rows of cells that there are not, want less than {size}")
    return newest


cdef inline double _together(int kind, double value, double so_far) noexcept nogil:
    if kind == SUM:
        return so_far + value
    return smaller(value, so_far) if kind == MIN else larger(value, so_far)


cdef Py_ssize_t _outside(const int32_t[::1] cells, Py_ssize_t size) noexcept nogil:
    cdef Py_ssize_t row, found = 0
    for row in range(cells.shape[0]):
        found += cells[row] >= size
    return found


cdef void _locate(
    const int32_t* ids, const int64_t* times, Py_ssize_t rows, const int32_t* places, Py_ssize_t place_count,
    int64_t lowest, const int64_t* bounds, Py_ssize_t bound_count, int64_t origin, int64_t step, int64_t steps,
    int32_t* out,
) noexcept nogil:
    cdef Py_ssize_t row, low, high, middle
    cdef int64_t place, time
    # Of the row before: rows mostly share their range and their step with it.
    cdef int64_t range_start = 0, range_end = 0, step_start = 0, step_number = 0
    cdef bint stepped = False
    for row in range(rows):
        out[row] = -1
        place = <int64_t>ids[row] - lowest
        if <uint64_t>place >= <uint64_t>place_count or places[place] < 0:
            continue
        time = times[row]
        if time < range_start or time >= range_end:
            low = 0
            high = bound_count
            while low < high:
                middle = low + (high - low) // 2
                if bounds[middle] <= time:
                    low = middle + 1
                else:
                    high = middle
            if low % 2 == 0:
                continue
            range_start = bounds[low - 1]
            range_end = bounds[low]
        if not stepped or time < step_start or <uint64_t>time - <uint64_t>step_start >= <uint64_t>step:
            # Not before the origin, so the division rounds down.
            step_number = <int64_t>((<uint64_t>time - <uint64_t>origin) // <uint64_t>step)
            step_start = <int64_t>(<uint64_t>origin + <uint64_t>step_number * <uint64_t>step)
            stepped = True
        out[row] = <int32_t>(places[place] * steps + step_number)


cdef inline Py_ssize_t _first_from(
    const int32_t* ids, const int64_t* times, Py_ssize_t row, Py_ssize_t rows, int64_t wanted, int64_t time
) noexcept nogil:
    """Return the first of the rows from ``row`` on that is not before (wanted, time): near ones are found soonest."""
    cdef Py_ssize_t low = row, high = row, step = 1, middle
    while high < rows and (ids[high] < wanted or (ids[high] == wanted and times[high] < time)):
        low = high + 1
        high += step
        step *= 2
    high = high if high < rows else rows
    while low < high:
        middle = low + (high - low) // 2
        if ids[middle] < wanted or (ids[middle] == wanted and times[middle] < time):
            low = middle + 1
        else:
            high = middle
    return low


cdef void _look_up(
    const int32_t* ids, const int64_t* times, Py_ssize_t rows, const int32_t* places, Py_ssize_t place_count,
    int64_t lowest, int64_t start, int64_t end, int64_t origin, int64_t step, int64_t steps, vector[int32_t]& found,
    vector[int32_t]& cells,
) noexcept nogil:
    cdef Py_ssize_t row = _first_from(ids, times, 0, rows, lowest, INT64_MIN)
    cdef int64_t place, tagset
    while row < rows:
        tagset = ids[row]
        place = tagset - lowest
        if place >= place_count:
            return
        if places[place] >= 0:
            row = _first_from(ids, times, row, rows, tagset, start)
            while row < rows and ids[row] == tagset and times[row] < end:
                found.push_back(<int32_t>row)
                cells.push_back(
                    <int32_t>(places[place] * steps + <int64_t>((<uint64_t>times[row] - <uint64_t>origin) // <uint64_t>step))
                )
                row += 1
        row = _first_from(ids, times, row, rows, tagset + 1, INT64_MIN)
