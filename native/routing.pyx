"""What kind of numbers each run of a column holds: how segments route the series of a pooled table.

A run is the cells of one series, side by side.  Everything is exact: every cell is looked at.
"""

from libc.math cimport fabs
from libc.stdint cimport int8_t, int32_t, int64_t, uint64_t

import numpy as np

from native.absent cimport ABSENT_BITS
from native.floats cimport MOST_DECIMALS, bits_at, exact_integer, more_decimals


cdef enum:
    MOST_LEVELS = 64
    NO_CELLS = -2  # as decimals: every cell of the run is absent
    NO_DECIMAL = -1


cdef inline int run_decimals(const double *values, int64_t begin, int64_t end, int most) noexcept nogil:
    """Return the smallest number of decimals that is exact for every present cell, or one of the codes above."""
    cdef int decimals = 0
    cdef int64_t at, integer, raised = begin
    cdef bint some = False
    for at in range(begin, end):
        if bits_at(values, at) == ABSENT_BITS:
            continue
        some = True
        if not exact_integer(values[at], decimals, &integer):
            decimals = more_decimals(values[at], decimals, most)
            if decimals < 0:
                return NO_DECIMAL
            raised = at
    # With more decimals a large cell before may have passed 2^53.
    for at in range(begin, raised):
        if bits_at(values, at) != ABSENT_BITS and not exact_integer(values[at], decimals, &integer):
            return NO_DECIMAL
    return decimals if some else NO_CELLS


cdef inline int run_levels(const double *values, int64_t begin, int64_t end, int most) noexcept nogil:
    """Return how many bit patterns occur among the present cells; more than `most` counts as ``most + 1``."""
    cdef uint64_t known[MOST_LEVELS]
    cdef uint64_t bits, previous = ABSENT_BITS
    cdef int count = 0, index
    cdef int64_t at
    for at in range(begin, end):
        bits = bits_at(values, at)
        if bits == ABSENT_BITS or bits == previous:
            continue
        previous = bits
        for index in range(count):
            if known[index] == bits:
                break
        else:
            if count == most:
                return most + 1
            known[count] = bits
            count += 1
    return count


def classify_runs(const double[::1] values not None, const int64_t[::1] starts not None, int max_decimals, int max_levels):
    """Return (decimals int8[m], levels int32[m], largest float64[m]) of the m runs of float64[n] ``values``.

    ``starts``: the first cell of each run, ascending from 0.  ``decimals``: the smallest k of 0..``max_decimals`` at which
    each present cell is a whole number of 10^-k bit for bit, -1 where there is none, -2 for a run without a sample.
    ``levels``: how many different values the run has, ``max_levels`` + 1 for more than ``max_levels``.  ``largest``: the
    largest magnitude among them.  Raises ValueError for starts that are no such thing, and for limits beyond 15 and 64.
    """
    cdef int64_t run, begin, end, runs = starts.shape[0], cells = values.shape[0], at
    cdef double size
    cdef int8_t[::1] decimals_view
    cdef int32_t[::1] levels_view
    cdef double[::1] largest_view
    if not 0 <= max_decimals <= MOST_DECIMALS or not 0 <= max_levels <= MOST_LEVELS:
        raise ValueError(f"cannot classify runs: got at most {max_decimals} decimals and {max_levels} levels")
    decimals, levels, largest = np.empty(runs, np.int8), np.empty(runs, np.int32), np.empty(runs, np.float64)
    decimals_view, levels_view, largest_view = decimals, levels, largest
    for run in range(runs):
        if starts[run] > cells or (starts[run] != 0 if run == 0 else starts[run] <= starts[run - 1]):
            raise ValueError(f"cannot classify runs: got start {starts[run]} of run {run}, want ascending ones from 0")
    if runs == 0 and cells:
        raise ValueError(f"cannot classify runs: got no start for {cells} cells")
    with nogil:
        for run in range(runs):
            begin = starts[run]
            end = starts[run + 1] if run + 1 < runs else cells
            decimals_view[run] = run_decimals(&values[0], begin, end, max_decimals) if end > begin else NO_CELLS
            levels_view[run] = run_levels(&values[0], begin, end, max_levels) if end > begin else 0
            size = 0.0
            for at in range(begin, end):
                if fabs(values[at]) > size and bits_at(&values[0], at) != ABSENT_BITS:
                    size = fabs(values[at])
            largest_view[run] = size
    return decimals, levels, largest
