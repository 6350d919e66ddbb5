from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.model.rows import Rows, absent_matrix, concat, distinct, series_id_of
from native.columns import ABSENT, is_absent


def rows(tagset_ids: list[int], times: list[int], **fields: list[float]) -> Rows:
    field_ids = tuple(int(name[1:]) for name in fields)
    values = np.array(list(fields.values()), np.float64).reshape(len(field_ids), len(times))
    return Rows(np.array(tagset_ids, np.int32), np.array(times, np.int64), field_ids, values)


def test_concat_fills_fields_that_a_part_lacks_with_absent() -> None:
    joined = concat([rows([1], [10], f0=[1.5]), rows([2], [20], f0=[2.5], f3=[3.5]), rows([1], [30], f3=[4.5])])
    assert joined.field_ids == (0, 3)
    assert joined.tagset_ids.tolist() == [1, 2, 1]
    assert joined.times.tolist() == [10, 20, 30]
    assert [is_absent(column).tolist() for column in joined.values] == [
        [False, False, True],
        [True, False, False],
    ]
    assert joined.values[0, :2].tolist() == [1.5, 2.5]
    assert joined.values[1, 1:].tolist() == [3.5, 4.5]
    assert joined.sample_count() == 4


def test_concat_of_nothing_is_empty() -> None:
    assert len(concat([])) == 0
    assert len(concat([Rows.empty((1, 2))])) == 0


def test_between_is_half_open() -> None:
    part = rows([1, 1, 1], [10, 20, 30], f0=[1, 2, 3])
    assert part.between(10, 30).times.tolist() == [10, 20]
    assert part.between(10, 31) is part


def test_absent_matrix_is_absent_and_nothing_else_is() -> None:
    matrix = absent_matrix(2, 3)
    assert all(is_absent(column).all() for column in matrix)
    assert not is_absent(np.array([np.nan, np.inf, 0.0, -np.nan])).any()
    assert np.isnan(ABSENT)


@pytest.mark.parametrize(("tagset_id", "field_id"), [(0, 0), (1, 65_535), (2**31 - 1, 65_535)])
def test_series_id_holds_both_numbers(tagset_id: int, field_id: int) -> None:
    series_id = series_id_of(tagset_id, field_id)
    assert (series_id >> 16, series_id & 0xFFFF) == (tagset_id, field_id)
    assert series_id < 2**63


@given(st.lists(st.integers(-5, 5)), st.booleans())
def test_distinct_values_are_ascending(values: list[int], ordered: bool) -> None:
    given_values = np.array(sorted(values) if ordered else values, np.int64)
    assert distinct(given_values).tolist() == sorted(set(values))
