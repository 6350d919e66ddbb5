"""Hypothesis strategies for rows of one table, with every kind of cell, for the tests of native loops."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

ABSENT_BITS = 0x7FF8_5449_4445_4741
NAN_BITS = (
    ABSENT_BITS,
    0x7FF8_0000_0000_0000,  # the usual quiet NaN
    0xFFF8_0000_0000_0000,  # what inf - inf gives
    0x7FF0_0000_0000_0002,  # Prometheus' stale marker, a signalling NaN
    0x7FFF_FFFF_FFFF_FFFF,
)
RowArrays = tuple[npt.NDArray[np.int32], npt.NDArray[np.int64], npt.NDArray[np.float64]]

#: Tag set numbers: dense, and far apart up to both ends of int32.
TAGSETS = st.one_of(st.integers(0, 4), st.integers(0, 2**31 - 1), st.sampled_from((0, 7, 65_536, 2_000_003, 2**31 - 1)))
#: Seconds around 1970 with a few nanoseconds, so that buckets repeat, and times of our days.
TIMES = st.one_of(
    st.integers(-6, 6).map(lambda seconds: seconds * 1_000_000_000),
    st.integers(-200_000_000_000, 200_000_000_000),
    st.integers(1_700_000_000, 1_700_000_200).map(lambda seconds: seconds * 1_000_000_000 + 17),
)
#: The 64 bits of a cell.
CELLS = st.one_of(
    st.sampled_from(NAN_BITS),
    st.sampled_from((0.0, -0.0, 1.5, float("inf"), float("-inf"), 1e308, 5e-324)).map(
        lambda value: int(np.float64(value).view(np.uint64))
    ),
    st.floats(allow_nan=False).map(lambda value: int(np.float64(value).view(np.uint64))),
    st.integers(-1000, 1000).map(lambda value: int(np.float64(value).view(np.uint64))),
)


def frozen(*arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the arrays made read-only: native loops must take them as they are."""
    for array in arrays:
        array.flags.writeable = False
    return arrays


@st.composite
def row_arrays(draw: st.DrawFn, *, max_fields: int = 3, max_rows: int = 40) -> RowArrays:
    """Return (int32[n], int64[n], float64[k, n]), read-only, in no order and with duplicates."""
    fields = draw(st.integers(0, max_fields))
    rows = draw(st.lists(st.tuples(TAGSETS, TIMES, *([CELLS] * fields)), max_size=max_rows))
    ids = np.array([row[0] for row in rows], np.int32)
    times = np.array([row[1] for row in rows], np.int64)
    cells = np.empty((fields, len(rows)), np.uint64)
    for position, row in enumerate(rows):
        cells[:, position] = row[2:]
    values = cells.view(np.float64)
    frozen(ids, times, values)
    return ids, times, values
