# Bucket arithmetic and bucket columns, shared by native.rollup and native.merging.

from libc.stdint cimport int64_t, uint64_t

cdef extern from * nogil:
    """
    // Selections, not branches: noisy data would mispredict every other one, which costs more than the arithmetic.
    static inline double tidegauge_smaller(double value, double so_far) { return value < so_far ? value : so_far; }
    static inline double tidegauge_larger(double value, double so_far) { return value > so_far ? value : so_far; }
    """
    double smaller "tidegauge_smaller" (double value, double so_far) noexcept
    double larger "tidegauge_larger" (double value, double so_far) noexcept


cdef struct Out:
    # Where the next bucket row goes, one pointer for each column.
    int64_t* series
    int64_t* time
    int64_t* count
    double* sum
    double* min
    double* max
    double* first
    double* last
    int64_t* first_time
    int64_t* last_time
    double* increase


cdef object new_columns(object columns, Py_ssize_t rows, Out* out)


cdef inline int64_t checked_width(object width_ns) except -1:
    cdef int64_t width = width_ns
    if width <= 0:
        raise ValueError(f"cannot use bucket width: got {width_ns} ns, want more than 0")
    return width


cdef inline int64_t bucket_floor(int64_t time, int64_t width, int64_t origin) noexcept nogil:
    """Return the start of the bucket that holds ``time``; wraps where that lies below int64."""
    cdef int64_t offset = <int64_t>(<uint64_t>time - <uint64_t>origin)
    cdef int64_t rest = offset % width  # C division: the sign of the dividend
    if rest < 0:
        rest += width
    return <int64_t>(<uint64_t>time - <uint64_t>rest)


cdef inline bint within_bucket(int64_t time, int64_t bucket, int64_t width) noexcept nogil:
    """Return whether ``time``, which is not before ``bucket``, lies in it."""
    return <uint64_t>time - <uint64_t>bucket < <uint64_t>width
