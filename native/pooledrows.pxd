"""Rows of a pooled table as the Prometheus decoders collect them: one value a row, tag sets found by raw labels.

A *raw key* is the bytes of a series' labels as they were sent.  It stands for a tag-set number, so that labels which come
again are neither parsed nor sorted.  Raw keys are dropped all at once when they take more memory than allowed; nothing
but time is lost by that.
"""

from libc.stdint cimport int32_t, int64_t, uint32_t
from libcpp.vector cimport vector

from native.catalogue cimport Catalogue
from native.labels cimport LabelEntry
from native.linegrammar cimport Tag
from native.rawkeys cimport RawKeys


cdef enum:
    NO_KEY = 0xFFFFFFFF


cdef enum PooledProblem:  # the order is that of PROBLEMS in pooledrows.pyx
    POOLED_FINE
    POOLED_MALFORMED
    POOLED_NO_LABELS
    POOLED_NO_LABEL_NAME
    POOLED_TAGSET_TOO_LARGE
    POOLED_NOT_UTF8
    POOLED_DUPLICATE_TAG
    POOLED_TOO_OLD
    POOLED_TOO_FAR_IN_FUTURE
    POOLED_TAG_SET_LIMIT
    POOLED_TABLE_TAG_SET_LIMIT
    POOLED_TAG_SET_RATE_LIMIT
    POOLED_NOT_FINITE
    POOLED_RESERVED_NAN
    POOLED_HISTOGRAM
    POOLED_BAD_REFERENCE
    POOLED_PROBLEMS_END


cdef struct PooledRefusal:
    PooledProblem problem
    int64_t position
    const char *at
    size_t length


cdef class PooledRows:
    cdef Catalogue catalogue
    cdef uint32_t table_id, max_tagsets
    cdef size_t max_refusals, max_key_bytes
    cdef RawKeys keys
    cdef vector[int32_t] tagset_of_key  # by the identifier of the raw key
    cdef vector[uint32_t] next_key  # the key that followed it last time
    cdef uint32_t last_key  # of the series before, or NO_KEY
    # Of the call that is running.
    cdef vector[int32_t] tagset_ids
    cdef vector[int64_t] times
    cdef vector[double] values
    cdef int64_t min_time_ms, max_time_ms, min_time_ns, max_time_ns
    cdef int64_t position  # of the series or line that is being read, from 1
    cdef int64_t dropped  # exemplars and metadata
    cdef int64_t refused[<int>POOLED_PROBLEMS_END]
    cdef vector[PooledRefusal] refusals
    # Of the series that is being read.
    cdef vector[Tag] tags
    cdef vector[char] canonical

    # Return the raw key that followed the last one before, or NULL.
    cdef const LabelEntry *expected_key(self) noexcept nogil
    # Return the tag set of the raw key that `expected_key` gave, when it has come indeed.
    cdef int64_t expected_tagset(self) noexcept nogil
    # Return the tag set of a raw key, or -1 for one that is not known.
    cdef int64_t known_tagset(self, const char *key, size_t length) noexcept nogil
    # Return the tag set of `tags`, which may be in any order, defining it when it is new, and remember it by the raw key;
    # on a refusal return -1 with `problem` set.
    cdef int64_t define_tagset(self, const char *key, size_t length, PooledProblem *problem) except -2 nogil
    # Keep one sample whose time is in nanoseconds and within the limits; its tag set is filled in by `close_series`.
    cdef int add(self, int64_t time_ns, double value) except -1 nogil
    # Give the rows from `first` on their tag set.
    cdef int close_series(self, size_t first, int32_t tagset_id) except -1 nogil
    # Take back the rows from `first` on and count them as refused, with whatever else was.
    cdef int refuse(self, PooledProblem problem, int64_t samples, const char *at, size_t length) except -1 nogil
    cdef int refuse_series(self, PooledProblem problem, size_t first, const char *at, size_t length) except -1 nogil
    cdef int begin(self, int64_t table_id, int64_t min_time_ns, int64_t max_time_ns) except -1
    cdef object result(self)
    cdef int release_large_buffers(self) except -1
