"""Several segments of one table, and rows to be laid over them, written as one: a range of tag sets at a time.

What is held is about ``part_rows`` rows, however large the segments are, as each range of tag sets is read from every
input, merged, and written before the next.  Inputs are read twice: kinds and encodings of the columns must be known
before the first row group is written.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from engine.disk.filesystem import FileSystem
from engine.model.rows import FOREVER_NS, NEVER_NS, Int32Array, Int64Array, Rows, concat, sort_merge
from engine.segments.classify import DELTA, ColumnSurvey
from engine.segments.footer import FooterCache, map_segment
from engine.segments.layout import SegmentMeta, SegmentSpec, TagsOf
from engine.segments.reader import segment_path
from engine.segments.route import RouteSurvey, time_encoding
from engine.segments.stream import SegmentStream
from engine.segments.writer import FieldPlan, tagset_starts, write_segment
from engine.segments.written import WrittenColumns

#: About how many rows of how many cells are held at once: 8 bytes a cell, and as much again while they are merged.
PART_CELLS = 8_000_000

#: ``read(meta, start_ns, end_ns, tagset_ids)`` gives the rows of a segment that count, sorted; None for no limit.
ReadRows = Callable[[SegmentMeta, int, int, Int32Array | None], Rows]


@dataclass(frozen=True, slots=True)
class GroupSpan:
    """What the ``rows`` rows of a row group lie in: tag sets ``first`` to ``last``, and a first time."""

    first: int
    last: int
    rows: int
    start_ns: int = NEVER_NS


@dataclass(frozen=True, slots=True)
class Part:
    """What is merged at once: tag sets ``first`` to ``last`` (both included) and a half-open range of time."""

    first: int
    last: int
    start_ns: int = NEVER_NS
    end_ns: int = FOREVER_NS


def merge_segments(
    fs: FileSystem,
    root: str,
    spec: SegmentSpec,
    inputs: Sequence[SegmentMeta],
    over: Rows,
    tags_of: TagsOf,
    read: ReadRows,
    *,
    footers: FooterCache | None = None,
    part_cells: int = PART_CELLS,
    written: WrittenColumns | None = None,
) -> SegmentMeta | None:
    """Write the rows of ``inputs`` and ``over``, which wins, as the segment of ``spec``; None when there are none.

    ``inputs`` are of one table; where two hold the same key, the later in the list wins field by field.  ``over``:
    rows in any order of arrival; ``written`` gets the row groups.  The file is durable on return.  Raises DiskFull,
    Unavailable and Damage.
    """
    fields = len({column.field_id for meta in inputs for column in meta.columns} | set(over.field_ids))
    part_rows = max(1, part_cells // (fields + 2))
    over = sort_merge(over)
    if sum(meta.rows for meta in inputs) + len(over) <= part_rows:
        rows = sort_merge(concat([*(read(meta, spec.start_ns, spec.end_ns, None) for meta in inputs), over]))
        return write_segment(fs, root, spec, rows, tags_of, written=written) if len(rows) else None
    cache = footers or FooterCache()
    spans = [span for meta in inputs for span in _group_spans(fs, root, meta, cache)]
    if len(over):
        starts, tagset_ids = tagset_starts(over)
        counts = np.diff(np.append(starts, len(over)))
        spans += [GroupSpan(each, each, rows) for each, rows in zip(tagset_ids.tolist(), counts.tolist(), strict=True)]
    parts = parts_of(spans, part_rows)
    survey = _Survey(spec)
    for rows in _merged(inputs, over, read, parts):
        survey.add(rows, tags_of)
    if not survey.rows:
        return None
    with SegmentStream(
        fs, root, spec, survey.plans(), sorted(survey.tag_keys), tags_of, time_encoding=survey.times, written=written
    ) as stream:
        for rows in _merged(inputs, over, read, parts):
            stream.write(rows)
        return stream.finish()


class _Survey:
    """What must be known of all rows before the first is written."""

    def __init__(self, spec: SegmentSpec) -> None:
        self._spec = spec
        self._columns: dict[int, ColumnSurvey] = {}
        self._routes: dict[int, RouteSurvey] = {}
        # The class of a series is that of all its rows, which must then come at once.
        self._routed = spec.routed
        self._last_tagset = -1
        self.rows = 0
        self.tag_keys: set[str] = set()
        self.times = DELTA

    def add(self, rows: Rows, tags_of: TagsOf) -> None:
        starts, tagset_ids = tagset_starts(rows)
        if self._spec.routed and not self.rows:
            self.times = time_encoding(rows.times)
        longest = int(np.diff(np.append(starts, len(rows))).max())
        if longest > self._spec.group_rows or int(tagset_ids[0]) == self._last_tagset:
            self._routed = False
        self._last_tagset = int(tagset_ids[-1])
        self.rows += len(rows)
        self.tag_keys.update(tags_of(tagset_ids)[0])
        for field_id, column in zip(rows.field_ids, rows.values, strict=True):
            self._columns.setdefault(field_id, ColumnSurvey()).add(column)
            if self._routed:
                self._routes.setdefault(field_id, RouteSurvey()).add(column, starts)

    def plans(self) -> dict[int, FieldPlan]:
        surveys = self._routes if self._routed else self._columns
        found = {field_id: surveys[field_id].plan() for field_id in sorted(surveys)}
        return {field_id: plan for field_id, plan in found.items() if plan is not None}


def parts_of(spans: Sequence[GroupSpan], most_rows: int) -> list[Part]:
    """Return parts that cover everything in ``spans`` in order of (tag set, time), of about ``most_rows`` rows each.

    Rows count as evenly spread over the tag sets of their row group.  A tag set that fills row groups of its own is
    divided by time where these begin.
    """
    if not spans:
        return []
    firsts = np.array([span.first for span in spans], np.int64)
    lasts = np.array([span.last for span in spans], np.int64)
    density = np.array([span.rows for span in spans]) / (lasts - firsts + 1)
    own = firsts == lasts
    cuts = np.unique(np.concatenate([lasts, firsts[own] - 1]))
    reached: Int64Array = np.zeros(len(cuts), np.int64)
    for first, last, each in zip(firsts, lasts, density, strict=True):
        reached += ((np.clip(cuts, first - 1, last) - (first - 1)) * each).astype(np.int64)
    parts: list[Part] = []
    begin, done, at = int(firsts.min()), 0, 0
    while at < len(cuts):
        end = max(at, int(np.searchsorted(reached, done + most_rows, side="right")) - 1)
        last = int(cuts[end])
        if last >= begin:
            rows = int(reached[end]) - done
            if rows > most_rows and begin == last:
                parts += _by_time(begin, [span for span in spans if span.first == span.last == begin], most_rows)
            else:
                # Where one interval between row groups is too much already, its row groups are decoded more than once.
                steps = min(max(1, rows // most_rows), last + 1 - begin)
                bounds = [begin + (last + 1 - begin) * step // steps for step in range(steps + 1)]
                parts += [Part(low, high - 1) for low, high in itertools.pairwise(bounds)]
        begin, done, at = last + 1, int(reached[end]), end + 1
    return parts


def _by_time(tagset_id: int, spans: Sequence[GroupSpan], most_rows: int) -> list[Part]:
    """Divide one tag set at first times of its row groups."""
    parts: list[Part] = []
    begin_ns, rows = NEVER_NS, 0
    for span in sorted(spans, key=lambda span: span.start_ns):
        if rows and rows + span.rows > most_rows and span.start_ns > begin_ns:
            parts.append(Part(tagset_id, tagset_id, begin_ns, span.start_ns))
            begin_ns, rows = span.start_ns, 0
        rows += span.rows
    return [*parts, Part(tagset_id, tagset_id, begin_ns, FOREVER_NS)]


def _group_spans(fs: FileSystem, root: str, meta: SegmentMeta, cache: FooterCache) -> list[GroupSpan]:
    path = segment_path(root, meta)
    footer = cache.footer(path, map_segment(fs, path), meta)
    columns = (footer.first_tagsets, footer.last_tagsets, footer.first_times)
    return [
        GroupSpan(first, last, footer.metadata.row_group(group).num_rows, start_ns)
        for group, (first, last, start_ns) in enumerate(zip(*(each.tolist() for each in columns), strict=True))
    ]


def _merged(inputs: Sequence[SegmentMeta], over: Rows, read: ReadRows, parts: Sequence[Part]) -> Iterator[Rows]:
    """Yield the merged rows of each part that has some, sorted, each key once."""
    for part in parts:
        wanted = np.arange(part.first, part.last + 1, dtype=np.int32)
        low, high = np.searchsorted(over.tagset_ids, [part.first, part.last + 1])
        laid = over.take(slice(int(low), int(high))).between(part.start_ns, part.end_ns)
        overlapping = [meta for meta in inputs if meta.min_time_ns < part.end_ns and meta.max_time_ns >= part.start_ns]
        rows = sort_merge(concat([*(read(meta, part.start_ns, part.end_ns, wanted) for meta in overlapping), laid]))
        if len(rows):
            yield rows
