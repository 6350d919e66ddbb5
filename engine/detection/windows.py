"""Which time is held against which: where an incident began, and what is taken for normal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

#: What an incident is told by comes this many steps after it begins to show: rules and detectors wait.
LEAD_STEPS = 2


@dataclass(frozen=True, slots=True)
class Windows:
    """Rows in [``normal_start_ns``, ``start_ns``) are normal, in [``start_ns``, ``end_ns``) abnormal.

    ``basis``: what told the beginning: "alerts", "anomalies", "recent" (nothing: the last minutes are looked at) or
    "asked" (the caller).
    """

    normal_start_ns: int
    start_ns: int
    end_ns: int
    basis: str


def choose_windows(
    end_ns: int,
    *,
    alerts_ns: Sequence[int],
    anomalies_ns: Sequence[int],
    window_ns: int,
    history_ns: int,
    step_ns: int,
) -> Windows:
    """Return the windows for an analysis at ``end_ns``, all at multiples of ``step_ns``.

    ``alerts_ns``: when the firing alerts began; ``anomalies_ns``: times of anomalies.  Those of the last ``history_ns``
    count, the newest and all before it without a pause longer than ``window_ns``: one incident, not the next to last.
    Anomalies must be as new as ``window_ns``.  Without either the last ``window_ns`` are abnormal.
    """
    end_ns -= end_ns % step_ns
    for basis, times, newest_ns in (("alerts", alerts_ns, history_ns), ("anomalies", anomalies_ns, window_ns)):
        began_ns = _began(times, end_ns - newest_ns, end_ns - history_ns, window_ns)
        if began_ns is not None:
            start_ns = began_ns - began_ns % step_ns - LEAD_STEPS * step_ns
            return Windows(start_ns - history_ns, start_ns, max(end_ns, start_ns + (LEAD_STEPS + 1) * step_ns), basis)
    return recent_windows(end_ns, window_ns=window_ns, history_ns=history_ns, step_ns=step_ns)


def recent_windows(end_ns: int, *, window_ns: int, history_ns: int, step_ns: int, basis: str = "recent") -> Windows:
    """Return the last ``window_ns`` before ``end_ns`` against the ``history_ns`` before, in whole steps."""
    end_ns -= end_ns % step_ns
    start_ns = end_ns - max(1, window_ns // step_ns) * step_ns
    return Windows(start_ns - max(1, history_ns // step_ns) * step_ns, start_ns, end_ns, basis)


def _began(times: Sequence[int], newest_from_ns: int, from_ns: int, pause_ns: int) -> int | None:
    began_ns: int | None = None
    for time_ns in sorted(times, reverse=True):
        if time_ns < (newest_from_ns if began_ns is None else max(from_ns, began_ns - pause_ns)):
            break
        began_ns = time_ns
    return began_ns
