"""How many rows a day has, where rows come without times: the daily repetition that they show."""

from __future__ import annotations

import numpy as np

from engine.model.rows import Float64Array

#: Rows a day for the intervals at which metrics are taken: 1 h, 30, 20, 15, 10, 5, 2 and 1 min, 30, 20, 15 and 10 s.
DAYS = (24, 48, 72, 96, 144, 288, 720, 1440, 2880, 4320, 5760, 8640)
#: So many days must have been seen.
LEAST_DAYS = 2.5
#: The mean autocorrelation from which on a repetition is believed.
LEAST_CORRELATION = 0.1


def day_rows(columns: Float64Array) -> int | None:
    """Return how many rows make a day, judged by the mean autocorrelation of the columns of float64[n, k], or None.

    A day correlates with the next one, but not with the night half a day away.  Two days repeat as well as one, so the
    shortest of the good lengths is the answer.  Values far out are cut off; columns that do not vary are left out.
    """
    rows = len(columns)
    possible = [day for day in DAYS if rows >= LEAST_DAYS * day]
    low, high = np.nanquantile(columns, [0.01, 0.99], axis=0)
    varying = high > low
    if not possible or not varying.any():
        return None
    held = np.clip(columns[:, varying], low[varying], high[varying])
    held = np.nan_to_num(held - np.nanmean(held, axis=0))
    spectrum = np.fft.rfft(held, 2 * rows, axis=0)
    correlation = np.fft.irfft((spectrum * spectrum.conj()).real, axis=0)[: rows // 2]
    mean = (correlation / np.maximum(correlation[0], 1e-300)).mean(axis=1)
    # Longer lags have fewer rows in common, which makes their sums smaller.
    mean = mean * rows / (rows - np.arange(len(mean)))
    rise = [float(mean[day] - mean[day // 2]) if mean[day] >= LEAST_CORRELATION else 0.0 for day in possible]
    best = max(rise)
    if best < LEAST_CORRELATION:
        return None
    return next(day for day, found in zip(possible, rise, strict=True) if found >= 0.8 * best)
