"""An incident in files, as ``tidegauge.lab.rank_causes`` wants it: normal and abnormal rows, call graph, changes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from api.arguments import parse_time
from api.lab.tables import Table
from engine.errors import BadRequest
from engine.model.rows import Float64Array, Int64Array


@dataclass(frozen=True, slots=True)
class Split:
    """``columns`` that have a value; ``normal``, ``abnormal`` float64[rows, columns]; ``times``: of abnormal rows.

    ``step_seconds``: the median distance of rows, None without times.
    """

    columns: list[str]
    normal: Float64Array
    abnormal: Float64Array
    times: Int64Array | None
    step_seconds: float | None


def split(table: Table, *, normal: Table | None, normal_rows: int | None, start: str | None) -> Split:
    """Divide a table: beside the table ``normal`` all of it is abnormal; else from ``normal_rows`` or ``start`` on."""
    values = np.column_stack(list(table.columns.values()))
    columns = list(table.columns)
    if normal is not None:
        nothing = np.full(len(next(iter(normal.columns.values()))), np.nan)
        before = np.column_stack([normal.columns.get(name, nothing) for name in columns])
        at = 0
    else:
        at = _first_abnormal(table, len(values), normal_rows, start)
        before = values[:at]
    during = values[at:]
    if not len(before) or not len(during):
        raise BadRequest(
            f"cannot rank causes in {table.file}: got {len(before)} normal and {len(during)} abnormal rows, "
            "want at least one of each"
        )
    known = np.isfinite(before).any(axis=0) | np.isfinite(during).any(axis=0)
    times = None if table.times is None else table.times[at:]
    step = None if table.times is None or len(table.times) < 2 else float(np.median(np.diff(table.times))) / 1e9
    kept = [name for name, keep in zip(columns, known.tolist(), strict=True) if keep]
    return Split(kept, before[:, known], during[:, known], times, step or None)


def _first_abnormal(table: Table, rows: int, normal_rows: int | None, start: str | None) -> int:
    if start is not None:
        if table.times is None:
            raise BadRequest(
                f"cannot rank causes in {table.file}: --start needs a column of times; name it with --time"
            )
        return int(np.searchsorted(table.times, parse_time(start, int(table.times[-1]))))
    return min(rows, normal_rows or 0)


def graph_of(file: str | None, calls: Sequence[str]) -> list[tuple[str, str]] | None:
    """Return (caller, callee) from a JSON file of pairs and from texts ``caller>callee``; None without any."""
    graph: list[tuple[str, str]] = []
    if file is not None:
        try:
            with open(file, encoding="utf-8") as text:
                pairs = json.load(text)
        except (OSError, ValueError) as error:
            raise BadRequest(f"cannot read {file}: {error}") from None
        if not isinstance(pairs, list) or not all(
            isinstance(pair, list) and len(pair) == 2 and all(isinstance(each, str) for each in pair) for pair in pairs
        ):
            raise BadRequest(f'cannot read {file}: want a list of pairs such as [["web", "shop"], ["shop", "cart"]]')
        graph += [(caller, callee) for caller, callee in pairs]
    for call in calls:
        caller, between, callee = (each.strip() for each in call.partition(">"))
        if not (caller and between and callee):
            raise BadRequest(f"cannot use --call {call!r}: want CALLER>CALLEE")
        graph.append((caller, callee))
    return graph or None


def changes_of(texts: Sequence[str], times: Int64Array | None) -> list[tuple[str, float]] | None:
    """Return (service, seconds from the first abnormal row) of texts ``SERVICE=TIME``; None without any."""
    changes = []
    for text in texts:
        service, _, when = text.rpartition("=")
        if not service or not when:
            raise BadRequest(f"cannot use --change {text!r}: want SERVICE=TIME")
        if times is None:
            raise BadRequest(f"cannot use --change {text!r}: the file has no column of times; name it with --time")
        changes.append((service, (parse_time(when, int(times[-1])) - int(times[0])) / 1e9))
    return changes or None
