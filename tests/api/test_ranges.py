"""Bodies of ``GET /v1/query`` are what encoding line after line gives."""

from __future__ import annotations

import msgspec
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from api.ranges import range_json, range_metadata
from engine.query.range import RangeAnswer
from engine.query.serieslist import LineBlock, SeriesList, SeriesPoints

LINES = st.lists(
    st.tuples(
        st.sampled_from(['a "quoted"', "b"]),
        st.sampled_from([{}, {"host": "]],[["}, {"host": "é", "zone": "1"}]),
        st.lists(st.tuples(st.integers(-(2**60), 2**60), st.floats()), min_size=1, max_size=3),
    ),
    max_size=8,
)


@settings(max_examples=300, deadline=None)
@given(LINES, st.booleans(), st.booleans(), st.integers(1, 9))
def test_lines_are_written_one_by_one(
    given_lines: list[tuple[str, dict[str, str], list[tuple[int, float]]]], alike: bool, sampled: bool, limit: int
) -> None:
    lines = [
        SeriesPoints(
            labels,
            np.array([place if alike else time for place, (time, _) in enumerate(points)], np.int64),
            np.array([value for _, value in points], np.float64),
            metric,
            np.array([time for time, _ in points], np.int64) if sampled else None,
        )
        for metric, labels, points in given_lines
    ]
    answer = RangeAnswer("m", "avg", 10**9, "raw", SeriesList(LineBlock.of(lines)), sources={"raw": 2})
    series = [
        {"metric": line.metric, "labels": line.labels, "times": line.times.tolist(), "values": line.values.tolist()}
        | ({} if line.sample_times is None else {"sample_times": line.sample_times.tolist()})
        for line in lines[:limit]
    ]
    body = range_metadata(answer) | {"truncated": len(lines) > limit, "series": series}
    assert range_json(answer, limit) == msgspec.json.encode(body)
