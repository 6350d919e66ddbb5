"""native.folding against a dictionary of lists."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from native.folding import HOWS, fold_buckets, fold_rows, locate_cells, locate_in_order
from tests.oracles import folding as oracle

ROWS = st.lists(st.tuples(st.integers(0, 9), st.integers(-5, 60)), max_size=40)
PLACES = st.dictionaries(st.integers(2, 8), st.integers(0, 6), max_size=5)
FOLDED = st.lists(st.tuples(st.integers(-1, 4), st.integers(0, 3), st.floats(), st.integers(-9, 9)), max_size=40)
CELLS = 5


@settings(max_examples=300, deadline=None)
@given(
    ROWS,
    PLACES,
    st.lists(st.integers(-3, 40), max_size=6).map(sorted),
    st.integers(1, 9),
)
def test_rows_are_located_as_by_looking_at_each(
    rows: list[tuple[int, int]], place_of: dict[int, int], bounds: list[int], step: int
) -> None:
    bounds = bounds[: len(bounds) // 2 * 2]
    origin = -3
    steps = 44 // step + 1
    places = np.array([place_of.get(tagset_id, -1) for tagset_id in range(2, 9)], np.int32)
    ids, times = [row[0] for row in rows], [row[1] for row in rows]
    found = locate_cells(
        np.array(ids, np.int32), np.array(times, np.int64), places, 2, np.array(bounds, np.int64), origin, step, steps
    )
    ranges = list(zip(bounds[::2], bounds[1::2], strict=True))
    assert found.tolist() == oracle.locate_cells(ids, times, place_of, ranges, origin, step, steps)


@settings(max_examples=300, deadline=None)
@given(ROWS.map(lambda rows: sorted(set(rows))), PLACES, st.integers(-3, 41), st.integers(0, 40), st.integers(1, 9))
def test_rows_in_order_are_looked_up(
    rows: list[tuple[int, int]], place_of: dict[int, int], start: int, length: int, step: int
) -> None:
    end = min(start + length, 41)
    steps = 44 // step + 1
    places = np.array([place_of.get(tagset_id, -1) for tagset_id in range(2, 9)], np.int32)
    ids, times = [row[0] for row in rows], [row[1] for row in rows]
    chosen, cells = locate_in_order(
        np.array(ids, np.int32), np.array(times, np.int64), places, 2, start, end, -3, step, steps
    )
    expected = oracle.locate_cells(ids, times, place_of, [(start, end)], -3, step, steps)
    assert chosen.tolist() == [row for row, cell in enumerate(expected) if cell >= 0]
    assert cells.tolist() == [cell for cell in expected if cell >= 0]


@settings(max_examples=300, deadline=None)
@given(FOLDED, st.sampled_from(sorted(HOWS)), st.booleans())
def test_cells_have_what_the_obvious_loop_gives(
    rows: list[tuple[int, int, float, int]], how: str, samples: bool
) -> None:
    cells, held, values, times = ([row[at] for row in rows] for at in range(4))
    counts, folded = np.zeros(CELLS, np.int64), np.zeros(CELLS)
    arrays = np.array(cells, np.int32), np.array(values, np.float64), np.array(times, np.int64)
    if samples:
        held = oracle.counts_of(values)
        taken, newest = fold_rows(arrays[0], arrays[2], arrays[1], how, counts, folded)
        assert taken == sum(1 for cell, held_by in zip(cells, held, strict=True) if cell >= 0 and held_by)
    else:
        newest = fold_buckets(arrays[0], np.array(held, np.int64), arrays[1], how, counts, folded, arrays[2])
    expected, expected_newest = oracle.fold(cells, held, values, times, how)
    assert newest == expected_newest
    assert counts.tolist() == [expected.get(cell, (0, 0.0))[0] for cell in range(CELLS)]
    for cell, (_, value) in expected.items():
        np.testing.assert_array_equal(folded[cell], value)
        assert np.signbit(folded[cell]) == np.signbit(value) or np.isnan(value)


def test_what_does_not_fit_is_refused() -> None:
    one = np.zeros(1, np.int32), np.zeros(1, np.int64)
    for bounds, step, steps in (([5, 4], 1, 9), ([-1, 4], 1, 9), ([0], 1, 9), ([0, 10], 1, 9), ([0, 9], 0, 9)):
        with pytest.raises(ValueError, match="cannot locate cells"):
            locate_cells(*one, np.zeros(1, np.int32), 0, np.array(bounds, np.int64), 0, step, steps)
    with pytest.raises(ValueError, match="want fewer"):
        locate_cells(*one, np.array([1 << 20], np.int32), 0, np.zeros(0, np.int64), 0, 1, 1 << 12)
    for start, end, step in ((-1, 4, 1), (0, 10, 1), (0, 9, 0)):
        with pytest.raises(ValueError, match="cannot locate"):
            locate_in_order(*one, np.zeros(1, np.int32), 0, start, end, 0, step, 9)
    cells = np.zeros(2, np.int64), np.zeros(2)
    with pytest.raises(ValueError, match="got 1 rows of cells that there are not, want less than 2"):
        fold_rows(np.array([2], np.int32), one[1], np.zeros(1), "sum", *cells)
    with pytest.raises(ValueError, match="got 1 rows of cells that there are not, want less than 2"):
        fold_buckets(np.array([2], np.int32), one[1], np.zeros(1), "sum", *cells)
    with pytest.raises(KeyError, match="avg"):
        fold_rows(one[0], one[1], np.zeros(1), "avg", *cells)
    with pytest.raises(ValueError, match="got 3 rows, want 2"):
        fold_rows(one[0], one[1], np.zeros(1), "sum", np.zeros(2, np.int64), np.zeros(3))
