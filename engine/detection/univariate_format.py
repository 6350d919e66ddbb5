"""The univariate detector's state as it is saved (docs/formats/detectors.md), and what older versions saved."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from engine.detection.snapshot import Arrays
from engine.errors import Damage
from native.kernels import univariate_state as layout

Shapes = dict[str, tuple[int, npt.DTypeLike]]

#: Array -> columns and type, in memory.
SHAPES: Shapes = {
    "numbers": (layout.NUMBERS, np.float32),
    "exact": (layout.EXACT, np.float64),
    "times": (layout.TIMES, np.int64),
    "profile": (layout.PLACES, np.float32),
    "visits": (layout.PLACES, np.uint8),
    "week": (layout.CELLS, np.uint16),
}
_SAVED: Shapes = SHAPES | {"numbers": (len(layout.SAVED), np.float32)}
_SAVED_BEFORE_WEEKS: Shapes = {
    **{name: shape for name, shape in _SAVED.items() if name != "week"},
    "numbers": (73, np.float32),
    "times": (4, np.int64),
}


def saved(state: Arrays) -> Arrays:
    """Return the arrays that are saved of a state."""
    return state | {"numbers": state["numbers"][:, layout.SAVED]}


def restored(arrays: Arrays, path: str) -> Arrays:
    """Return the state that was saved as ``arrays``, by this or an older version; raises Damage, naming ``path``."""
    if "week" not in arrays:
        arrays = _with_weeks(_checked(arrays, _SAVED_BEFORE_WEEKS, path))
    state = dict(_checked(arrays, _SAVED, path))
    numbers = np.zeros((len(state["numbers"]), layout.NUMBERS), np.float32)
    numbers[:, layout.SAVED] = state["numbers"]
    return state | {"numbers": numbers}


def _checked(arrays: Arrays, shapes: Shapes, path: str) -> Arrays:
    count = len(arrays.get("numbers", ()))
    for name, (width, dtype) in shapes.items():
        array = arrays.get(name)
        if array is None or array.dtype != np.dtype(dtype) or array.shape != (count, width):
            raise Damage(
                f"cannot read detector state: array {name!r} is not {np.dtype(dtype)}[{count}, {width}]", path=path
            )
    return {name: arrays[name] for name in shapes}


def _with_weeks(arrays: Arrays) -> Arrays:
    """Return what version 1 saved as version 2 does: without the present day and place, which the newest time tells."""
    before = arrays["numbers"]
    numbers = np.zeros((len(before), len(layout.SAVED)), np.float32)
    numbers[:, : before.shape[1]] = before
    numbers[:, layout.SAVED.index(layout.SINCE)] = before[:, layout.SAVED.index(layout.DAYS)]
    week = np.zeros((len(before), layout.CELLS), np.uint16)
    return arrays | {"numbers": numbers, "times": np.ascontiguousarray(arrays["times"][:, [0, 2]]), "week": week}
