"""Answers of ``GET /v1/query`` as bytes: an object with columns, or an array of objects."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
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
_BETWEEN_LINES = b"]},"


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
    known = _Known({}, {})
    parts = [head[:-1], b',"series":[']
    for block in shown.blocks:
        parts += _parts_of(block, known)
    if shown:
        # Each line begins with the end of the one before.
        parts[2] = parts[2].removeprefix(_BETWEEN_LINES)
        parts.append(_BETWEEN_LINES[:-1])
    parts.append(b"]}")
    # Joined once: each copy goes through fresh memory.
    return b"".join(parts)


@dataclass(frozen=True, slots=True)
class _Known:
    """Texts of what blocks of one answer have in common: of labels by the identity of their list, of times by those of
    times and bounds (None where the lines have different ones).
    """

    labels: dict[int, list[bytes]]
    times: dict[tuple[int, int], bytes | None]

    def times_of(self, block: LineBlock) -> bytes | None:
        shape = id(block.times), id(block.bounds)
        if shape not in self.times:
            self.times[shape] = _shared_times(block)
        return self.times[shape]


def _parts_of(block: LineBlock, known: _Known) -> list[bytes]:
    """Return the pieces of a block's lines."""
    texts = known.labels.get(id(block.labels))
    if texts is None:
        texts = known.labels[id(block.labels)] = [msgspec.json.encode(labels) for labels in block.labels]
    if len(block) == 1 and block.sample_times is None:
        # Most answers are a few of these; the general way costs several times as much for so little.
        metric, values = msgspec.json.encode(block.metric), msgspec.json.encode(block.values.tolist())[:-1]
        told = b'{"metric":%b,"labels":%b,"times":[%b],"values":%b'
        return [_BETWEEN_LINES + told % (metric, texts[0], known.times_of(block) or b"", values)]
    # The texts that all lines share stand between those of their own: nothing is put together a line.
    metric = msgspec.json.encode(block.metric)
    columns: list[list[bytes]] = [texts]
    between = [_BETWEEN_LINES + b'{"metric":%b,"labels":' % metric]
    times = known.times_of(block)
    if times is None:
        columns.append(_runs(block.times, block.bounds))
        between.append(b',"times":[')
        between.append(b'],"values":[')
    else:
        between.append(b',"times":[%b],"values":[' % times)
    columns.append(_runs(block.values, block.bounds))
    if block.sample_times is not None:
        columns.append(_runs(block.sample_times, block.bounds))
        between.append(b'],"sample_times":[')
    parts = [b""] * (2 * len(columns) * len(block))
    for place, (shared, own) in enumerate(zip(between, columns, strict=True)):
        parts[2 * place :: 2 * len(columns)] = [shared] * len(block)
        parts[2 * place + 1 :: 2 * len(columns)] = own
    return parts


def _shared_times(block: LineBlock) -> bytes | None:
    """Return the times that all lines of a block have, as lines without gaps do; None where these differ."""
    if len(block) == 1:
        return msgspec.json.encode(block.times.tolist())[1:-1]
    steps = len(block.times) // len(block)
    if not (np.diff(block.bounds) == steps).all():
        return None
    rows = block.times.reshape(len(block), steps)
    return None if (rows != rows[0]).any() else msgspec.json.encode(rows[0].tolist())[1:-1]


def _runs(numbers: Float64Array | Int64Array, bounds: Int64Array) -> list[bytes]:
    """Return each run of numbers, not empty, as text with commas between."""
    if len(bounds) == 2:
        return [msgspec.json.encode(numbers.tolist())[1:-1]]
    steps = len(numbers) // (len(bounds) - 1)
    if (np.diff(bounds) == steps).all():
        runs = numbers.reshape(-1, steps).tolist()
    else:
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
