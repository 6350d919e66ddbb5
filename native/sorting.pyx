"""Sorting rows by (tag set, time) and merging rows of equal key: the last arrival wins, field by field.

Rows arrive interleaved over many tag sets and mostly in time order.  So the sort is a stable counting sort by tag
set, during which each tag set's times are checked; only a tag set whose times really go back is sorted by time.
Tag set numbers that are too sparse for counters are grouped by a radix sort instead.
"""

from libc.stdint cimport INT64_MIN, int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from native.absent cimport ABSENT_BITS
from native.arguments cimport checked_array, same_length
from native.sorting cimport sort_positions_by_time

import numpy as np

# Row positions are 32 bits wide inside: half the memory traffic of the permutation.
cdef Py_ssize_t MAX_ROWS = 0xFFFFFFFF
# A counter costs 24 bytes to clear and sum; up to this many a row, counting beats the three radix passes.
cdef enum:
    COUNTERS_PER_ROW = 4
    COUNTERS_ALWAYS = 2048
    RADIX_BITS = 11
    RADIX_BUCKETS = 2048


cdef struct Group:
    # One tag set during the counting sort.
    int64_t last_time
    uint32_t next       # where its next row goes
    uint32_t count
    uint32_t unsorted   # 1 once a time went back


def is_strictly_sorted(tagset_ids, times):
    """Return whether the rows ascend by (tag set, time) without a duplicate.

    ``tagset_ids``: int32[n]; ``times``: int64[n], nanoseconds.  Raises TypeError or ValueError for other shapes.
    """
    cdef const int32_t[::1] ids = checked_array(tagset_ids, "tagset_ids", np.int32, 1)
    same_length(checked_array(times, "times", np.int64, 1), "times", ids.shape[0], "tagset_ids")
    cdef const int64_t[::1] stamps = times
    cdef bint ascending
    with nogil:
        ascending = _ascending(&ids[0], &stamps[0], ids.shape[0], True)
    return bool(ascending)


def sort_order(tagset_ids, times):
    """Return int64[n]: the stable permutation that sorts rows by (tag set, time).

    ``tagset_ids``: int32[n], any values; ``times``: int64[n], nanoseconds.  Rows of equal key keep their order of
    arrival.  Raises TypeError or ValueError for other shapes, MemoryError when there is no room for the permutation.
    """
    cdef const int32_t[::1] ids = checked_array(tagset_ids, "tagset_ids", np.int32, 1)
    same_length(checked_array(times, "times", np.int64, 1), "times", ids.shape[0], "tagset_ids")
    cdef const int64_t[::1] stamps = times
    cdef Py_ssize_t rows = _checked_rows(ids.shape[0])
    order = np.empty(rows, np.uint32)
    wide = np.empty(rows, np.int64)
    cdef uint32_t[::1] positions = order
    cdef int64_t[::1] out = wide
    cdef Py_ssize_t at
    cdef int status
    with nogil:
        status = _order(&ids[0], &stamps[0], rows, &positions[0])
        if status == 0:
            for at in range(rows):
                out[at] = positions[at]
    if status != 0:
        raise MemoryError(f"cannot sort {rows} rows: got no memory for the permutation")
    return wide


def sort_and_merge(tagset_ids, times, values):
    """Return (tagset_ids, times, values) sorted by (tag set, time), each key once.

    ``tagset_ids``: int32[n]; ``times``: int64[n], nanoseconds; ``values``: float64[k, n], a cell without a sample
    holds ABSENT.  Of rows with the same key the last arrival that is not ABSENT wins, for each field on its own; any
    other NaN is a value and keeps its bits.  The results are new arrays: int32[m], int64[m], float64[k, m].
    Raises TypeError or ValueError for other shapes, MemoryError when there is no room.
    """
    cdef const int32_t[::1] ids = checked_array(tagset_ids, "tagset_ids", np.int32, 1)
    cdef Py_ssize_t rows = _checked_rows(ids.shape[0])
    same_length(checked_array(times, "times", np.int64, 1), "times", rows, "tagset_ids")
    same_length(checked_array(values, "values", np.float64, 2), "values", rows, "tagset_ids")
    cdef const int64_t[::1] stamps = times
    cdef bint ascending
    with nogil:
        ascending = _ascending(&ids[0], &stamps[0], rows, True)
    if ascending:
        return tagset_ids.copy(), times.copy(), values.copy()

    # Cells are moved as integers: no NaN is ever touched as a number.
    cdef const uint64_t[:, ::1] cells = values.view(np.uint64)
    cdef Py_ssize_t fields = cells.shape[0]
    order = np.empty(rows, np.uint32)
    sorted_ids = np.empty(rows, np.int32)
    sorted_times = np.empty(rows, np.int64)
    cdef uint32_t[::1] positions = order
    cdef int32_t[::1] ids_out = sorted_ids
    cdef int64_t[::1] times_out = sorted_times
    cdef Py_ssize_t unique = 0
    cdef Py_ssize_t field
    cdef int status
    with nogil:
        status = _order(&ids[0], &stamps[0], rows, &positions[0])
        if status == 0:
            _gather_keys(&ids[0], &stamps[0], &positions[0], rows, &ids_out[0], &times_out[0])
            unique = _count_unique(&ids_out[0], &times_out[0], rows)
    if status != 0:
        raise MemoryError(f"cannot sort {rows} rows: got no memory for the permutation")

    merged = np.empty((fields, unique), np.uint64)
    cdef uint64_t[:, ::1] cells_out = merged
    if unique == rows:
        with nogil:
            for field in range(fields):
                _gather_cells(&cells[field, 0], &positions[0], rows, &cells_out[field, 0])
        return sorted_ids, sorted_times, merged.view(np.float64)

    bounds = np.empty(unique + 1, np.uint32)
    cdef uint32_t[::1] starts = bounds
    with nogil:
        _compact_keys(&ids_out[0], &times_out[0], rows, &starts[0])
        for field in range(fields):
            _merge_cells(&cells[field, 0], &positions[0], &starts[0], unique, &cells_out[field, 0])
    return sorted_ids[:unique].copy(), sorted_times[:unique].copy(), merged.view(np.float64)


cdef Py_ssize_t _checked_rows(Py_ssize_t rows) except -1:
    if rows > MAX_ROWS:
        raise ValueError(f"cannot sort rows: got {rows}, want at most {MAX_ROWS}")
    return rows


cdef bint _ascending(const int32_t* ids, const int64_t* times, Py_ssize_t rows, bint strictly) noexcept nogil:
    cdef Py_ssize_t at
    for at in range(1, rows):
        if ids[at] < ids[at - 1]:
            return False
        if ids[at] == ids[at - 1]:
            if times[at] < times[at - 1]:
                return False
            if strictly and times[at] == times[at - 1]:
                return False
    return True


cdef int _order(const int32_t* ids, const int64_t* times, Py_ssize_t rows, uint32_t* order) noexcept nogil:
    """Fill ``order`` with the stable permutation by (id, time); return 0, or -1 when memory runs out."""
    cdef Py_ssize_t at
    cdef int32_t lowest, highest
    cdef uint64_t span
    # Fast path: nothing to move.
    if _ascending(ids, times, rows, False):
        for at in range(rows):
            order[at] = <uint32_t>at
        return 0
    lowest = ids[0]
    highest = ids[0]
    for at in range(1, rows):
        if ids[at] < lowest:
            lowest = ids[at]
        if ids[at] > highest:
            highest = ids[at]
    span = <uint64_t>(<int64_t>highest - <int64_t>lowest) + 1
    if span <= <uint64_t>COUNTERS_ALWAYS + COUNTERS_PER_ROW * <uint64_t>rows:
        return _order_by_counting(ids, times, rows, lowest, <Py_ssize_t>span, order)
    return _order_by_radix(ids, times, rows, lowest, span, order)


cdef int _order_by_counting(
    const int32_t* ids, const int64_t* times, Py_ssize_t rows, int32_t lowest, Py_ssize_t span, uint32_t* order
) noexcept nogil:
    cdef Group* groups = <Group*>calloc(span, sizeof(Group))
    cdef Group* group
    cdef Py_ssize_t at, number
    cdef uint32_t start = 0
    cdef bint unsorted = False
    cdef int64_t time
    cdef int status = 0
    if groups == NULL:
        return -1
    for at in range(rows):
        groups[<int64_t>ids[at] - lowest].count += 1
    for number in range(span):
        groups[number].next = start
        groups[number].last_time = INT64_MIN
        start += groups[number].count
    for at in range(rows):
        group = &groups[<int64_t>ids[at] - lowest]
        time = times[at]
        if time < group.last_time:
            group.unsorted = 1
            unsorted = True
        group.last_time = time
        order[group.next] = <uint32_t>at
        group.next += 1
    # Slow path: some tag set's times went back.
    if unsorted:
        for number in range(span):
            if groups[number].unsorted:
                group = &groups[number]
                status = sort_positions_by_time(times, order + (group.next - group.count), group.count)
                if status != 0:
                    break
    free(groups)
    return status


cdef int _order_by_radix(
    const int32_t* ids, const int64_t* times, Py_ssize_t rows, int32_t lowest, uint64_t span, uint32_t* order
) noexcept nogil:
    cdef uint32_t* spare = <uint32_t*>malloc(rows * sizeof(uint32_t))
    cdef uint32_t* counters = <uint32_t*>malloc(RADIX_BUCKETS * sizeof(uint32_t))
    cdef uint32_t* source = order
    cdef uint32_t* target = spare
    cdef uint32_t* swapped
    cdef Py_ssize_t at, end, bucket
    cdef uint32_t start, count, digit
    cdef int shift = 0
    cdef int status = 0
    cdef bint unsorted
    if spare == NULL or counters == NULL:
        free(spare)
        free(counters)
        return -1
    for at in range(rows):
        order[at] = <uint32_t>at
    while ((span - 1) >> shift) != 0:
        memset(counters, 0, RADIX_BUCKETS * sizeof(uint32_t))
        for at in range(rows):
            counters[(<uint32_t>(<int64_t>ids[at] - lowest) >> shift) & (RADIX_BUCKETS - 1)] += 1
        start = 0
        for bucket in range(RADIX_BUCKETS):
            count = counters[bucket]
            counters[bucket] = start
            start += count
        for at in range(rows):
            digit = (<uint32_t>(<int64_t>ids[source[at]] - lowest) >> shift) & (RADIX_BUCKETS - 1)
            target[counters[digit]] = source[at]
            counters[digit] += 1
        swapped = source
        source = target
        target = swapped
        shift += RADIX_BITS
    if source != order:
        memcpy(order, source, rows * sizeof(uint32_t))
    free(spare)
    free(counters)

    at = 0
    while at < rows and status == 0:
        end = at + 1
        unsorted = False
        while end < rows and ids[order[end]] == ids[order[at]]:
            if times[order[end]] < times[order[end - 1]]:
                unsorted = True
            end += 1
        if unsorted:
            status = sort_positions_by_time(times, order + at, end - at)
        at = end
    return status


cdef void _gather_keys(
    const int32_t* ids, const int64_t* times, const uint32_t* order, Py_ssize_t rows, int32_t* ids_out,
    int64_t* times_out,
) noexcept nogil:
    cdef Py_ssize_t at
    for at in range(rows):
        ids_out[at] = ids[order[at]]
        times_out[at] = times[order[at]]


cdef void _gather_cells(
    const uint64_t* cells, const uint32_t* order, Py_ssize_t rows, uint64_t* out
) noexcept nogil:
    # Column by column: one column's lines stay in the cache between neighbouring tag sets, all columns' would not.
    # Prefetching by hand was measured and brought nothing.
    cdef Py_ssize_t at
    for at in range(rows):
        out[at] = cells[order[at]]


cdef Py_ssize_t _count_unique(const int32_t* ids, const int64_t* times, Py_ssize_t rows) noexcept nogil:
    cdef Py_ssize_t at
    cdef Py_ssize_t unique = 1 if rows > 0 else 0
    for at in range(1, rows):
        unique += (ids[at] != ids[at - 1]) | (times[at] != times[at - 1])
    return unique


cdef void _compact_keys(int32_t* ids, int64_t* times, Py_ssize_t rows, uint32_t* starts) noexcept nogil:
    """Keep each key once at the front of ``ids`` and ``times``; ``starts`` gets each key's first row, and ``rows``."""
    cdef Py_ssize_t at
    cdef Py_ssize_t kept = 0
    cdef int32_t tagset_id = 0
    cdef int64_t time = 0
    for at in range(rows):
        if at == 0 or ids[at] != tagset_id or times[at] != time:
            tagset_id = ids[at]
            time = times[at]
            ids[kept] = tagset_id
            times[kept] = time
            starts[kept] = <uint32_t>at
            kept += 1
    starts[kept] = <uint32_t>rows


cdef void _merge_cells(
    const uint64_t* cells, const uint32_t* order, const uint32_t* starts, Py_ssize_t unique, uint64_t* out
) noexcept nogil:
    cdef Py_ssize_t key, at, first
    cdef uint64_t cell
    for key in range(unique):
        first = starts[key]
        at = <Py_ssize_t>starts[key + 1] - 1
        cell = cells[order[at]]
        while cell == ABSENT_BITS and at > first:
            at -= 1
            cell = cells[order[at]]
        out[key] = cell
