"""Every part that stores something, on every kind of bad disk: what has been promised is there afterwards, once.

Each *subject* is one part (log, catalogue, manifest and segments, the whole engine) seen as a store of keys and values:
a step that returns has promised its values.  Each *kind* of disk is tried on each subject:

- crashing: the power fails before any of the operations; of what was not synced an arbitrary part is kept;
- failing: any operation fails once, or goes on failing for a while, half written or not;
- full: the disk fills up at any byte and is given space later;
- slow: operations hang; nothing may be promised meanwhile, and a power failure meanwhile is like any other.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any, Protocol

import numpy as np
import pytest

from engine.catalog.catalog import Catalog
from engine.clock import NS_PER_SECOND, ManualClock
from engine.config import Config, Query, Retention, Storage
from engine.config_units import ByteSize, Duration
from engine.disk.filesystem import FileSystem
from engine.errors import DiskFull, Unavailable
from engine.maintenance.scheduler import Scheduler
from engine.model.rows import FOREVER_NS, NEVER_NS, Rows
from engine.runtime import Engine
from engine.segments.layout import SegmentMeta, SegmentSpec
from engine.segments.manifest import ManifestStore
from engine.segments.reader import read_segment
from engine.segments.writer import write_segment
from engine.wal.reader import WalReport, read_wal
from engine.wal.writer import WalWriter
from native.frames import encode_frame
from tests.filesystems import (
    FailingFileSystem,
    FullFileSystem,
    LayeredFileSystem,
    MemoryFileSystem,
    SlowFileSystem,
    broken_disk,
)

NOW_NS = 1_700_000_000 * NS_PER_SECOND
#: Operations that change nothing; failing them proves nothing about durability.
QUIET = {"exists", "listdir", "size", "read", "read_range", "read_ranges", "map", "close", "lock", "free_bytes"}
Key = Any


class Ledger:
    """What has been promised, and what else may be there because it was under way when something went wrong."""

    def __init__(self) -> None:
        self.promised: dict[Key, Any] = {}
        self.possible: dict[Key, list[Any]] = {}

    def copy(self) -> Ledger:
        other = Ledger()
        other.promised = dict(self.promised)
        other.possible = {key: list(values) for key, values in self.possible.items()}
        return other

    def attempt(self, values: dict[Key, Any], act: Callable[[], object]) -> None:
        """Promise ``values`` if ``act`` returns; whatever happens they are possible from now on."""
        for key, value in values.items():
            self.possible.setdefault(key, []).append(value)
        act()
        for key, value in values.items():
            self.promised[key] = value
            self.possible[key] = []

    def check(self, found: dict[Key, Any]) -> None:
        for key, value in self.promised.items():
            assert key in found, f"{key} was promised and is lost"
            assert found[key] == value or found[key] in self.possible[key], f"{key} is {found[key]}, promised {value}"
        for key in found.keys() - self.promised.keys():
            assert found[key] in self.possible.get(key, []), f"{key} = {found[key]} was never written"


class Subject(Protocol):
    """One part under test; ``start`` opens it on what a disk holds, and repairs that."""

    ledger: Ledger

    def start(self, fs: FileSystem) -> None: ...

    def steps(self) -> Sequence[Callable[[], None]]: ...

    def found(self) -> dict[Key, Any]:
        """Return everything that is there; fails when something is there twice."""

    def stop(self) -> None:
        """End without tidying up, as far as this process is concerned."""

    def picture(self) -> Subject:
        """Return one that has not been started, with what has been promised and with the files outside ``fs``."""


class Log:
    """The log: frames by sequence."""

    def __init__(self, scratch: Path) -> None:
        self.ledger = Ledger()
        self._attempts = 0

    def start(self, fs: FileSystem) -> None:
        self._fs = fs
        report = WalReport()
        frames = [(frame.sequence, bytes(frame.payload)) for frame in read_wal_of(fs, report)]
        assert report.missing == [], report.sentences()
        assert [sequence for sequence, _ in frames] == list(range(1, len(frames) + 1))
        # A frame that came through unacknowledged counts from now on.
        self._settled = dict(frames)
        self._writer = WalWriter(fs, "wal", next_sequence=len(frames) + 1, segment_bytes=300)

    def _append(self, count: int, size: int) -> None:
        self._attempts += 1
        first = self._writer.next_sequence
        group = {first + at: b"%d/%d " % (self._attempts, at) + bytes(size) for at in range(count)}
        frames = [encode_frame(1, sequence, [text]) for sequence, text in group.items()]
        self.ledger.attempt(group, lambda: self._writer.append(frames))

    def steps(self) -> Sequence[Callable[[], None]]:
        return [
            lambda: self._append(1, 10),
            lambda: self._append(3, 40),
            self._writer_roll,
            lambda: self._append(2, 200),
            lambda: self._append(1, 400),
            lambda: self._append(2, 0),
        ]

    def _writer_roll(self) -> None:
        self._writer.roll()

    def found(self) -> dict[Key, Any]:
        frames = list(read_wal_of(self._fs, WalReport(), repair=False))
        found = {frame.sequence: bytes(frame.payload) for frame in frames}
        assert len(found) == len(frames)
        return found

    def stop(self) -> None:
        pass

    def picture(self) -> Subject:
        other = type(self)(Path())
        other.ledger = self.ledger.copy()
        return other


def read_wal_of(fs: FileSystem, report: WalReport, *, repair: bool = True) -> Any:
    fs.makedirs("wal")
    return list(read_wal(fs, "wal", after_sequence=0, report=report, repair=repair))


class Definitions:
    """The catalogue: tag sets by number."""

    def __init__(self, scratch: Path) -> None:
        self.ledger = Ledger()

    def start(self, fs: FileSystem) -> None:
        fs.makedirs("data")
        self._fs = fs
        self._catalog = Catalog(fs, "data/catalog.log")
        self._catalog.load()

    def _define(self, count: int) -> None:
        native = self._catalog.native
        table_id = native.table(b"t")
        for _ in range(count):
            host = b"h%d" % native.tagset_count
            native.tagset(table_id, [(b"host", host)])
        every = {tagset_id: self._catalog.tags(tagset_id) for tagset_id in range(native.tagset_count)}
        self.ledger.attempt(every, self._catalog.persist)

    def steps(self) -> Sequence[Callable[[], None]]:
        return [lambda count=count: self._define(count) for count in (1, 3, 1, 20, 2)]  # type: ignore[misc]

    def found(self) -> dict[Key, Any]:
        catalog = Catalog(self._fs, "data/catalog.log")
        catalog.load()
        return {tagset_id: catalog.tags(tagset_id) for tagset_id in range(catalog.native.tagset_count)}

    def stop(self) -> None:
        pass

    def picture(self) -> Subject:
        other = type(self)(Path())
        other.ledger = self.ledger.copy()
        return other


class Sealed:
    """Segments and the manifest that lists them: rows of each segment by its first hour."""

    def __init__(self, scratch: Path) -> None:
        self.ledger = Ledger()
        self._value = 0.0

    def start(self, fs: FileSystem) -> None:
        self._fs = fs
        self._store = ManifestStore(fs, "data")
        self._store.load()

    def _seal(self, hour: int) -> None:
        self._value += 1
        start_ns = NOW_NS + hour * 3600 * NS_PER_SECOND
        values = np.full((1, 3), self._value)
        rows = Rows(np.arange(3, dtype=np.int32), np.full(3, start_ns, np.int64), (0,), values)
        spec = SegmentSpec(
            table_id=0,
            table="t",
            start_ns=start_ns,
            end_ns=start_ns + 3600 * NS_PER_SECOND,
            sealed_through=1,
            sequence=self._store.reserve_sequence(),
            field_names={0: "x"},
            created_ns=NOW_NS,
        )
        replaced = [meta for meta in self._store.current.segments if meta.start_ns == start_ns]

        def act() -> None:
            meta = write_segment(self._fs, "data", spec, rows, lambda ids: (["host"], [[str(i) for i in ids]]))
            self._store.commit(add=[meta], remove=replaced)

        self.ledger.attempt({hour: self._value}, act)
        for meta in replaced:
            self._store.delete_file(meta)

    def steps(self) -> Sequence[Callable[[], None]]:
        return [lambda hour=hour: self._seal(hour) for hour in (0, 1, 0, 2, 1, 0)]  # type: ignore[misc]

    def found(self) -> dict[Key, Any]:
        store = ManifestStore(self._fs, "data")
        return {self._hour(meta): self._value_of(meta) for meta in store.load().segments}

    @staticmethod
    def _hour(meta: SegmentMeta) -> int:
        return (meta.start_ns - NOW_NS) // (3600 * NS_PER_SECOND)

    def _value_of(self, meta: SegmentMeta) -> float:
        rows = read_segment(self._fs, "data", meta, start_ns=meta.start_ns, end_ns=meta.end_ns)
        assert rows.values.shape == (1, 3)
        return float(rows.values[0, 0])

    def stop(self) -> None:
        pass

    def picture(self) -> Subject:
        other = type(self)(Path())
        other.ledger = self.ledger.copy()
        return other


class QuietEngine(Engine):
    """An engine whose jobs run when a test says so."""

    def _start_jobs(self) -> None:
        self._scheduler = Scheduler(self.vitals)
        self.recovery.start()


class WholeEngine:
    """Write path, sealing, compaction, trimming, packing the catalogue, recovery: the value of each (host, second)."""

    CONFIG = Config(
        retention=Retention(raw=Duration.parse("30d")),
        query=Query(in_process=True),
        storage=Storage(wal_segment=ByteSize.parse("1MiB"), disk_reserve=ByteSize.parse("0B")),
    )

    def __init__(self, scratch: Path) -> None:
        self.ledger = Ledger()
        self._value = 0
        self._scratch, self._pictures = scratch, 0
        self._use(scratch / "0")

    def _use(self, outside: Path) -> None:
        """Keep what does not go through ``fs`` (the list of the tiers' parts, control state) in this directory.

        After a crash all of it is there that was written at that moment, which is one of the things that can happen.
        """
        outside.mkdir(exist_ok=True)
        self._outside = outside

    def start(self, fs: FileSystem) -> None:
        # The same path in every picture, since the file system in memory knows files by it.
        root = self._scratch / "data"
        root.unlink(missing_ok=True)
        root.symlink_to(self._outside)
        self.engine = QuietEngine(str(root), self.CONFIG, clock=ManualClock(NOW_NS), fs=fs)

    def _write(self, keys: Sequence[tuple[str, int]]) -> None:
        self._value += 1
        text = "".join(f"t,host={host} x={self._value} {NOW_NS - second * NS_PER_SECOND}\n" for host, second in keys)

        def act() -> None:
            assert not self.engine.submit_lines(text.encode()).result(30).refused

        self.ledger.attempt(dict.fromkeys(keys, float(self._value)), act)

    def steps(self) -> Sequence[Callable[[], None]]:
        return [
            lambda: self._write([("a", 10), ("b", 10)]),
            lambda: self.engine.wal.roll(),
            lambda: self._write([("a", 5), ("c", 9000)]),
            lambda: self.engine.sealer.seal() and None,
            lambda: self._write([("a", 10), ("d", 1)]),
            lambda: self.engine.flush_rollups() and None,
            lambda: self.engine.sealer.trim_log(),
            lambda: self._write([("c", 9000), ("b", 8999)]),
            lambda: self.engine.sealer.seal() and None,
            lambda: self.engine.compactor.run() and None,
            lambda: self._write([("e", 0)]),
            lambda: self.engine.catalog.freeze(1) and None,
            lambda: self.engine.sealer.trim_log(),
        ]

    def found(self) -> dict[Key, Any]:
        engine = self.engine
        if engine.catalog.table_id("t") is None:
            return {}
        rows = engine.samples.collect(0, NEVER_NS, FOREVER_NS)
        hosts = [engine.catalog.tags(tagset_id)["host"] for tagset_id in rows.tagset_ids.tolist()]
        keys = list(zip(hosts, ((NOW_NS - rows.times) // NS_PER_SECOND).tolist(), strict=True))
        assert len(set(keys)) == len(keys), "rows are there twice"
        found = dict(zip(keys, rows.values[0].tolist(), strict=True)) if keys else {}
        try:
            engine.flush_rollups()
        except DiskFull:
            # The tiers follow once there is space.
            assert engine.fs.free_bytes(engine.root) < 1 << 20
            return found
        # A pack that is named has been synced before, so no crash may take it away.
        assert not list(self._outside.glob("*.damaged*")), "the tiers have been set aside"
        tier = engine.link.rollup_rows("rollup_1m", NEVER_NS // 2, FOREVER_NS // 2)
        assert sum(tier["count"].to_pylist()) == len(keys), "the tiers are not the samples"
        assert sum(tier["sum"].to_pylist()) == sum(found.values())
        return found

    def picture(self) -> Subject:
        self._pictures += 1
        other = WholeEngine.__new__(WholeEngine)
        other.ledger, other._value = self.ledger.copy(), self._value
        other._scratch, other._pictures = self._scratch, 1000 * self._pictures
        other._use(self._scratch / str(self._pictures))
        for name in ("rollups.duckdb", "rollups.duckdb.wal"):
            if (self._outside / name).exists():
                shutil.copy(self._outside / name, other._outside / name)
        return other

    def stop(self) -> None:
        engine = self.engine
        engine.recovery.close()
        engine.pipeline.close()
        engine.link.close()
        engine.control.close()
        engine._lock.release()


SUBJECTS = [Log, Definitions, Sealed, WholeEngine]
STARTS_CHEAPLY = {Log: 1, Definitions: 1, Sealed: 1, WholeEngine: 8}


@pytest.fixture(params=SUBJECTS, ids=lambda subject: subject.__name__)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Subject]:
    made = iter(range(10_000))

    def one() -> Subject:
        scratch = tmp_path / str(next(made))
        scratch.mkdir()
        return request.param(scratch)  # type: ignore[no-any-return]

    one.stride = STARTS_CHEAPLY[request.param]  # type: ignore[attr-defined]
    return one


class Counting(LayeredFileSystem):
    """Calls ``before(number, operation)`` before each operation that changes something."""

    def __init__(self, inner: FileSystem, before: Callable[[int, str], None]) -> None:
        super().__init__(inner)
        self._before = before
        self.number = 0

    def around(self, operation: str, path: str, call: Callable[[], Any]) -> Any:
        if operation not in QUIET:
            self._before(self.number, operation)
            self.number += 1
        return call()


def operations_of(make: Callable[[], Subject]) -> int:
    """Return how many changing operations a start and all steps take."""
    subject, fs = make(), Counting(MemoryFileSystem(), lambda number, operation: None)
    subject.start(fs)
    for step in subject.steps():
        step()
    subject.ledger.check(subject.found())
    subject.stop()
    assert fs.number > 5
    return fs.number


class PowerCut(BaseException):
    pass


@pytest.mark.parametrize("seed", range(2))
def test_crashing(make: Any, seed: int) -> None:
    random = Random(seed)
    for cut in range(seed % make.stride, operations_of(make) + 1, make.stride):
        memory, subject = MemoryFileSystem(), make()
        kept: list[tuple[MemoryFileSystem, Subject]] = []

        def note(number: int, operation: str) -> None:
            if number == cut and not kept:  # noqa: B023
                kept.append((memory.crash(random), subject.picture()))  # noqa: B023

        fs = Counting(memory, note)
        subject.start(fs)
        for step in subject.steps():
            step()
            if kept:
                break
        subject.stop()
        if not kept:
            kept.append((memory.crash(random), subject.picture()))
        found_fs, subject = kept[0]
        subject.start(found_fs)
        subject.ledger.check(subject.found())
        for step in subject.steps():
            step()
        subject.ledger.check(subject.found())
        subject.stop()
        subject.start(found_fs.crash(random))
        subject.ledger.check(subject.found())
        subject.stop()


@pytest.mark.parametrize("lasting", [1, 3])
@pytest.mark.parametrize("half_written", [False, True])
def test_failing(make: Any, lasting: int, half_written: bool) -> None:
    for first in range(lasting % make.stride, operations_of(make), make.stride):
        memory, subject = MemoryFileSystem(), make()
        done, active = [0], [False]
        raised: list[Exception] = []

        def should_fail(operation: str, path: str) -> BaseException | None:
            if operation in QUIET or not active[0]:  # noqa: B023
                return None
            done[0] += 1  # noqa: B023
            return broken_disk() if first <= done[0] - 1 < first + lasting else None  # noqa: B023

        fs = FailingFileSystem(memory, should_fail, lambda size: size // 2 if half_written else 0)
        subject.start(fs)
        active[0] = True
        for step in subject.steps():
            try:
                step()
            except Exception as error:
                raised.append(error)
        active[0] = False
        # A full disk is told apart from a broken one, and nothing else is raised.
        assert all(isinstance(error, Unavailable | OSError) for error in raised), raised
        for step in subject.steps():
            step()
        subject.ledger.check(subject.found())
        subject.stop()
        subject.start(memory.crash(Random(first)))
        subject.ledger.check(subject.found())
        subject.stop()


def test_full(make: Any) -> None:
    subject, memory = make(), MemoryFileSystem()
    subject.start(memory)
    before = memory.used_bytes()
    for step in subject.steps():
        step()
    after = memory.used_bytes()
    subject.stop()
    pieces = 24 // make.stride
    refused = 0
    for piece in range(pieces):
        memory, subject = MemoryFileSystem(), make()
        fs = FullFileSystem(memory, before + (after - before) * piece // pieces)
        subject.start(fs)
        for _ in range(2):
            for step in subject.steps():
                try:
                    step()
                except (DiskFull, OSError):
                    refused += 1
        subject.ledger.check(subject.found())
        fs.capacity_bytes = 1 << 30
        for step in subject.steps():
            step()
        subject.ledger.check(subject.found())
        subject.stop()
        subject.start(memory.crash(Random(piece)))
        subject.ledger.check(subject.found())
        subject.stop()
    assert refused >= pieces


@pytest.mark.parametrize("operation", ["write", "sync", "write_atomic", "write_file_synced", "rename", "truncate"])
def test_slow(make: Any, operation: str) -> None:
    memory, subject, random = MemoryFileSystem(), make(), Random(1)
    fs = SlowFileSystem(memory)
    subject.start(fs)
    pictures: list[tuple[MemoryFileSystem, Subject]] = []
    for step in subject.steps():
        fs.hold(operation)
        done = threading.Event()
        failed: list[BaseException] = []

        def run(step: Callable[[], None] = step, done: threading.Event = done, failed: Any = failed) -> None:
            try:
                step()
            except BaseException as error:
                failed.append(error)
            done.set()

        thread = threading.Thread(target=run)
        thread.start()
        if fs.wait_held_or(done):
            assert not done.is_set(), "promised while the disk had not answered"
            pictures.append((memory.crash(random), subject.picture()))
        fs.release()
        thread.join(30)
        assert done.is_set()
        assert not failed, failed
    subject.ledger.check(subject.found())
    subject.stop()
    for found_fs, picture in pictures:
        picture.start(found_fs)
        picture.ledger.check(picture.found())
        picture.stop()
