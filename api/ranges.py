"""Answers of ``GET /v1/query`` as bytes: an object with columns, or an array of objects."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from engine.errors import QueryLimit
from engine.model.rows import Int64Array
from engine.query.range import RangeAnswer

MAX_SERIES = 10_000
#: What a row of aligned series has beside labels.
_POINT = frozenset({"time", "metric", "value"})


def range_metadata(answer: RangeAnswer) -> dict[str, Any]:
    """Return what an answer to ``GET /v1/query`` says about itself."""
    return {
        "metric": answer.metric,
        "aggregate": answer.aggregate,
        "step_seconds": answer.step_ns / 1e9,
        "tier": answer.tier,
        "rows_read": answer.rows_read,
        "relative_error": answer.relative_error,
        "fresh_to": answer.fresh_to_ns,
        "reason": answer.reason,
        "series_total": len(answer.series),
    }


def range_json(answer: RangeAnswer, limit: int) -> bytes:
    """Return the body of ``GET /v1/query``, with at most ``limit`` series."""
    shown = answer.series[:limit]
    # Lines without gaps share their times, which are written once.
    shared: Int64Array | None = None
    written = msgspec.Raw()
    series = []
    for line in shown:
        if line.times is not shared:
            shared, written = line.times, msgspec.Raw(msgspec.json.encode(line.times.tolist()))
        told = {"metric": line.metric, "labels": line.labels, "times": written, "values": line.values.tolist()}
        if line.sample_times is not None:
            told["sample_times"] = line.sample_times.tolist()
        series.append(told)
    body = range_metadata(answer) | {"truncated": len(shown) < len(answer.series), "series": series}
    return msgspec.json.encode(body)


def range_objects(answer: RangeAnswer, limit: int) -> bytes:
    """Return the same points as an array of objects: ``time``, ``metric``, the labels, ``value``.

    A label with one of these names gets ``label_`` before it.  Raises QueryLimit for more series than ``limit``, which
    an array could not tell.
    """
    if len(answer.series) > limit:
        raise QueryLimit(
            f"cannot answer with rows: got {len(answer.series)} series, want at most {limit};"
            " narrow match or raise limit"
        )
    rows: list[dict[str, Any]] = []
    for line in answer.series:
        labels = {f"label_{key}" if key in _POINT else key: value for key, value in line.labels.items()}
        head = {"metric": line.metric, **labels}
        times = np.datetime_as_string(line.times.view("datetime64[ns]").astype("datetime64[ms]"), timezone="UTC")
        for time, value in zip(times.tolist(), line.values.tolist(), strict=True):
            rows.append({"time": time, **head, "value": value})
    return msgspec.json.encode(rows)
