"""What shows again and again: columns that leave their ordinary range in most of the last stretches of time.

An incident often is a burst now and then, for hours, with nothing to see between two of them; one burst alone is
ordinary.  The rows are cut into stretches of :data:`STRETCH_ROWS`.  The last :data:`STRETCHES` of them, with the one
that is not over yet, are looked at, and what counts for a column is the second smallest of their largest values: it is
reached in all of them but one.
"""

from __future__ import annotations

import numpy as np

from engine.model.rows import Float64Array

STRETCH_ROWS, STRETCHES = 60, 4


def no_stretches(width: int) -> Float64Array:
    """Return what :func:`recurring` goes on from when there have been no rows yet, float64[STRETCHES, width]."""
    return np.zeros((STRETCHES, width))


def recurring(values: Float64Array, seen: int, largest: Float64Array) -> Float64Array:
    """Return for each row of ``values`` float64[n, k], none negative, how large the recurring ones are, float64[n, k].

    ``seen`` rows came before.  ``largest``: the largest value of each column in the stretch that is not over and in the
    ones before it, newest first; it is brought up to date.
    """
    found = np.empty_like(values)
    row = 0
    while row < len(values):
        into = (seen + row) % STRETCH_ROWS
        if into == 0 and seen + row > 0:
            largest[1:] = largest[:-1].copy()
            largest[0] = 0.0
        end = min(len(values), row + STRETCH_ROWS - into)
        so_far = np.maximum(np.maximum.accumulate(values[row:end], axis=0), largest[0])
        stretches = np.empty((STRETCHES, *so_far.shape))
        stretches[0], stretches[1:] = so_far, largest[1:, None]
        found[row:end] = np.partition(stretches, 1, axis=0)[1]
        largest[0] = so_far[-1]
        row = end
    return found
