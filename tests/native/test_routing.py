"""native.routing against its slow twin."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from native.columns import ABSENT
from native.routing import classify_runs
from tests.oracles.routing import classify_run

CELLS = st.one_of(
    st.sampled_from([0.0, 1.0, -0.0, 0.1, 0.25, 1e-9, 31.84, 8.522, 2.0**53, 2.0**53 + 2, math.nan, math.inf, ABSENT]),
    st.integers(-(2**53), 2**53).map(float),
    st.integers(-(10**12), 10**12).map(lambda i: i / 1e9),
    st.floats(),
)  # fmt: skip
RUNS = st.lists(st.one_of(st.lists(CELLS, min_size=1, max_size=8), CELLS.map(lambda cell: [cell] * 5)), max_size=6)


@given(RUNS, st.integers(0, 15), st.integers(0, 64))
def test_each_run_is_classified_as_the_twin_does(runs: list[list[float]], max_decimals: int, max_levels: int) -> None:
    values = np.array([value for run in runs for value in run], np.float64)
    starts = np.cumsum([0, *(len(run) for run in runs)])[: len(runs)].astype(np.int64)
    decimals, levels, largest = classify_runs(values, starts, max_decimals, max_levels)
    found = list(zip(decimals.tolist(), levels.tolist(), largest.tolist(), strict=True))
    assert found == [classify_run(run, max_decimals, max_levels) for run in runs]


@pytest.mark.parametrize(
    ("starts", "decimals", "levels"),
    [([1], 6, 4), ([0, 0], 6, 4), ([0, 5], 6, 4), ([], 6, 4), ([0], 16, 4), ([0], 6, 65), ([0], -1, 4)],
)
def test_wrong_use_is_refused(starts: list[int], decimals: int, levels: int) -> None:
    with pytest.raises(ValueError, match="cannot classify runs"):
        classify_runs(np.zeros(3), np.array(starts, np.int64), decimals, levels)
