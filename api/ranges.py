"""Answers of ``GET /v1/query`` as bytes: an object with columns, or an array of objects."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from engine.errors import QueryLimit
from engine.model.rows import Float64Array, Int64Array
from engine.query.range import RangeAnswer
from engine.query.serieslist import LineBlock

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
        "sources": answer.sources,
        "relative_error": answer.relative_error,
        "fresh_to": answer.fresh_to_ns,
        "reason": answer.reason,
        "series_total": len(answer.series),
    }


def range_json(answer: RangeAnswer, limit: int) -> bytes:
    """Return the body of ``GET /v1/query``, with at most ``limit`` series."""
    shown = answer.series.first(limit)
    head = msgspec.json.encode(range_metadata(answer) | {"truncated": len(shown) < len(answer.series)})
    labels: dict[int, bytes] = {}
    series = b",".join(_block_json(block, labels) for block in shown.blocks)
    return b'%b,"series":[%b]}' % (head[:-1], series)


def _block_json(block: LineBlock, labels: dict[int, bytes]) -> bytes:
    """Return the lines of a block with commas between; ``labels``: texts of labels by the identity of these."""
    metric = msgspec.json.encode(block.metric)
    values = _runs(block.values, block.bounds)
    times = _times(block)
    sampled = None if block.sample_times is None else _runs(block.sample_times, block.bounds)
    lines = []
    for place, told in enumerate(block.labels):
        text = labels.get(id(told))
        if text is None:
            text = labels[id(told)] = msgspec.json.encode(told)
        line = b'{"metric":%b,"labels":%b,"times":[%b],"values":[%b]' % (metric, text, times[place], values[place])
        lines.append(line + (b"}" if sampled is None else b',"sample_times":[%b]}' % sampled[place]))
    return b",".join(lines)


def _times(block: LineBlock) -> Sequence[bytes]:
    count = len(block)
    if len(block.times) % count == 0:
        rows = block.times.reshape(count, -1)
        # Lines without gaps have the same times, which are written once.
        if (rows == rows[0]).all() and (np.diff(block.bounds) == rows.shape[1]).all():
            return _runs(rows[0], np.array([0, rows.shape[1]], np.int64)) * count
    return _runs(block.times, block.bounds)


def _runs(numbers: Float64Array | Int64Array, bounds: Int64Array) -> list[bytes]:
    """Return each run of numbers, not empty, as text with commas between."""
    together = numbers.tolist()
    runs = [together[start:end] for start, end in itertools.pairwise(bounds.tolist())]
    # Written at once and taken apart again, which is cheaper than writing one by one.
    return msgspec.json.encode(runs)[2:-2].split(b"],[")


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
