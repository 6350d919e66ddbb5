"""The tiers' packs on failing, full and crashing disks: a flush is there as a whole or not at all, and can be repeated.

DuckDB's file is on the machine's own disk.  In a crash it keeps what has been committed by then, so everything that
a commit names must have been on the packs' disk before it.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import duckdb
import pytest

from engine.clock import NS_PER_MINUTE
from engine.disk.filesystem import FileSystem
from engine.errors import DiskFull, Unavailable
from engine.rollups.packs import Packs
from engine.rollups.shelf import DamagedPart
from engine.rollups.store import RollupStore
from tests.engine.test_durability import QUIET, Counting
from tests.engine.test_rollup_store import DAY_NS, Raw, Sample, check, connect, contents, flush
from tests.filesystems import FailingFileSystem, FullFileSystem, LayeredFileSystem, MemoryFileSystem, broken_disk

#: Each batch replaces buckets of those before, so that packs are written, emptied and removed.
BATCHES: list[list[Sample]] = [
    [
        (tagset, field, DAY_NS + minute * NS_PER_MINUTE + batch, float(batch + field))
        for tagset in (0, 1)
        for field in (0, 3)
        for minute in range(0, 700, 70 + batch)
    ]
    for batch in range(3)
]
DIRECTORY = "data/rollups"


class RemovesNothingNamed(LayeredFileSystem):
    """Fails the test when a pack is removed that a commit has named."""

    def __init__(self, inner: FileSystem, connection: duckdb.DuckDBPyConnection) -> None:
        super().__init__(inner)
        self._cursor = connection.cursor()
        self.removed = 0

    def around(self, operation: str, path: str, call: Callable[[], Any]) -> Any:
        if operation == "remove":
            named = self._cursor.execute("SELECT DISTINCT pack FROM rollup_parts").fetchall()
            assert (int(Path(path).stem),) not in named
            self.removed += 1
        return call()


def opened(connection: duckdb.DuckDBPyConnection, fs: FileSystem) -> RollupStore:
    store = RollupStore(connection, Packs(DIRECTORY, fs))
    store.initialise()
    return store


def raw_through(batches: int) -> Raw:
    raw = Raw()
    for batch in BATCHES[:batches]:
        raw.arrive(batch)
    return raw


@pytest.fixture(scope="module")
def states() -> list[dict[str, Any]]:
    """What the tiers hold after so many batches."""
    store, raw = opened(connect(), MemoryFileSystem()), Raw()
    found = [contents(store)]
    for sequence, batch in enumerate(BATCHES, start=1):
        flush(store, raw, batch, sequence)
        check(store, raw, whole_numbers=True)
        found.append(contents(store))
    return found


def operations() -> int:
    fs = Counting(MemoryFileSystem(), lambda number, operation: None)
    store, raw = opened(connect(), fs), Raw()
    for sequence, batch in enumerate(BATCHES, start=1):
        flush(store, raw, batch, sequence)
    return fs.number


def live_through(
    connection: duckdb.DuckDBPyConnection, fs: FileSystem, states: list[dict[str, Any]], refusal: type[Exception]
) -> int:
    """Flush every batch until it is accepted; return how many flushes were refused."""
    store, raw, refused = opened(connection, fs), Raw(), 0
    for sequence, batch in enumerate(BATCHES, start=1):
        while True:
            try:
                flush(store, raw, batch, sequence)
                break
            except refusal:
                refused += 1
                assert contents(store) == states[sequence - 1]
                assert store.watermark() == sequence - 1
    assert contents(store) == states[-1]
    return refused


@pytest.mark.parametrize("lasting", [1, 3])
def test_failing(states: list[dict[str, Any]], lasting: int) -> None:
    refused = removed = 0
    firsts = range(lasting % 3, operations(), 3)
    for first in firsts:
        connection, done = connect(), iter(range(10_000))

        def should_fail(operation: str, path: str) -> BaseException | None:
            if operation in QUIET:
                return None
            return broken_disk() if first <= next(done) < first + lasting else None  # noqa: B023

        guarded = RemovesNothingNamed(MemoryFileSystem(), connection)
        refused += live_through(connection, FailingFileSystem(guarded, should_fail), states, Unavailable)
        removed += guarded.removed
        # What could not be removed, or was written for nothing, goes at the next start.
        store = opened(connection, guarded)
        assert set(Packs(DIRECTORY, guarded).sizes()) == {part.pack for part in store.parts()}
        assert contents(store) == states[-1]
        connection.close()
    assert refused >= len(firsts) // 2
    assert removed >= len(firsts)


def test_full(states: list[dict[str, Any]]) -> None:
    memory = MemoryFileSystem()
    live_through(connect(), memory, states, DiskFull)
    for piece in range(8):
        connection, inner = connect(), MemoryFileSystem()

        class MadeRoom(FullFileSystem):
            """After a refusal there is space again."""

            def _require(self, size: int) -> None:
                try:
                    super()._require(size)
                except OSError:
                    self.capacity_bytes = 1 << 30
                    raise

        fs = MadeRoom(inner, memory.used_bytes() * piece // 8)
        assert live_through(connection, RemovesNothingNamed(fs, connection), states, DiskFull) == 1
        connection.close()


@pytest.mark.parametrize("seed", range(2))
def test_crashing(tmp_path: Path, states: list[dict[str, Any]], seed: int) -> None:
    random = Random(seed)
    pictures: list[tuple[MemoryFileSystem, Path]] = []
    memory, path = MemoryFileSystem(), tmp_path / "rollups.duckdb"

    def note(number: int, operation: str) -> None:
        if number % 2 == seed:
            return
        folder = tmp_path / str(number)
        folder.mkdir()
        for name in ("rollups.duckdb", "rollups.duckdb.wal"):
            if (tmp_path / name).exists():
                shutil.copy(tmp_path / name, folder / name)
        pictures.append((memory.crash(random), folder / path.name))

    connection = connect(path)
    fs = Counting(memory, note)
    live_through(connection, fs, states, Unavailable)
    connection.close()
    seen = set()
    for found, copy in pictures:
        connection = connect(copy)
        # Raises LostPack when a commit names what the crash has taken away.
        store = opened(connection, found)
        done = store.watermark()
        seen.add(done)
        assert contents(store) == states[done]
        assert set(Packs(DIRECTORY, found).sizes()) == {part.pack for part in store.parts()}
        raw = raw_through(done)
        for sequence in range(done, len(BATCHES)):
            flush(store, raw, BATCHES[sequence], sequence + 1)
        assert contents(store) == states[-1]
        # The power fails again at once.
        connection.execute("CHECKPOINT")
        assert contents(opened(connection, found.crash(random))) == states[-1]
        connection.close()
    assert seen == set(range(len(BATCHES) + 1))  # the last one before its old packs are removed


@pytest.fixture
def filled() -> Iterator[tuple[RollupStore, MemoryFileSystem, list[BaseException]]]:
    """A store with one batch, and what its next reads raise."""
    errors: list[BaseException] = []
    memory, connection = MemoryFileSystem(), connect()
    fs = FailingFileSystem(
        memory, lambda operation, path: errors.pop() if operation == "read_ranges" and errors else None
    )
    store = opened(connection, fs)
    flush(store, Raw(), BATCHES[0])
    yield store, memory, errors
    connection.close()


def test_too_many_open_files_are_no_damage(
    filled: tuple[RollupStore, MemoryFileSystem, list[BaseException]], states: list[dict[str, Any]]
) -> None:
    store, _, errors = filled
    for number in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        errors.append(OSError(number, os.strerror(number)))
        with pytest.raises(Unavailable, match="cannot read rollups: got "):
            flush(store, raw_through(1), BATCHES[1], 2)
        assert contents(store) == states[1]
    errors.append(broken_disk())
    with pytest.raises(DamagedPart):
        flush(store, raw_through(1), BATCHES[1], 2)
    flush(store, raw_through(1), BATCHES[1], 2)
    assert contents(store) == states[2]


def test_damaged_packs_are_kept_beyond_their_removal(
    filled: tuple[RollupStore, MemoryFileSystem, list[BaseException]],
) -> None:
    store, memory, _ = filled
    packs = Packs(DIRECTORY, memory)
    [number] = {part.pack for part in store.parts() if part.tier == "rollup_1m"}
    data = memory.read(packs.path(number))
    packs.keep_aside(number)
    packs.keep_aside(number)
    packs.remove([number])
    assert number not in packs.sizes()
    found = memory.crash(Random(1))
    assert found.read(f"{packs.path(number)}.damaged") == data
    # All that is left goes out of the way of an empty database, and out of that of what went before.
    names = [Packs(DIRECTORY, found).set_aside() for _ in range(2)]
    assert names == [f"{DIRECTORY}.damaged", None]
    Packs(DIRECTORY, found).write(9, [b"x"])
    assert Packs(DIRECTORY, found).set_aside() == f"{DIRECTORY}.damaged.2"
    assert found.crash(Random(1)).read(f"{DIRECTORY}.damaged/{number:012d}.pack.damaged") == data
