"""Kernels of native/kernels beside slow twins (the univariate detector's: tests/engine/detection)."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from native.kernels.smoothing import follow


def followed(values: list[list[float]], gains: list[float]) -> list[list[float]]:
    """The slow twin: every column by itself."""
    means = [0.0] * len(gains)
    out = []
    for row, line in enumerate(values):
        for column, value in enumerate(line):
            if not math.isnan(value):
                means[column] += max(gains[column], 1 / (row + 1)) * (value - means[column])
        out.append(list(means))
    return out


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(st.one_of(st.floats(-1e6, 1e6), st.just(math.nan)), min_size=3, max_size=3), min_size=1, max_size=30
    ),
    st.integers(0, 30),
)
def test_moving_averages_are_those_of_the_slow_twin_however_the_rows_are_cut(
    values: list[list[float]], cut: int
) -> None:
    gains = [1.0, 0.25, 0.01]
    means = np.zeros(3)
    out = np.empty((len(values), 3))
    rows = np.array(values)
    first, second = np.ascontiguousarray(rows[:cut]), np.ascontiguousarray(rows[cut:])
    follow(first, np.array(gains), 0, means, out[:cut])
    follow(second, np.array(gains), len(first), means, out[cut:])
    np.testing.assert_allclose(out, followed(values, gains), rtol=1e-12, atol=1e-9)


def test_inputs_may_be_read_only_and_other_types_are_refused() -> None:
    values, gains = np.ones((4, 2)), np.full(2, 0.5)
    values.flags.writeable = gains.flags.writeable = False
    out = np.empty((4, 2))
    follow(values, gains, 0, np.zeros(2), out)
    assert (out == 1).all()
    with pytest.raises(TypeError):
        follow(values.astype(np.float32), gains, 0, np.zeros(2), out)
    fixed = np.zeros(2)
    fixed.flags.writeable = False
    with pytest.raises(TypeError):
        follow(values, gains, 0, fixed, out)
