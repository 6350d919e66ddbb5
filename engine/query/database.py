"""The DuckDB database behind analysts' SQL: rollup tiers in a file, the catalogue and a statement's rows beside it.

Used in process (``tidegauge.open``) or inside the query process.  DuckDB itself reads no file but its own and writes
none but that: external access is off, no extension can be loaded, the configuration is locked.  Statements run in READ
ONLY transactions on cursors of their own, at the same time as rollup flushes.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from typing import TypeVar

import duckdb
import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.ipc

from engine.disk.filesystem import FileSystem
from engine.errors import BadQuery, Bug, Cancelled, QueryLimit, TidegaugeError, Unavailable
from engine.model.rows import Int32Array
from engine.query.connection import LOG, Seat, connect, set_aside
from engine.query.deadlines import Deadlines, Stop, Watch
from engine.query.instances import Instances, LargeBefore
from engine.query.plans import Plan, Plans
from engine.query.predicates import Evaluator
from engine.query.relations import FINDINGS, FIXED_RELATIONS, Relations, VisibleRelations
from engine.query.rewriting import rewritten
from engine.query.scans import SegmentFiles
from engine.query.scopes import Resolver, Scope, needed_of
from engine.query.shortage import is_shortage
from engine.query.sources import JsonScalar, Needed, Sink, SqlAnswer, SqlLimits, SqlRequest, Visible
from engine.query.syntax import explain_error
from engine.query.tagsets import TagStore
from engine.query.validation import check_text, parse
from engine.query.views import Tier, Views
from engine.query.visible import visible_tagsets
from engine.rollups import schema
from engine.rollups.long import NAMES
from engine.rollups.packs import Packs, pack_directory
from engine.rollups.shelf import DamagedPart, LostPack
from engine.rollups.store import FOREVER_NS, Piece, RollupStore, TierStats
from engine.rollups.stored import PartRange, tagset_range
from native.catalogue import Catalogue
from native.tagsetfile import TagsetFile

#: Rows of an answer that are handed on at once; fewer where there are many columns, so that no batch becomes large.
BATCH_ROWS = 16_384
BATCH_CELLS = 1 << 18
LEAST_BATCH_ROWS = 2_048
NEEDED_TIMEOUT_SECONDS = 30.0
_T = TypeVar("_T")
#: What a statement, or what it reads, may end with.
_FAILURES = (duckdb.Error, pa.ArrowException, MemoryError, RuntimeError, OSError, ImportError)
SeriesIds = Sequence[int] | npt.NDArray[np.int64] | None

# Arrow has no type for these, or DuckDB exports them as something else: they are sent as text, digit for digit.
_AS_TEXT = re.compile(r"\b(UHUGEINT|BIGNUM|VARINT|BIT|TIME WITH TIME ZONE|TIME_NS|UNION|VARIANT|GEOMETRY)\b")


class Database:
    """One open database.  Every method may be called from any thread."""

    def __init__(
        self,
        path: str | None = None,
        *,
        memory_limit_bytes: int = 1 << 30,
        statement_bytes: int = 128 << 20,
        statements: int = 4,
        threads: int | None = None,
        pooled_tables: Collection[str] = (),
        findings: Collection[str] = FINDINGS,
        catalogue: Catalogue | None = None,
        repair: bool = False,
        extensions: Collection[str] = (),
        fs: FileSystem | None = None,
    ) -> None:
        """Open the rollup database at ``path``, in memory where it is None.

        ``memory_limit_bytes``: what all statements may use together, of which each of ``statements`` at once is sure of
        ``statement_bytes``, and one at a time may have the rest (:mod:`engine.query.instances`).
        ``pooled_tables``: measurements whose metrics are named by the tag ``__name__``.  ``findings``: the relations of
        that kind there are.  ``catalogue``: where definitions are kept; one of its own by default, to be filled by
        :meth:`define`.
        ``extensions``: modules of further functions (:mod:`engine.query.extensions`).
        ``fs``: where its packs are, the machine's own by default; DuckDB's file is the machine's in any case.
        ``repair``: whether a damaged file is set aside, for the caller to fill the empty one that takes its place.
        Raises Unavailable when another process has the file open, Damage when it is not readable.
        """
        self.path = path
        self.catalogue = catalogue if catalogue is not None else Catalogue()
        self._tags = TagStore(self.catalogue)
        self._relations = Relations(self.catalogue, self._tags, pooled_tables, findings)
        self._files = SegmentFiles()
        self._plans = Plans()
        self._large_before = LargeBefore()
        self._deadlines = Deadlines()
        self._defining = threading.Lock()
        self._closing = threading.Condition()
        self._running = 0
        self._closed = False
        self.broken = False
        self._packs = Packs(None if path is None else pack_directory(path), fs)
        self._root = connect(path, memory_limit_bytes, threads or os.cpu_count() or 1, repair=repair)
        try:
            try:
                self._writing = Seat(self._root.cursor(), self._packs)
                self._writing.store.initialise()
            except LostPack as error:
                if path is None or not repair:
                    raise
                self._root.close()
                LOG.error("%s (%s); renamed to %s", error.message, error.path, set_aside(path))
                self._root = connect(path, memory_limit_bytes, threads or os.cpu_count() or 1, repair=repair)
                self._writing = Seat(self._root.cursor(), self._packs)
                self._writing.store.initialise()
            # Reads have a connection of their own, so that a long flush does not make dashboards wait.
            self._reading = Seat(self._root.cursor(), self._packs)
            self._root.execute("SET lock_configuration = true")
            cores = threads or os.cpu_count() or 1
            self._instances = Instances(memory_limit_bytes, statement_bytes, statements, cores, extensions)
        except duckdb.Error as error:
            # A full disk, for one: the supervisor tries again, and people read a sentence meanwhile.
            self._root.close()
            raise Unavailable(f"cannot open rollup database: {str(error).splitlines()[0]}") from None
        except BaseException:
            self._root.close()
            raise

    def close(self) -> None:
        """Interrupt what runs, wait until it has ended, and close the file; harmless when repeated."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
            while self._running:
                self._deadlines.expire_all()
                self._closing.wait(0.1)
        self._deadlines.close()
        self._instances.close()
        with self._writing.lock, self._reading.lock:
            if not self.broken:
                # What is not moved into the file now is read from DuckDB's log when it is opened again.
                with suppress(duckdb.Error):
                    self._writing.recover()
                    self._writing.store.checkpoint()
            for connection in (self._writing.connection, self._reading.connection, self._root):
                connection.close()

    # --- the catalogue

    def define(self, definitions: bytes, files: Sequence[TagsetFile] = ()) -> tuple[int, int, int]:
        """Add native catalogue definitions; ones that are known are skipped.  Returns the catalogue's mark.

        ``files`` hold the tag sets below those of ``definitions``, and replace the files there were; none: as before.
        Raises ValueError for definitions that contradict what is known.
        """
        with self._defining:
            if files:
                self.catalogue.use_files(files)
            if definitions:
                self.catalogue.apply_definitions(definitions)
            return self.catalogue.mark()

    def needed_relations(self, sql: str, parameters: Sequence[JsonScalar] = (), visible: Visible = ()) -> Needed:
        """Check a statement and say what must be prepared for it.  Raises BadQuery."""
        check_text(sql, parameters)
        with self._watched(NEEDED_TIMEOUT_SECONDS, sql) as watch:
            plan = self._with_room(sql, watch, lambda cursor: self._plan(cursor, sql, parameters, visible))
            found = needed_of(plan.relations, self._tags, plan.scopes, plan.statement)
        tier = "" if plan.rewrite is None else plan.rewrite.tier.name
        return msgspec.structs.replace(found, plan=self._plans.keep(plan), tier=tier)

    def _plan(
        self, cursor: duckdb.DuckDBPyConnection, sql: str, parameters: Sequence[JsonScalar], visible: Visible
    ) -> Plan:
        """Read a statement.  Raises BadQuery."""
        serialise = _serialiser(cursor)
        relations, tagset_ids = self._seen(visible)
        statement = parse(sql, serialise, relations.by_name())
        scopes: list[Scope] = []
        rewrite = None
        if statement.kind != "show_tables":
            scopes = self._resolver(cursor, relations, parameters, tagset_ids).scopes(statement)
            if len(scopes) == 1 and scopes[0].relation.kind == "table":
                rewrite = rewritten(statement, relations, scopes[0], serialise)
        return Plan((sql, tuple(parameters), visible), relations, statement, scopes, rewrite)

    def _seen(self, visible: Visible) -> tuple[Relations, Int32Array | None]:
        """Return the relations that exist for a statement, and of which tag sets (None: of all)."""
        if not visible:
            return self._relations, None
        self._tags.sync()
        tagset_ids = visible_tagsets(self._tags, visible)
        return VisibleRelations(self._relations, tagset_ids), tagset_ids

    # --- statements

    def sql(
        self,
        request: SqlRequest,
        sink: Callable[[Callable[[], AbstractContextManager[None]]], Sink] | None = None,
        stop: Stop | None = None,
    ) -> SqlAnswer:
        """Run one statement within its limits.

        ``sink``: makes what takes the answer, whose ``stream`` is then empty; it is given a context in which the time
        of waiting is not the statement's.  ``stop``: what ends the statement early.

        Raises BadQuery for one that is refused or fails, QueryLimit beyond a limit, Unavailable or Damage when a
        source cannot be read, Cancelled when it was stopped.
        """
        started = time.monotonic()
        check_text(request.sql, request.parameters)
        self.define(request.definitions)
        for source in request.tables:
            if source.pooled and source.table_id < self.catalogue.table_count:
                self._relations.mark_pooled(source.table_id)
        with self._packs.reading(), self._watched(request.limits.timeout_seconds, request.sql) as watch:
            if stop is not None:
                stop.attach(partial(self._deadlines.cancel, watch))
            taker = sink(partial(self._deadlines.paused, watch)) if sink is not None else None
            plan = self._plans.take(request.plan, (request.sql, tuple(request.parameters), request.visible))
            answer = self._with_room(
                request.sql, watch, lambda cursor: self._answer(cursor, request, plan, watch, taker), taker
            )
        return msgspec.structs.replace(answer, elapsed_seconds=time.monotonic() - started)

    def _with_room(
        self,
        sql: str,
        watch: Watch,
        work: Callable[[duckdb.DuckDBPyConnection], _T],
        taker: Sink | None = None,
    ) -> _T:
        """Run a statement's work on a cursor with the memory that it is sure of, and again with more where it lacks it.

        One that has needed more before gets that at once where it is free.  Raises QueryLimit when others had it until
        the statement's time was over.
        """
        instances = self._instances
        if self._large_before.known(sql):
            with instances.large(lambda: False) as cursor:
                if cursor is not None:
                    with self._deadlines.on(watch, cursor):
                        return work(cursor)
        with instances.small(lambda: not watch.expired) as cursor:
            if cursor is None:
                raise BadQuery("interrupted")
            try:
                with self._deadlines.on(watch, cursor):
                    return work(cursor)
            except _FAILURES as error:
                if watch.expired or not _lacks_memory(error) or (taker is not None and not taker.restart()):
                    raise
        self._large_before.note(sql)
        with instances.large(lambda: not watch.expired) as cursor:
            if cursor is None:
                if watch.cancelled or self._closed:
                    raise BadQuery("interrupted")
                raise QueryLimit(
                    f"cannot run SQL: it needs more than the {instances.small_bytes >> 20} MiB of memory that each"
                    " statement is sure of, and other statements had the rest until its time was over; ask again,"
                    " restrict the time range, aggregate, or select fewer columns"
                )
            with self._deadlines.on(watch, cursor):
                return work(cursor)

    def _answer(
        self,
        cursor: duckdb.DuckDBPyConnection,
        request: SqlRequest,
        plan: Plan | None,
        watch: Watch,
        taker: Sink | None,
    ) -> SqlAnswer:
        """Run one statement on a cursor."""
        limits = request.limits
        if plan is None:
            plan = self._plan(cursor, request.sql, request.parameters, request.visible)
        statement = plan.statement
        if statement.kind == "show_tables":
            stream, rows = _stream(_show_tables(plan.relations).to_reader(), limits, watch, taker)
            return SqlAnswer(stream=stream, rows=rows, elapsed_seconds=0.0, rows_read=0, files=0)
        views = Views(
            cursor,
            plan.relations,
            self._tags,
            self._files,
            statement,
            request.tables,
            request.findings,
            self._packs,
        )
        text = statement.text
        if request.tier:
            text = self._create_over_tier(cursor, views, plan, request.tier)
        else:
            views.create(plan.scopes, self._tiers)
        cursor.execute("BEGIN TRANSACTION READ ONLY")
        try:
            relation = cursor.sql(text, params=list(request.parameters) or None)
            batch_rows = max(LEAST_BATCH_ROWS, min(BATCH_ROWS, BATCH_CELLS // len(relation.columns)))
            stream, rows = _stream(_exportable(relation).to_arrow_reader(batch_rows), limits, watch, taker)
        except (duckdb.Error, OSError) as error:
            if _is_scan_failure(error) and not watch.expired and not _lacks_memory(error):
                for source in request.tables:
                    self._files.check(source.parquet)
            raise
        rows_read, files = views.read()
        return SqlAnswer(stream=stream, rows=rows, elapsed_seconds=0.0, rows_read=rows_read, files=files)

    def _create_over_tier(self, cursor: duckdb.DuckDBPyConnection, views: Views, plan: Plan, tier: str) -> str:
        """Create the view over a tier and return the statement that reads it."""
        rewrite = plan.rewrite
        if rewrite is None or rewrite.tier.name != tier:
            raise Unavailable("cannot run SQL: what it reads has changed meanwhile; ask again")
        (scope,) = plan.scopes
        of_tier = Scope(FIXED_RELATIONS[tier], scope.start_ns, scope.end_ns, scope.tagset_ids)
        views.create_over_tier(scope, rewrite, self._tiers([of_tier])[0])
        whole = msgspec.json.encode({"error": False, "statements": [rewrite.tree]}).decode()
        return str(cursor.execute("SELECT json_deserialize_sql($1)", [whole]).fetchall()[0][0])

    def _resolver(
        self,
        cursor: duckdb.DuckDBPyConnection,
        relations: Relations,
        parameters: Sequence[JsonScalar],
        tagset_ids: Int32Array | None,
    ) -> Resolver:
        evaluator = Evaluator(cursor, _serialiser(cursor), parameters)
        return Resolver(relations, self._tags, evaluator, tagset_ids)

    def _tiers(self, scopes: Sequence[Scope]) -> list[Tier]:
        """Return the parts that each scope of a rollup relation needs, all as of one moment."""
        ranges = [
            PartRange(
                scope.relation.name,
                schema.OLDEST_NS if scope.start_ns is None else scope.start_ns,
                FOREVER_NS if scope.end_ns is None else scope.end_ns,
                None if scope.tagset_ids is None else tagset_range(scope.tagset_ids),
            )
            for scope in scopes
        ]
        with self._turn(self._reading, "read rollups") as store:
            return store.parts_of(ranges)

    @contextmanager
    def _watched(self, timeout_seconds: float, sql: str) -> Iterator[Watch]:
        """Watch over one statement, and turn what goes wrong in the block into our errors."""
        with self._closing:
            if self._closed:
                raise Unavailable("cannot run SQL: the database is closed")
            self._running += 1
        try:
            with self._deadlines.watch(None, timeout_seconds) as watch:
                try:
                    yield watch
                except (TidegaugeError, *_FAILURES) as error:
                    raise self._translated(error, sql, timeout_seconds, watch) from None
        finally:
            with self._closing:
                self._running -= 1
                self._closing.notify_all()

    def _translated(self, error: Exception, sql: str, timeout_seconds: float, watch: Watch) -> TidegaugeError:
        text = str(error)
        if (
            isinstance(error, (duckdb.FatalException, duckdb.InternalException))
            or "database has been invalidated" in text
        ):
            self.broken = True
            return Bug(f"cannot run SQL: {text.splitlines()[0]}")
        if watch.expired and not isinstance(error, QueryLimit):
            if self._closed:
                return Unavailable("cannot run SQL: the database is being closed")
            if watch.cancelled:
                return Cancelled("cannot run SQL: it was cancelled")
            return QueryLimit(
                f"cannot run SQL: it took longer than {timeout_seconds:g} s; restrict the time range or the series"
            )
        if isinstance(error, TidegaugeError):
            return error
        if _lacks_memory(error):
            return QueryLimit(
                f"cannot run SQL: it needs more memory than the {self._instances.large_bytes >> 20} MiB that one"
                " statement may use; restrict the time range, aggregate, or select fewer columns"
            )
        if isinstance(error, pa.ArrowException) or _is_scan_failure(error):
            return Unavailable(f"cannot run SQL: reading a source failed: {text.splitlines()[0]}")
        if isinstance(error, duckdb.Error):
            return explain_error(error, sql)
        return Bug(f"cannot run SQL: {type(error).__name__}: {text}")

    # --- rollups

    def flush_rollups(self, pieces: Sequence[Piece], sequence: int) -> None:
        """Replace the 1m rows of each piece and carry that up the tiers, in one transaction."""
        with self._changing("flush rollups") as store:
            store.flush(pieces, sequence)

    def delete_rollups(self, table_id: int, tagset_ids: Int32Array, start_ns: int, end_ns: int) -> int:
        """Remove the rows of tag sets from all tiers; return how many 1m rows have gone."""
        with self._changing("delete rollups") as store:
            return store.delete(table_id, tagset_ids, start_ns, end_ns)

    def rollup_stats(self) -> list[TierStats]:
        """Return rows and bytes of each tier."""
        with self._turn(self._reading, "count rollups") as store:
            return store.stats()

    def retain(self, cutoffs: Mapping[str, int]) -> int:
        """Remove rollup rows before each tier's cutoff (ns); return how many."""
        with self._changing("remove old rollups") as store:
            return store.retain(cutoffs)

    def forget_rollups(self, tier: str, table_id: int, tagset_ids: Int32Array, before_ns: int) -> int:
        """Remove one table's rows from one tier; see :meth:`engine.rollups.store.RollupStore.forget`."""
        with self._changing("remove old rollups") as store:
            return store.forget(tier, table_id, tagset_ids, before_ns)

    def rollup_rows(
        self, tier: str, start_ns: int, end_ns: int, series_ids: SeriesIds = None, names: Sequence[str] = NAMES
    ) -> pa.Table:
        """Return the rows of a tier in ``[start_ns, end_ns)``, of these series or of all."""
        with self._turn(self._reading, "read rollups") as store:
            wanted = None if series_ids is None else np.asarray(series_ids, np.int64)
            return store.rows(tier, start_ns, end_ns, wanted, names)

    def watermark(self) -> int:
        """Return the sequence number up to which rollups are stored."""
        with self._turn(self._reading, "read the rollup watermark") as store:
            return store.watermark()

    @contextmanager
    def _changing(self, action: str) -> Iterator[RollupStore]:
        """Give the store that writes; what cannot be read meanwhile is given up, and LostRollups raised."""
        with self._turn(self._writing, action) as store:
            try:
                yield store
            except DamagedPart as error:
                raise store.give_up(error) from None

    @contextmanager
    def _turn(self, seat: Seat, action: str) -> Iterator[RollupStore]:
        """Give the store of a connection to one thread at a time, and turn what goes wrong into our errors."""
        with seat.lock:
            if self._closed:
                raise Unavailable(f"cannot {action}: the database is closed")
            try:
                seat.recover()
                yield seat.store
            except (MemoryError, duckdb.Error, RuntimeError) as error:
                seat.failed = True
                if is_shortage(error):
                    raise QueryLimit(f"cannot {action}: there is no memory left for it; try again") from None
                text = str(error).splitlines()[0]
                if isinstance(error, (duckdb.FatalException, duckdb.InternalException)) or "invalidated" in text:
                    self.broken = True
                raise Unavailable(f"cannot {action}: {text}") from None


def _show_tables(known: Relations) -> pa.Table:
    relations = sorted(known.by_name().values(), key=lambda relation: relation.name)
    kinds = {"table": "measurement", "finding": "finding", "rollup": "rollup"}
    return pa.table(
        {
            "name": pa.array([relation.name for relation in relations], pa.string()),
            "kind": pa.array([kinds.get(relation.kind, "catalogue") for relation in relations], pa.string()),
        }
    )


_SCAN_FAILURES = ("get_next failed", "reading the stream registered as", "from the object registered as")


def _is_scan_failure(error: BaseException) -> bool:
    """Whether DuckDB reports what a source said while it was opened or read (in the words of version 1.5 or 2.0)."""
    text = str(error)
    return isinstance(error, OSError) or any(words in text for words in _SCAN_FAILURES)


def _lacks_memory(error: BaseException) -> bool:
    """Whether a statement ended for want of memory, itself or what it reads."""
    text = str(error)
    return is_shortage(error) or (_is_scan_failure(error) and ("alloc" in text or "MemoryError" in text))


def _serialiser(cursor: duckdb.DuckDBPyConnection) -> Callable[[str], str]:
    def serialise(sql: str) -> str:
        try:
            return str(cursor.execute("SELECT json_serialize_sql($1)", [sql]).fetchall()[0][0])
        except (duckdb.OutOfMemoryException, duckdb.InterruptException, duckdb.FatalException):
            # Not what is wrong with the statement.
            raise
        except duckdb.Error as error:
            if is_shortage(error):
                raise
            raise explain_error(error, sql) from None

    return serialise


def _exportable(relation: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    """Cast columns to text that Arrow could only carry wrongly."""
    types = [str(type_) for type_ in relation.types]
    if not any(_AS_TEXT.search(type_) for type_ in types):
        return relation
    columns = []
    for number, (name, type_) in enumerate(zip(relation.columns, types, strict=True), start=1):
        shown = '"' + name.replace('"', '""') + '"'
        columns.append(f"CAST(#{number} AS VARCHAR) AS {shown}" if _AS_TEXT.search(type_) else f"#{number} AS {shown}")
    return relation.project(", ".join(columns))


def _stream(reader: pa.RecordBatchReader, limits: SqlLimits, watch: Watch, taker: Sink | None) -> tuple[bytes, int]:
    """Read an answer to its end as an Arrow IPC stream, which goes to the taker where there is one.

    Raises QueryLimit when it is too large.
    """
    rows = size = 0
    sink = pa.BufferOutputStream() if taker is None else pa.PythonFile(taker, mode="w")
    with reader, pa.ipc.new_stream(sink, reader.schema) as writer:
        for batch in reader:
            rows += batch.num_rows
            size += batch.nbytes
            if rows > limits.max_rows:
                raise QueryLimit(
                    f"cannot run SQL: the answer has more than {limits.max_rows} rows; aggregate, restrict or add LIMIT"
                )
            if size > limits.max_result_bytes:
                raise QueryLimit(
                    f"cannot run SQL: the answer is larger than {limits.max_result_bytes} bytes;"
                    " aggregate, select fewer columns or add LIMIT"
                )
            if watch.expired:
                raise BadQuery("interrupted")
            writer.write_batch(batch)
    return sink.getvalue().to_pybytes() if taker is None else b"", rows
