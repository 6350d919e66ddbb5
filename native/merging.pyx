"""Merging rollup buckets upward: 1m into 5m, 5m into 15m, 15m into 1h, 1h into 1d (docs/formats/rollups.md)."""

from libc.stdint cimport INT64_MIN, int64_t, uint32_t
from libc.stdlib cimport calloc, free, malloc

from native.arguments cimport checked_array, same_length
from native.pairset cimport PairSet, close_pairs, number_of_pair, open_pairs
from native.rollup cimport (
    Out,
    bucket_floor,
    checked_width,
    larger,
    new_columns,
    smaller,
    within_bucket,
)
from native.sorting cimport sort_positions_by_time, sort_series_rows

import numpy as np

from native.rollup import COLUMN_DTYPES, RollupColumns

cdef Py_ssize_t MAX_ROWS = 0xFFFFFFFF


cdef struct SeriesCursor:
    # One series while its rows are scattered.
    int64_t last_time
    uint32_t next       # where its next row goes
    uint32_t count
    uint32_t unsorted   # 1 once a time went back


def merge_buckets(
    series_ids, times, counts, sums, mins, maxs, firsts, lasts, first_times, last_times, width_ns
):
    """Return :class:`RollupColumns` of buckets ``width_ns`` wide, merged from narrower ones in any order.

    All arguments are columns of equal length as in :class:`RollupColumns`, (series, time) unique.  A merged sum is
    the plain addition of the narrower sums in time order, beginning with the first; first and last are those of the
    earliest and the latest bucket.  Rows come out by series, time.
    Raises TypeError or ValueError for other input, MemoryError when there is no room.
    """
    cdef const int64_t[::1] series = checked_array(series_ids, "series_ids", np.int64, 1)
    cdef Py_ssize_t rows = series.shape[0]
    if rows > MAX_ROWS:
        raise ValueError(f"cannot merge buckets: got {rows}, want at most {MAX_ROWS}")
    given = (series_ids, times, counts, sums, mins, maxs, firsts, lasts, first_times, last_times)
    for (name, dtype), array in zip(COLUMN_DTYPES.items(), given):
        same_length(checked_array(array, name, dtype, 1), name, rows, "series_ids")
    cdef const int64_t[::1] starts = times
    cdef const int64_t[::1] count_in = counts
    cdef const double[::1] sum_in = sums
    cdef const double[::1] min_in = mins
    cdef const double[::1] max_in = maxs
    cdef const double[::1] first_in = firsts
    cdef const double[::1] last_in = lasts
    cdef const int64_t[::1] first_time_in = first_times
    cdef const int64_t[::1] last_time_in = last_times
    cdef int64_t width = checked_width(width_ns)

    cdef uint32_t* order = NULL
    cdef Py_ssize_t produced = 0
    cdef Py_ssize_t at, row
    cdef Py_ssize_t duplicate = -1
    cdef int64_t current_series = 0
    cdef int64_t current_bucket = 0
    cdef int status
    cdef Out out
    try:
        with nogil:
            status = _order_buckets(&series[0], &starts[0], rows, &order)
            if status == 0:
                produced = _count_merged(&series[0], &starts[0], order, rows, width, &duplicate)
        if status != 0:
            raise MemoryError(f"cannot merge {rows} buckets: got no memory to sort them")
        if duplicate >= 0:
            raise ValueError(
                f"cannot merge buckets: got series {series[duplicate]} at {starts[duplicate]} ns twice, "
                "want each bucket once"
            )
        columns = new_columns(RollupColumns(), produced, &out)
        with nogil:
            produced = -1
            for at in range(rows):
                row = at if order == NULL else order[at]
                if at == 0 or series[row] != current_series or not within_bucket(starts[row], current_bucket, width):
                    current_series = series[row]
                    current_bucket = bucket_floor(starts[row], width, 0)
                    produced += 1
                    out.series[produced] = current_series
                    out.time[produced] = current_bucket
                    out.count[produced] = count_in[row]
                    out.sum[produced] = sum_in[row]
                    out.min[produced] = min_in[row]
                    out.max[produced] = max_in[row]
                    out.first[produced] = first_in[row]
                    out.first_time[produced] = first_time_in[row]
                else:
                    out.count[produced] += count_in[row]
                    out.sum[produced] += sum_in[row]
                    out.min[produced] = smaller(min_in[row], out.min[produced])
                    out.max[produced] = larger(max_in[row], out.max[produced])
                out.last[produced] = last_in[row]
                out.last_time[produced] = last_time_in[row]
    finally:
        free(order)
    return columns


cdef int _order_buckets(
    const int64_t* series, const int64_t* times, Py_ssize_t rows, uint32_t** order_out
) noexcept nogil:
    """Fill ``order_out`` with the permutation by (series, time), or NULL when the rows already ascend.

    Returns 0, or -1 when memory runs out.  The caller frees the array.  Stored buckets come flush by flush, each
    flush by series: so rows are numbered by series, counted and scattered, and times are only checked.
    """
    cdef PairSet known
    cdef SeriesCursor* cursors = NULL
    cdef uint32_t* numbers = NULL
    cdef uint32_t* order = NULL
    cdef Py_ssize_t at = 1
    cdef int status = -1
    while at < rows and (
        series[at - 1] < series[at] or (series[at - 1] == series[at] and times[at - 1] <= times[at])
    ):
        at += 1
    if at >= rows:
        return 0
    if open_pairs(&known) == 0:
        numbers = <uint32_t*>malloc(rows * sizeof(uint32_t))
        order = <uint32_t*>malloc(rows * sizeof(uint32_t))
        if numbers != NULL and order != NULL and _number_series(series, rows, &known, numbers) == 0:
            cursors = <SeriesCursor*>calloc(known.count, sizeof(SeriesCursor))
            if cursors != NULL:
                status = _scatter_by_series(times, rows, &known, numbers, cursors, order)
    close_pairs(&known)
    free(numbers)
    free(cursors)
    order_out[0] = order
    return status


cdef int _number_series(
    const int64_t* series, Py_ssize_t rows, PairSet* known, uint32_t* numbers
) noexcept nogil:
    """Number the series by first sight; ``known`` keeps them as pairs with time 0.  Return 0 or -1."""
    cdef Py_ssize_t at
    cdef Py_ssize_t number = -1
    for at in range(rows):
        # Fast path: the next flush names the series in the same order.
        number += 1
        if number >= known.count or known.pairs[number].series != series[at]:
            number = number_of_pair(known, series[at], 0)
            if number < 0:
                return -1
        numbers[at] = <uint32_t>number
    return 0


cdef int _scatter_by_series(
    const int64_t* times, Py_ssize_t rows, PairSet* known, const uint32_t* numbers, SeriesCursor* cursors,
    uint32_t* order,
) noexcept nogil:
    cdef Py_ssize_t at, number
    cdef uint32_t start = 0
    cdef SeriesCursor* cursor
    cdef int status
    for at in range(rows):
        cursors[numbers[at]].count += 1
    # From here on the pairs are in order of series, and no longer found by their hash.
    status = sort_series_rows(known.pairs, known.count)
    if status != 0:
        return status
    for at in range(known.count):
        cursor = &cursors[known.pairs[at].row]
        cursor.next = start
        cursor.last_time = INT64_MIN
        start += cursor.count
    for at in range(rows):
        cursor = &cursors[numbers[at]]
        if times[at] < cursor.last_time:
            cursor.unsorted = 1
        cursor.last_time = times[at]
        order[cursor.next] = <uint32_t>at
        cursor.next += 1
    for number in range(known.count):
        cursor = &cursors[number]
        if cursor.unsorted and sort_positions_by_time(times, order + (cursor.next - cursor.count), cursor.count):
            return -1
    return 0


cdef Py_ssize_t _count_merged(
    const int64_t* series, const int64_t* times, const uint32_t* order, Py_ssize_t rows, int64_t width,
    Py_ssize_t* duplicate,
) noexcept nogil:
    """Return how many merged buckets the rows make; ``duplicate`` gets a row equal to the one before it."""
    cdef Py_ssize_t at, row
    cdef Py_ssize_t last_row = 0
    cdef Py_ssize_t merged = 0
    cdef int64_t bucket = 0
    for at in range(rows):
        row = at if order == NULL else order[at]
        if at and series[row] == series[last_row] and times[row] == times[last_row]:
            duplicate[0] = row
            return merged
        if at == 0 or series[row] != series[last_row] or not within_bucket(times[row], bucket, width):
            bucket = bucket_floor(times[row], width, 0)
            merged += 1
        last_row = row
    return merged
