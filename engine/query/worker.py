"""The query process: owns the rollup database and runs analysts' SQL, where a query bomb can be killed alone.

Started as ``python -m engine.query.worker <socket fd>`` by :mod:`engine.query.link`.  Each statement runs in a thread
and on a cursor of its own; rollup work is done one piece after the other in another thread.  The process ends with its
parent, at the latest when the socket closes.  What DuckDB does not hold itself to is held by the address-space limit:
the memory for statements, a margin for what it allocates beside its own count, and the files mapped at the moment.
"""

from __future__ import annotations

import ctypes
import gc
import os
import queue
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from functools import partial

import numpy as np
import pyarrow as pa

from engine.catalog.tagsetfiles import open_file
from engine.disk.real import RealFileSystem
from engine.errors import Bug, QueryLimit, TidegaugeError
from engine.query import wire
from engine.query.database import Database
from engine.query.instances import reserved_bytes
from engine.query.memory import LARGE_BYTES, release_unused
from engine.query.parts import Parts, Statement
from engine.query.scans import mapped_bytes
from engine.query.shortage import is_shortage
from engine.rollups.transfer import pieces_from_bytes
from native.slabs import Slab, keep_at_most
from native.tagsetfile import TagsetFile

#: Address space beside the memory for statements: buffers of Arrow, thread stacks, the rest of the process.
MARGIN_BYTES = 1 << 30
#: How often, at most, memory that a flush no longer needs is given back.
RELEASE_SECONDS = 15.0
#: Attachments from this size on are put into memory that is used again, of which so much is kept.
SLAB_BYTES, KEPT_BYTES = 1 << 20, 32 << 20

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_NO_NEW_PRIVS = 38
_EXIT_BROKEN = 70


class AddressSpace:
    """The process's RLIMIT_AS: ``allowed_bytes`` above what it had when this was made, and what is mapped meanwhile."""

    def __init__(self, allowed_bytes: int) -> None:
        self._lock = threading.Lock()
        self._limit = _virtual_bytes() + allowed_bytes
        self.mapped(0)

    def mapped(self, change_bytes: int) -> None:
        """Count files that are mapped (positive) or no longer mapped (negative)."""
        with self._lock:
            self._limit += change_bytes
            _, hard = resource.getrlimit(resource.RLIMIT_AS)
            soft = self._limit if hard == resource.RLIM_INFINITY else min(self._limit, hard)
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _virtual_bytes() -> int:
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


class Worker:
    """Serves one socket until it closes."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        #: Statements under way, by the number of their request.
        self._statements: dict[int, Statement] = {}
        self._sending = threading.Lock()
        self._released_at = 0.0
        self._rollups: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()

    def run(self) -> None:
        first = self._receive()
        if not isinstance(first[0], wire.Open):
            raise Bug(f"cannot start query process: got {type(first[0]).__name__} first, want Open")
        opened = first[0]
        _die_with_parent(opened.parent_pid)
        _give_way(opened.nice)
        try:
            self._database = Database(
                opened.path,
                memory_limit_bytes=opened.memory_limit_bytes,
                statement_bytes=opened.statement_bytes,
                statements=opened.statements,
                threads=opened.threads,
                pooled_tables=opened.pooled_tables,
                findings=opened.findings,
                repair=opened.repair,
                extensions=opened.extensions,
            )
        except TidegaugeError as error:
            self._reply(wire.failed(0, error))
            return
        reserved = reserved_bytes(opened.statements, opened.threads)
        self._space = AddressSpace(opened.memory_limit_bytes + reserved + MARGIN_BYTES)
        threading.Thread(target=self._roll, name="rollups", daemon=True).start()
        # What is loaded by now stays: it need not be looked through with every collection.
        gc.collect()
        gc.freeze()
        self._reply(wire.Ready(os.getpid()))
        try:
            while self._dispatch(*self._receive()):
                pass
        except MemoryError:
            # Statements have taken all address space.  What has come cannot be read: all else is run again by another.
            os._exit(_EXIT_BROKEN)

    def _receive(self) -> tuple[wire.Request, bytearray | memoryview]:
        frame = wire.receive(self._connection, _room)
        if frame is None:
            # The parent is gone.  Whatever was not committed will be flushed again by the next one.
            os._exit(0)
        message, attachment = frame
        return wire.REQUESTS.decode(message), attachment

    def _reply(self, message: wire.Reply, *attachment: bytes | memoryview) -> None:
        with self._sending:
            try:
                wire.send(self._connection, wire.encode(message), *attachment)
            except OSError:
                os._exit(0)

    # --- messages

    def _dispatch(self, message: wire.Request, attachment: bytearray | memoryview) -> bool:
        """Start what a message asks for; return False after the last one."""
        if isinstance(message, wire.Define):
            self._define(message, bytes(attachment))
        elif isinstance(message, wire.RunSql):
            self._reply(wire.Started(message.id))
            self._statements[message.id] = Statement(message.window_bytes)
            self._in_thread(message.id, lambda: self._run_sql(message))
        elif isinstance(message, wire.Taken):
            if (statement := self._statements.get(message.id)) is not None:
                statement.taken(message.bytes)
        elif isinstance(message, wire.StopSql):
            if (statement := self._statements.get(message.id)) is not None:
                statement.stop.ask()
        elif isinstance(message, wire.AskNeeded):
            self._reply(wire.Started(message.id))
            self._in_thread(message.id, lambda: self._ask_needed(message))
        elif isinstance(message, wire.Flush):
            self._in_turn(message.id, lambda: self._flush(message, attachment))
        elif isinstance(message, wire.ReadRows):
            self._in_thread(message.id, lambda: self._read_rows(message, attachment))
        elif isinstance(message, wire.AskWatermark):
            self._in_thread(message.id, lambda: self._reply(wire.Done(message.id, self._database.watermark())))
        elif isinstance(message, wire.Retain):
            self._in_turn(
                message.id, lambda: self._reply(wire.Done(message.id, self._database.retain(message.cutoffs)))
            )
        elif isinstance(message, wire.Delete):
            self._in_turn(message.id, lambda: self._delete(message, attachment))
        elif isinstance(message, wire.Forget):
            self._in_turn(message.id, lambda: self._forget_rollups(message, attachment))
        elif isinstance(message, wire.AskStats):
            self._in_thread(message.id, lambda: self._ask_stats(message))
        elif isinstance(message, wire.Close):
            self._close(message)
            return False
        return True

    def _define(self, message: wire.Define, definitions: bytes) -> None:
        files: list[TagsetFile] = []
        if message.tagset_files is not None:
            known = {file.path: file for file in self._database.catalogue.tagset_files()}
            fs = RealFileSystem()
            for path in message.tagset_files:
                if path in known:
                    files.append(known.pop(path))
                else:
                    self._space.mapped(fs.size(path))
                    files.append(open_file(fs, path, verify=False))
        self._database.define(definitions, files)
        if message.tagset_files is not None:
            self._space.mapped(-sum(file.nbytes for file in known.values()))

    def _forget_rollups(self, message: wire.Forget, attachment: bytearray | memoryview) -> None:
        tagset_ids = np.frombuffer(attachment, np.int32)
        removed = self._database.forget_rollups(message.tier, message.table_id, tagset_ids, message.before_ns)
        self._reply(wire.Done(message.id, removed))

    def _guarded(self, request_id: int, work: Callable[[], None]) -> None:
        try:
            work()
        except TidegaugeError as error:
            self._reply(wire.failed(request_id, error))
        except Exception as error:
            if is_shortage(error):
                told: TidegaugeError = QueryLimit("cannot run SQL: the query process is out of memory")
            else:
                told = Bug(f"query process: {type(error).__name__}: {error}")
            self._reply(wire.failed(request_id, told))
        if self._database.broken:
            os._exit(_EXIT_BROKEN)

    def _in_thread(self, request_id: int, work: Callable[[], None]) -> None:
        try:
            threading.Thread(target=self._guarded, args=(request_id, work), daemon=True).start()
        except (RuntimeError, MemoryError):
            self._statements.pop(request_id, None)
            error = QueryLimit("cannot run SQL: the query process has no memory for another statement")
            self._reply(wire.failed(request_id, error))

    def _in_turn(self, request_id: int, work: Callable[[], None]) -> None:
        self._rollups.put(lambda: self._guarded(request_id, work))

    def _roll(self) -> None:
        while True:
            self._rollups.get()()

    def _run_sql(self, message: wire.RunSql) -> None:
        statement = self._statements[message.id]
        parts: list[Parts] = []

        def sink(paused: Callable[[], AbstractContextManager[None]]) -> Parts:
            parts.append(Parts(statement, partial(self._reply, wire.Part(message.id)), paused))
            return parts[0]

        mapped = sum(mapped_bytes(source) for source in message.request.tables)
        self._space.mapped(mapped)
        try:
            answer = self._database.sql(message.request, sink if message.window_bytes else None, statement.stop)
        finally:
            self._space.mapped(-mapped)
            del self._statements[message.id]
        reply = wire.Answered(message.id, answer.rows, answer.elapsed_seconds, answer.rows_read, answer.files)
        self._reply(reply, *(parts[0].left if parts else [answer.stream]))

    def _ask_needed(self, message: wire.AskNeeded) -> None:
        needed = self._database.needed_relations(message.sql, message.parameters, message.visible)
        self._reply(wire.FoundNeeded(message.id, needed))

    def _flush(self, message: wire.Flush, attachment: bytearray | memoryview) -> None:
        self._database.flush_rollups(pieces_from_bytes(attachment), message.sequence)
        self._reply(wire.Done(message.id))
        self._release()

    def _release(self) -> None:
        """Give back what large pieces of work have left, now and then."""
        now = time.monotonic()
        if now - self._released_at >= RELEASE_SECONDS:
            self._released_at = now
            release_unused()

    def _read_rows(self, message: wire.ReadRows, attachment: bytearray | memoryview) -> None:
        series_ids = np.frombuffer(attachment, np.int64) if message.selected else None
        table = self._database.rollup_rows(message.tier, message.start_ns, message.end_ns, series_ids, message.names)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        self._reply(wire.Done(message.id), memoryview(sink.getvalue()))
        if table.nbytes >= LARGE_BYTES:
            del table, sink
            self._release()

    def _delete(self, message: wire.Delete, attachment: bytearray | memoryview) -> None:
        tagset_ids = np.frombuffer(attachment, np.int32)
        removed = self._database.delete_rollups(message.table_id, tagset_ids, message.start_ns, message.end_ns)
        self._reply(wire.Done(message.id, removed))

    def _ask_stats(self, message: wire.AskStats) -> None:
        tiers = [(each.tier, each.rows, each.bytes) for each in self._database.rollup_stats()]
        self._reply(wire.FoundStats(message.id, tiers))

    def _close(self, message: wire.Close) -> None:
        closed = threading.Event()

        def work() -> None:
            self._database.close()
            self._reply(wire.Done(message.id))

        def last() -> None:
            self._guarded(message.id, work)
            closed.set()

        self._rollups.put(last)
        closed.wait()


def _die_with_parent(parent_pid: int) -> None:
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(0)
    prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    prctl(_PR_SET_NAME, b"tidegauge-query", 0, 0, 0)


def _give_way(nice: int) -> None:
    """Let the server's threads, which acknowledge writes, go before this process where both want a processor.

    Threads that start later take it over from the one that starts them.
    """
    if nice <= 0:
        return
    for name in os.listdir("/proc/self/task"):
        with suppress(OSError):
            thread = int(name)
            os.setpriority(os.PRIO_PROCESS, thread, min(19, os.getpriority(os.PRIO_PROCESS, thread) + nice))
            # What is woken does not take the processor from what runs, either.
            os.sched_setscheduler(thread, os.SCHED_BATCH, os.sched_param(0))


def _room(size: int) -> bytearray | memoryview:
    """Return memory for an attachment: for a large one, which is a flush, such that is used again."""
    return memoryview(Slab(size)) if size >= SLAB_BYTES else bytearray(size)


def main(arguments: Sequence[str]) -> None:
    keep_at_most(KEPT_BYTES)
    # A thread that ends for want of memory answers nobody: a new process is better than half of one.
    threading.excepthook = lambda _: os._exit(_EXIT_BROKEN)
    # Both are sent to the whole group at Ctrl-C and by service managers; the parent still has rollups to flush then.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write("500")
    Worker(socket.socket(fileno=int(arguments[0]))).run()


if __name__ == "__main__":
    main(sys.argv[1:])
    # Nothing is left to be written; threads of Arrow and DuckDB are not waited for.
    os._exit(0)
