"""Rows of one table as they are, without SQL: time, tags and fields of those that satisfy conditions.

Answers are streams of Arrow batches.  Without an order rows go out as they are found, so that no more than a block of
them is held; with an order no more than the answer may have.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from engine.catalog.catalog import Catalog
from engine.errors import BadRequest
from engine.model.matchers import Matcher
from engine.model.rows import NEVER_NS, Rows, absent_matrix
from engine.model.times import time_text
from engine.query.comparisons import Comparison
from engine.query.deadlines import Stop
from engine.query.newest import NewestReader, NotPrompt
from engine.query.newestrows import NewestRows
from engine.query.ordered import Order, OrderedRows, in_order
from engine.query.rowscan import Direction, RowScanner, ScanCounts, ScanRequest
from engine.query.rowstream import Allowance, BatchMaker, Cut, RowLimits, RowsStream
from engine.query.samples import SampleStore
from engine.query.widetable import WideTable, WideTables

#: ``row``: the newest row of each tag set; ``values``: of each field the newest value; both of the rows that match.
Last = Literal["row", "values"]
#: Newest samples are looked up so many at a time.
NEWEST_CELLS = 1 << 20
#: So many of them may be had at once.
PROMPT_CELLS = 16_384
_DIRECTIONS: dict[Order | None, Direction] = {None: "any", "time": "oldest", "-time": "newest"}


@dataclass(frozen=True, slots=True)
class RowsQuery:
    """Rows of ``table`` with ``start_ns <= time < end_ns`` whose tags satisfy the matchers and fields the comparisons.

    ``fields``, ``tags``: columns of the answer, by the names that SQL has for them; None: all.  ``limit``: so many
    rows at most, the first in the order asked for.
    """

    table: str
    start_ns: int
    end_ns: int
    fields: tuple[str, ...] | None = None
    tags: tuple[str, ...] | None = None
    matchers: tuple[Matcher, ...] = ()
    where: tuple[Comparison, ...] = ()
    last: Last | None = None
    order: Order | None = None
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class _Plan:
    """A question with the names in it resolved."""

    query: RowsQuery
    table: WideTable
    request: ScanRequest
    limits: RowLimits
    counts: ScanCounts
    allowance: Allowance


class RowsReader:
    """Answers questions for rows of one engine; callable from any thread."""

    def __init__(self, catalog: Catalog, samples: SampleStore, newest: NewestReader) -> None:
        self._catalog, self._samples, self._newest = catalog, samples, newest
        self._tables = WideTables(catalog)
        self._scanner = RowScanner(samples)

    def open(
        self, query: RowsQuery, within: Sequence[Matcher], limits: RowLimits, stop: Stop, *, promptly: bool = False
    ) -> RowsStream:
        """Return the rows as they come; ``within``: what tag sets must satisfy to exist for the caller.

        Raises NotFound or BadRequest for names there are not and for a question that makes no sense.  ``promptly``:
        the stream raises NotPrompt where rows cannot be had in about a millisecond.
        """
        if query.end_ns <= query.start_ns:
            end, start = time_text(query.end_ns), time_text(query.start_ns)
            raise BadRequest(f"cannot read rows: the end ({end}) is not after the start ({start})")
        table = self._tables.table(query.table, within)
        tags, fields = table.columns.tags_named(query.tags), table.columns.fields_named(query.fields)
        compared = table.columns.fields_named([each.field for each in query.where])
        conditions = tuple((column.field_id, each) for column, each in zip(compared, query.where, strict=True))
        tagset_ids = table.tagset_ids
        if query.matchers:
            tagset_ids = self._catalog.tagset_ids(table.table_id, (*within, *query.matchers))
        field_ids = tuple(sorted({column.field_id for column in fields}))
        request = ScanRequest(
            table.table_id,
            query.start_ns,
            query.end_ns,
            tagset_ids,
            field_ids,
            conditions,
            "newest" if query.last is not None else _DIRECTIONS[query.order],
            every=len(tagset_ids) == len(self._catalog.tagset_ids(table.table_id)),
            promptly=promptly,
        )
        newest_ns = self._samples.newest_time_ns(table.table_id)
        # The newest row may be one that the caller does not see.
        fresh_to_ns = None if within or newest_ns == NEVER_NS else newest_ns
        plan = _Plan(query, table, request, limits, ScanCounts(), Allowance(limits, stop))
        if query.last is None:
            parts = self._scanned(plan)
        elif conditions or newest_ns >= query.end_ns:
            parts = self._reduced(plan, request)
        else:
            parts = self._looked_up(plan)
        return RowsStream(
            BatchMaker(self._tables, tags, fields, tagset_ids, field_ids),
            Cut(parts, query.limit, limits),
            {"tables": [table.name], "tier": "raw", "fresh_to": fresh_to_ns},
            plan.counts,
            plan.allowance,
            lambda: _why_empty(plan),
        )

    # --- where rows come from

    def _scanned(self, plan: _Plan) -> Iterator[Rows]:
        query, allowance = plan.query, plan.allowance
        if query.order is None:
            yield from self._scanner.scan(plan.request, plan.counts, lambda low, high: allowance.check())
            return
        kept = OrderedRows(query.order, query.limit, plan.limits)
        for rows in self._scanner.scan(
            plan.request, plan.counts, lambda low, high: allowance.check() or kept.useless(low, high)
        ):
            kept.add(rows)
        yield kept.rows()

    def _reduced(self, plan: _Plan, request: ScanRequest) -> Iterator[Rows]:
        """Yield the newest of each tag set, of the rows that match."""
        newest = NewestRows(request.tagset_ids, request.field_ids, whole=plan.query.last == "row")
        for rows in self._scanner.scan(
            request, plan.counts, lambda low, high: plan.allowance.check() or high <= newest.settled_ns
        ):
            newest.add(rows)
        yield in_order(newest.rows(), plan.query.order)

    def _looked_up(self, plan: _Plan) -> Iterator[Rows]:
        """Yield the newest of each tag set, of all rows since the start, from what is known of each."""
        query, request, tagset_ids = plan.query, plan.request, plan.request.tagset_ids
        # When the newest row was is decided by all fields, asked for or not.
        field_ids = plan.table.columns.field_ids
        wanted = [field_ids.index(field_id) for field_id in request.field_ids]
        step = len(tagset_ids) if query.order is not None else NEWEST_CELLS // max(1, len(field_ids))
        if request.promptly and len(tagset_ids) * len(field_ids) > PROMPT_CELLS:
            raise NotPrompt
        for first in range(0, len(tagset_ids), max(1, step)):
            plan.allowance.check()
            some = tagset_ids[first : first + max(1, step)]
            found = self._newest.newest(request.table_id, some, field_ids, query.start_ns, promptly=request.promptly)
            times = found.times.max(axis=0, initial=NEVER_NS)
            if len(times) and int(times.max()) >= query.end_ns:
                # It has come since: what was the newest before is not known.
                yield from self._reduced(plan, replace(request, tagset_ids=some, every=False))
                continue
            values = found.values[wanted]
            lacking = found.times[wanted] == NEVER_NS if query.last == "values" else found.times[wanted] != times
            values[lacking] = absent_matrix(1, 1)[0, 0]
            known = np.flatnonzero(times != NEVER_NS)
            plan.counts.rows_read += len(known)
            rows = Rows(some[known], times[known], request.field_ids, values.take(known, axis=1))
            yield in_order(rows, query.order)


def _why_empty(plan: _Plan) -> str:
    """Return why an answer without rows is empty."""
    query, name, there = plan.query, plan.table.name, len(plan.table.tagset_ids)
    if not len(plan.request.tagset_ids):
        wanted = ",".join(matcher.text for matcher in query.matchers)
        return f"none of the {there} tag sets of {name!r} satisfies {wanted}"
    where = f" that satisfies {','.join(each.text for each in query.where)}" if query.where else ""
    since = "" if query.start_ns == NEVER_NS else f" from {time_text(query.start_ns)}"
    return f"there is no row of {name!r}{where}{since} until {time_text(query.end_ns)}"
