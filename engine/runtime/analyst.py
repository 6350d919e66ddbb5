"""One analyst's statement: what it needs, brought up to date, and its rows as they come."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from engine.catalog.callers import Caller
from engine.errors import Cancelled
from engine.model.rows import FOREVER_NS, NEVER_NS
from engine.query.answers import SqlStream
from engine.query.deadlines import Stop
from engine.query.scopes import MAX_SAMPLED_TABLES
from engine.query.sources import Needed, SqlLimits, SqlRequest
from engine.query.visible import visible_to
from engine.runtime.findings import finding

if TYPE_CHECKING:
    from engine.runtime.engine import Engine

#: Below this many rows SQL reads samples though a tier would do.
RAW_ROWS_PREFERRED_IN_SQL = 200_000


class Analyst:
    """Runs the SQL of one engine; callable from any thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def stream(self, statement: str, parameters: Sequence[Any], caller: Caller, stop: Stop) -> SqlStream:
        """Run one SELECT whose rows are read as they come, see :meth:`engine.runtime.Engine.sql`.

        Whoever calls holds a turn.  ``stop`` ends it from another thread; then, or later when rows are read, it raises
        Cancelled.
        """
        with ExitStack() as held:
            held.enter_context(self._engine.timed("sql"))
            visible = visible_to(caller)
            needed = self._engine.link.needed(statement, list(parameters), visible)
            if needed.tables or needed.rollups:
                self._engine.recovery.require_finished("run SQL")
            # The newest sample of a table may be one that the caller does not see.
            fresh_to_ns = None if caller.limited else self._fresh_to(needed)
            tier = needed.tier if needed.tier and self._prefers_tier(needed) else ""
            if needed.rollups or tier:
                self._engine.flush_rollups()
            findings = {name: finding(self._engine, name, caller) for name in needed.findings}
            tables = held.enter_context(self._engine.exports.sources(() if tier else needed.tables))
            if stop.asked:
                raise Cancelled("cannot run SQL: it was cancelled")
            settings = self._engine.config.query
            parts = self._engine.link.parts(
                SqlRequest(
                    sql=statement,
                    parameters=list(parameters),
                    tables=tables,
                    findings=findings,
                    visible=visible,
                    plan=needed.plan,
                    tier=tier,
                    limits=SqlLimits(
                        timeout_seconds=caller.timeout_seconds or settings.timeout.seconds,
                        max_rows=settings.max_rows,
                        max_result_bytes=int(settings.max_result),
                    ),
                ),
                stop,
            )
            held.callback(parts.close)
            known = {
                "tables": [table.name for table in needed.tables],
                "tier": tier or ", ".join([*(["raw"] if needed.tables else []), *needed.rollups]) or None,
                "fresh_to": fresh_to_ns,
            }
            return SqlStream(parts, known, held)

    def _prefers_tier(self, needed: Needed) -> bool:
        """Return whether a statement that a tier answers as well had better read that.

        Not where few samples are read, and not where some are no longer kept: then samples would answer differently.
        """
        if not self._engine.config.query.rewrite_to_tiers:
            return False
        (table,) = needed.tables
        start_ns = NEVER_NS if table.start_ns is None else table.start_ns
        if start_ns < self._engine.admission.oldest_ns(self._engine.clock.now_ns(), table.table_id):
            return False
        expected = self._engine.samples.expected_rows(
            table.table_id, start_ns, FOREVER_NS if table.end_ns is None else table.end_ns
        )
        share = 1.0
        if table.tagset_ids is not None:
            share = len(table.tagset_ids) / max(1, len(self._engine.catalog.tagset_ids(table.table_id)))
        return expected * share > RAW_ROWS_PREFERRED_IN_SQL

    def _fresh_to(self, needed: Needed) -> int | None:
        """Return the time (ns) of the newest sample of the tables that a statement reads, None without one.

        None as well for more tables than is worth looking at.
        """
        numbers = {table.table_id for table in needed.tables}
        known = range(self._engine.catalog.native.table_count)
        numbers |= set(known if needed.rollup_tables is None else needed.rollup_tables)
        if len(numbers) > MAX_SAMPLED_TABLES:
            return None
        newest = max((self._engine.samples.newest_time_ns(number) for number in numbers), default=NEVER_NS)
        return newest if newest > NEVER_NS else None
