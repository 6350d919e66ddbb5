"""Rows of the rollup tiers, wide: one row for each (tag set, bucket), one line of a matrix for each field.

What most tables share is kept once: where every field of every row has the same count and the same times of its first
and last sample, these columns have one line instead of one for each field.  Bucket arithmetic and order of addition are
those of :mod:`native.rollup` (docs/formats/rollups.md).
"""

from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint32_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy
from libcpp.vector cimport vector

from native.arguments cimport checked_array, same_length
from native.rollup cimport bucket_floor, checked_width, larger, smaller, within_bucket

import numpy as np

from native.slabs import slab_array

cdef enum:
    # Tag sets are looked up in a table where they lie within so many, or a share of it is used.
    DENSE_TAGSETS = 1 << 20
    DENSE_SHARE = 16
    SLAB_BYTES = 1 << 20
    MAX_PAIRS = 0x7FFFFFFE

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


cdef extern from * nogil:
    """
    #include <algorithm>
    #include <cstddef>
    struct TidegaugeTimedPlace { int64_t time; uint32_t part; uint32_t row; };
    static inline void tidegauge_sort_by_time(TidegaugeTimedPlace* rows, size_t count) {
        auto before = [](const TidegaugeTimedPlace& a, const TidegaugeTimedPlace& b) { return a.time < b.time; };
        std::sort(rows, rows + count, before);
    }
    """
    struct TimedPlace "TidegaugeTimedPlace":
        int64_t time
        uint32_t part
        uint32_t row
    void sort_by_time "tidegauge_sort_by_time" (TimedPlace* rows, size_t count) noexcept


cdef struct Group:
    # The rows of one (tag set, bucket): those at places ``start`` to ``end``, which is not one of them.
    int64_t bucket
    Py_ssize_t start
    Py_ssize_t end


cdef struct Place:
    # Where a row is: which part, and which of its rows.
    uint32_t part
    uint32_t row


cdef struct Found:
    # A row of a wanted pair.
    Place place
    uint32_t pair


cdef struct Cursor:
    # One wanted tag set: its last row, the first of its pairs that does not end before that, and its pairs.
    int64_t last_time
    uint32_t pair
    uint32_t first_pair
    uint32_t end_pair
    bint seen
    bint disordered
    bint repeated


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


def aggregate_rows(tagset_ids, times, values, width_ns, counters=()):
    """Return :class:`WideColumns`: one row for each (tag set, bucket) in which any field has a sample.

    ``tagset_ids``: int32[n] >= 0; ``times``: int64[n], nanoseconds; rows strictly ascend by (tag set, time).
    ``values``: float64[k, n], NaN of any kind is no sample.  ``counters``: the places (0..k-1, ascending) of the fields
    whose increase is wanted: the rises between consecutive samples of a bucket, a fall being a reset that adds the new
    value.  Raises TypeError or ValueError for other input, MemoryError when there is no room.
    """
    cdef const int32_t[::1] ids = checked_array(tagset_ids, "tagset_ids", np.int32, 1)
    cdef Py_ssize_t rows = ids.shape[0]
    same_length(checked_array(times, "times", np.int64, 1), "times", rows, "tagset_ids")
    same_length(checked_array(values, "values", np.float64, 2), "values", rows, "tagset_ids")
    cdef const int64_t[::1] stamps = times
    cdef const double[:, ::1] cells = values
    cdef Py_ssize_t fields = cells.shape[0]
    cdef int64_t width = checked_width(width_ns)
    cdef Group* groups = NULL
    cdef Py_ssize_t found = 0
    cdef Py_ssize_t at
    cdef vector[const int64_t*] times_of
    cdef vector[const double*] columns_of
    if rows > MAX_PAIRS:
        raise ValueError(f"cannot aggregate rows: got {rows}, want at most {MAX_PAIRS}")
    try:
        with nogil:
            found = _group_rows(&ids[0], &stamps[0], rows, width, &groups)
        if found == -1:
            raise MemoryError(f"cannot aggregate {rows} rows: got no memory for their buckets")
        if found == -2:
            raise ValueError(
                "cannot aggregate rows: got unsorted rows, want strictly ascending (tag set, time), ids >= 0"
            )
        times_of.push_back(&stamps[0])
        for at in range(fields):
            columns_of.push_back(&cells[0, 0] + at * rows)
        keys = np.empty(found, np.int32)
        _copy_keys(keys, &ids[0], groups, found)
        return _aggregated(keys, groups, found, NULL, times_of, columns_of, fields, counters)
    finally:
        free(groups)


def aggregate_parts(parts, lines, tagset_ids, buckets, width_ns, counters=()):
    """Return (:class:`WideColumns`, int32[u]): one row for each wanted (tag set, bucket) in which any field has a sample.

    The rows stay where they are.  ``parts``: (int32[n], int64[n], float64[k', n]) each, tag sets, times and values, the
    lines of values contiguous in themselves; those of other tag sets and buckets may be among the rows.  ``lines``: for
    each part k places of the fields' lines in its values, -1 for a field that it does not have.  ``tagset_ids``,
    ``buckets``: int32[m], int64[m], the wanted pairs, ascending and distinct.  ``width_ns``, ``counters``: as for
    :func:`aggregate_rows`.  Tag sets that have two rows of the same time in a wanted bucket are left out; they are the
    second result, ascending.
    Raises TypeError or ValueError for other input, MemoryError when there is no room.
    """
    cdef const int32_t[::1] wanted_ids = checked_array(tagset_ids, "tagset_ids", np.int32, 1)
    cdef Py_ssize_t pairs = wanted_ids.shape[0]
    same_length(checked_array(buckets, "buckets", np.int64, 1), "buckets", pairs, "tagset_ids")
    cdef const int64_t[::1] wanted = buckets
    cdef int64_t width = checked_width(width_ns)
    cdef Py_ssize_t fields = len(lines[0]) if len(lines) else 0
    cdef vector[const int32_t*] ids_of
    cdef vector[const int64_t*] times_of
    cdef vector[Py_ssize_t] rows_of
    cdef vector[const double*] columns_of
    cdef Py_ssize_t at, field, line, rows
    cdef const int32_t[::1] ids
    cdef const int64_t[::1] stamps
    cdef const double[:, :] cells
    if len(parts) != len(lines):
        raise ValueError(f"cannot aggregate parts: got {len(lines)} lists of lines, want {len(parts)}")
    if pairs > MAX_PAIRS:
        raise ValueError(f"cannot aggregate parts: got {pairs} pairs, want at most {MAX_PAIRS}")
    columns_of.resize(fields * len(parts), NULL)
    for at, ((part_ids, part_times, part_values), places) in enumerate(zip(parts, lines)):
        ids = checked_array(part_ids, "tagset_ids of a part", np.int32, 1)
        rows = ids.shape[0]
        same_length(checked_array(part_times, "times of a part", np.int64, 1), "times of a part", rows, "its tagset_ids")
        stamps = part_times
        _check_values(part_values, rows)
        cells = part_values
        if rows > MAX_PAIRS:
            raise ValueError(f"cannot aggregate parts: got {rows} rows in one, want at most {MAX_PAIRS}")
        if len(places) != fields:
            raise ValueError(f"cannot aggregate parts: got {len(places)} lines for a part, want {fields}")
        for field in range(fields):
            line = places[field]
            if not -1 <= line < cells.shape[0]:
                raise ValueError(f"cannot aggregate parts: got line {line}, want -1 to {cells.shape[0] - 1}")
            if line >= 0 and rows:
                columns_of[field * len(parts) + at] = &cells[line, 0]
        ids_of.push_back(&ids[0])
        times_of.push_back(&stamps[0])
        rows_of.push_back(rows)

    cdef vector[Cursor] cursors
    cdef vector[int32_t] cursor_of
    cdef vector[Found] found
    cdef vector[uint32_t] ends
    cdef vector[Place] chosen
    cdef vector[Group] groups
    cdef vector[int32_t] keys
    cdef vector[int32_t] left_out
    cdef bint right
    with nogil:
        right = _open_cursors(&wanted_ids[0], &wanted[0], pairs, width, cursors)
        if right and pairs:
            _table_of(&wanted_ids[0], cursors, cursor_of)
            ends.resize(pairs + 1, 0)
            _find_rows(ids_of, times_of, rows_of, &wanted_ids[0], &wanted[0], width, cursors, cursor_of, found, ends)
            _place_rows(found, ends, chosen)
            _order_rows(times_of, cursors, ends, chosen)
            _group_pairs(&wanted_ids[0], &wanted[0], cursors, ends, groups, keys, left_out)
    if not right:
        raise ValueError(
            f"cannot aggregate parts: want ascending distinct pairs, ids >= 0, whose buckets are multiples of {width}"
        )
    tagsets = np.empty(keys.size(), np.int32)
    unordered = np.empty(left_out.size(), np.int32)
    _copy_vector(keys, tagsets)
    _copy_vector(left_out, unordered)
    columns = _aggregated(
        tagsets, groups.data(), keys.size(), chosen.data(), times_of, columns_of, fields, counters
    )
    return columns, unordered


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
            found = _group_rows(&ids[0], &stamps[0], rows, width, &groups)
        if found == -1:
            raise MemoryError(f"cannot merge {rows} rows: got no memory for their buckets")
        if found == -2:
            raise ValueError("cannot merge rows: got unsorted rows, want strictly ascending (tag set, time), ids >= 0")
        merged = _new_columns(fields, len(counters), found, shared == 1, &out)
        _copy_keys(merged.tagset_ids, &ids[0], groups, found)
        _copy_buckets(merged.times, groups, found)
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


cdef object _aggregated(
    object tagset_ids, const Group* groups, Py_ssize_t found, const Place* places, const vector[const int64_t*]& times_of,
    const vector[const double*]& columns_of, Py_ssize_t fields, object counters,
):
    """Return :class:`WideColumns` of these groups; ``places``: where their rows are, NULL for one part in order."""
    marks = _marked_counters(counters, fields)
    cdef const int32_t[::1] line_of_counter = marks
    cdef Lines out
    cdef bint alike = True
    for shared in (True, False):
        columns = _new_columns(fields, len(counters), found, shared, &out)
        if found and fields:
            with nogil:
                alike = _aggregate(
                    times_of.data(), columns_of.data(), times_of.size(), places, fields, groups, &line_of_counter[0],
                    shared, out,
                )
        if alike:
            break
    columns.tagset_ids = tagset_ids
    _copy_buckets(columns.times, groups, found)
    return _without_empty(columns)


cdef int _check_values(object values, Py_ssize_t rows) except -1:
    if not isinstance(values, np.ndarray) or values.dtype != np.float64:
        raise TypeError("cannot use values of a part: want a numpy array of float64")
    if values.ndim != 2 or values.shape[1] != rows:
        raise ValueError(f"cannot use values of a part: got the shape {values.shape}, want {rows} rows")
    if rows > 1 and len(values) and values.strides[1] != sizeof(double):
        raise ValueError("cannot use values of a part: want lines that are contiguous")
    return 0


cdef object _new_columns(Py_ssize_t fields, Py_ssize_t counters, Py_ssize_t groups, bint shared, Lines* out):
    columns = WideColumns()
    columns.tagset_ids = np.empty(groups, np.int32)
    columns.times = np.empty(groups, np.int64)
    lines = 1 if shared else fields
    for name in ("counts", "first_times", "last_times"):
        # Zeros: a table without fields has rows without samples.
        setattr(columns, name, np.zeros((lines, groups), np.int64))
    # One piece, on memory that is used again where it is large: fresh pages cost more than filling them.
    shape = (len(VALUE_NAMES), fields, groups)
    large = fields * groups * len(VALUE_NAMES) * 8 >= SLAB_BYTES
    matrices = slab_array(shape, np.float64) if large else np.empty(shape, np.float64)
    for name, matrix in zip(VALUE_NAMES, matrices):
        setattr(columns, name, matrix)
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


cdef int _copy_keys(int32_t[::1] tagset_ids, const int32_t* ids, const Group* groups, Py_ssize_t found) except -1:
    cdef Py_ssize_t group
    for group in range(found):
        tagset_ids[group] = ids[groups[group].start]
    return 0


cdef int _copy_buckets(int64_t[::1] times, const Group* groups, Py_ssize_t found) except -1:
    cdef Py_ssize_t group
    for group in range(found):
        times[group] = groups[group].bucket
    return 0


cdef int _copy_vector(const vector[int32_t]& source, int32_t[::1] target) except -1:
    cdef Py_ssize_t at
    for at in range(<Py_ssize_t>source.size()):
        target[at] = source[at]
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
    const int32_t* ids, const int64_t* times, Py_ssize_t rows, int64_t width, Group** groups_out
) noexcept nogil:
    """Fill ``groups_out`` with each (tag set, bucket); return how many there are.

    Returns -1 when memory runs out and -2 when the rows are not strictly ascending.  The caller frees the array.
    """
    cdef Py_ssize_t room = 1024
    cdef Py_ssize_t found = 0
    cdef Py_ssize_t at
    cdef int32_t tagset = -1
    cdef int64_t time = 0
    cdef int64_t last_of_bucket = 0
    cdef int64_t bucket
    cdef Group* groups = <Group*>malloc(room * sizeof(Group))
    cdef Group* more
    if groups == NULL:
        return -1
    groups_out[0] = groups
    for at in range(rows):
        if ids[at] < tagset or ids[at] < 0 or (ids[at] == tagset and times[at] <= time):
            return -2
        time = times[at]
        if ids[at] != tagset or time > last_of_bucket:
            tagset = ids[at]
            if found == room:
                room *= 2
                more = <Group*>realloc(groups, room * sizeof(Group))
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
        groups[found - 1].end = at + 1
    return found


cdef bint _open_cursors(
    const int32_t* wanted_ids, const int64_t* wanted, Py_ssize_t pairs, int64_t width, vector[Cursor]& cursors
) except * nogil:
    """Make a cursor of each wanted tag set; return whether the pairs ascend."""
    cdef Py_ssize_t pair
    cdef Cursor cursor
    for pair in range(pairs):
        if wanted_ids[pair] < 0 or bucket_floor(wanted[pair], width, 0) != wanted[pair]:
            return False
        if pair and wanted_ids[pair] == wanted_ids[pair - 1]:
            if wanted[pair] <= wanted[pair - 1]:
                return False
            cursors[cursors.size() - 1].end_pair += 1
            continue
        if pair and wanted_ids[pair] < wanted_ids[pair - 1]:
            return False
        cursor.last_time = 0
        cursor.pair = cursor.first_pair = <uint32_t>pair
        cursor.end_pair = <uint32_t>pair + 1
        cursor.seen = cursor.disordered = cursor.repeated = False
        cursors.push_back(cursor)
    return True


cdef int _table_of(const int32_t* wanted_ids, vector[Cursor]& cursors, vector[int32_t]& cursor_of) except -1 nogil:
    """Fill ``cursor_of``, which is by tag set minus the first one; it stays empty where they lie too far apart."""
    cdef int64_t first = wanted_ids[0]
    cdef int64_t span = wanted_ids[cursors.back().first_pair] - first + 1
    cdef Py_ssize_t at
    if span > DENSE_TAGSETS and span > <int64_t>cursors.size() * DENSE_SHARE:
        return 0
    cursor_of.resize(span, -1)
    for at in range(<Py_ssize_t>cursors.size()):
        cursor_of[wanted_ids[cursors[at].first_pair] - first] = <int32_t>at
    return 0


cdef inline Py_ssize_t _cursor_of(
    int32_t tagset, const int32_t* wanted_ids, const vector[Cursor]& cursors, const vector[int32_t]& cursor_of
) noexcept nogil:
    """Return which cursor is the tag set's, -1 for none."""
    cdef int64_t place
    cdef Py_ssize_t low = 0
    cdef Py_ssize_t high, middle
    if cursor_of.size():
        place = <int64_t>tagset - wanted_ids[0]
        return -1 if place < 0 or place >= <int64_t>cursor_of.size() else cursor_of[place]
    high = cursors.size()
    while low < high:
        middle = low + (high - low) // 2
        if wanted_ids[cursors[middle].first_pair] < tagset:
            low = middle + 1
        else:
            high = middle
    if low < <Py_ssize_t>cursors.size() and wanted_ids[cursors[low].first_pair] == tagset:
        return low
    return -1


cdef int _find_rows(
    const vector[const int32_t*]& ids_of, const vector[const int64_t*]& times_of, const vector[Py_ssize_t]& rows_of,
    const int32_t* wanted_ids, const int64_t* wanted, int64_t width, vector[Cursor]& cursors,
    const vector[int32_t]& cursor_of, vector[Found]& found, vector[uint32_t]& ends,
) except -1 nogil:
    """Note the rows of wanted pairs, and count those of each pair behind its place in ``ends``."""
    cdef Py_ssize_t part, row, number
    cdef int64_t time
    cdef const int32_t* ids
    cdef const int64_t* times
    cdef Cursor* cursor
    cdef Found one
    for part in range(<Py_ssize_t>rows_of.size()):
        ids = ids_of[part]
        times = times_of[part]
        for row in range(rows_of[part]):
            number = _cursor_of(ids[row], wanted_ids, cursors, cursor_of)
            if number < 0:
                continue
            cursor = &cursors[number]
            time = times[row]
            if cursor.seen and time <= cursor.last_time:
                cursor.disordered = True
                _step_back(cursor, wanted, time, width)
            cursor.seen = True
            cursor.last_time = time
            while (
                cursor.pair < cursor.end_pair and time >= wanted[cursor.pair]
                and not within_bucket(time, wanted[cursor.pair], width)
            ):
                cursor.pair += 1
            if cursor.pair < cursor.end_pair and time >= wanted[cursor.pair]:
                one.place.part = <uint32_t>part
                one.place.row = <uint32_t>row
                one.pair = cursor.pair
                found.push_back(one)
                ends[cursor.pair + 1] += 1
    cdef Py_ssize_t pair
    for pair in range(1, <Py_ssize_t>ends.size()):
        ends[pair] += ends[pair - 1]
    return 0


cdef void _step_back(Cursor* cursor, const int64_t* wanted, int64_t time, int64_t width) noexcept nogil:
    """Let the cursor stand at the first pair that does not end before ``time``, which is not behind its last row."""
    cdef uint32_t low = cursor.first_pair
    cdef uint32_t high = cursor.pair
    cdef uint32_t middle
    while low < high:
        middle = low + (high - low) // 2
        if time >= wanted[middle] and not within_bucket(time, wanted[middle], width):
            low = middle + 1
        else:
            high = middle
    cursor.pair = low


cdef int _place_rows(
    const vector[Found]& found, const vector[uint32_t]& ends, vector[Place]& chosen
) except -1 nogil:
    """Put the places of the rows into the order of their pairs."""
    cdef vector[uint32_t] following
    cdef Py_ssize_t at
    cdef uint32_t pair
    following.resize(ends.size())
    memcpy(following.data(), ends.data(), ends.size() * sizeof(uint32_t))
    chosen.resize(found.size())
    for at in range(<Py_ssize_t>found.size()):
        pair = found[at].pair
        chosen[following[pair]] = found[at].place
        following[pair] += 1
    return 0


cdef int _order_rows(
    const vector[const int64_t*]& times_of, vector[Cursor]& cursors, const vector[uint32_t]& ends, vector[Place]& chosen
) except -1 nogil:
    """Sort the rows of each pair of tag sets in disorder by time, and mark tag sets with two rows of the same time."""
    cdef Py_ssize_t number
    cdef uint32_t pair
    cdef int64_t at
    cdef vector[TimedPlace] rows
    cdef TimedPlace one
    cdef bint ascending
    for number in range(<Py_ssize_t>cursors.size()):
        if not cursors[number].disordered:
            continue
        for pair in range(cursors[number].first_pair, cursors[number].end_pair):
            rows.clear()
            ascending = True
            for at in range(<int64_t>ends[pair], <int64_t>ends[pair + 1]):
                one.part = chosen[at].part
                one.row = chosen[at].row
                one.time = times_of[one.part][one.row]
                ascending = ascending and (rows.size() == 0 or rows.back().time < one.time)
                rows.push_back(one)
            if ascending:
                continue
            sort_by_time(rows.data(), rows.size())
            for at in range(<int64_t>rows.size()):
                chosen[ends[pair] + at].part = rows[at].part
                chosen[ends[pair] + at].row = rows[at].row
                if at and rows[at].time == rows[at - 1].time:
                    cursors[number].repeated = True
    return 0


cdef int _group_pairs(
    const int32_t* wanted_ids, const int64_t* wanted, const vector[Cursor]& cursors, const vector[uint32_t]& ends,
    vector[Group]& groups, vector[int32_t]& keys, vector[int32_t]& left_out,
) except -1 nogil:
    """Make a group of each pair that has rows, but for tag sets that are left out."""
    cdef Group group
    cdef Py_ssize_t number
    cdef uint32_t pair
    for number in range(<Py_ssize_t>cursors.size()):
        if cursors[number].repeated:
            left_out.push_back(wanted_ids[cursors[number].first_pair])
            continue
        for pair in range(cursors[number].first_pair, cursors[number].end_pair):
            if ends[pair + 1] > ends[pair]:
                group.bucket = wanted[pair]
                group.start = ends[pair]
                group.end = ends[pair + 1]
                groups.push_back(group)
                keys.push_back(wanted_ids[pair])
    return 0


cdef bint _aggregate(
    const int64_t* const* times_of, const double* const* columns_of, Py_ssize_t parts, const Place* places,
    Py_ssize_t fields, const Group* groups, const int32_t* line_of_counter, bint shared, Lines out,
) noexcept nogil:
    """Fill the lines; return False as soon as fields turn out to differ although ``shared``."""
    cdef Py_ssize_t field, group, at, end, cell, key
    cdef const double* const* columns
    cdef const double* column
    cdef double value, previous, total, smallest, largest, increase, first
    cdef int64_t count, first_time, last_time
    cdef Place first_place, last_place, place
    cdef bint counting
    place.part = 0
    place.row = 0
    first_place = last_place = place
    for field in range(fields):
        columns = columns_of + field * parts
        counting = line_of_counter[field] >= 0
        for group in range(out.groups):
            cell = field * out.groups + group
            key = group if shared else cell
            at = groups[group].start
            end = groups[group].end
            count = 0
            first = total = smallest = largest = previous = increase = 0.0
            while at < end:
                if places == NULL:
                    place.row = <uint32_t>at
                else:
                    place = places[at]
                at += 1
                column = columns[place.part]
                if column == NULL:
                    continue
                value = column[place.row]
                if value == value:
                    if count:
                        total += value
                        smallest = smaller(value, smallest)
                        largest = larger(value, largest)
                        if counting:
                            increase += rise(value, previous)
                    else:
                        first = total = smallest = largest = value
                        first_place = place
                    count += 1
                    previous = value
                    last_place = place
            first_time = times_of[first_place.part][first_place.row] if count else 0
            last_time = times_of[last_place.part][last_place.row] if count else 0
            if shared and field:
                if out.count[key] != count or out.first_time[key] != first_time or out.last_time[key] != last_time:
                    return False
            else:
                out.count[key] = count
                out.first_time[key] = first_time
                out.last_time[key] = last_time
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
            for row in range(groups[group].start, groups[group].end):
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
