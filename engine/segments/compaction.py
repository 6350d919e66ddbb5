"""Which segments to merge once they are written: a pure function of the segments there are and the time.

Sealing keeps small days to few files.  What is left is done here, for each UTC day of a table by itself:

- A day that is *over*, and into which nothing has been sealed for a while, becomes one file, or as many as make files
  of about :data:`FILE_BYTES`, at most :data:`MAX_DAY_FILES`: neighbours are put together, and a neighbour that stands
  alone is not written again.
- In every other day no more than :data:`MAX_DAY_FILES` files remain: neighbours are merged, beginning with the smallest
  and going on while the next one is not larger than all so far.  Sizes then fall geometrically, so that a day of n
  parts has each row written about log n times, not n times.
- Days that are one small file each become one file of :func:`span_days` days, where retention is long: a table of a
  few rows a day would otherwise have a file for each of them for ever.

A late row makes its segment be written again, by sealing; here it only makes the day wait again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine.clock import NS_PER_DAY, NS_PER_HOUR
from engine.segments.layout import SegmentMeta

MAX_DAY_FILES = 8
#: What a file of a day that is over should not exceed, unless the day would have too many.
FILE_BYTES = 256 << 20
#: Files are counted as if they were to be this share of :data:`FILE_BYTES`: merging makes them smaller, and what has
#: been divided into two must not look like one afterwards.
FILL = 0.75
#: A day is over this long after its end, when the last rows that are merely delayed have been sealed.
SETTLE_NS = 2 * NS_PER_HOUR
#: ... and when nothing has been sealed into it for this long.
QUIET_NS = NS_PER_HOUR
#: Days are joined when nothing has been sealed into any of them for this long, and later when days are missing between
#: them: a backfill may be about to bring these, and would have the joined file written again.
JOIN_QUIET_NS = NS_PER_DAY
JOIN_GAPS_QUIET_NS = 7 * NS_PER_DAY
#: Days are joined while the joined file stays below this share of :data:`FILE_BYTES`.
SPAN_SHARE = 0.05
#: A joined file covers at most this share of the time that its rows are kept, as it goes when its newest row does.
SPAN_OF_RETENTION = 0.1
MAX_SPAN_DAYS = 32


@dataclass(frozen=True, slots=True)
class MergeTask:
    """Write ``replaces``, which are neighbours in order of time, as one segment for ``[start_ns, end_ns)``.

    ``cold``: the days are over, so that packing them well is worth the time.
    """

    start_ns: int
    end_ns: int
    replaces: tuple[SegmentMeta, ...]
    cold: bool

    @property
    def rows(self) -> int:
        return sum(meta.rows for meta in self.replaces)

    @property
    def bytes(self) -> int:
        return sum(meta.bytes for meta in self.replaces)


def plan_compaction(
    segments: Sequence[SegmentMeta], now_ns: int, *, keep_ns: int | None, file_bytes: int = FILE_BYTES
) -> list[MergeTask]:
    """Return the merges that are due for one table, the oldest first; every segment is in one of them at most.

    ``keep_ns``: how long the table's rows are kept, None for ever.
    """
    days: dict[int, list[SegmentMeta]] = {}
    ordered = sorted(segments, key=lambda meta: meta.start_ns)
    for meta in ordered:
        number = meta.start_ns // NS_PER_DAY
        if number == (meta.end_ns - 1) // NS_PER_DAY:
            days.setdefault(number, []).append(meta)
    tasks: list[MergeTask] = []
    single: dict[int, SegmentMeta] = {}
    for number, metas in sorted(days.items()):
        end_ns = (number + 1) * NS_PER_DAY
        quiet = max(meta.created_ns for meta in metas) + QUIET_NS <= now_ns
        if now_ns >= end_ns + SETTLE_NS and quiet:
            groups = _of_a_day_that_is_over(metas, file_bytes)
            if len(metas) == 1:
                single[number] = metas[0]
        else:
            groups = _of_a_day_under_way(metas)
        over = now_ns >= end_ns + SETTLE_NS
        tasks += [_task(group, cold=over) for group in groups if len(group) > 1]
    return [*_join_days(ordered, single, now_ns, span_days(keep_ns), file_bytes), *tasks]


def span_days(keep_ns: int | None) -> int:
    """Return how many days one file may cover at most: a power of two, 1 where retention is short."""
    days = MAX_SPAN_DAYS if keep_ns is None else int(keep_ns / NS_PER_DAY * SPAN_OF_RETENTION)
    return min(MAX_SPAN_DAYS, 1 << max(0, days.bit_length() - 1))


def _of_a_day_that_is_over(metas: Sequence[SegmentMeta], file_bytes: int) -> list[list[SegmentMeta]]:
    total = sum(meta.bytes for meta in metas)
    wanted = min(MAX_DAY_FILES, max(1, -(-total // int(FILL * file_bytes))))
    if len(metas) < 2 * wanted and len(metas) <= MAX_DAY_FILES:
        return []
    # Files are put together until a group holds its share of the bytes that are left.
    groups: list[list[SegmentMeta]] = []
    left, at = total, 0
    for number in range(wanted, 0, -1):
        share, size, group = left / number, 0, list[SegmentMeta]()
        spare = len(metas) - at - number  # so that each later group still gets one
        while at < len(metas) and (number == 1 or not group or (spare > 0 and size + metas[at].bytes / 2 <= share)):
            spare -= bool(group)
            size += metas[at].bytes
            group.append(metas[at])
            at += 1
        left -= size
        groups.append(group)
    return groups


def _of_a_day_under_way(metas: Sequence[SegmentMeta]) -> list[list[SegmentMeta]]:
    groups = [[meta] for meta in metas]
    while len(groups) > MAX_DAY_FILES:
        sizes = [sum(meta.rows for meta in group) for group in groups]
        # Of equals the latest: those before it may have been merged and are about to be of one size.
        seed = min(range(len(groups)), key=lambda index: (sizes[index], -index))
        first, last, rows = seed, seed + 1, sizes[seed]
        while True:
            sides = [
                index
                for index in (first - 1, last)
                if 0 <= index < len(groups) and (last - first == 1 or sizes[index] <= rows)
            ]
            if not sides:
                break
            side = min(sides, key=lambda index: sizes[index])
            rows += sizes[side]
            first, last = min(first, side), max(last, side + 1)
        groups[first:last] = [[meta for group in groups[first:last] for meta in group]]
    return groups


def _join_days(
    ordered: Sequence[SegmentMeta], single: dict[int, SegmentMeta], now_ns: int, most: int, file_bytes: int
) -> list[MergeTask]:
    """Join days of one small file each; whole aligned spans only, so that each day is joined once."""
    if most < 2:
        return []
    place = {meta.file: at for at, meta in enumerate(ordered)}
    spans: dict[int, list[SegmentMeta]] = {}
    for number, meta in sorted(single.items()):
        spans.setdefault(number // most, []).append(meta)
    tasks = []
    for span, metas in sorted(spans.items()):
        quiet_ns = JOIN_QUIET_NS if len(metas) == most else JOIN_GAPS_QUIET_NS
        due = (
            len(metas) > 1
            and now_ns >= (span + 1) * most * NS_PER_DAY + SETTLE_NS
            and now_ns >= max(meta.created_ns for meta in metas) + quiet_ns
            and sum(meta.bytes for meta in metas) <= SPAN_SHARE * file_bytes
        )
        # A segment that crosses midnight may lie between them.
        if due and place[metas[-1].file] - place[metas[0].file] == len(metas) - 1:
            tasks.append(_task(metas, cold=True))
    return tasks


def _task(group: Sequence[SegmentMeta], *, cold: bool) -> MergeTask:
    return MergeTask(group[0].start_ns, group[-1].end_ns, tuple(group), cold)
