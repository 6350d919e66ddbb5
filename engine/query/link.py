"""The main process's end of the query process, and the same interface in process.

:class:`ProcessLink` starts ``engine.query.worker`` in the background, starts it again when it ends, and gives it the
catalogue's definitions before whatever needs them.  Calls block and may come from any thread; several statements run at
once.  A statement that does not end in time is interrupted by the worker; when that does not help the worker is
killed.  Then the guilty statement fails, other statements are run once more, and rollup work, which may be repeated
without harm, is repeated.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.ipc

import engine
from engine.config import Query
from engine.errors import Bug, QueryLimit, TidegaugeError, Unavailable
from engine.query import wire
from engine.query.database import Database, SeriesIds
from engine.query.sources import JsonScalar, Needed, SqlAnswer, SqlRequest
from native.catalogue import Catalogue

Mark = tuple[int, int, int]

#: How long after its time a statement may still answer, before the worker is killed.
GRACE_SECONDS = 2.0
START_SECONDS = 60.0
NEEDED_SECONDS = 30.0
ROLLUP_SECONDS = 300.0
CLOSE_SECONDS = 30.0
ROLLUP_ATTEMPTS = 6
FIRST_DELAY_SECONDS = 0.05
LONGEST_DELAY_SECONDS = 10.0

_INHERITED_VARIABLES = ("HOME", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "PATH", "PYTHONUSERBASE", "TMPDIR")


class QueryLink(Protocol):
    """What the engine asks of the query process."""

    def sql(self, request: SqlRequest) -> SqlAnswer:
        """Run one statement; see :meth:`engine.query.database.Database.sql`."""

    def needed(self, sql: str, parameters: Sequence[JsonScalar] = ()) -> Needed:
        """Check a statement and say what must be prepared for it."""

    def flush_rollups(self, buckets: pa.Table, dirty: pa.Table, sequence: int) -> None:
        """Replace 1m rows and carry the change up the tiers; durable on return."""

    def rollup_rows(self, tier: str, start_ns: int, end_ns: int, series_ids: SeriesIds = None) -> pa.Table:
        """Return the rows of a tier in ``[start_ns, end_ns)``."""

    def watermark(self) -> int:
        """Return the sequence number up to which rollups are flushed."""

    def retain(self, cutoffs: Mapping[str, int]) -> int:
        """Remove rollup rows before each tier's cutoff (ns); return how many."""

    def counters(self) -> LinkCounters:
        """Return what has happened so far."""

    def close(self) -> None:
        """Close the database; harmless when repeated."""


class LinkCounters(msgspec.Struct):
    """``starts``: query processes started; ``deaths``: ended on their own; ``kills``: killed by the link;
    ``repeated``: calls run once more because of either."""

    starts: int = 0
    deaths: int = 0
    kills: int = 0
    repeated: int = 0


class LocalLink:
    """The query database in this process, opened when it is first asked.  A statement cannot be killed here."""

    def __init__(
        self, path: str | None, settings: Query, catalogue: Catalogue, *, pooled_tables: Collection[str] = ()
    ) -> None:
        self._path, self._settings, self._catalogue = path, settings, catalogue
        self._pooled_tables = tuple(pooled_tables)
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
                    pooled_tables=self._pooled_tables,
                    catalogue=self._catalogue,
                )
            return self._opened

    def sql(self, request: SqlRequest) -> SqlAnswer:
        return self._database().sql(request)

    def needed(self, sql: str, parameters: Sequence[JsonScalar] = ()) -> Needed:
        return self._database().needed_relations(sql, parameters)

    def flush_rollups(self, buckets: pa.Table, dirty: pa.Table, sequence: int) -> None:
        self._database().flush_rollups(buckets, dirty, sequence)

    def rollup_rows(self, tier: str, start_ns: int, end_ns: int, series_ids: SeriesIds = None) -> pa.Table:
        return self._database().rollup_rows(tier, start_ns, end_ns, series_ids)

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


@dataclass(slots=True, eq=False)
class _Pending:
    """One call that waits for its reply, or for the end of the worker that has it."""

    statement: bool
    done: threading.Event = field(default_factory=threading.Event)
    reply: wire.Reply | None = None
    attachment: bytearray = field(default_factory=bytearray)


@dataclass(slots=True, eq=False)
class _Process:
    """One life of the worker."""

    popen: subprocess.Popen[bytes]
    connection: socket.socket
    sending: threading.Lock = field(default_factory=threading.Lock)
    pending: dict[int, _Pending] = field(default_factory=dict)
    mark: Mark = (0, 0, 0)
    ready: bool = False
    #: Why the link killed it, and for whom ("memory": for all statements).
    killed_for: _Pending | Literal["memory", "start"] | None = None
    statements_at_end: int = 0
    ended_by: str = ""

    def kill(self, reason: _Pending | Literal["memory", "start"]) -> None:
        if self.killed_for is None:
            self.killed_for = reason
        self.popen.kill()


class ProcessLink:
    """The query process, seen from the main process."""

    def __init__(
        self,
        path: str | None,
        settings: Query,
        catalogue: Catalogue,
        *,
        pooled_tables: Collection[str] = (),
        threads: int | None = None,
        grace_seconds: float = GRACE_SECONDS,
    ) -> None:
        """Nothing is started yet: that happens in the background at the first call, or at :meth:`start`.

        ``path``: the rollup database, None for one in memory that lives as long as the worker.  ``catalogue``: where
        definitions come from (``mark`` and ``definitions``).
        """
        self._path, self._settings, self._catalogue = path, settings, catalogue
        self._pooled_tables = tuple(pooled_tables)
        self._threads = threads or os.cpu_count() or 1
        self._grace_seconds = grace_seconds
        self._state = threading.Condition()
        self._process: _Process | None = None
        self._start_error: TidegaugeError | None = None
        self._supervisor: threading.Thread | None = None
        self._closed = False
        self._wanted = False
        self._failures = 0
        self._next_id = 0
        self._counters = LinkCounters()

    # --- calls

    def sql(self, request: SqlRequest) -> SqlAnswer:
        reply, attachment = self._call(
            lambda number: wire.RunSql(number, request),
            seconds=request.limits.timeout_seconds,
            statement=True,
        )
        assert isinstance(reply, wire.Answered)
        return SqlAnswer(stream=bytes(attachment), rows=reply.rows, elapsed_seconds=reply.elapsed_seconds)

    def needed(self, sql: str, parameters: Sequence[JsonScalar] = ()) -> Needed:
        reply, _ = self._call(
            lambda number: wire.AskNeeded(number, sql, list(parameters)), seconds=NEEDED_SECONDS, statement=True
        )
        assert isinstance(reply, wire.FoundNeeded)
        return reply.needed

    def flush_rollups(self, buckets: pa.Table, dirty: pa.Table, sequence: int) -> None:
        first, second = _stream(buckets), _stream(dirty)
        self._roll(lambda number: wire.Flush(number, sequence, len(first)), first, second)

    def rollup_rows(self, tier: str, start_ns: int, end_ns: int, series_ids: SeriesIds = None) -> pa.Table:
        attachment = b"" if series_ids is None else np.asarray(series_ids, np.int64).tobytes()
        selected = series_ids is not None
        _, found = self._roll(lambda number: wire.ReadRows(number, tier, start_ns, end_ns, selected), attachment)
        return pa.ipc.open_stream(found).read_all()

    def watermark(self) -> int:
        return self._roll(wire.AskWatermark)[0].value

    def retain(self, cutoffs: Mapping[str, int]) -> int:
        return self._roll(lambda number: wire.Retain(number, dict(cutoffs)))[0].value

    def counters(self) -> LinkCounters:
        with self._state:
            return msgspec.structs.replace(self._counters)

    @property
    def pid(self) -> int | None:
        """The worker's process number while there is one that is ready."""
        with self._state:
            return self._process.popen.pid if self._process is not None and self._process.ready else None

    def start(self) -> None:
        """Start the worker in the background, so that the first call need not wait for it."""
        with self._state:
            self._want()

    def close(self) -> None:
        with self._state:
            if self._closed:
                return
            self._closed = True
            self._state.notify_all()
            process, supervisor = self._process, self._supervisor
        if process is not None:
            pending = _Pending(statement=False)
            if self._submit(process, wire.Close, pending, ()):
                pending.done.wait(CLOSE_SECONDS)
            try:
                process.popen.wait(1.0 if pending.done.is_set() else 0.0)
            except subprocess.TimeoutExpired:
                process.popen.kill()
        if supervisor is not None:
            supervisor.join()

    # --- one call and its repetitions

    def _roll(self, message: _Maker, *attachment: bytes) -> tuple[wire.Done, bytearray]:
        for attempt in range(ROLLUP_ATTEMPTS):
            try:
                reply, found = self._call(message, *attachment, seconds=ROLLUP_SECONDS, statement=False)
                assert isinstance(reply, wire.Done)
                return reply, found
            except QueryLimit:
                # Statements have taken the memory.  They get time to end, then they lose their process.
                if attempt == ROLLUP_ATTEMPTS - 1:
                    raise
                with self._state:
                    self._state.wait_for(lambda: self._closed, 0.1 * 2**attempt)
                    if attempt == ROLLUP_ATTEMPTS - 2 and self._process is not None:
                        self._kill(self._process, "memory")
        raise Bug("cannot reach the query process: attempts ended without an outcome")

    def _call(
        self, message: _Maker, *attachment: bytes, seconds: float, statement: bool
    ) -> tuple[wire.Reply, bytearray]:
        attempts = 2 if statement else ROLLUP_ATTEMPTS
        for attempt in range(attempts):
            process = self._ready_process()
            pending = _Pending(statement)
            if self._submit(process, message, pending, attachment) and not pending.done.wait(
                seconds + self._grace_seconds
            ):
                with self._state:
                    if not pending.done.is_set():
                        self._kill(process, pending)
            pending.done.wait()
            if isinstance(pending.reply, wire.Failed):
                raise wire.error_of(pending.reply)
            if pending.reply is not None:
                return pending.reply, pending.attachment
            error = self._fate(process, pending, seconds)
            if error is not None or attempt == attempts - 1:
                raise error or Unavailable(
                    f"cannot reach the query process: it ended {attempts} times during the call ({process.ended_by})"
                )
            with self._state:
                self._counters.repeated += 1
        raise Bug("cannot reach the query process: attempts ended without an outcome")

    def _fate(self, process: _Process, pending: _Pending, seconds: float) -> TidegaugeError | None:
        """Return why a call must fail whose worker has ended, None when it may be repeated."""
        if self._closed:
            return Unavailable("cannot reach the query process: it is being closed")
        if not pending.statement:
            return None
        if process.killed_for is pending:
            return QueryLimit(
                f"cannot run SQL: it took longer than {seconds:g} s and could not be interrupted;"
                " the query process was started again"
            )
        if process.killed_for == "memory":
            return QueryLimit("cannot run SQL: statements have taken all memory; the query process was started again")
        if process.killed_for is None and process.statements_at_end == 1:
            return Unavailable(
                f"cannot run SQL: the query process ended while the statement ran ({process.ended_by});"
                " it was started again"
            )
        return None

    def _submit(self, process: _Process, message: _Maker, pending: _Pending, attachment: Sequence[bytes]) -> bool:
        with self._state:
            if process is not self._process:
                pending.done.set()
                return False
            self._next_id += 1
            number = self._next_id
            process.pending[number] = pending
        try:
            frame = wire.encode(message(number))
            with process.sending:
                self._define(process)
                wire.send(process.connection, frame, *attachment)
        except OSError:
            # The supervisor sees the end of the worker as well and settles what is pending.
            return True
        return True

    def _define(self, process: _Process) -> None:
        """Send the definitions that the worker does not have yet.  Under its ``sending`` lock."""
        mark = self._catalogue.mark()
        if mark != process.mark:
            definitions = self._catalogue.definitions(process.mark, mark)
            wire.send(process.connection, wire.encode(wire.Define()), definitions)
            process.mark = mark

    def _ready_process(self) -> _Process:
        with self._state:
            self._want()
            self._start_error = None
            self._state.wait_for(
                lambda: (
                    self._closed or self._start_error is not None or (self._process is not None and self._process.ready)
                ),
                START_SECONDS,
            )
            if self._closed:
                raise Unavailable("cannot reach the query process: it is closed")
            if self._process is not None and self._process.ready:
                return self._process
            raise self._start_error or Unavailable(
                f"cannot reach the query process: it was not ready after {START_SECONDS:g} s"
            )

    # --- the worker's lives, all in one thread: PR_SET_PDEATHSIG takes the thread that started it for its parent

    def _want(self) -> None:
        if self._closed:
            raise Unavailable("cannot reach the query process: it is closed")
        self._wanted = True
        if self._supervisor is None:
            self._supervisor = threading.Thread(target=self._supervise, name="query-process", daemon=True)
            self._supervisor.start()
        self._state.notify_all()

    def _kill(self, process: _Process, reason: _Pending | Literal["memory", "start"]) -> None:
        if process.popen.poll() is None:
            self._counters.kills += 1
            process.kill(reason)

    def _supervise(self) -> None:
        while True:
            with self._state:
                self._state.wait_for(lambda: self._closed or self._wanted)
                if self._closed:
                    return
                delay = min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2 ** min(self._failures, 20))
                if self._failures and self._state.wait_for(lambda: self._closed, delay):
                    return
                self._wanted = False
            try:
                process = self._spawn()
            except OSError as error:
                self._failed_to_start(Unavailable(f"cannot start the query process: {error}"))
                continue
            self._attend(process)
            self._settle(process)

    def _spawn(self) -> _Process:
        ours, theirs = socket.socketpair()
        with theirs:
            popen = subprocess.Popen(
                [sys.executable, "-P", "-m", "engine.query.worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=_environment(),
            )
        process = _Process(popen, ours)
        with self._state:
            self._counters.starts += 1
            self._process = process
            if self._closed:
                popen.kill()
        opened = wire.Open(self._path, int(self._settings.memory), self._threads, self._pooled_tables, os.getpid())
        with suppress(OSError):
            wire.send(ours, wire.encode(opened))
        return process

    def _attend(self, process: _Process) -> None:
        """Take in replies until the worker's end."""
        while True:
            frame = wire.receive(process.connection)
            if frame is None:
                return
            reply = wire.REPLIES.decode(frame[0])
            if isinstance(reply, wire.Ready):
                with process.sending, suppress(OSError):
                    self._define(process)
                with self._state:
                    process.ready = True
                    self._state.notify_all()
            elif isinstance(reply, wire.Failed) and reply.id == 0:
                self._failed_to_start(wire.error_of(reply))
            else:
                with self._state:
                    self._failures = 0
                    pending = process.pending.pop(reply.id, None)
                if pending is not None:
                    pending.reply, pending.attachment = reply, frame[1]
                    pending.done.set()

    def _failed_to_start(self, error: TidegaugeError) -> None:
        with self._state:
            self._failures += 1
            self._start_error = error
            self._state.notify_all()

    def _settle(self, process: _Process) -> None:
        """Note how a worker ended and wake the calls it has left."""
        process.connection.close()
        process.popen.kill()
        code = process.popen.wait()
        process.ended_by = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        with self._state:
            self._process = None
            left = list(process.pending.values())
            process.statements_at_end = sum(pending.statement for pending in left)
            if process.killed_for is None and not self._closed:
                self._counters.deaths += 1
                if process.ready:
                    self._failures += 1
                elif self._start_error is None:
                    self._failures += 1
                    self._start_error = Unavailable(
                        f"cannot start the query process: it ended at once ({process.ended_by})"
                    )
            # One that was in use is started again without waiting for the next call.
            self._wanted = self._wanted or process.ready
            self._state.notify_all()
        for pending in left:
            pending.done.set()


class _Maker(Protocol):
    """Makes a request with the number given to it."""

    def __call__(self, number: int, /) -> wire.Request: ...


def _stream(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


def _environment() -> dict[str, str]:
    """Return the worker's environment: what Python and the loader need, nothing that could hold a secret."""
    variables = {name: os.environ[name] for name in _INHERITED_VARIABLES if name in os.environ}
    home = str(Path(engine.__file__).resolve().parent.parent)
    paths = [home, *(path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path)]
    return variables | {
        "PYTHONPATH": os.pathsep.join(paths),
        # One allocator for all, without reserving address space ahead: the worker lives under an address-space limit.
        "ARROW_DEFAULT_MEMORY_POOL": "system",
        "MALLOC_ARENA_MAX": "4",
        "OPENBLAS_NUM_THREADS": "1",
    }
