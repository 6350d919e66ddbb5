"""The columns of a segment that is being written, kept for those who ask for its rows next."""

from __future__ import annotations

from engine.model.rows import Float64Array, Int32Array, Int64Array, Rows
from engine.segments.columns import KEYS, ColumnCache
from engine.segments.layout import SegmentMeta
from engine.segments.reader import segment_path


class WrittenColumns:
    """Takes the row groups of one segment as they are written, and hands them to a cache.

    Row groups beyond ``max_bytes`` are left to be decoded when they are asked for.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._nbytes = 0
        self._groups: list[dict[int, tuple[Int32Array, Int64Array] | Float64Array]] = []

    def add(self, rows: Rows, begin: int, end: int) -> None:
        """Take rows ``[begin, end)``, which are the next row group."""
        size = (end - begin) * (
            rows.tagset_ids.itemsize + rows.times.itemsize + rows.values.itemsize * len(rows.values)
        )
        group: dict[int, tuple[Int32Array, Int64Array] | Float64Array] = {}
        if self._nbytes + size <= self._max_bytes:
            self._nbytes += size
            # Copies, so that the rows can go.
            group[KEYS] = rows.tagset_ids[begin:end].copy(), rows.times[begin:end].copy()
            for field_id, column in zip(rows.field_ids, rows.values, strict=True):
                group[field_id] = column[begin:end].copy()
        self._groups.append(group)

    def put(self, cache: ColumnCache, root: str, meta: SegmentMeta) -> None:
        """Hand over what the finished segment has."""
        path = segment_path(root, meta)
        stored = {KEYS, *(column.field_id for column in meta.columns)}
        for number, group in enumerate(self._groups):
            for field_id, column in group.items():
                if field_id in stored:
                    cache.put((path, meta.footer_crc32c, number, field_id), column)
