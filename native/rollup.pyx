"""Rollup buckets: aggregating rows, merging buckets upward, and finding the buckets that rows touch.

A bucket of width w holds the samples of one series with ``start <= time < start + w``; its start is
``origin + floor((time - origin) / w) * w``, before 1970 as well; times within one width of the lower end of int64
(the year 1677) have no representable start and are the caller's to refuse.  NaN of any kind is no sample.  Sums are
plain additions from left to right in time order, beginning with the first term itself, so that a recomputation gives
the same bits (docs/formats/rollups.md).
"""

from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint8_t, uint32_t
from libc.stdlib cimport free, malloc, realloc

from native.arguments cimport checked_array, same_length
from native.pairset cimport PairSet, close_pairs, number_of_pair, open_pairs
from native.sorting cimport SeriesRow, sort_series_rows

import numpy as np

cdef enum:
    FIELD_ID_BITS = 16

cdef Py_ssize_t MAX_ROWS = 0xFFFFFFFF

#: The columns of a bucket row, in order, and their dtypes.
COLUMN_DTYPES = {
    "series_ids": np.int64,
    "times": np.int64,
    "counts": np.int64,
    "sums": np.float64,
    "mins": np.float64,
    "maxs": np.float64,
    "firsts": np.float64,
    "lasts": np.float64,
    "first_times": np.int64,
    "last_times": np.int64,
}


class RollupColumns:
    """Bucket rows as columns of equal length, ordered by (series, time).

    int64: ``series_ids`` (tag set number << 16 | field number), ``times`` (bucket start, nanoseconds), ``counts``,
    ``first_times``, ``last_times`` (nanoseconds).  float64: ``sums``, ``mins``, ``maxs``, ``firsts``, ``lasts``.
    """

    __slots__ = (
        "counts", "first_times", "firsts", "last_times", "lasts", "maxs", "mins", "series_ids", "sums", "times",
    )

    def __len__(self):
        return len(self.times)


class BucketColumns(RollupColumns):
    """:class:`RollupColumns` and ``increases``: float64, what a counter rose by within the bucket."""

    __slots__ = ("increases",)


cdef extern from * nogil:
    """
    #include <cstdint>
    #include <cstring>
    // Without a branch, as smaller and larger are.
    static inline double tidegauge_rise(double value, double previous) {
        // After a fall the minuend's bits are masked to 0.0, and minus 0.0 keeps every value, -0.0 too.
        uint64_t bits;
        std::memcpy(&bits, &previous, sizeof bits);
        bits &= static_cast<uint64_t>(value < previous) - 1;
        double base;
        std::memcpy(&base, &bits, sizeof base);
        return value - base;
    }
    """
    double rise "tidegauge_rise" (double value, double previous) noexcept


cdef struct Group:
    # The rows of one (tag set, bucket): from ``row`` to the next group's.
    int64_t bucket
    uint32_t row


def aggregate(tagset_ids, times, values, field_ids, width_ns, origin_ns=0):
    """Return :class:`BucketColumns`: one row for each (tag set, field, bucket) with at least one sample.

    ``tagset_ids``: int32[n] >= 0; ``times``: int64[n], nanoseconds; rows strictly ascending by (tag set, time).
    ``values``: float64[k, n]; ``field_ids``: int32[k], ascending, 0..65535.  ``width_ns`` > 0.  Rows come out by
    tag set, field, bucket.  ``increases`` adds up the rises between consecutive samples of the bucket; a fall is a
    counter reset and adds the new value.  -0.0 and 0.0 count as equal: of equals, min and max keep the first.
    Raises TypeError or ValueError for other input, MemoryError when there is no room.
    """
    cdef const int32_t[::1] ids = checked_array(tagset_ids, "tagset_ids", np.int32, 1)
    cdef Py_ssize_t rows = ids.shape[0]
    same_length(checked_array(times, "times", np.int64, 1), "times", rows, "tagset_ids")
    same_length(checked_array(values, "values", np.float64, 2), "values", rows, "tagset_ids")
    cdef const int64_t[::1] stamps = times
    cdef const double[:, ::1] cells = values
    cdef const int32_t[::1] fields = checked_array(field_ids, "field_ids", np.int32, 1)
    cdef Py_ssize_t field_count = fields.shape[0]
    cdef int64_t width = checked_width(width_ns)
    cdef int64_t origin = origin_ns
    cdef Py_ssize_t at
    if cells.shape[0] != field_count:
        raise ValueError(f"cannot aggregate rows: got {cells.shape[0]} value columns, want {field_count} as in field_ids")
    for at in range(field_count):
        if fields[at] < 0 or fields[at] >> FIELD_ID_BITS or (at and fields[at] <= fields[at - 1]):
            raise ValueError(f"cannot aggregate rows: got field_ids {field_ids.tolist()}, want ascending 0..65535")

    # Row ranges of one (tag set, bucket), found once for all fields; a range ends where the next one begins.
    cdef Group* groups = NULL
    cdef Py_ssize_t group_count = 0
    if rows > MAX_ROWS:
        raise ValueError(f"cannot aggregate rows: got {rows}, want at most {MAX_ROWS}")
    with nogil:
        group_count = _group_rows(&ids[0], &stamps[0], rows, width, origin, &groups)
    if group_count == -1:
        raise MemoryError(f"cannot aggregate {rows} rows: got no memory for their buckets")
    if group_count == -2:
        raise ValueError("cannot aggregate rows: got unsorted rows, want strictly ascending (tag set, time), ids >= 0")

    cdef Py_ssize_t produced = 0
    cdef Out out
    try:
        columns = new_columns(BucketColumns(), group_count * field_count, &out)
        with nogil:
            produced = _aggregate_groups(
                &ids[0], &stamps[0], rows, &cells[0, 0], &fields[0], field_count, groups, group_count, out
            )
    finally:
        free(groups)
    return _trimmed(columns, produced)


def touched_buckets(tagset_ids, times, width_ns):
    """Return (int32[m], int64[m]): the distinct (tag set, bucket start) of rows in any order, sorted by both.

    ``tagset_ids``: int32[n]; ``times``: int64[n], nanoseconds; ``width_ns`` > 0, buckets counted from 1970.
    Raises TypeError or ValueError for other input, MemoryError when there is no room.
    """
    cdef const int32_t[::1] ids = checked_array(tagset_ids, "tagset_ids", np.int32, 1)
    cdef Py_ssize_t rows = ids.shape[0]
    same_length(checked_array(times, "times", np.int64, 1), "times", rows, "tagset_ids")
    cdef const int64_t[::1] stamps = times
    cdef int64_t width = checked_width(width_ns)
    if rows > MAX_ROWS:
        raise ValueError(f"cannot collect buckets: got {rows} rows, want at most {MAX_ROWS}")
    cdef PairSet known
    cdef int status
    try:
        with nogil:
            # A hash set of the pairs, not a sort of the rows: a batch has few distinct pairs.
            status = open_pairs(&known)
            if status == 0:
                status = _collect_pairs(&ids[0], &stamps[0], rows, width, &known)
            if status == 0:
                status = sort_series_rows(known.pairs, known.count)
        if status != 0:
            raise MemoryError(f"cannot collect buckets of {rows} rows: got no memory")
        tagsets = np.empty(known.count, np.int32)
        buckets = np.empty(known.count, np.int64)
        _copy_pairs(known.pairs, known.count, tagsets, buckets)
    finally:
        close_pairs(&known)
    return tagsets, buckets


def select_buckets(row_tagset_ids, row_times, width_ns, tagset_ids, buckets):
    """Return bool[n]: which rows lie in one of the (tag set, bucket start) pairs.

    ``row_tagset_ids``: int32[n]; ``row_times``: int64[n], nanoseconds; rows ascending by (tag set, time) (not
    checked: with few pairs most rows are never looked at).  ``tagset_ids``: int32[m]; ``buckets``: int64[m], bucket
    starts on the grid of ``width_ns``; pairs ascending and distinct.  Raises TypeError or ValueError for other input.
    """
    cdef const int32_t[::1] ids = checked_array(row_tagset_ids, "row_tagset_ids", np.int32, 1)
    cdef Py_ssize_t rows = ids.shape[0]
    same_length(checked_array(row_times, "row_times", np.int64, 1), "row_times", rows, "row_tagset_ids")
    cdef const int64_t[::1] stamps = row_times
    cdef const int32_t[::1] wanted_ids = checked_array(tagset_ids, "tagset_ids", np.int32, 1)
    cdef Py_ssize_t pairs = wanted_ids.shape[0]
    same_length(checked_array(buckets, "buckets", np.int64, 1), "buckets", pairs, "tagset_ids")
    cdef const int64_t[::1] wanted = buckets
    cdef int64_t width = checked_width(width_ns)
    mask = np.zeros(rows, np.uint8)
    cdef uint8_t[::1] out = mask
    cdef Py_ssize_t at
    cdef Py_ssize_t wrong = -1
    with nogil:
        for at in range(pairs):
            if bucket_floor(wanted[at], width, 0) != wanted[at]:
                wrong = at
                break
            if at and not row_before(wanted_ids[at - 1], wanted[at - 1], wanted_ids[at], wanted[at]):
                wrong = at
                break
        if wrong < 0:
            _mark_rows(&ids[0], &stamps[0], rows, width, &wanted_ids[0], &wanted[0], pairs, &out[0])
    if wrong >= 0:
        raise ValueError(
            f"cannot select buckets: got pair {wrong} = ({wanted_ids[wrong]}, {wanted[wrong]}), want ascending distinct "
            f"pairs whose buckets are multiples of {width}"
        )
    return mask.view(np.bool_)


cdef inline bint row_before(int32_t left_id, int64_t left_time, int32_t right_id, int64_t right_time) noexcept nogil:
    return left_id < right_id or (left_id == right_id and left_time < right_time)


cdef object new_columns(object columns, Py_ssize_t rows, Out* out):
    """Give ``columns`` uninitialised arrays of ``rows`` rows and point ``out`` at them."""
    cdef int64_t[::1] integers
    cdef double[::1] doubles
    for name, dtype in COLUMN_DTYPES.items():
        setattr(columns, name, np.empty(rows, dtype))
    integers = columns.series_ids
    out.series = &integers[0]
    integers = columns.times
    out.time = &integers[0]
    integers = columns.counts
    out.count = &integers[0]
    doubles = columns.sums
    out.sum = &doubles[0]
    doubles = columns.mins
    out.min = &doubles[0]
    doubles = columns.maxs
    out.max = &doubles[0]
    doubles = columns.firsts
    out.first = &doubles[0]
    doubles = columns.lasts
    out.last = &doubles[0]
    integers = columns.first_times
    out.first_time = &integers[0]
    integers = columns.last_times
    out.last_time = &integers[0]
    out.increase = NULL
    if isinstance(columns, BucketColumns):
        columns.increases = np.empty(rows, np.float64)
        doubles = columns.increases
        out.increase = &doubles[0]
    return columns


cdef object _trimmed(object columns, Py_ssize_t rows):
    """Cut every column to ``rows`` rows in place; the rest was reserved but never written."""
    for name in (*COLUMN_DTYPES, "increases"):
        getattr(columns, name).resize(rows, refcheck=False)
    return columns


cdef Py_ssize_t _group_rows(
    const int32_t* ids, const int64_t* times, Py_ssize_t rows, int64_t width, int64_t origin, Group** groups_out
) noexcept nogil:
    """Fill ``groups_out`` with each (tag set, bucket) and an end mark; return how many there are.

    Returns -1 when memory runs out and -2 when the rows are not strictly ascending.  The caller frees the array.
    """
    cdef Py_ssize_t room = 1024
    cdef Py_ssize_t found = 0
    cdef Py_ssize_t at
    cdef int64_t bucket
    cdef int64_t last_of_bucket = 0
    cdef Group* groups = <Group*>malloc((room + 1) * sizeof(Group))
    cdef Group* larger
    if groups == NULL:
        return -1
    for at in range(rows):
        if ids[at] < 0 or (at and not row_before(ids[at - 1], times[at - 1], ids[at], times[at])):
            free(groups)
            return -2
        if at == 0 or ids[at] != ids[at - 1] or times[at] > last_of_bucket:
            if found == room:
                room *= 2
                larger = <Group*>realloc(groups, (room + 1) * sizeof(Group))
                if larger == NULL:
                    free(groups)
                    return -1
                groups = larger
            bucket = bucket_floor(times[at], width, origin)
            groups[found].bucket = bucket
            groups[found].row = <uint32_t>at
            found += 1
            # The last bucket of int64 may be cut short.
            last_of_bucket = INT64_MAX if bucket > INT64_MAX - width + 1 else bucket + (width - 1)
    groups[found].row = <uint32_t>rows
    groups_out[0] = groups
    return found


cdef Py_ssize_t _aggregate_groups(
    const int32_t* ids, const int64_t* times, Py_ssize_t rows, const double* cells, const int32_t* fields,
    Py_ssize_t field_count, const Group* groups, Py_ssize_t group_count, Out out,
) noexcept nogil:
    cdef Py_ssize_t first_group = 0
    cdef Py_ssize_t end_group, group, field, at, end
    cdef Py_ssize_t produced = 0
    cdef const double* column
    cdef double value, previous, total, smallest, largest, increase, first
    cdef Py_ssize_t first_row, last_row
    cdef int64_t count
    while first_group < group_count:
        end_group = first_group + 1
        while end_group < group_count and ids[groups[end_group].row] == ids[groups[first_group].row]:
            end_group += 1
        for field in range(field_count):
            column = cells + field * rows
            for group in range(first_group, end_group):
                at = groups[group].row
                end = groups[group + 1].row
                while at < end and column[at] != column[at]:
                    at += 1
                if at == end:
                    continue
                first = column[at]
                first_row = at
                last_row = at
                total = first
                smallest = first
                largest = first
                previous = first
                increase = 0.0
                count = 1
                at += 1
                while at < end:
                    value = column[at]
                    if value == value:
                        count += 1
                        total += value
                        smallest = smaller(value, smallest)
                        largest = larger(value, largest)
                        increase += rise(value, previous)
                        previous = value
                        last_row = at
                    at += 1
                out.series[produced] = (<int64_t>ids[first_row] << FIELD_ID_BITS) | fields[field]
                out.time[produced] = groups[group].bucket
                out.count[produced] = count
                out.sum[produced] = total
                out.min[produced] = smallest
                out.max[produced] = largest
                out.first[produced] = first
                out.last[produced] = previous
                out.first_time[produced] = times[first_row]
                out.last_time[produced] = times[last_row]
                out.increase[produced] = increase
                produced += 1
        first_group = end_group
    return produced


cdef int _collect_pairs(
    const int32_t* ids, const int64_t* times, Py_ssize_t rows, int64_t width, PairSet* known
) noexcept nogil:
    """Put each row's (id, bucket) into ``known``; return 0, or -1 when memory runs out."""
    cdef Py_ssize_t at
    cdef int64_t bucket = 0
    cdef int32_t last_id = 0
    for at in range(rows):
        # Fast path: neighbours mostly share their bucket, which saves the division, if not the whole pair.
        if at == 0 or times[at] < bucket or not within_bucket(times[at], bucket, width):
            bucket = bucket_floor(times[at], width, 0)
        elif ids[at] == last_id:
            continue
        last_id = ids[at]
        if number_of_pair(known, last_id, bucket) < 0:
            return -1
    return 0


cdef int _copy_pairs(const SeriesRow* pairs, Py_ssize_t count, int32_t[::1] tagsets, int64_t[::1] buckets) except -1:
    cdef Py_ssize_t at
    with nogil:
        for at in range(count):
            tagsets[at] = <int32_t>pairs[at].series
            buckets[at] = pairs[at].time
    return 0


cdef void _mark_rows(
    const int32_t* ids, const int64_t* times, Py_ssize_t rows, int64_t width, const int32_t* wanted_ids,
    const int64_t* wanted, Py_ssize_t pairs, uint8_t* mask,
) noexcept nogil:
    cdef Py_ssize_t at = 0
    cdef Py_ssize_t pair, step, low, high, middle
    for pair in range(pairs):
        # Gallop to the first row that is not before the bucket: pairs far apart cost a logarithm, neighbours one step.
        step = 1
        low = at
        high = at
        while high < rows and row_before(ids[high], times[high], wanted_ids[pair], wanted[pair]):
            low = high + 1
            high += step
            step *= 2
        high = high if high < rows else rows
        while low < high:
            middle = low + (high - low) // 2
            if row_before(ids[middle], times[middle], wanted_ids[pair], wanted[pair]):
                low = middle + 1
            else:
                high = middle
        at = low
        while at < rows and ids[at] == wanted_ids[pair] and within_bucket(times[at], wanted[pair], width):
            mask[at] = 1
            at += 1
