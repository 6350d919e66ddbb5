"""What is known of each tag set on arrival: whether a row is late, and the latest value of a field.

The functions keep arrays indexed by tag set number, owned and grown by the caller.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t
from libcpp.vector cimport vector

from native.absent cimport ABSENT_BITS
from native.arguments cimport checked_array, checked_output, same_length

import numpy as np


def split_late(tagset_ids, times, last_times):
    """Return (how many rows are late, bool[n] mask of them); the mask is None when no row is.

    ``tagset_ids``: int32[n] below len(last_times); ``times``: int64[n], nanoseconds; ``last_times``: int64[s],
    updated in place.  Row by row: late means not after the newest time its tag set has seen, a duplicate included;
    any other row sets that time.  Raises TypeError or ValueError for other input, before anything is changed.
    """
    cdef const int32_t[::1] ids = checked_array(tagset_ids, "tagset_ids", np.int32, 1)
    cdef Py_ssize_t rows = ids.shape[0]
    same_length(checked_array(times, "times", np.int64, 1), "times", rows, "tagset_ids")
    cdef const int64_t[::1] stamps = times
    cdef int64_t[::1] newest = checked_output(last_times, "last_times", np.int64, 1)
    _checked_ids(ids, newest.shape[0], "last_times")
    cdef Py_ssize_t at = 0
    cdef Py_ssize_t late = 0
    # Fast path: no late row, no mask.
    with nogil:
        while at < rows and stamps[at] > newest[ids[at]]:
            newest[ids[at]] = stamps[at]
            at += 1
    if at == rows:
        return 0, None
    mask = np.zeros(rows, np.uint8)
    cdef uint8_t[::1] out = mask
    with nogil:
        while at < rows:
            if stamps[at] > newest[ids[at]]:
                newest[ids[at]] = stamps[at]
            else:
                out[at] = 1
                late += 1
            at += 1
    return late, mask.view(np.bool_)


def newest_rows(tagset_ids, times, marks):
    """Return int64[k], the row of each tag set's newest time; of equal times the last arrival.

    Tag sets come in the order in which they occur first.  ``tagset_ids``: int32[n] below len(marks); ``times``:
    int64[n]; ``marks``: int32[s], -1 everywhere, and again when this returns.  Raises TypeError or ValueError for
    other arrays, before anything is changed.
    """
    cdef const int32_t[::1] ids = checked_array(tagset_ids, "tagset_ids", np.int32, 1)
    cdef Py_ssize_t rows = ids.shape[0]
    same_length(checked_array(times, "times", np.int64, 1), "times", rows, "tagset_ids")
    cdef const int64_t[::1] stamps = times
    cdef int32_t[::1] places = checked_output(marks, "marks", np.int32, 1)
    _checked_ids(ids, places.shape[0], "marks")
    found = np.empty(rows, np.int64)
    cdef int64_t[::1] out = found
    cdef Py_ssize_t at
    cdef Py_ssize_t count = 0
    cdef int32_t place
    with nogil:
        for at in range(rows):
            place = places[ids[at]]
            if place < 0:
                places[ids[at]] = <int32_t>count
                out[count] = at
                count += 1
            elif stamps[at] >= stamps[out[place]]:
                out[place] = at
        for at in range(count):
            places[ids[out[at]]] = -1
    return found[:count]


def touched_rows(tagset_ids, times, int64_t bucket_ns, told):
    """Return (int32[k] tag sets, int64[k] starts of buckets): the (tag set, bucket) pairs of the rows that are new.

    A pair is new unless it is the one that its tag set was told of last.  ``tagset_ids``: int32[n] below len(told);
    ``times``: int64[n]; ``bucket_ns``: more than 0; ``told``: int64[s], the start of the bucket that was told last, the
    lowest number for none, updated in place.  Raises TypeError or ValueError for other input, before anything is changed.
    """
    cdef const int32_t[::1] ids = checked_array(tagset_ids, "tagset_ids", np.int32, 1)
    cdef Py_ssize_t rows = ids.shape[0]
    same_length(checked_array(times, "times", np.int64, 1), "times", rows, "tagset_ids")
    cdef const int64_t[::1] stamps = times
    cdef int64_t[::1] last = checked_output(told, "told", np.int64, 1)
    if bucket_ns <= 0:
        raise ValueError(f"cannot find buckets: got {bucket_ns} ns, want more than 0")
    _checked_ids(ids, last.shape[0], "told")
    cdef Py_ssize_t at
    cdef Py_ssize_t count = 0
    cdef int64_t start = 0
    cdef vector[Py_ssize_t] new
    cdef vector[int64_t] starts
    with nogil:
        for at in range(rows):
            # Neighbouring rows are in one bucket as a rule, which saves the division.
            if <uint64_t>stamps[at] - <uint64_t>start >= <uint64_t>bucket_ns or at == 0:
                start = stamps[at] % bucket_ns
                start = stamps[at] - (start + bucket_ns if start < 0 else start)
            if last[ids[at]] != start:
                last[ids[at]] = start
                new.push_back(at)
                starts.push_back(start)
    count = new.size()
    touched, buckets = np.empty(count, np.int32), np.empty(count, np.int64)
    cdef int32_t[::1] out_ids = touched
    cdef int64_t[::1] out_starts = buckets
    for at in range(count):
        out_ids[at] = ids[new[at]]
        out_starts[at] = starts[at]
    return touched, buckets


def find_places(tagset_ids, directory, pages):
    """Return (int32[n], how many have none): the place of each tag set, -1 for one that has none.

    ``tagset_ids``: int32[n], not negative.  ``pages``: int32[p, 256]; the place of tag set i stands in the page
    ``directory[i >> 8]`` at i & 255, and tag sets of a page that is -1 or beyond the directory have none.  Raises
    TypeError or ValueError for other arrays.
    """
    cdef const int32_t[::1] ids = checked_array(tagset_ids, "tagset_ids", np.int32, 1)
    cdef const int32_t[::1] page_of = checked_array(directory, "directory", np.int32, 1)
    cdef const int32_t[:, ::1] places = checked_array(pages, "pages", np.int32, 2)
    cdef Py_ssize_t known = page_of.shape[0] << 8
    cdef Py_ssize_t at
    cdef Py_ssize_t missing = 0
    cdef Py_ssize_t wrong = -1
    cdef int32_t page
    if places.shape[1] != 256:
        raise ValueError(f"cannot use pages: got {places.shape[1]} places each, want 256")
    for page in page_of:
        if page >= places.shape[0]:
            raise ValueError(f"cannot use directory: got page {page}, want fewer than {places.shape[0]}")
    result = np.empty(ids.shape[0], np.int32)
    cdef int32_t[::1] found = result
    with nogil:
        for at in range(ids.shape[0]):
            if ids[at] < 0:
                wrong = at
                break
            page = page_of[ids[at] >> 8] if ids[at] < known else -1
            found[at] = places[page, ids[at] & 255] if page >= 0 else -1
            missing += found[at] < 0
    if wrong >= 0:
        raise ValueError(f"cannot use tagset_ids: got {ids[wrong]} in row {wrong}, want 0 or more")
    return result, missing


def update_latest(tagset_ids, times, column, latest_times, latest_values):
    """Bring the latest value of one field up to date, row by row; of equal times the last arrival wins.

    ``tagset_ids``: int32[n] below len(latest_times); ``times``: int64[n], nanoseconds; ``column``: float64[n], where
    ABSENT is no sample and any other NaN is one.  ``latest_times``: int64[s] and ``latest_values``: float64[s],
    updated in place.  Raises TypeError or ValueError for other input, before anything is changed.
    """
    cdef const int32_t[::1] ids = checked_array(tagset_ids, "tagset_ids", np.int32, 1)
    cdef Py_ssize_t rows = ids.shape[0]
    same_length(checked_array(times, "times", np.int64, 1), "times", rows, "tagset_ids")
    same_length(checked_array(column, "column", np.float64, 1), "column", rows, "tagset_ids")
    cdef const int64_t[::1] stamps = times
    # Cells are moved as integers: no NaN is ever touched as a number.
    cdef const uint64_t[::1] cells = column.view(np.uint64)
    cdef int64_t[::1] newest = checked_output(latest_times, "latest_times", np.int64, 1)
    checked_output(latest_values, "latest_values", np.float64, 1)
    same_length(latest_values, "latest_values", newest.shape[0], "latest_times")
    cdef uint64_t[::1] out = latest_values.view(np.uint64)
    _checked_ids(ids, newest.shape[0], "latest_times")
    cdef Py_ssize_t at
    with nogil:
        for at in range(rows):
            if cells[at] != ABSENT_BITS and stamps[at] >= newest[ids[at]]:
                newest[ids[at]] = stamps[at]
                out[ids[at]] = cells[at]


cdef int _checked_ids(const int32_t[::1] ids, Py_ssize_t limit, str owner) except -1:
    """Raise ValueError unless every id is a position in an array of ``limit`` entries."""
    cdef Py_ssize_t at
    cdef Py_ssize_t wrong = -1
    with nogil:
        for at in range(ids.shape[0]):
            if ids[at] < 0 or ids[at] >= limit:
                wrong = at
                break
    if wrong >= 0:
        raise ValueError(f"cannot use tagset_ids: got {ids[wrong]} in row {wrong}, want 0..{limit - 1} as in {owner}")
    return 0
