"""From a body to its acknowledgement, in two threads.

The *decoding thread* turns bodies into batches one after the other, so that definitions are numbered in one order and
the decoder needs no locks, and packs them for the log.  The *committing thread* takes whatever batches are ready,
writes them to the log with one write and one sync (group commit), makes them visible, and only then lets their writers
know.  While it waits for the disk, decoding goes on.  The queue in front is bounded in bytes; beyond it writers are
told to come back.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from engine.catalog.catalog import Catalog, Mark
from engine.clock import Clock
from engine.disk.filesystem import Bytes
from engine.errors import QueueFull, TidegaugeError, Unavailable
from engine.hot.store import HotStore
from engine.ingest.batch import Batch, WriteResult
from engine.model.rows import Rows
from engine.vitals import Vitals
from engine.wal.payload import encode_batch, pack_tables
from engine.wal.writer import WalWriter
from native.frames import encode_frame

FRAME_BATCH = 1
NEVER_APPLIED = 1 << 64
MAX_GROUP_BATCHES = 256
Decode = Callable[[], Batch]
Applied = Callable[[int, int, Rows], None]


@dataclass(slots=True)
class _Pending:
    protocol: str
    body_bytes: int
    decode: Decode
    future: Future[WriteResult]
    received: float
    batch: Batch | None = None
    packed: list[Bytes] = field(default_factory=list)


class Pipeline:
    """The write path of one engine.  ``submit`` may be called from any thread."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        wal: WalWriter,
        hot: HotStore,
        vitals: Vitals,
        clock: Clock,
        queue_bytes: int,
        admit: Callable[[], None],
        applied: Applied,
        recovering: bool = False,
    ) -> None:
        """``admit`` raises to turn writes away (disk guard); ``applied(table_id, sequence, rows)`` sees each append.

        Only the last append of a batch carries the batch's sequence, those before it the one before: whoever has seen
        a sequence has seen all of its rows.  ``recovering``: batches are only logged and acknowledged, until
        :meth:`apply_from` is called.
        """
        self._catalog, self._wal, self._hot = catalog, wal, hot
        self._vitals, self._clock = vitals, clock
        self._queue_bytes = queue_bytes
        self._admit, self._applied = admit, applied
        self._waiting: queue.SimpleQueue[_Pending | None] = queue.SimpleQueue()
        self._decoded: queue.SimpleQueue[_Pending | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._held_bytes = 0
        self._closed = False
        #: Held while appended rows become visible; a holder sees whole groups or nothing of them.
        self.commit_lock = threading.Lock()
        self._logged: Mark = catalog.native.mark()
        self._apply_from = NEVER_APPLIED if recovering else 0
        self._threads = [
            threading.Thread(target=self._decode_loop, name="tidegauge-decode", daemon=True),
            threading.Thread(target=self._commit_loop, name="tidegauge-commit", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def apply_from(self, sequence: int) -> None:
        """End the recovering state: batches from this sequence on are applied here, those before it have been.

        The caller holds the commit lock.  A batch that is in the log but has not come to the lock yet is told apart
        by its number, so each is applied once, by one side.
        """
        self._apply_from = sequence

    @property
    def held_bytes(self) -> int:
        return self._held_bytes

    def submit(self, protocol: str, body_bytes: int, decode: Decode) -> Future[WriteResult]:
        """Queue a body; the future ends with what became of it, or with the error that turned all of it away.

        Raises QueueFull when more bytes are waiting than allowed and Unavailable once closed.
        """
        future: Future[WriteResult] = Future()
        with self._lock:
            if self._closed:
                raise Unavailable("cannot accept a write: the engine is closing")
            if self._held_bytes and self._held_bytes + body_bytes > self._queue_bytes:
                self._vitals.overloaded.labels("queue_full").inc()
                raise QueueFull(
                    f"cannot accept a write of {body_bytes} bytes: {self._held_bytes} bytes are waiting,"
                    f" the limit is {self._queue_bytes}"
                )
            self._held_bytes += body_bytes
            self._waiting.put(_Pending(protocol, body_bytes, decode, future, self._clock.monotonic()))
        return future

    def close(self) -> None:
        """Take no more writes, finish those already taken, and return when they are acknowledged."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()

    # --- decoding thread

    def _decode_loop(self) -> None:
        while (pending := self._waiting.get()) is not None:
            try:
                self._admit()
                batch = pending.decode()
                batch.until = self._catalog.native.mark()
                # Here, where it overlaps with the disk's work for others, and where an oversized batch fails alone.
                pending.packed = pack_tables(batch.tables)
                pending.batch = batch
            except Exception as error:
                # Whatever goes wrong with one body is told to its writer; the thread serves the next one.
                self._fail(pending, error)
            else:
                self._decoded.put(pending)
        self._decoded.put(None)

    # --- committing thread

    def _commit_loop(self) -> None:
        ended = False
        while not ended:
            first = self._decoded.get()
            if first is None:
                return
            group = [first]
            while len(group) < MAX_GROUP_BATCHES:
                try:
                    more = self._decoded.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    ended = True
                    break
                group.append(more)
            self._commit(group)

    def _commit(self, group: list[_Pending]) -> None:
        storing = [pending for pending in group if pending.batch is not None and pending.batch.tables]
        sequences: dict[int, int] = {}
        if storing:
            try:
                self._log(storing, sequences)
            except Exception as error:
                self._turn_away(storing, error)
                storing_ids = {id(pending) for pending in storing}
                group = [pending for pending in group if id(pending) not in storing_ids]
        for pending in group:
            self._acknowledge(pending, sequences.get(id(pending), 0))

    def _log(self, storing: list[_Pending], sequences: dict[int, int]) -> None:
        frames: list[bytes] = []
        logged = self._logged
        sequence = self._wal.next_sequence
        for pending in storing:
            batch = pending.batch
            assert batch is not None
            # A batch may use what an earlier one defined: definitions travel in the order they were made, and all
            # that are not yet in the log go with the first batch that is written after them.
            definitions = self._catalog.native.definitions(logged, batch.until) if batch.until != logged else b""
            frames.append(encode_frame(FRAME_BATCH, sequence, encode_batch(definitions, pending.packed)))
            pending.packed = []
            logged = batch.until
            sequences[id(pending)] = sequence
            sequence += 1
        self._wal.append(frames)
        self._vitals.commits.inc()
        self._vitals.wal_bytes.inc(sum(map(len, frames)))
        with self.commit_lock:
            self._logged = logged
            for pending in storing:
                assert pending.batch is not None
                number = sequences[id(pending)]
                if number < self._apply_from:
                    continue  # recovery reads it from the log, in its turn
                last = len(pending.batch.tables) - 1
                for index, (table_id, rows) in enumerate(pending.batch.tables):
                    late = self._hot.append(table_id, rows, number)
                    if late:
                        self._vitals.late_rows.inc(late)
                    self._applied(table_id, number if index == last else number - 1, rows)
                self._hot.applied_sequence = number

    def _turn_away(self, storing: list[_Pending], error: Exception) -> None:
        reason = error.code if isinstance(error, TidegaugeError) else "log_failed"
        for pending in storing:
            self._vitals.overloaded.labels(reason).inc()
            self._fail(pending, error)

    def _acknowledge(self, pending: _Pending, sequence: int) -> None:
        batch = pending.batch
        assert batch is not None
        vitals, protocol = self._vitals, pending.protocol
        vitals.bytes_received.labels(protocol).inc(pending.body_bytes)
        vitals.rows_accepted.labels(protocol).inc(batch.rows)
        vitals.samples_accepted.labels(protocol).inc(batch.samples)
        if batch.rounded:
            vitals.rounded.labels(protocol).inc(batch.rounded)
        if batch.dropped:
            vitals.dropped.labels(protocol).inc(batch.dropped)
        for cause, count in batch.refused.items():
            vitals.refused.labels(protocol, cause).inc(count)
        vitals.ack_seconds.observe(self._clock.monotonic() - pending.received)
        self._release(pending)
        pending.future.set_result(
            WriteResult(
                batch.rows,
                batch.samples,
                batch.rounded,
                dict(batch.refused),
                tuple(batch.refusals),
                sequence,
                batch.dropped,
            )
        )

    def _fail(self, pending: _Pending, error: Exception) -> None:
        self._release(pending)
        pending.future.set_exception(error)

    def _release(self, pending: _Pending) -> None:
        with self._lock:
            self._held_bytes -= pending.body_bytes
