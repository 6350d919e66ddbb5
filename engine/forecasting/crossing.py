"""When a forecast reaches a limit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.forecasting.forecast import Forecast
from engine.model.rows import Float64Array

UP, DOWN = "up", "down"


@dataclass(frozen=True, slots=True)
class Crossing:
    """When a series that is below a limit reaches it from below, or one above it from above.

    Steps ahead, 1 for the first, None where the forecast does not get there: ``expected`` by the middle, ``earliest``
    and ``latest`` by the 95 % interval, ``earliest80`` and ``latest80`` by the 80 % one.
    """

    limit: float
    direction: str
    expected: int | None
    earliest: int | None
    earliest80: int | None
    latest80: int | None
    latest: int | None


def crossing(ahead: Forecast, last: float, limit: float) -> Crossing:
    """Return when ``ahead`` reaches ``limit``, from the side on which ``last``, the newest value, lies."""
    up = last < limit
    soon95, soon80, late80, late95 = (
        (ahead.hi95, ahead.hi80, ahead.lo80, ahead.lo95) if up else (ahead.lo95, ahead.lo80, ahead.hi80, ahead.hi95)
    )

    def first(path: Float64Array) -> int | None:
        reached = path >= limit if up else path <= limit
        return int(np.argmax(reached)) + 1 if reached.any() else None

    return Crossing(
        limit=limit,
        direction=UP if up else DOWN,
        expected=first(ahead.mean),
        earliest=first(soon95),
        earliest80=first(soon80),
        latest80=first(late80),
        latest=first(late95),
    )
