"""native.groups against lists of members."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from native.groups import HOWS, aggregate_groups
from tests.oracles import groups as oracle

ROWS = st.lists(st.tuples(st.floats(), st.integers(-5, 5), st.integers(0, 3)), max_size=30)


@settings(max_examples=300, deadline=None)
@given(ROWS, st.integers(4, 6), st.sampled_from(sorted(HOWS)), st.integers(-6, 6))
def test_groups_have_what_the_obvious_loops_give(
    rows: list[tuple[float, int, int]], group_count: int, how: str, oldest_ns: int
) -> None:
    values, times, groups = ([row[at] for row in rows] for at in range(3))
    found, newest = aggregate_groups(
        np.array(values, np.float64),
        np.array(times, np.int64),
        np.array(groups, np.int32),
        group_count,
        how,
        oldest_ns,
    )
    expected, expected_newest = oracle.aggregate_groups(values, times, groups, group_count, how, oldest_ns)
    np.testing.assert_array_equal(found, np.array(expected))
    assert newest.tolist() == expected_newest


def test_what_is_no_group_is_refused() -> None:
    one = np.zeros(2), np.zeros(2, np.int64)
    for wrong in (-1, 3):
        with pytest.raises(ValueError, match="got 1 rows of groups that there are not, want 0 to 2"):
            aggregate_groups(*one, np.array([0, wrong], np.int32), 3, "sum", 0)
    with pytest.raises(ValueError, match="got 1 rows, want 2"):
        aggregate_groups(*one, np.zeros(1, np.int32), 3, "sum", 0)
    with pytest.raises(TypeError, match="times: got dtype float64, want int64"):
        aggregate_groups(np.zeros(2), np.zeros(2), np.zeros(2, np.int32), 3, "sum", 0)
    with pytest.raises(KeyError, match="median"):
        aggregate_groups(*one, np.zeros(2, np.int32), 3, "median", 0)
