"""Deletion of series: what was stored under some labels is gone, at once and for good.

Order of events: rows that are being sealed are waited for; the manifest records the deletion (it is durable from here
on, a crash anywhere later only leaves the rest to the next start); readers, latest values and memory follow at the same
instant; then the tiers.  Segments that hold deleted rows are rewritten without them when compaction or sealing next
touches them; compaction looks for them, so that happens soon.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import msgspec

from engine.catalog.callers import EVERYONE, Caller
from engine.catalog.catalog import Catalog
from engine.catalog.pooled import METRIC_TAG
from engine.clock import NS_PER_MINUTE, Clock
from engine.errors import BadRequest, TidegaugeError
from engine.maintenance.seal import Sealer
from engine.model.matchers import Matcher
from engine.model.rows import FOREVER_NS, NEVER_NS, Int32Array
from engine.model.times import time_text
from engine.query.samples import SampleStore
from engine.rollups.dirty import DirtyBuckets
from engine.segments.deletions import Deletion, ranges_of, touches
from engine.segments.manifest import ManifestStore
from engine.vitals import Vitals

#: ``delete(table_id, tagset_ids, start_ns, end_ns)`` removes from all tiers, and returns how many 1m rows have gone.
DeleteRollups = Callable[[int, Int32Array, int, int], int]


@dataclass(frozen=True, slots=True)
class Deleted:
    """What a deletion removed, or would remove: ``series`` counts (tag set, field) pairs, ``rows`` stored rows.

    ``sequence``: log sequence through which rows were meant, 0 for a dry run; ``tiers``: whether the tiers have
    followed (otherwise they do before they are read next); ``problem`` why not.
    """

    tables: tuple[str, ...]
    tag_sets: int
    series: int
    rows: int
    sequence: int
    dry_run: bool
    tiers: bool = True
    problem: str | None = None


class Deleter:
    """Deletes from one engine; callable from any thread, one deletion at a time."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        samples: SampleStore,
        manifest: ManifestStore,
        sealer: Sealer,
        dirty: DirtyBuckets,
        delete_rollups: DeleteRollups,
        flush: Callable[[], object],
        commit_lock: AbstractContextManager[object],
        vitals: Vitals,
        clock: Clock,
    ) -> None:
        self._catalog, self._samples, self._manifest = catalog, samples, manifest
        self._sealer, self._dirty = sealer, dirty
        self._delete_rollups, self._flush = delete_rollups, flush
        self._commit_lock, self._vitals, self._clock = commit_lock, vitals, clock
        self._deleting = threading.Lock()

    def delete(
        self,
        matchers: Sequence[Matcher],
        *,
        table: str | None = None,
        start_ns: int = NEVER_NS,
        end_ns: int = FOREVER_NS,
        dry_run: bool = False,
        caller: Caller = EVERYONE,
    ) -> Deleted:
        """Delete the rows of every tag set that satisfies all matchers, of one table or of all, in a range of time.

        Of those, the ones that exist for the caller.

        Raises BadRequest when the matchers would select everything, or a field of a table of several.
        """
        _refuse_everything(matchers, table)
        if end_ns <= start_ns:
            end, start = time_text(end_ns), time_text(start_ns)
            raise BadRequest(f"cannot delete series: the end ({end}) is not after the start ({start})")
        with self._deleting:
            found = self._select((*matchers, *caller.matchers), table)
            names = tuple(self._catalog.table_name(table_id) for table_id in found)
            tag_sets = sum(map(len, found.values()))
            series = sum(len(ids) * len(self._catalog.fields(table_id)) for table_id, ids in found.items())
            rows = sum(self._rows(table_id, ids, start_ns, end_ns) for table_id, ids in found.items())
            if dry_run or not tag_sets:
                return Deleted(names, tag_sets, series, rows, 0, dry_run)
            with self._sealer.exclusive(), self._commit_lock:
                through = self._samples.hot.applied_sequence
                new = tuple(
                    Deletion(
                        table_id=table_id,
                        tagsets=ranges_of(ids),
                        start_ns=start_ns,
                        end_ns=end_ns,
                        through=through,
                        before_file=self._manifest.reserve_sequence(),
                        created_ns=self._clock.now_ns(),
                    )
                    for table_id, ids in found.items()
                )
                current = self._manifest.commit(deletions=(*self._manifest.current.deletions, *new))
                self._samples.delete(current.deletions, new)
            self._vitals.deletions.inc(len(new))
            self._vitals.deleted_rows.inc(rows)
            try:
                self._flush()
            except TidegaugeError as error:
                return Deleted(names, tag_sets, series, rows, through, False, tiers=False, problem=error.message)
            return Deleted(names, tag_sets, series, rows, through, False)

    def catch_up_tiers(self) -> tuple[Deletion, ...]:
        """Let the tiers follow the deletions they have not followed yet, and return these; called before a flush.

        They have followed for good once what is marked here has been flushed.
        """
        waiting = tuple(each for each in self._samples.deletions if not each.tiers)
        for each in waiting:
            ids = each.tagset_ids()
            self._delete_rollups(each.table_id, ids, each.start_ns, each.end_ns)
            # What is left of the range, or has been written since, is rolled up again.
            first = each.start_ns // NS_PER_MINUTE * NS_PER_MINUTE if each.start_ns > NEVER_NS else NEVER_NS
            end = -(-each.end_ns // NS_PER_MINUTE) * NS_PER_MINUTE if each.end_ns < FOREVER_NS else FOREVER_NS
            left = self._samples.collect(each.table_id, first, end, ids, ())
            with self._commit_lock:
                sequence = self._samples.hot.applied_sequence
                self._dirty.mark(each.table_id, sequence, left.tagset_ids, left.times)
        return waiting

    def tiers_have_followed(self, deletions: Sequence[Deletion]) -> None:
        """Record that the tiers no longer hold anything of these deletions."""
        done = set(deletions)
        if done:
            with self._sealer.exclusive():
                current = self._manifest.current.deletions
                kept = [_followed(each) if each in done else each for each in current]
                self._samples.delete(self._manifest.commit(deletions=kept).deletions)

    def waiting_segments(self) -> int:
        """Return how many segments still hold deleted rows, which readers leave out."""
        deletions = self._samples.deletions
        return sum(any(touches(each, meta) for each in deletions) for meta in self._samples.segments())

    def _select(self, matchers: Sequence[Matcher], table: str | None) -> dict[int, Int32Array]:
        named = [each for each in matchers if each.label == METRIC_TAG and each.operator == "="]
        others = [each for each in matchers if each not in named]
        found: dict[int, Int32Array] = {}
        for table_id in range(self._catalog.native.table_count):
            if table is not None and self._catalog.table_name(table_id) != table:
                continue
            wanted: Sequence[Matcher] = matchers
            if named and not self._catalog.is_pooled(table_id):
                fields = self._catalog.fields(table_id)
                if not all(any(field.metric == each.value for field in fields) for each in named):
                    continue
                if len(fields) > 1:
                    raise BadRequest(
                        f"cannot delete {named[0].value!r}: it is one of {len(fields)} fields of the table"
                        f" {fields[0].table!r}, and rows are deleted whole; name the table with table= instead"
                    )
                wanted = others
            ids = self._catalog.tagset_ids(table_id, wanted)
            if len(ids):
                found[table_id] = ids
        return found

    def _rows(self, table_id: int, tagset_ids: Int32Array, start_ns: int, end_ns: int) -> int:
        """Return how many rows there are; a segment at a time, so that memory does not grow with the range."""
        borders = {start_ns, end_ns}
        for meta in self._samples.segments(table_id):
            borders |= {each for each in (meta.start_ns, meta.end_ns) if start_ns < each < end_ns}
        ordered = sorted(borders)
        return sum(
            len(self._samples.collect(table_id, begin, end, tagset_ids, ()))
            for begin, end in itertools.pairwise(ordered)
        )


def _followed(deletion: Deletion) -> Deletion:
    return msgspec.structs.replace(deletion, tiers=True)


def _refuse_everything(matchers: Sequence[Matcher], table: str | None) -> None:
    if table is None and not any(not each.accepts("") for each in matchers):
        raise BadRequest(
            "cannot delete series: the matchers would select every series; want at least one that needs a value,"
            ' like host="a", or a table'
        )
