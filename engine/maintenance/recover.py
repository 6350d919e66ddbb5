"""Recovery: what the log holds beyond the segments comes back into the hot store, while writes go on.

Opening only *checks* the log (:func:`check_log`): frames, checksums, torn tails, and the definitions at the front of
each frame.  Then the writer opens behind the last frame and batches are taken: logged and acknowledged, not applied.
A thread (:class:`Replay`) applies the log from its floor on in order of sequence, the frames being written meanwhile
included, so there is one order of arrival as if nothing had happened.  When it has caught up with the writer it hands
over under the commit lock: from that sequence on the committing thread applies batches itself.

- Memory stays what it is in steady state: the thread seals when the hot store is at its limit.
- A row whose time lies in a segment that was sealed through the row's sequence is in that segment already and is
  passed over, so a row is never doubled, whichever of the two a crash came between: the manifest's switch or the
  log's trimming.  That also holds for segments that are sealed during the replay, so a crash in it is one like others.
- Buckets of frames that the tiers include are not recomputed; all others are marked.
- Writers are turned away when they outrun the replay for long, so it ends: in bytes, they may write half of what has
  been replayed and :data:`ALLOWANCE_BYTES` more.

Nobody reads samples until then: half a log would give wrong answers.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engine.catalog.catalog import Catalog
from engine.clock import Clock
from engine.disk.filesystem import FileSystem
from engine.errors import Damage, NewerFormat, Recovering, TidegaugeError
from engine.ingest.pipeline import FRAME_BATCH, Pipeline
from engine.model.rows import Int32Array, Int64Array, Rows
from engine.query.samples import SampleStore
from engine.segments.deletions import surviving
from engine.segments.layout import SegmentMeta
from engine.wal.payload import decode_batch, definitions_of
from engine.wal.reader import WalDamage, WalFrame, WalReport, read_wal, set_aside
from engine.wal.tail import WalTail
from engine.wal.writer import WalWriter
from native.frames import FRAME_HEADER_BYTES

LOG = logging.getLogger("tidegauge.recovery")
Mark = Callable[[int, int, Int32Array, Int64Array], None]

#: How far writers may be ahead of half of what has been replayed.
ALLOWANCE_BYTES = 64 << 20
#: What has been applied is compared with the memory limit every so many bytes of rows.
CHECK_BYTES = 16 << 20
#: Marked rows are flushed to the tiers when more than this are waiting.
MARKED_ROWS = 500_000
#: How long to wait before trying again what the disk has refused.
RETRY_SECONDS = 1.0
LONGEST_RETRY_AFTER_SECONDS = 60


@dataclass(slots=True)
class CheckedLog:
    """What checking the log found: frames above the floor, their bytes, the last sequence."""

    frames: int = 0
    frame_bytes: int = 0
    last_sequence: int = 0
    report: WalReport = field(default_factory=WalReport)


def check_log(fs: FileSystem, directory: str, catalog: Catalog, *, after_sequence: int) -> CheckedLog:
    """Check and repair the log in ``directory`` and learn its definitions; holds one file in memory at a time.

    Raises NewerFormat for a frame of an unknown kind, Damage for definitions that do not continue those before them.
    """
    checked = CheckedLog()
    for frame in read_wal(fs, directory, after_sequence=after_sequence, report=checked.report):
        if frame.kind != FRAME_BATCH:
            raise NewerFormat(
                f"cannot replay log: got a frame of kind {frame.kind}, want {FRAME_BATCH}; it was written by a newer"
                " version",
                path=frame.path,
                offset=frame.offset,
            )
        try:
            definitions = definitions_of(frame.payload)
            if definitions:
                catalog.native.apply_definitions(definitions)
        except ValueError as error:
            raise Damage(f"cannot replay log: {error}", path=frame.path, offset=frame.offset) from None
        checked.frames += 1
        checked.frame_bytes += FRAME_HEADER_BYTES + len(frame.payload)
    checked.last_sequence = max(after_sequence, checked.report.last_sequence)
    return checked


class Replay:
    """The replay of one engine's log; readers of its state may be any thread."""

    def __init__(
        self,
        *,
        fs: FileSystem,
        catalog: Catalog,
        samples: SampleStore,
        wal: WalWriter,
        pipeline: Pipeline,
        commit_lock: AbstractContextManager[object],
        checked: CheckedLog,
        after_sequence: int,
        hot_limit_bytes: int,
        mark: Mark,
        tiers_include: Callable[[], int],
        seal: Callable[[], object],
        flush: Callable[[], object],
        pending_rows: Callable[[], int],
        clock: Clock,
        wait: Callable[[float], bool] | None = None,
    ) -> None:
        """``tiers_include`` gives the sequence through which the tiers have every row.

        ``seal`` and ``flush`` relieve memory when the hot store or the marked rows are at their limit.  ``wait`` takes
        seconds to wait before something is tried again and returns whether to give up.
        """
        self._fs, self._catalog, self._samples, self._hot = fs, catalog, samples, samples.hot
        self._wal, self._pipeline, self._commit_lock = wal, pipeline, commit_lock
        self._checked, self._floor, self._hot_limit_bytes = checked, after_sequence, hot_limit_bytes
        self._mark, self._tiers_include = mark, tiers_include
        self._seal, self._flush, self._pending_rows = seal, flush, pending_rows
        self._clock = clock
        self._stop = threading.Event()
        self._wait = wait or self._stop.wait
        self._finished = threading.Event()
        self._thread: threading.Thread | None = None
        self._tail = WalTail(fs, wal, after_sequence=after_sequence, report=checked.report)
        self._read: list[WalFrame] = []
        self._sealed: dict[int, tuple[tuple[SegmentMeta, ...], tuple[SegmentMeta, ...]]] = {}
        self._flushed_through = 0
        self._flush_above_rows = MARKED_ROWS
        self._unchecked_bytes = 0
        self._began = clock.monotonic()
        self.frames_done = 0
        self.bytes_done = 0
        self.rows_replayed = 0
        self.rows_already_sealed = 0
        self.problem: str | None = None

    # --- what others see

    @property
    def log(self) -> WalReport:
        """What checking and reading the log found."""
        return self._checked.report

    @property
    def active(self) -> bool:
        """Whether samples are still missing."""
        return not self._finished.is_set()

    @property
    def bytes_total(self) -> int:
        return self._checked.frame_bytes + self._wal.appended_bytes

    @property
    def pending_bytes(self) -> int:
        return max(0, self.bytes_total - self.bytes_done) if self.active else 0

    def progress(self) -> dict[str, Any]:
        """Return how far it is, for people and programs."""
        frames_total = self._checked.frames + self._wal.next_sequence - self._checked.last_sequence - 1
        total, done = self.bytes_total, self.bytes_done
        spent = self._clock.monotonic() - self._began
        estimate = spent * (total - done) / done if done and spent > 0 else None
        return {
            "frames_done": self.frames_done,
            "frames_total": max(frames_total, self.frames_done),
            "bytes_done": done,
            "bytes_total": max(total, done),
            "rows_done": self.rows_replayed + self.rows_already_sealed,
            "estimated_seconds": None if estimate is None else round(estimate, 1),
            "problem": self.problem,
        }

    def require_finished(self, action: str) -> None:
        """Raise Recovering, with the progress, while samples are missing."""
        if self.active:
            raise self._recovering(f"cannot {action}: the log is being recovered")

    def admit_write(self) -> None:
        """Raise Recovering when writers are so far ahead that the replay would not end."""
        if self.active and self._wal.appended_bytes > ALLOWANCE_BYTES + self.bytes_done // 2:
            raise self._recovering("cannot accept a write: writes come faster than the log is recovered")

    def _recovering(self, sentence: str) -> Recovering:
        progress = self.progress()
        seconds = progress["estimated_seconds"] or 1.0
        about = f", about {math.ceil(seconds)} s are left" if progress["estimated_seconds"] is not None else ""
        return Recovering(
            f"{sentence} ({progress['bytes_done']} of {progress['bytes_total']} bytes{about})",
            retry_after_seconds=max(1, min(LONGEST_RETRY_AFTER_SECONDS, math.ceil(seconds))),
            details=progress,
        )

    # --- its life

    def start(self) -> None:
        """Replay in the background."""
        self._thread = threading.Thread(target=self.run, name="tidegauge-recover", daemon=True)
        self._thread.start()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until every sample is back, or ``seconds``; return whether it is."""
        return self._finished.wait(seconds)

    def close(self) -> None:
        """Stop between two frames; what is in the log stays for the next start."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def run(self) -> None:
        """Replay until the writer is caught up with, or until closed."""
        self._began = self._clock.monotonic()
        for step in (self._begin, self._follow):
            while not self._stop.is_set():
                try:
                    step()
                    break
                except Exception as error:
                    # Whatever refuses now (a full disk, a lost query process) may work in a moment; until then the
                    # log keeps everything, and people can read why it takes so long.
                    known = isinstance(error, TidegaugeError)
                    problem = error.message if isinstance(error, TidegaugeError) else f"internal: {error!r}"
                    if problem != self.problem:
                        LOG.warning("recovery waits: %s", problem, exc_info=not known)
                    self.problem = problem
                    if self._wait(RETRY_SECONDS):
                        return
        if self._finished.is_set():
            LOG.info(
                "recovered %d frames (%d bytes, %d rows) in %.3f s",
                self.frames_done,
                self.bytes_done,
                self.rows_replayed,
                self._clock.monotonic() - self._began,
            )

    def _begin(self) -> None:
        if self._checked.frames:
            self._flushed_through = self._tiers_include()
        for table_id in {meta.table_id for meta in self._samples.segments()}:
            # Which tag sets a segment holds is not known without reading it; all of the table's are treated alike.
            newest = max(meta.max_time_ns for meta in self._samples.segments(table_id))
            self._hot.assume_seen(table_id, self._catalog.native.tagset_count, newest)

    def _follow(self) -> None:
        while not self._stop.is_set():
            if not self._read:
                self._read = self._tail.read()
            if not self._read:
                if self._hand_over():
                    return
                continue
            self._make_room()
            self._apply(self._read[0])
            del self._read[0]
            self.problem = None

    def _make_room(self) -> None:
        if self._unchecked_bytes >= min(CHECK_BYTES, self._hot_limit_bytes // 8):
            if self._hot.nbytes > self._hot_limit_bytes:
                self._seal()
            self._unchecked_bytes = 0
        if self._pending_rows() > self._flush_above_rows:
            self._flush_above_rows = MARKED_ROWS
            try:
                self._flush()
            except Exception as error:
                # Samples come back without the tiers; marked rows wait until these can be reached again.
                self._flush_above_rows = self._pending_rows() + MARKED_ROWS
                LOG.warning("recovery goes on without the tiers: %s", error)

    def _apply(self, frame: WalFrame) -> None:
        try:
            _, tables = decode_batch(frame.payload)
        except ValueError as error:
            self._set_aside(frame, str(error))
            return
        with self._commit_lock:
            last = len(tables) - 1
            for index, (table_id, rows) in enumerate(tables):
                kept = self._not_sealed(table_id, rows, frame.sequence)
                self._hot.append(table_id, kept, frame.sequence)
                if frame.sequence > self._flushed_through:
                    sequence = frame.sequence if index == last else frame.sequence - 1
                    self._mark(table_id, sequence, rows.tagset_ids, rows.times)
                self.rows_already_sealed += len(rows) - len(kept)
                self.rows_replayed += len(kept)
                self._unchecked_bytes += kept.nbytes
            self._hot.applied_sequence = frame.sequence
        self._count(frame)

    def _count(self, frame: WalFrame) -> None:
        self.frames_done += 1
        self.bytes_done += FRAME_HEADER_BYTES + len(frame.payload)

    def _not_sealed(self, table_id: int, rows: Rows, sequence: int) -> Rows:
        """Return the rows that no segment holds and that have not been deleted."""
        if self._samples.deletions:
            rows = surviving(self._samples.deletions, table_id, rows, sequence)
        segments = self._samples.segments(table_id)
        known = self._sealed.get(table_id)
        if known is None or known[0] is not segments:
            # Sequences only rise, so what does not matter now never will.
            known = (segments, tuple(meta for meta in segments if sequence <= meta.sealed_through))
            self._sealed[table_id] = known
        if not known[1] or not len(rows):
            return rows
        oldest, newest = int(rows.times.min()), int(rows.times.max())
        sealed = np.zeros(len(rows), np.bool_)
        for meta in known[1]:
            if sequence <= meta.sealed_through and meta.start_ns <= newest and oldest < meta.end_ns:
                sealed |= (rows.times >= meta.start_ns) & (rows.times < meta.end_ns)
        return rows.take(~sealed) if sealed.any() else rows

    def _set_aside(self, frame: WalFrame, reason: str) -> None:
        """Report a frame that was written as it stands but cannot be decoded, and keep its file."""
        LOG.error("recovery passes over frame %d: %s (%s)", frame.sequence, reason, frame.path)
        report = self._checked.report
        known = [each for each in report.damage if each.path == frame.path and each.cause == "payload"]
        copy = known[0].set_aside if known else set_aside(self._fs, frame.path, self._fs.read(frame.path))
        report.damage.append(WalDamage(frame.path, frame.offset, "payload", copy))
        report.missing.append((frame.sequence, frame.sequence))
        self._count(frame)

    def _hand_over(self) -> bool:
        """Let the committing thread apply batches itself if nothing is left to replay; return whether it does."""
        with self._commit_lock:
            end = self._wal.next_sequence
            if self._tail.next_sequence < end:
                return False
            self._hot.applied_sequence = end - 1
            self._pipeline.apply_from(end)
        self._finished.set()
        return True
