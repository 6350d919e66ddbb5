"""native.kernels.bfloats beside the definition: the nearest float32 whose lower two bytes are zero."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import types

from native.kernels.bfloats import narrowed, widened
from native.kernels.compiling import changed, kernel
from native.kernels.compiling import given as read


@kernel(read(types.float64), changed(types.uint16), changed(types.float64))
def there_and_back(numbers: Any, bits: Any, out: Any) -> None:
    """Write the bits of numbers, and what these stand for."""
    for i in range(len(numbers)):
        bits[i] = narrowed(numbers[i])
        out[i] = widened(bits[i])


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-(2.0**120), 2.0**120, width=32), min_size=1, max_size=50))
def test_two_bytes_hold_the_nearest_number_there_is(numbers: list[float]) -> None:
    bits, out = np.zeros(len(numbers), np.uint16), np.zeros(len(numbers))
    there_and_back(np.array(numbers), bits, out)
    np.testing.assert_array_equal(out, (bits.astype(np.uint32) << 16).view(np.float32))
    for number, chosen, value in zip(numbers, bits.tolist(), out.tolist(), strict=True):
        beside = [np.uint32(each << 16).view(np.float32) for each in (chosen - 1, chosen + 1) if 0 <= each < 1 << 16]
        assert all(abs(value - number) <= abs(float(each) - number) for each in beside if np.isfinite(each))
        assert abs(value - number) <= max(abs(number) * 2**-8, 1e-40)
