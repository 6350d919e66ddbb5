"""The highest points of each bucket."""

from __future__ import annotations

import numpy as np

from engine.query.serieslist import SeriesList


def highest(lines: SeriesList, count: int, *, lowest: bool = False) -> SeriesList:
    """Return the lines with those of their points that are among the ``count`` highest of their bucket.

    As PromQL's ``topk`` and ``bottomk``: lines without such a point are left out, NaN comes after every number.  Of
    equal values the earlier line's counts.
    """
    if not lines:
        return lines
    times = np.concatenate([block.times for block in lines.blocks])
    values = np.concatenate([block.values for block in lines.blocks])
    # Points stand in the order of their lines, and sorting is stable.
    order = np.lexsort((values if lowest else -values, times))
    ordered = times[order]
    first = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    rank = np.arange(len(ordered)) - np.repeat(first, np.diff(np.append(first, len(ordered))))
    kept = np.zeros(len(times), np.bool_)
    kept[order[rank < count]] = True
    ends = np.cumsum([len(block.times) for block in lines.blocks])[:-1]
    return SeriesList(block.where(chosen) for block, chosen in zip(lines.blocks, np.split(kept, ends), strict=True))
