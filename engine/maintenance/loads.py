"""The load that a target has had, from stored samples: what a model of it starts with."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from engine.clock import NS_PER_MINUTE
from engine.config import ScaleTarget
from engine.model.matchers import equality_matchers
from engine.model.rows import Float64Array
from engine.query.range import RangeAnswer, RangeQuery
from engine.scaling.demand import DAY, LEAD, SLOT_NS
from engine.scaling.policy import FULL_PERCENT, measures_load

STEP_NS = NS_PER_MINUTE
#: What a day ago was like must be known up to the lead behind it.
STEPS = (DAY + 2 * LEAD) * SLOT_NS // STEP_NS + 60


def loads_so_far(
    target: ScaleTarget, now_ns: int, read: Callable[[RangeQuery], RangeAnswer]
) -> Iterator[tuple[int, float]]:
    """Give (time in ns, load in full instances) of each slot of the last day and an hour that something is known of.

    The load of a minute is the sum of its instances' CPU; one that says nothing for a while counts as before for
    ``stale_after``.  A signal that is more than the plain metric gives nothing.
    """
    signal = next((signal for signal in target.signals if measures_load(signal)), None)
    if signal is None or signal.divide_by is not None or signal.aggregate not in ("last", "avg"):
        return
    end_ns = now_ns // STEP_NS * STEP_NS
    start_ns = end_ns - STEPS * STEP_NS
    matchers = equality_matchers(target.match)
    query = RangeQuery(signal.metric, start_ns, end_ns, STEP_NS, "avg", matchers, (target.instance_label,))
    whole = np.zeros(STEPS)
    known = np.zeros(STEPS, np.bool_)
    for line in read(query).series:
        held = _held((line.times - start_ns) // STEP_NS, line.values, int(target.stale_after) // STEP_NS)
        known |= np.isfinite(held)
        whole += np.nan_to_num(held)
    for step in np.flatnonzero(known).tolist():
        load = float(whole[step]) * signal.scale / FULL_PERCENT
        for slot_ns in range(start_ns + step * STEP_NS, start_ns + (step + 1) * STEP_NS, SLOT_NS):
            yield slot_ns, load


def _held(steps: np.ndarray, values: Float64Array, longest: int) -> Float64Array:
    """Return float64[STEPS], each value kept for at most ``longest`` steps without another; NaN where nothing is."""
    newest = np.full(STEPS, -1)
    newest[steps] = np.arange(len(steps))
    newest = np.maximum.accumulate(newest)
    there = newest >= 0
    there[there] = np.flatnonzero(there) - steps[newest[there]] <= longest
    held = np.full(STEPS, np.nan)
    held[there] = values[newest[there]]
    return held
