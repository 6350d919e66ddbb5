"""The write path: what is acknowledged is in the log and visible, what is not acknowledged is neither."""

from __future__ import annotations

import errno
import threading

import numpy as np
import pytest

from engine.catalog.catalog import Catalog
from engine.clock import ManualClock
from engine.errors import BadRequest, DiskFull, QueueFull, Unavailable
from engine.hot.store import HotStore
from engine.ingest.batch import Batch
from engine.ingest.pipeline import Pipeline
from engine.model.rows import FOREVER_NS, NEVER_NS, Rows, absent_matrix, concat
from engine.vitals import Vitals
from engine.wal.payload import decode_batch
from engine.wal.reader import read_wal
from engine.wal.writer import WalWriter
from tests.filesystems import FailingFileSystem, MemoryFileSystem


class Bench:
    """A pipeline over a file system that fails when told to."""

    def __init__(self, queue_bytes: int = 1_000) -> None:
        self.failure: OSError | None = None
        self.memory = MemoryFileSystem()
        self.memory.makedirs("wal")
        self.fs = FailingFileSystem(self.memory, lambda operation, path: self.failure if "sync" in operation else None)
        self.catalog, self.hot, self.vitals = Catalog(), HotStore(), Vitals()
        self.wal = WalWriter(self.fs, "wal", next_sequence=1)
        self.refusal: Exception | None = None
        self.applied: list[int] = []
        self.pipeline = Pipeline(
            catalog=self.catalog,
            wal=self.wal,
            hot=self.hot,
            vitals=self.vitals,
            clock=ManualClock(),
            queue_bytes=queue_bytes,
            admit=self.admit,
            applied=lambda table_id, sequence, rows: self.applied.append(sequence),
        )

    def admit(self) -> None:
        if self.refusal is not None:
            raise self.refusal

    def batch(self, host: str, time_ns: int) -> Batch:
        table_id = self.catalog.native.table(b"t")
        field_id = self.catalog.native.field(table_id, b"x")
        tagset_id = self.catalog.native.tagset(table_id, [(b"host", host.encode())])
        values = absent_matrix(1, 1)
        values[0, 0] = time_ns
        rows = Rows(np.array([tagset_id], np.int32), np.array([time_ns], np.int64), (field_id,), values)
        return Batch([(table_id, rows)], rows=1, samples=1)

    def visible(self) -> list[int]:
        parts = [view.rows for view in self.hot.snapshot(0, NEVER_NS, FOREVER_NS)]
        return sorted(concat(parts).times.tolist())

    def logged(self) -> tuple[list[int], Catalog]:
        times, catalog = [], Catalog()
        for frame in read_wal(self.memory, "wal", after_sequence=0):
            definitions, tables = decode_batch(frame.payload)
            catalog.native.apply_definitions(definitions)
            for _, rows in tables:
                times += rows.times.tolist()
        return sorted(times), catalog


def test_acknowledged_rows_are_logged_and_visible_with_their_definitions() -> None:
    bench = Bench()
    futures = [bench.pipeline.submit("test", 10, lambda at=at: bench.batch(f"h{at % 3}", at)) for at in range(20)]
    results = [future.result(10) for future in futures]
    assert [result.sequence for result in results] == list(range(1, 21))
    assert bench.visible() == list(range(20))
    times, catalog = bench.logged()
    assert times == list(range(20))
    assert catalog.native.mark() == bench.catalog.native.mark()
    bench.pipeline.close()


def test_a_failing_disk_acknowledges_nothing_and_shows_nothing_then_recovers() -> None:
    bench = Bench()
    bench.pipeline.submit("test", 10, lambda: bench.batch("a", 1)).result(10)
    bench.failure = OSError(errno.EIO, "Input/output error")
    with pytest.raises(Unavailable):
        bench.pipeline.submit("test", 10, lambda: bench.batch("b", 2)).result(10)
    bench.failure = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(DiskFull):
        bench.pipeline.submit("test", 10, lambda: bench.batch("c", 3)).result(10)
    assert bench.visible() == [1]
    bench.failure = None
    # The tag sets of the failed batches have numbers already; the log must define them before it uses later ones.
    bench.pipeline.submit("test", 10, lambda: bench.batch("d", 4)).result(10)
    bench.pipeline.close()
    times, catalog = bench.logged()
    assert times == [1, 4] == bench.visible()
    assert catalog.tags(3) == {"host": "d"}


def test_one_bad_body_does_not_stop_the_next() -> None:
    bench = Bench()

    def broken() -> Batch:
        raise BadRequest("cannot read this")

    bad = bench.pipeline.submit("test", 10, broken)
    good = bench.pipeline.submit("test", 10, lambda: bench.batch("a", 1))
    with pytest.raises(BadRequest):
        bad.result(10)
    assert good.result(10).rows == 1
    bench.refusal = DiskFull("cannot accept a write: reserve")
    with pytest.raises(DiskFull):
        bench.pipeline.submit("test", 10, lambda: bench.batch("a", 2)).result(10)
    bench.pipeline.close()
    with pytest.raises(Unavailable):
        bench.pipeline.submit("test", 10, lambda: bench.batch("a", 3))


def test_beyond_the_queue_writers_are_told_to_come_back() -> None:
    bench, release = Bench(queue_bytes=100), threading.Event()

    def slow() -> Batch:
        assert release.wait(10)
        return bench.batch("a", 1)

    held = bench.pipeline.submit("test", 90, slow)
    with pytest.raises(QueueFull) as refused:
        bench.pipeline.submit("test", 20, lambda: bench.batch("a", 2))
    assert refused.value.retry_after_seconds >= 1
    release.set()
    held.result(10)
    bench.pipeline.submit("test", 20, lambda: bench.batch("a", 3)).result(10)
    bench.pipeline.close()
    assert bench.pipeline.held_bytes == 0
    assert b'tidegauge_ingest_overloaded_total{reason="queue_full"} 1.0' in bench.vitals.render()


def test_a_batch_of_nothing_is_acknowledged_without_a_log_record() -> None:
    bench = Bench()
    result = bench.pipeline.submit("test", 10, lambda: Batch([], refused={"malformed": 2})).result(10)
    assert (result.sequence, result.refused_count) == (0, 2)
    bench.pipeline.close()
    assert bench.wal.next_sequence == 1
    assert b'cause="malformed",protocol="test"} 2.0' in bench.vitals.render()
