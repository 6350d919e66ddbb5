"""Rows of the rollup tiers, wide: one row for each (tag set, bucket), one line of a matrix for each field.

What most tables share is kept once: where every field of every row has the same count and the same times of its first
and last sample, these columns have one line instead of one for each field.  Bucket arithmetic and order of addition are
those of :mod:`native.rollup` (docs/formats/rollups.md).
"""

from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint8_t
from libc.stdlib cimport free, malloc, realloc

from native.arguments cimport checked_array, same_length
from native.rollup cimport bucket_floor, checked_width, larger, smaller, within_bucket

import numpy as np

#: The lines of values, in order.
VALUE_NAMES = ("sums", "mins", "maxs", "firsts", "lasts")


class WideColumns:
    """Rows ascending by (tag set, bucket).

    ``tagset_ids``: int32[n]; ``times``: int64[n], bucket starts in nanoseconds; ``counts``, ``first_times``,
    ``last_times``: int64[1, n] where all fields agree, int64[k, n] otherwise; ``sums``, ``mins``, ``maxs``, ``firsts``,
    ``lasts``: float64[k, n], 0.0 where the count is 0; ``increases``: float64[c, n], one line for each counter.
    """

    __slots__ = (
        "counts", "first_times", "firsts", "increases", "last_times", "lasts", "maxs", "mins", "sums", "tagset_ids",
        "times",
    )

    def __len__(self):
        return len(self.times)


cdef extern from * nogil:
    """
    #include <cstdint>
    #include <cstring>
    static inline double tidegauge_wide_rise(double value, double previous) {
        // After a fall the minuend's bits are masked to 0.0, and minus 0.0 keeps every value, -0.0 too.
        uint64_t bits;
        std::memcpy(&bits, &previous, sizeof bits);
        bits &= static_cast<uint64_t>(value < previous) - 1;
        double base;
        std::memcpy(&base, &bits, sizeof base);
        return value - base;
    }
    """
    double rise "tidegauge_wide_rise" (double value, double previous) noexcept


cdef struct Group:
    # The rows of one (tag set, bucket): from place ``start`` to the next group's.
    int64_t bucket
    Py_ssize_t start


cdef struct Lines:
    # The matrices that a pass fills, line after line; ``stride`` 0 where one line stands for all fields.
    Py_ssize_t groups
    int64_t* count
    int64_t* first_time
    int64_t* last_time
    double* sum
    double* min
    double* max
    double* first
    double* last
    double* increase


def aggregate_rows(tagset_ids, times, values, width_ns, order=None, counters=()):
    """Return :class:`WideColumns`: one row for each (tag set, bucket) in which any field has a sample.

    ``tagset_ids``: int32[n] >= 0; ``times``: int64[n], nanoseconds; ``values``: float64[k, n], NaN of any kind is no
    sample.  ``order``: int64[n], the places of the rows so that they strictly ascend by (tag set, time); None where
    they do so already.  ``counters``: the places (0..k-1, ascending) of the fields whose increase is wanted: the rises
    between consecutive samples of a bucket, a fall being a reset that adds the new value.
    Raises TypeError or ValueError for other input, MemoryError when there is no room.
    """
    cdef const int32_t[::1] ids = checked_array(tagset_ids, "tagset_ids", np.int32, 1)
    cdef Py_ssize_t rows = ids.shape[0]
    same_length(checked_array(times, "times", np.int64, 1), "times", rows, "tagset_ids")
    same_length(checked_array(values, "values", np.float64, 2), "values", rows, "tagset_ids")
    cdef const int64_t[::1] stamps = times
    cdef const double[:, ::1] cells = values
    cdef Py_ssize_t fields = cells.shape[0]
    cdef int64_t width = checked_width(width_ns)
    cdef const int64_t[::1] places
    cdef const int64_t* place = NULL
    if order is not None:
        same_length(checked_array(order, "order", np.int64, 1), "order", rows, "tagset_ids")
        places = order
        place = &places[0]
    marks = _marked_counters(counters, fields)
    cdef const int32_t[::1] line_of_counter = marks
    cdef Group* groups = NULL
    cdef Py_ssize_t found = 0
    cdef Lines out
    cdef bint alike = False
    try:
        with nogil:
            found = _group_rows(&ids[0], &stamps[0], place, rows, width, &groups)
        if found == -1:
            raise MemoryError(f"cannot aggregate {rows} rows: got no memory for their buckets")
        if found == -2:
            raise ValueError(
                "cannot aggregate rows: got unsorted rows, want strictly ascending (tag set, time), ids >= 0"
            )
        columns = _new_columns(fields, len(counters), found, True, &out)
        _copy_keys(columns, &ids[0], place, groups, found)
        if rows and fields:
            with nogil:
                alike = _aggregate(&stamps[0], place, rows, &cells[0, 0], fields, groups, &line_of_counter[0], True, out)
            if not alike:
                columns = _new_columns(fields, len(counters), found, False, &out)
                _copy_keys(columns, &ids[0], place, groups, found)
                with nogil:
                    _aggregate(&stamps[0], place, rows, &cells[0, 0], fields, groups, &line_of_counter[0], False, out)
    finally:
        free(groups)
    return _without_empty(columns)


def merge_rows(columns, width_ns, counters=()):
    """Return :class:`WideColumns` of buckets ``width_ns`` wide, merged from the narrower ones of ``columns``.

    A merged sum is the plain addition of the narrower sums in time order, beginning with the first.  An increase is
    that of the first bucket, plus in order of time the step to the next one's first sample and the next one's increase.
    ``counters``: the places of the fields that the lines of ``columns.increases`` belong to.
    Raises TypeError or ValueError for other input, MemoryError when there is no room.
    """
    cdef const int32_t[::1] ids = checked_array(columns.tagset_ids, "tagset_ids", np.int32, 1)
    cdef Py_ssize_t rows = ids.shape[0]
    same_length(checked_array(columns.times, "times", np.int64, 1), "times", rows, "tagset_ids")
    cdef const int64_t[::1] stamps = columns.times
    cdef int64_t width = checked_width(width_ns)
    cdef Py_ssize_t fields = columns.sums.shape[0]
    cdef Py_ssize_t shared = columns.counts.shape[0]
    marks = _marked_counters(counters, fields)
    cdef const int32_t[::1] line_of_counter = marks
    cdef Lines given
    cdef Lines out
    if shared not in (1, fields):
        raise ValueError(f"cannot merge rows: got {shared} lines of counts, want 1 or {fields}")
    _point_at(columns, fields, len(counters), shared, rows, &given)
    cdef Group* groups = NULL
    cdef Py_ssize_t found
    try:
        with nogil:
            found = _group_rows(&ids[0], &stamps[0], NULL, rows, width, &groups)
        if found == -1:
            raise MemoryError(f"cannot merge {rows} rows: got no memory for their buckets")
        if found == -2:
            raise ValueError("cannot merge rows: got unsorted rows, want strictly ascending (tag set, time), ids >= 0")
        merged = _new_columns(fields, len(counters), found, shared == 1, &out)
        _copy_keys(merged, &ids[0], NULL, groups, found)
        if rows and fields:
            with nogil:
                _merge(rows, fields, shared != 1, groups, &line_of_counter[0], given, out)
    finally:
        free(groups)
    return merged


def _marked_counters(counters, Py_ssize_t fields):
    """Return int32[k]: the line of each field's increase, -1 for a field without."""
    marks = np.full(max(1, fields), -1, np.int32)
    last = -1
    for line, field in enumerate(counters):
        if not last < field < fields:
            raise ValueError(f"cannot count increases: got fields {counters}, want ascending places below {fields}")
        marks[field] = line
        last = field
    return marks


cdef object _new_columns(Py_ssize_t fields, Py_ssize_t counters, Py_ssize_t groups, bint shared, Lines* out):
    columns = WideColumns()
    columns.tagset_ids = np.empty(groups, np.int32)
    columns.times = np.empty(groups, np.int64)
    lines = 1 if shared else fields
    for name in ("counts", "first_times", "last_times"):
        # Zeros: a table without fields has rows without samples.
        setattr(columns, name, np.zeros((lines, groups), np.int64))
    for name in VALUE_NAMES:
        setattr(columns, name, np.empty((fields, groups), np.float64))
    columns.increases = np.zeros((counters, groups), np.float64)
    _point_at(columns, fields, counters, lines, groups, out)
    return columns


cdef int _point_at(
    object columns, Py_ssize_t fields, Py_ssize_t counters, Py_ssize_t shared, Py_ssize_t rows, Lines* out
) except -1:
    cdef int64_t[:, ::1] integers
    cdef double[:, ::1] doubles
    out.groups = rows
    for name, lines, dtype in (
        *((name, shared, np.int64) for name in ("counts", "first_times", "last_times")),
        *((name, fields, np.float64) for name in VALUE_NAMES),
        ("increases", counters, np.float64),
    ):
        array = checked_array(getattr(columns, name), name, dtype, 2)
        if array.shape != (lines, rows):
            raise ValueError(f"cannot use {name}: got the shape {array.shape}, want {(lines, rows)}")
    integers = columns.counts
    out.count = &integers[0, 0]
    integers = columns.first_times
    out.first_time = &integers[0, 0]
    integers = columns.last_times
    out.last_time = &integers[0, 0]
    doubles = columns.sums
    out.sum = &doubles[0, 0]
    doubles = columns.mins
    out.min = &doubles[0, 0]
    doubles = columns.maxs
    out.max = &doubles[0, 0]
    doubles = columns.firsts
    out.first = &doubles[0, 0]
    doubles = columns.lasts
    out.last = &doubles[0, 0]
    doubles = columns.increases
    out.increase = &doubles[0, 0]
    return 0


cdef int _copy_keys(
    object columns, const int32_t* ids, const int64_t* place, const Group* groups, Py_ssize_t found
) except -1:
    cdef int32_t[::1] tagset_ids = columns.tagset_ids
    cdef int64_t[::1] times = columns.times
    cdef Py_ssize_t group, row
    for group in range(found):
        row = groups[group].start
        tagset_ids[group] = ids[row if place == NULL else place[row]]
        times[group] = groups[group].bucket
    return 0


def _without_empty(columns):
    """Return the columns without the rows in which no field has a sample."""
    present = (columns.counts > 0).any(axis=0)
    if present.all():
        return columns
    for name in ("tagset_ids", "times"):
        setattr(columns, name, getattr(columns, name)[present])
    for name in ("counts", "first_times", "last_times", *VALUE_NAMES, "increases"):
        setattr(columns, name, np.ascontiguousarray(getattr(columns, name)[:, present]))
    return columns


cdef Py_ssize_t _group_rows(
    const int32_t* ids, const int64_t* times, const int64_t* place, Py_ssize_t rows, int64_t width, Group** groups_out
) noexcept nogil:
    """Fill ``groups_out`` with each (tag set, bucket) and an end mark; return how many there are.

    Returns -1 when memory runs out and -2 when the rows are not strictly ascending.  The caller frees the array.
    """
    cdef Py_ssize_t room = 1024
    cdef Py_ssize_t found = 0
    cdef Py_ssize_t at, row
    cdef int32_t tagset = -1
    cdef int64_t time = 0
    cdef int64_t last_of_bucket = 0
    cdef int64_t bucket
    cdef Group* groups = <Group*>malloc((room + 1) * sizeof(Group))
    cdef Group* more
    if groups == NULL:
        return -1
    groups_out[0] = groups
    for at in range(rows):
        row = at if place == NULL else place[at]
        if row < 0 or row >= rows or ids[row] < tagset or ids[row] < 0 or (ids[row] == tagset and times[row] <= time):
            return -2
        time = times[row]
        if ids[row] != tagset or time > last_of_bucket:
            tagset = ids[row]
            if found == room:
                room *= 2
                more = <Group*>realloc(groups, (room + 1) * sizeof(Group))
                if more == NULL:
                    return -1
                groups = more
                groups_out[0] = groups
            bucket = bucket_floor(time, width, 0)
            groups[found].bucket = bucket
            groups[found].start = at
            found += 1
            # The last bucket of int64 may be cut short.
            last_of_bucket = INT64_MAX if bucket > INT64_MAX - width + 1 else bucket + (width - 1)
    groups[found].start = rows
    return found


cdef bint _aggregate(
    const int64_t* times, const int64_t* place, Py_ssize_t rows, const double* cells, Py_ssize_t fields,
    const Group* groups, const int32_t* line_of_counter, bint shared, Lines out,
) noexcept nogil:
    """Fill the lines; return False as soon as fields turn out to differ although ``shared``."""
    cdef Py_ssize_t field, group, at, end, row, first_row, last_row, cell, key
    cdef const double* column
    cdef double value, previous, total, smallest, largest, increase, first
    cdef int64_t count
    cdef bint counting
    for field in range(fields):
        column = cells + field * rows
        counting = line_of_counter[field] >= 0
        for group in range(out.groups):
            cell = field * out.groups + group
            key = group if shared else cell
            at = groups[group].start
            end = groups[group + 1].start
            count = 0
            first_row = 0
            last_row = 0
            first = total = smallest = largest = previous = increase = 0.0
            while at < end:
                row = at if place == NULL else place[at]
                value = column[row]
                at += 1
                if value == value:
                    if count:
                        total += value
                        smallest = smaller(value, smallest)
                        largest = larger(value, largest)
                        if counting:
                            increase += rise(value, previous)
                    else:
                        first = total = smallest = largest = value
                        first_row = row
                    count += 1
                    previous = value
                    last_row = row
            if shared and field:
                if out.count[key] != count:
                    return False
                if count and (out.first_time[key] != times[first_row] or out.last_time[key] != times[last_row]):
                    return False
            else:
                out.count[key] = count
                out.first_time[key] = times[first_row] if count else 0
                out.last_time[key] = times[last_row] if count else 0
            out.sum[cell] = total
            out.min[cell] = smallest
            out.max[cell] = largest
            out.first[cell] = first
            out.last[cell] = previous
            if counting:
                out.increase[line_of_counter[field] * out.groups + group] = increase
    return True


cdef void _merge(
    Py_ssize_t rows, Py_ssize_t fields, bint apart, const Group* groups, const int32_t* line_of_counter, Lines given,
    Lines out,
) noexcept nogil:
    cdef Py_ssize_t field, group, row, source, cell, key, source_key, counter
    cdef int64_t count, first_time, last_time
    cdef double total, smallest, largest, first, last, increase
    for field in range(fields):
        counter = line_of_counter[field]
        for group in range(out.groups):
            cell = field * out.groups + group
            key = cell if apart else group
            count = first_time = last_time = 0
            total = smallest = largest = first = last = increase = 0.0
            for row in range(groups[group].start, groups[group + 1].start):
                source = field * rows + row
                source_key = source if apart else row
                if given.count[source_key] == 0:
                    continue
                if count:
                    total += given.sum[source]
                    smallest = smaller(given.min[source], smallest)
                    largest = larger(given.max[source], largest)
                    if counter >= 0:
                        increase += rise(given.first[source], last)
                        increase += given.increase[counter * rows + row]
                else:
                    total = given.sum[source]
                    smallest = given.min[source]
                    largest = given.max[source]
                    first = given.first[source]
                    first_time = given.first_time[source_key]
                    if counter >= 0:
                        increase = given.increase[counter * rows + row]
                count += given.count[source_key]
                last = given.last[source]
                last_time = given.last_time[source_key]
            if apart or not field:
                out.count[key] = count
                out.first_time[key] = first_time
                out.last_time[key] = last_time
            out.sum[cell] = total
            out.min[cell] = smallest
            out.max[cell] = largest
            out.first[cell] = first
            out.last[cell] = last
            if counter >= 0:
                out.increase[counter * out.groups + group] = increase
