"""Moving averages along rows, for values that come in blocks."""

from __future__ import annotations

from typing import Any

from numba import types

from native.kernels.compiling import changed, given, kernel


@kernel(
    given(types.float64, 2),
    given(types.float64),
    types.int64,
    changed(types.float64),
    changed(types.float64, 2),
)
def follow(values: Any, gains: Any, seen: int, means: Any, out: Any) -> None:
    """Write the moving averages of the columns of ``values`` float64[n, k], each row's after it was counted.

    Column j has gain ``gains[j]``, or one over the number of rows so far while that is larger.  ``means`` float64[k]
    goes on from the block before, after ``seen`` rows.  A value that is not a number leaves its mean as it was.
    """
    for i in range(values.shape[0]):
        first = 1.0 / (seen + i + 1)
        for j in range(values.shape[1]):
            value = values[i, j]
            if value == value:
                means[j] += max(gains[j], first) * (value - means[j])
            out[i, j] = means[j]
