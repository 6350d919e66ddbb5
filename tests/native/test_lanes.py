"""native.kernels.lanes beside NumPy: the same eight results, whatever the numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import types

from native.kernels import lanes, univariate_state
from native.kernels.compiling import changed, kernel
from native.kernels.compiling import given as read
from native.kernels.lanes import any_of, choose, fetch, lane, least, load, most, size_of, store

OPERATIONS = 12


@kernel(
    read(types.float64), read(types.float32), types.float64, changed(types.float64, 2), changed(types.float32),
    changed(types.float64),
)  # fmt: skip
def everything(a: Any, b: Any, one: float, out: Any, stored: Any, told: Any) -> None:
    """Write each operation's result of eight doubles, eight floats and one double to a row of ``out``."""
    left, right = load(a, 1), load(b, 2)
    fetch(out, 1, 2)
    store(out[0], 0, left + right)
    store(out[1], 0, left - right)
    store(out[2], 0, left * one)
    store(out[3], 0, one / right)
    store(out[4], 0, least(left, right))
    store(out[5], 0, most(left, one))
    store(out[6], 0, size_of(left))
    store(out[7], 0, choose(left > right, left, one))
    store(out[8], 0, one - right)
    store(out[9], 0, left / right)
    store(out[10], 0, one * left)
    store(out[11], 0, right + one)
    store(stored, 1, left)
    told[0] = 1.0 if any_of(left > one) else 0.0
    told[1] = lane(left, 5)


numbers = st.floats(width=64) | st.sampled_from([0.0, -0.0, 1.0, -1.0])


@settings(max_examples=200, deadline=None)
@given(
    st.lists(numbers, min_size=9, max_size=9), st.lists(st.floats(width=32), min_size=10, max_size=10), numbers
)  # fmt: skip
def test_eight_together_are_eight_alone(a: list[float], b: list[float], one: float) -> None:
    out, stored, told = np.zeros((OPERATIONS, 8)), np.zeros(10, np.float32), np.zeros(2)
    everything(np.array(a), np.array(b, np.float32), one, out, stored, told)
    with np.errstate(all="ignore"):
        left, right = np.array(a)[1:], np.array(b, np.float32)[2:].astype(np.float64)
        want = [
            left + right,
            left - right,
            left * one,
            one / right,
            np.where(left < right, left, right),
            np.where(left > one, left, one),
            abs(left),
            np.where(left > right, left, one),
            one - right,
            left / right,
            one * left,
            right + one,
        ]
        np.testing.assert_array_equal(out, want)
        np.testing.assert_array_equal(stored[1:9], left.astype(np.float32))
    assert stored[0] == stored[9] == 0, "nothing beside the eight is written"
    assert told[0] == (left > one).any()
    np.testing.assert_array_equal(told[1], left[5])


def test_what_is_laid_out_for_lanes_is_as_wide_as_they_are() -> None:
    assert univariate_state.LANES == lanes.LANES
