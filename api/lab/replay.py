"""Decisions of the scaling policy over the rows of a table."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from api.lab.tables import Table
from engine.errors import BadRequest
from tidegauge import lab

COLUMNS = ("cpu", "memory", "response_time", "queue", "error_rate", "request_rate", "ready", "target")


def decisions(table: Table, limits: Mapping[str, Any]) -> pl.DataFrame:
    """Return what would have been decided at each row, one after another.

    Raises BadRequest for a table without times, without ``ready`` or ``target``, or with times that fall.
    """
    if table.times is None:
        raise BadRequest(f"cannot decide on {table.file}: it has no column of times; name it with --time")
    names = [name for name in COLUMNS if name in table.columns]
    if "ready" not in names and "target" not in names:
        raise BadRequest(f"cannot decide on {table.file}: it has neither a column ready nor target")
    falls = np.flatnonzero(np.diff(table.times) < 0)
    if len(falls):
        raise BadRequest(f"cannot decide on {table.file}: row {int(falls[0]) + 2} is before the row before it")
    policy = lab.ScalingPolicy(**limits)
    columns = [table.columns[name].tolist() for name in names]
    found = [
        policy.decide({"time": time_ns / 1e9, **{name: _known(value) for name, value in zip(names, row, strict=True)}})
        for time_ns, *row in zip(table.times.tolist(), *columns, strict=True)
    ]
    return pl.DataFrame(
        {
            "file": pl.Series([table.file]).new_from_index(0, len(found)),
            "row": np.arange(len(found), dtype=np.int64),
            "time": pl.Series(table.times).cast(pl.Datetime("ns")),
            "desired": pl.Series([decision.desired for decision in found], dtype=pl.Int64),
            "recommended": pl.Series([decision.recommended for decision in found], dtype=pl.Int64),
            "action": [decision.action for decision in found],
            "reason": [decision.reason for decision in found],
            "limited_by": [", ".join(decision.limited_by) for decision in found],
        }
    )


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
