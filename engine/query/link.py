"""The main process's end of the query process, and the same interface in process.

:class:`ProcessLink` starts ``engine.query.worker`` in the background, starts it again when it ends, and gives it the
catalogue's definitions before whatever needs them.  Calls block and may come from any thread; several statements run at
once.  A statement that does not end in time is interrupted by the worker; when that does not help the worker is
killed.  Then the guilty statement fails, other statements are run once more, and rollup work, which may be repeated
without harm, is repeated.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.ipc

from engine.config import Query
from engine.disk.filesystem import FileSystem
from engine.errors import Bug, QueryLimit, Unavailable
from engine.model.rows import Int32Array
from engine.query import wire
from engine.query.answers import STATEMENT_ATTEMPTS, AnswerParts, ArrivingAnswer, WholeAnswer, answer_of
from engine.query.database import Database, SeriesIds
from engine.query.deadlines import Stop
from engine.query.process import Pending
from engine.query.relations import FINDINGS
from engine.query.sources import JsonScalar, Needed, SqlAnswer, SqlRequest, Visible
from engine.query.supervisor import LinkCounters, Maker, Supervisor
from engine.query.validation import check_text
from engine.rollups.long import NAMES
from engine.rollups.store import Piece, TierStats
from engine.rollups.transfer import pieces_to_buffers
from native.catalogue import Catalogue

#: How long after its time a statement may still answer, before the worker is killed.
GRACE_SECONDS = 2.0
NEEDED_SECONDS = 30.0
ROLLUP_SECONDS = 300.0
#: Rollup work is repeated more often than a statement.
ROLLUP_ATTEMPTS = 6
FIRST_PAUSE_SECONDS = 0.1


class QueryLink(Protocol):
    """What the engine asks of the query process."""

    def sql(self, request: SqlRequest) -> SqlAnswer:
        """Run one statement; see :meth:`engine.query.database.Database.sql`."""

    def parts(self, request: SqlRequest, stop: Stop) -> AnswerParts:
        """Run one statement whose answer comes in parts; ``stop`` ends it early."""

    def needed(self, sql: str, parameters: Sequence[JsonScalar] = (), visible: Visible = ()) -> Needed:
        """Check a statement and say what must be prepared for it."""

    def flush_rollups(self, pieces: Sequence[Piece], sequence: int) -> None:
        """Replace 1m rows and carry the change up the tiers; durable on return."""

    def rollup_rows(
        self, tier: str, start_ns: int, end_ns: int, series_ids: SeriesIds = None, names: Sequence[str] = NAMES
    ) -> pa.Table:
        """Return the rows of a tier in ``[start_ns, end_ns)``."""

    def delete_rollups(self, table_id: int, tagset_ids: Int32Array, start_ns: int, end_ns: int) -> int:
        """Remove the rows of tag sets from all tiers; see :meth:`engine.rollups.store.RollupStore.delete`."""

    def forget_rollups(self, tier: str, table_id: int, tagset_ids: Int32Array, before_ns: int) -> int:
        """Remove one table's rows from one tier; see :meth:`engine.rollups.store.RollupStore.forget`."""

    def rollup_stats(self) -> list[TierStats]:
        """Return rows and bytes of each tier."""

    def watermark(self) -> int:
        """Return the sequence number up to which rollups are flushed."""

    def retain(self, cutoffs: Mapping[str, int]) -> int:
        """Remove rollup rows before each tier's cutoff (ns); return how many."""

    def counters(self) -> LinkCounters:
        """Return what has happened so far."""

    def close(self) -> None:
        """Close the database; harmless when repeated."""


class LocalLink:
    """The query database in this process, opened when it is first asked.  A statement cannot be killed here."""

    def __init__(
        self,
        path: str | None,
        settings: Query,
        catalogue: Catalogue,
        *,
        pooled_tables: Collection[str] = (),
        findings: Collection[str] = FINDINGS,
        extensions: Collection[str] = (),
        fs: FileSystem | None = None,
    ) -> None:
        """``fs``: where the packs of the tiers are, the machine's own by default."""
        self._path, self._settings, self._catalogue = path, settings, catalogue
        self._pooled_tables, self._findings = tuple(pooled_tables), tuple(findings)
        self._extensions, self._fs = tuple(extensions), fs
        self._opening = threading.Lock()
        self._opened: Database | None = None
        self._closed = False

    def _database(self) -> Database:
        with self._opening:
            if self._closed:
                raise Unavailable("cannot reach the query database: it is closed")
            if self._opened is None:
                self._opened = Database(
                    self._path,
                    memory_limit_bytes=int(self._settings.memory),
                    statement_bytes=int(self._settings.statement_memory),
                    statements=self._settings.concurrency,
                    pooled_tables=self._pooled_tables,
                    findings=self._findings,
                    extensions=self._extensions,
                    catalogue=self._catalogue,
                    repair=True,
                    fs=self._fs,
                )
            return self._opened

    def sql(self, request: SqlRequest) -> SqlAnswer:
        return self._database().sql(request)

    def parts(self, request: SqlRequest, stop: Stop) -> AnswerParts:
        return WholeAnswer(self._database().sql(request, stop=stop))

    def needed(self, sql: str, parameters: Sequence[JsonScalar] = (), visible: Visible = ()) -> Needed:
        return self._database().needed_relations(sql, parameters, visible)

    def flush_rollups(self, pieces: Sequence[Piece], sequence: int) -> None:
        self._database().flush_rollups(pieces, sequence)

    def rollup_rows(
        self, tier: str, start_ns: int, end_ns: int, series_ids: SeriesIds = None, names: Sequence[str] = NAMES
    ) -> pa.Table:
        return self._database().rollup_rows(tier, start_ns, end_ns, series_ids, names)

    def delete_rollups(self, table_id: int, tagset_ids: Int32Array, start_ns: int, end_ns: int) -> int:
        return self._database().delete_rollups(table_id, tagset_ids, start_ns, end_ns)

    def forget_rollups(self, tier: str, table_id: int, tagset_ids: Int32Array, before_ns: int) -> int:
        return self._database().forget_rollups(tier, table_id, tagset_ids, before_ns)

    def rollup_stats(self) -> list[TierStats]:
        return self._database().rollup_stats()

    def watermark(self) -> int:
        return self._database().watermark()

    def retain(self, cutoffs: Mapping[str, int]) -> int:
        return self._database().retain(cutoffs)

    def counters(self) -> LinkCounters:
        return LinkCounters()

    def close(self) -> None:
        with self._opening:
            self._closed = True
            if self._opened is not None:
                self._opened.close()


class ProcessLink:
    """The query process, seen from the main process."""

    def __init__(
        self,
        path: str | None,
        settings: Query,
        catalogue: Catalogue,
        *,
        pooled_tables: Collection[str] = (),
        findings: Collection[str] = FINDINGS,
        extensions: Collection[str] = (),
        threads: int | None = None,
        grace_seconds: float = GRACE_SECONDS,
    ) -> None:
        """Nothing is started yet: that happens in the background at the first call, or at :meth:`start`.

        ``path``: the rollup database, None for one in memory that lives as long as the worker.  ``catalogue``: where
        definitions come from (``mark`` and ``definitions``).  ``pooled_tables``, ``findings``, ``extensions``: see
        :class:`engine.query.database.Database`.
        """
        opened = wire.Open(
            path=path,
            memory_limit_bytes=int(settings.memory),
            statement_bytes=int(settings.statement_memory),
            statements=settings.concurrency,
            threads=threads or os.cpu_count() or 1,
            pooled_tables=tuple(pooled_tables),
            findings=tuple(findings),
            parent_pid=os.getpid(),
            nice=settings.nice,
            extensions=tuple(extensions),
        )
        self._grace_seconds = grace_seconds
        self._supervisor = Supervisor(opened, catalogue)

    # --- calls

    def sql(self, request: SqlRequest) -> SqlAnswer:
        check_text(request.sql, request.parameters)
        reply, attachment = self._call(
            lambda number: wire.RunSql(number, request), seconds=request.limits.timeout_seconds, statement=True
        )
        assert isinstance(reply, wire.Answered)
        return answer_of(reply, attachment)

    def parts(self, request: SqlRequest, stop: Stop) -> AnswerParts:
        check_text(request.sql, request.parameters)
        return ArrivingAnswer(self._supervisor, request, stop, grace_seconds=self._grace_seconds)

    def needed(self, sql: str, parameters: Sequence[JsonScalar] = (), visible: Visible = ()) -> Needed:
        check_text(sql, parameters)
        reply, _ = self._call(
            lambda number: wire.AskNeeded(number, sql, list(parameters), visible),
            seconds=NEEDED_SECONDS,
            statement=True,
        )
        assert isinstance(reply, wire.FoundNeeded)
        return reply.needed

    def flush_rollups(self, pieces: Sequence[Piece], sequence: int) -> None:
        self._roll(lambda number: wire.Flush(number, sequence), *pieces_to_buffers(pieces))

    def rollup_rows(
        self, tier: str, start_ns: int, end_ns: int, series_ids: SeriesIds = None, names: Sequence[str] = NAMES
    ) -> pa.Table:
        attachment = b"" if series_ids is None else np.asarray(series_ids, np.int64).tobytes()
        selected = series_ids is not None
        _, found = self._roll(
            lambda number: wire.ReadRows(number, tier, start_ns, end_ns, selected, tuple(names)), attachment
        )
        return pa.ipc.open_stream(found).read_all()

    def delete_rollups(self, table_id: int, tagset_ids: Int32Array, start_ns: int, end_ns: int) -> int:
        attachment = np.asarray(tagset_ids, np.int32).tobytes()
        return self._roll(lambda number: wire.Delete(number, table_id, start_ns, end_ns), attachment)[0].value

    def forget_rollups(self, tier: str, table_id: int, tagset_ids: Int32Array, before_ns: int) -> int:
        attachment = np.asarray(tagset_ids, np.int32).tobytes()
        return self._roll(lambda number: wire.Forget(number, tier, table_id, before_ns), attachment)[0].value

    def rollup_stats(self) -> list[TierStats]:
        reply, _ = self._call(wire.AskStats, seconds=ROLLUP_SECONDS, statement=False)
        assert isinstance(reply, wire.FoundStats)
        return [TierStats(*each) for each in reply.tiers]

    def watermark(self) -> int:
        return self._roll(wire.AskWatermark)[0].value

    def retain(self, cutoffs: Mapping[str, int]) -> int:
        return self._roll(lambda number: wire.Retain(number, dict(cutoffs)))[0].value

    def counters(self) -> LinkCounters:
        return self._supervisor.counters()

    @property
    def pid(self) -> int | None:
        """The worker's process number while there is one that is ready."""
        return self._supervisor.pid

    def start(self) -> None:
        """Start the worker in the background, so that the first call need not wait for it."""
        self._supervisor.want()

    def close(self) -> None:
        self._supervisor.close()

    # --- one call and its repetitions

    def _roll(self, message: Maker, *attachment: bytes | memoryview) -> tuple[wire.Done, bytearray]:
        for attempt in range(ROLLUP_ATTEMPTS):
            try:
                reply, found = self._call(message, *attachment, seconds=ROLLUP_SECONDS, statement=False)
                assert isinstance(reply, wire.Done)
                return reply, found
            except QueryLimit:
                # Statements have taken the memory.  They get time to end, then they lose their process.
                if attempt == ROLLUP_ATTEMPTS - 1:
                    raise
                self._supervisor.wait_closed(FIRST_PAUSE_SECONDS * 2**attempt)
                if attempt == ROLLUP_ATTEMPTS - 2:
                    self._supervisor.kill_current("memory")
        raise Bug("cannot reach the query process: attempts ended without an outcome")

    def _call(
        self, message: Maker, *attachment: bytes | memoryview, seconds: float, statement: bool
    ) -> tuple[wire.Reply, bytearray]:
        attempts = STATEMENT_ATTEMPTS if statement else ROLLUP_ATTEMPTS
        for attempt in range(attempts):
            process = self._supervisor.ready()
            pending = Pending(statement)
            self._supervisor.submit(process, message, pending, *attachment)
            if not pending.done.wait(seconds + self._grace_seconds):
                self._supervisor.kill(process, pending)
                pending.done.wait()
            if isinstance(pending.reply, wire.Failed):
                raise wire.error_of(pending.reply)
            if pending.reply is not None:
                return pending.reply, pending.attachment
            error = self._supervisor.fate(process, pending, seconds)
            if error is not None:
                raise error
            if attempt == attempts - 1:
                raise Unavailable(
                    f"cannot reach the query process: it ended {attempts} times during the call ({process.ended_by})"
                )
            self._supervisor.count_repeated()
        raise Bug("cannot reach the query process: attempts ended without an outcome")
