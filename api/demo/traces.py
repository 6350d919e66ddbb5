"""Recorded request rates as the load of a simulated fleet."""

from __future__ import annotations

import json
import os

import numpy as np
import pyarrow.parquet as pq

from api.cli import WrongUse
from engine.model.rows import Float64Array

#: What the quietest and the busiest moment of a trace are to the fleet, of which 1 is the usual.
LEAST, MOST = 0.4, 1.6
WEEK_SECONDS = 7 * 86_400
#: Shorter traces say nothing of how one week differs from the other, and are left out.
LEAST_WEEKS = 2
#: Traces whose busiest moment is beyond this share of them are cut there: one flash must not flatten the rest.
BUSIEST = 0.999


class TraceLoad:
    """A trace of rates, again and again; ``offset`` seconds of it have passed when the counters begin."""

    def __init__(self, name: str, rates: Float64Array, step_seconds: float, offset: float = 0.0) -> None:
        """``rates`` float64[n]; what is not finite is taken for the rate before it."""
        # Whole weeks, so that the hour and the day of the week go on where the trace begins again.
        week = round(WEEK_SECONDS / step_seconds)
        rates = rates[: max(len(rates) // week * week, min(len(rates), week))]
        known = np.isfinite(rates)
        filled = rates[np.maximum.accumulate(np.where(known, np.arange(len(rates)), int(np.argmax(known))))]
        low, high = float(filled.min()), float(np.quantile(filled, BUSIEST))
        shares = np.clip((filled - low) / max(high - low, 1e-9), 0.0, 1.0)
        self.name, self._step, self._offset = name, step_seconds, offset
        self._factors = LEAST + (MOST - LEAST) * shares
        self._sums = np.concatenate([[0.0], np.cumsum(self._factors)]) * step_seconds
        self._length = step_seconds * len(filled)

    def at(self, seconds: float) -> float:
        return float(self._factors[int((seconds + self._offset) % self._length / self._step)])

    def integral(self, seconds: float) -> float:
        return self._from_start(seconds + self._offset) - self._from_start(self._offset)

    def _from_start(self, seconds: float) -> float:
        rounds, rest = divmod(seconds, self._length)
        place = min(int(rest / self._step), len(self._factors) - 1)
        within = self._sums[place] + (rest - place * self._step) * self._factors[place]
        return float(rounds * self._sums[-1] + within)


def load_traces(directory: str) -> list[TraceLoad]:
    """Return the traces of two weeks and more that ``traces.json`` in ``directory`` lists.

    Raises WrongUse where there are none.
    """
    path = os.path.join(directory, "traces.json")
    try:
        with open(path, encoding="utf-8") as file:
            listed = json.load(file)
        rates = {
            name: (
                pq.read_table(os.path.join(directory, each["file"]))["rate"].to_numpy().astype(np.float64),
                float(each["step_seconds"]),
            )
            for name, each in listed.items()
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WrongUse(f"cannot read traces: {error} (want {path} and the Parquet files that it lists)") from None
    found = [
        TraceLoad(name, each, step)
        for name, (each, step) in rates.items()
        if len(each) * step >= LEAST_WEEKS * WEEK_SECONDS
    ]
    if not found:
        raise WrongUse(f"cannot use the traces in {directory}: none of them is two weeks long")
    return found
