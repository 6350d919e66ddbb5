"""The parts as a reading connection finds them: those of a range, and their rows.

DuckDB's transaction is the snapshot; who reads parts afterwards keeps their packs from being removed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.model.rows import Int32Array
from engine.rollups.packs import Packs
from engine.rollups.rows import TierRows
from engine.rollups.shelf import META, Part, read_part

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True, slots=True)
class PartRange:
    """Buckets with ``start_ns <= time < end_ns`` of tag sets in a range (both ends included), or of all."""

    tier: str
    start_ns: int
    end_ns: int
    tagsets: tuple[int, int] | None = None


def tagset_range(ascending: Int32Array) -> tuple[int, int]:
    return (int(ascending[0]), int(ascending[-1])) if len(ascending) else (1, 0)


def stored_parts(connection: duckdb.DuckDBPyConnection, wanted: PartRange, kept_from_ns: int) -> list[Part]:
    """Return the parts that may hold such buckets, from old to new."""
    conditions = [f"tier = '{wanted.tier}' AND last_ns >= {max(wanted.start_ns, kept_from_ns)}"]
    conditions.append(f"first_ns < {wanted.end_ns}")
    if wanted.tagsets is not None:
        conditions.append(f"last_tagset >= {wanted.tagsets[0]} AND first_tagset <= {wanted.tagsets[1]}")
    found = connection.execute(
        f"SELECT {META} FROM rollup_parts WHERE {' AND '.join(conditions)} ORDER BY first_ns, part"
    ).fetchall()
    return [Part(*row) for row in found]


def stored_rows(
    packs: Packs,
    parts: Sequence[Part],
    start_ns: int,
    end_ns: int,
    tagset_ids: Int32Array | None = None,
    field_ids: Sequence[int] | None = None,
) -> Iterator[tuple[Part, TierRows]]:
    """Yield the rows of each part that are asked for; parts without such rows are left out.

    ``tagset_ids``, ``field_ids``: ascending; None for all of them.
    """
    for part in parts:
        rows = read_part(packs, part, field_ids)
        if not rows.field_ids:
            continue
        mask = np.ones(len(rows), np.bool_)
        if part.first_ns < start_ns or part.last_ns >= end_ns:
            mask = (rows.times >= start_ns) & (rows.times < end_ns)
        if tagset_ids is not None:
            mask &= _members(rows.tagset_ids, tagset_ids)
        rows = rows.take(mask)
        if len(rows):
            yield part, rows


def _members(values: Int32Array, ascending: Int32Array) -> Any:
    if not len(ascending):
        return np.zeros(len(values), np.bool_)
    places = np.searchsorted(ascending, values)
    return ascending[np.minimum(places, len(ascending) - 1)] == values
