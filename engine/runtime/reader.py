"""The answers of the native paths: aligned ranges and rows of one table, at once or when their turn has come."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow as pa

from engine.catalog.callers import Caller
from engine.errors import TidegaugeError
from engine.query.deadlines import Stop
from engine.query.emptiness import why_lacking
from engine.query.newest import NotPrompt
from engine.query.range import RangeAnswer, RangeQuery
from engine.query.rowstream import RowLimits, RowsStream
from engine.query.wide import RowsQuery
from engine.runtime.result import SqlResult

if TYPE_CHECKING:
    from engine.runtime.engine import Engine


class Reader:
    """Answers the native queries of one engine; callable from any thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        vitals = engine.vitals
        self._answers, self._seconds = vitals.queries.labels("query", "answered"), vitals.query_seconds.labels("query")
        self._row_answers = vitals.queries.labels("rows", "answered")
        self._row_seconds = vitals.query_seconds.labels("rows")

    def query(self, query: RangeQuery, caller: Caller) -> RangeAnswer:
        """Answer an aligned range query from raw samples or the best tier; raises Recovering until all are there."""
        with self._engine.timed("query"):
            self._engine.recovery.require_finished("query")
            limited = replace(query, matchers=(*query.matchers, *caller.matchers))
            answer = self._engine.ranges.answer(limited, raw_since_ns=self._engine.raw_since_ns)
            answer.reason = why_lacking(self._engine.catalog, query, answer, caller.matchers) or answer.reason
            return answer

    def prompt_query(self, query: RangeQuery, caller: Caller) -> RangeAnswer | None:
        """Return the answer of :meth:`query` if it can be had at once, in well under a millisecond; else None.

        None as well where there is a mistake to be told, or a turn to be waited for.  Takes no turn but counts as one.
        """
        started = self._engine.clock.monotonic()
        if self._engine.recovery.active or not self._engine.query_turns.may_pass(caller):
            return None
        limited = replace(query, matchers=(*query.matchers, *caller.matchers)) if caller.matchers else query
        try:
            answer = self._engine.ranges.prompt_answer(limited, raw_since_ns=self._engine.raw_since_ns)
        except TidegaugeError:
            return None
        # Why something is lacking takes longer to find out.
        if answer is None or not answer.tells_of(query.metrics):
            return None
        seconds = self._engine.clock.monotonic() - started
        self._engine.query_turns.passed(caller, seconds)
        self._answers.inc()
        self._seconds.observe(seconds)
        return answer

    @contextmanager
    def stream_rows(self, query: RowsQuery, caller: Caller, stop: Stop) -> Iterator[RowsStream]:
        """Give the rows of one table that a question is about as they come.  Whoever calls holds a turn.

        ``stop`` ends it from another thread.  Raises NotFound or BadRequest for names there are not, QueryLimit,
        Cancelled, Recovering until all rows are there.
        """
        with self._engine.timed("rows"):
            self._engine.recovery.require_finished("read rows")
            with self._engine.wide.open(query, caller.matchers, self._row_limits(caller), stop) as stream:
                yield stream

    def prompt_rows(self, query: RowsQuery, caller: Caller, most_cells: int) -> SqlResult | None:
        """Return the answer of :meth:`rows` if it can be had at once, in about a millisecond; else None.

        None as well for more than ``most_cells`` values, where there is a mistake to be told, or a turn to be waited
        for.  Takes no turn but counts as one.
        """
        started = self._engine.clock.monotonic()
        if self._engine.recovery.active or not self._engine.query_turns.may_pass(caller):
            return None
        batches: list[pa.RecordBatch] = []
        try:
            with self._engine.wide.open(
                query, caller.matchers, self._row_limits(caller), Stop(), promptly=True
            ) as stream:
                for batch in stream.batches():
                    most_cells -= batch.num_rows * batch.num_columns
                    if most_cells < 0:
                        return None
                    batches.append(batch)
        except (NotPrompt, TidegaugeError):
            return None
        seconds = self._engine.clock.monotonic() - started
        self._engine.query_turns.passed(caller, seconds)
        self._row_answers.inc()
        self._row_seconds.observe(seconds)
        return SqlResult(pa.Table.from_batches(batches, stream.schema), stream.metadata)

    def _row_limits(self, caller: Caller) -> RowLimits:
        query = self._engine.config.query
        seconds = caller.timeout_seconds or query.timeout.seconds
        return RowLimits(seconds, query.max_rows, int(query.max_result), self._engine.clock.monotonic)

    def rows(self, query: RowsQuery, caller: Caller) -> SqlResult:
        """Return the rows of one table that a question is about, see :meth:`stream_rows`, when its turn has come."""
        with self._engine.query_turns.take(caller), self.stream_rows(query, caller, Stop()) as stream:
            return SqlResult(pa.Table.from_batches(stream.batches(), stream.schema), stream.metadata)
