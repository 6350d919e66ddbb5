"""The obvious store: a dictionary from (tag set, time) to the fields' values, the last arrival winning."""

from __future__ import annotations

import numpy as np

from engine.model.rows import Rows
from native.columns import is_absent

Model = dict[tuple[int, int], dict[int, float]]


def write(model: Model, rows: Rows) -> None:
    for at in range(len(rows)):
        cell = model.setdefault((int(rows.tagset_ids[at]), int(rows.times[at])), {})
        for index, field in enumerate(rows.field_ids):
            value = rows.values[index, at : at + 1]
            if not is_absent(np.ascontiguousarray(value))[0]:
                cell[field] = float(value[0])


def read(rows: Rows) -> Model:
    """Return rows as a model; fails when a key occurs twice."""
    model: Model = {}
    for at in range(len(rows)):
        key = (int(rows.tagset_ids[at]), int(rows.times[at]))
        assert key not in model, f"key {key} occurs twice"
        write(model, rows.take(slice(at, at + 1)))
        model.setdefault(key, {})
    return model


def between(model: Model, start_ns: int, end_ns: int) -> Model:
    return {key: cell for key, cell in model.items() if start_ns <= key[1] < end_ns}
