"""Times of rows as places on a grid of equal steps."""

from __future__ import annotations

import numpy as np

from engine.errors import BadRequest
from engine.model.rows import Int64Array

#: A time may be so far from its place, in steps.
SLACK = 0.25
MOST_GAPS = 10_000_000


def places(times: Int64Array, name: str) -> tuple[int, Int64Array]:
    """Return the step (ns), the most frequent distance, and each row's place behind the first, int64[n].

    ``name``: what errors call the rows.  Raises BadRequest for times that do not rise or do not lie on one grid.
    """
    if len(times) < 2:
        raise BadRequest(f"cannot forecast {name}: it has {len(times)} rows, want 3 or more")
    distances = np.diff(times)
    if (distances <= 0).any():
        row = int(np.argmax(distances <= 0)) + 2
        raise BadRequest(f"cannot forecast {name}: row {row} is not later than the row before; sort the rows by time")
    steps, counts = np.unique(distances, return_counts=True)
    step_ns = int(steps[np.argmax(counts)])
    exact = (times - times[0]) / step_ns
    found = np.round(exact).astype(np.int64)
    off = (np.abs(exact - found) > SLACK) | (np.diff(found, prepend=-1) == 0)
    if off.any():
        row = int(np.argmax(off)) + 1
        raise BadRequest(
            f"cannot forecast {name}: row {row} is not a whole number of {step_ns / 1e9:g} s behind the first;"
            " aggregate to equal steps first"
        )
    if found[-1] > MOST_GAPS:
        raise BadRequest(f"cannot forecast {name}: {found[-1]} steps of {step_ns / 1e9:g} s are too many")
    return step_ns, found
