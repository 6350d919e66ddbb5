"""What kind of numbers a series holds, one cell at a time (engine/segments/route.py, native/routing.pyx)."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

ABSENT_BITS = 0x7FF8544944454741


def bits_of(value: float) -> int:
    return int(struct.unpack("<Q", struct.pack("<d", value))[0])


def exact(value: float, decimals: int) -> bool:
    """Whether rounding value * 10^decimals to a whole number up to 2^53 and dividing it gives the value back."""
    scaled = value * 10.0**decimals
    if not math.isfinite(scaled) or abs(scaled) > 2**53:
        return False
    return bits_of(round(scaled) / 10.0**decimals) == bits_of(value)


def classify_run(values: Sequence[float], max_decimals: int, max_levels: int) -> tuple[int, int, float]:
    """Return decimals, levels and largest magnitude of one run."""
    present = [value for value in values if bits_of(value) != ABSENT_BITS]
    levels = min(len({bits_of(value) for value in present}), max_levels + 1)
    largest = max((abs(value) for value in present if not math.isnan(value)), default=0.0)
    if not present:
        return -2, 0, 0.0
    suiting = [k for k in range(max_decimals + 1) if all(exact(value, k) for value in present)]
    return (suiting[0] if suiting else -1), levels, largest
