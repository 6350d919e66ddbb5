"""Lines of points, and the highest of them in each bucket."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.model.rows import Float64Array, Int64Array


@dataclass(frozen=True, slots=True)
class SeriesPoints:
    """One line of an answer.  ``times``: int64[n] bucket starts; ``values``: float64[n]; empty buckets are left out.

    ``sample_times``: int64[n], of the samples that are the values, where these are newest samples.
    """

    labels: dict[str, str]
    times: Int64Array
    values: Float64Array
    metric: str = ""
    sample_times: Int64Array | None = None


def highest(lines: Sequence[SeriesPoints], count: int, *, lowest: bool = False) -> list[SeriesPoints]:
    """Return the lines with those of their points that are among the ``count`` highest of their bucket.

    As PromQL's ``topk`` and ``bottomk``: lines without such a point are left out, NaN comes after every number.  Of
    equal values the earlier line's counts.
    """
    if not lines:
        return []
    sizes = [len(line.times) for line in lines]
    owners = np.repeat(np.arange(len(lines)), sizes)
    times = np.concatenate([line.times for line in lines])
    values = np.concatenate([line.values for line in lines])
    order = np.lexsort((owners, values if lowest else -values, times))
    ordered = times[order]
    first = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    rank = np.arange(len(ordered)) - np.repeat(first, np.diff(np.append(first, len(ordered))))
    kept = np.zeros(len(times), np.bool_)
    kept[order[rank < count]] = True
    found, at = [], 0
    for line, size in zip(lines, sizes, strict=True):
        chosen = kept[at : at + size]
        at += size
        if chosen.any():
            sample_times = None if line.sample_times is None else line.sample_times[chosen]
            found.append(SeriesPoints(line.labels, line.times[chosen], line.values[chosen], line.metric, sample_times))
    return found
