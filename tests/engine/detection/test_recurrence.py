"""What recurs, against a slow twin that looks at every stretch anew."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engine.detection.recurrence import STRETCH_ROWS, STRETCHES, no_stretches, recurring


def twin(values: np.ndarray) -> np.ndarray:
    found = np.zeros_like(values)
    for row in range(len(values)):
        begins = row // STRETCH_ROWS * STRETCH_ROWS
        for column in range(values.shape[1]):
            largest = []
            for start in range(begins, begins - STRETCHES * STRETCH_ROWS, -STRETCH_ROWS):
                stretch = values[max(start, 0) : max(min(start + STRETCH_ROWS, row + 1), 0), column].tolist()
                largest.append(max(stretch, default=0.0))
            found[row, column] = sorted(largest)[1]
    return found


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 400),
    st.lists(st.integers(0, 400), max_size=4),
    st.sampled_from([0.0, 0.9, 0.99]),
)
def test_rows_in_blocks_of_any_size_recur_as_the_twin_says(seed: int, rows: int, cuts: list[int], zeros: float) -> None:
    random = np.random.default_rng(seed)
    values = np.where(random.random((rows, 3)) < zeros, 0.0, random.random((rows, 3)))
    largest = no_stretches(3)
    edges = sorted({0, rows, *(cut for cut in cuts if cut < rows)})
    parts = [recurring(values[a:b], a, largest) for a, b in pairwise(edges)]
    np.testing.assert_array_equal(np.concatenate(parts), twin(values))


def test_one_burst_does_not_recur_and_one_in_every_stretch_does() -> None:
    values = np.zeros((STRETCH_ROWS * 8, 2))
    values[30:35, 0] = 5.0
    values[30::STRETCH_ROWS, 1] = 3.0
    found = recurring(values, 0, no_stretches(2))
    assert not found[:, 0].any()
    assert (found[2 * STRETCH_ROWS + 30 :, 1] == 3.0).all()
    assert not found[: 2 * STRETCH_ROWS + 30, 1].any()
