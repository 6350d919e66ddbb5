"""native.combinations against dictionaries and mixed radix in Python."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from native.columns import ABSENT
from native.combinations import KeyNumbers, all_finite, combine

FEW = settings(max_examples=150, deadline=None)
ROWS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 6), st.integers(0, 40)), max_size=40)
SIZES = [3, 7, 41]


@FEW
@given(ROWS, st.lists(st.booleans(), min_size=3, max_size=3), st.integers(1, 60))
def test_keys_are_mixed_radix(rows: list[tuple[int, int, int]], wide: list[bool], repeat: int) -> None:
    rows *= repeat
    codes = [
        np.array([row[at] for row in rows], np.int64 if wide[at] else np.int32) for at in range(3)
    ]  # beyond a thousand rows as well, which are combined in pieces
    assert combine(codes, SIZES).tolist() == [(a * 7 + b) * 41 + c for a, b, c in rows]


@pytest.mark.parametrize("code", [-1, 3, 2**31 - 1])
@pytest.mark.parametrize("kind", [np.int32, np.int64])
def test_a_code_that_no_value_stands_for_is_refused(code: int, kind: type[np.integer]) -> None:
    with pytest.raises(ValueError, match="got 1 that no value stands for"):
        combine([np.array([0, code, 2], kind)], [3])


def test_other_arrays_are_refused() -> None:
    with pytest.raises(TypeError, match="got dtype uint16, want int32"):
        combine([np.zeros(2, np.uint16)], [3])
    with pytest.raises(ValueError, match="got 3 rows, want 2"):
        combine([np.zeros(2, np.int32), np.zeros(3, np.int32)], [3, 3])
    with pytest.raises(TypeError, match="keys"):
        KeyNumbers().find(np.zeros(2, np.int32))
    with pytest.raises(ValueError, match="got 1 rows, want 2"):
        KeyNumbers().add(np.zeros(2, np.int64), np.zeros(1, np.int32))


@FEW
@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(-(2**63), 2**63 - 1), max_size=80, unique=True),
            st.lists(st.integers(0, 10_000), max_size=80),
        ),
        max_size=5,
    )
)
def test_numbers_are_those_that_were_given(steps: list[tuple[list[int], list[int]]]) -> None:
    known: dict[int, int] = {}
    table = KeyNumbers()
    for keys, asked in steps:
        new = [key for key in keys if key not in known]
        numbers = [len(known) + at for at in range(len(new))]
        table.add(np.array(new, np.int64), np.array(numbers, np.int32))
        known.update(zip(new, numbers, strict=True))
        every = [*list(known), 7, -7]
        wanted = [every[at % len(every)] for at in asked] + every
        assert table.find(np.array(wanted, np.int64)).tolist() == [known.get(key, -1) for key in wanted]
        assert len(table) == len(known)


def test_a_key_is_added_once() -> None:
    table = KeyNumbers()
    table.add(np.array([5], np.int64), np.array([1], np.int32))
    with pytest.raises(ValueError, match="got 5, which is known"):
        table.add(np.array([5], np.int64), np.array([2], np.int32))


@FEW
@given(st.lists(st.floats(), max_size=30), st.integers(1, 3))
def test_finite_means_what_it_means_to_numpy(cells: list[float], fields: int) -> None:
    matrix = np.tile(np.array(cells, np.float64), (fields, 2))
    assert all_finite(matrix) == bool(np.isfinite(matrix).all())
    assert all_finite(matrix[:, : len(cells)]) == bool(np.isfinite(matrix[:, : len(cells)]).all())


def test_extremes() -> None:
    largest = np.finfo(np.float64).max
    assert all_finite(np.array([[largest, -largest, 0.0, -0.0, 5e-324]]))
    for bad in (np.inf, -np.inf, np.nan, ABSENT):
        assert not all_finite(np.array([[1.0, bad]]))
    with pytest.raises(ValueError, match="a field with gaps"):
        all_finite(np.zeros((3, 4))[:, ::2])
