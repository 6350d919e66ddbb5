"""Lines kept as columns are the lines they were made of."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.query.serieslist import LineBlock, SeriesList, SeriesPoints


def line(metric: str, number: int, points: int) -> SeriesPoints:
    times = np.arange(points, dtype=np.int64)
    return SeriesPoints({"host": str(number)}, times, times * 1.5 + number, metric, times + 1)


def shown(each: SeriesPoints) -> tuple[object, ...]:
    assert each.sample_times is not None
    return each.metric, each.labels["host"], each.times.tolist(), each.values.tolist(), each.sample_times.tolist()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3)), max_size=12), st.integers(0, 14))
def test_lines_come_back_as_they_were(given_lines: list[tuple[str, int]], count: int) -> None:
    lines = [line(metric, number, points) for number, (metric, points) in enumerate(given_lines)]
    found = SeriesList(LineBlock.of(lines))
    assert len(found) == len(lines)
    assert [shown(each) for each in found] == [shown(each) for each in lines]
    assert [shown(found[place]) for place in range(-len(lines), len(lines))] == [shown(each) for each in lines * 2]
    assert [shown(each) for each in found[1:count:2]] == [shown(each) for each in lines[1:count:2]]
    assert [shown(each) for each in found.first(count)] == [shown(each) for each in lines[:count]]
    found.sort("cab".index)
    assert [shown(each) for each in found] == [shown(e) for e in sorted(lines, key=lambda e: "cab".index(e.metric))]


def test_points_can_be_chosen_and_lines_without_any_are_left_out() -> None:
    [block] = LineBlock.of([line("a", 0, 2), line("a", 1, 1), line("a", 2, 2)])
    kept = SeriesList([block.where(np.array([False, True, False, True, True]))])
    assert [(each.labels["host"], each.times.tolist()) for each in kept] == [("0", [1]), ("2", [0, 1])]
    assert SeriesList([block.where(np.zeros(5, np.bool_))]) == []
    with pytest.raises(IndexError, match="no line 2"):
        kept[2]
