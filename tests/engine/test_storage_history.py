"""Random histories of the storage against a model: writes, deletions, seals, merges, failures, crashes, restarts.

Hypothesis makes the lists of operations (40 unless ``TIDEGAUGE_HISTORIES`` says otherwise), shortens one that fails
and prints what repeats it; with ``TIDEGAUGE_RANDOM=1`` each run makes others.  The model is a list of batches in
order of arrival.  What the contract allows:

- a batch that was acknowledged is there, whole, and later batches win over earlier ones field by field;
- a batch that was refused or under way when the power failed is there as a whole, at its place, or not at all, and
  that is settled by the next start; a live engine never shows it.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.clock import NS_PER_SECOND, ManualClock
from engine.disk.filesystem import FileSystem
from engine.errors import DiskFull, Overload, TidegaugeError, Unavailable
from engine.maintenance import recover
from engine.model.matchers import equality_matchers
from engine.model.rows import FOREVER_NS, NEVER_NS
from native.columns import is_absent
from tests.engine.test_durability import QUIET, QuietEngine, WholeEngine
from tests.filesystems import FailingFileSystem, FullFileSystem, MemoryFileSystem, broken_disk

NOW_NS = 1_700_000_000 * NS_PER_SECOND
HOSTS = ("a", "b", "c")
#: Seconds before now: within one window, in the one before, and days ago.
SECONDS = (0, 1, 60, 7_000, 9_000, 200_000)
FIELDS = ("x", "y")
TABLES = ("t", "u")
Cell = tuple[str, str, int, str]
Batch = dict[Cell, float]


@dataclass(frozen=True)
class Deletion:
    """All samples of a host, in all tables."""

    host: str


class Model:
    """Batches and deletions in order of arrival; those of ``unsettled`` may count or not."""

    def __init__(self) -> None:
        self.batches: list[Batch | Deletion] = []
        self.unsettled: set[int] = set()

    def state(self, left_out: set[int]) -> Batch:
        state: Batch = {}
        for index, batch in enumerate(self.batches):
            if index in left_out:
                continue
            if isinstance(batch, Deletion):
                state = {cell: value for cell, value in state.items() if cell[1] != batch.host}
            else:
                state |= batch
        return state

    def check_live(self, found: Batch) -> None:
        assert found == self.state(self.unsettled)

    def settle(self, found: Batch) -> None:
        """Find which unsettled batches have come through; fail when none of the possibilities is what is there."""
        unsettled = sorted(self.unsettled, reverse=True)
        for count in range(len(unsettled) + 1):
            for left_out in itertools.combinations(unsettled, count):
                if self.state(set(left_out)) == found:
                    self.batches = [batch for index, batch in enumerate(self.batches) if index not in left_out]
                    self.unsettled = set()
                    return
        lost = {cell: (value, found.get(cell)) for cell, value in self.state(self.unsettled).items()}
        wrong = {cell: pair for cell, pair in lost.items() if pair[0] != pair[1]}
        raise AssertionError(f"no choice of unacknowledged batches explains what is there: {wrong}")


class Machine:
    """One engine on one disk in memory, and the model beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.outside, self.lives = folder, folder / "0", 0
        self.outside.mkdir()
        self.memory = MemoryFileSystem()
        self.model = Model()
        self.value = 0
        self.failing_after: int | None = None
        self.start()

    def start(self) -> None:
        """Open the engine on what the disk holds; the path is the same in every life."""
        root = self.folder / "data"
        root.unlink(missing_ok=True)
        root.symlink_to(self.outside)
        self.failing_after = None
        self.full = FullFileSystem(self.memory, 1 << 40)
        fs: FileSystem = FailingFileSystem(self.full, self._should_fail, lambda size: size // 2)
        self.engine = QuietEngine(str(root), WholeEngine.CONFIG, clock=ManualClock(NOW_NS), fs=fs, wait=False)

    def _should_fail(self, operation: str, path: str) -> BaseException | None:
        if self.failing_after is None or operation in QUIET:
            return None
        self.failing_after -= 1
        return broken_disk() if -3 <= self.failing_after < 0 else None

    def end(self) -> None:
        engine = self.engine
        engine.recovery.close()
        engine.pipeline.close()
        engine.link.close()
        engine.control.close()
        engine._lock.release()

    def recovered(self) -> None:
        assert self.engine.recovery.wait(30)

    # --- operations

    def write(self, cells: list[tuple[str, str, int, str]]) -> None:
        batch: Batch = {}
        for table, host, second, field in cells:
            self.value += 1
            batch[table, host, second, field] = float(self.value)
        self.model.batches.append(batch)
        self.model.unsettled.add(len(self.model.batches) - 1)
        text = "".join(
            f"{table},host={host} {field}={value} {NOW_NS - second * NS_PER_SECOND}\n"
            for (table, host, second, field), value in batch.items()
        )
        try:
            result = self.engine.submit_lines(text.encode()).result(30)
        except (Unavailable, Overload):
            return
        assert not result.refused
        self.model.unsettled.discard(len(self.model.batches) - 1)

    def again(self) -> None:
        """The same cells once more, with other values: a correction of everything in the last batch."""
        batches = [batch for batch in self.model.batches if isinstance(batch, dict)]
        if batches:
            self.write(list(batches[-1]))

    def delete(self, host: str) -> None:
        self.recovered()
        self.model.batches.append(Deletion(host))
        self.model.unsettled.add(len(self.model.batches) - 1)
        try:
            self.engine.delete_series(equality_matchers({"host": host}))
        except (Unavailable, Overload):
            return
        self.model.unsettled.discard(len(self.model.batches) - 1)

    def compact(self) -> None:
        self.recovered()
        self._try(self.engine.compactor.run)

    def freeze(self) -> None:
        self._try(lambda: self.engine.catalog.freeze(1))

    def seal(self, before: int) -> None:
        self._try(lambda: self.engine.sealer.seal(NOW_NS - before * NS_PER_SECOND))

    def flush(self) -> None:
        self._try(self.engine.flush_rollups)

    def trim(self) -> None:
        self._try(self.engine.sealer.trim_log)

    def roll(self) -> None:
        self.engine.wal.roll()

    def fail(self, after: int) -> None:
        """Some operations from now on three of them fail."""
        self.failing_after = after

    def fill(self, room: int) -> None:
        self.full.capacity_bytes = self.memory.used_bytes() + room

    def space(self) -> None:
        self.full.capacity_bytes = 1 << 40

    def crash(self, seed: int) -> None:
        self.lives += 1
        outside = self.folder / str(self.lives)
        # The list of the tiers' parts first: packs that it names stay for a commit more.
        shutil.copytree(self.outside, outside)
        found = self.memory.crash(Random(seed))
        self.end()
        self.memory, self.outside = found, outside
        self.start()

    def kill(self) -> None:
        """The process ends, the machine goes on: what was written and not synced is there, until the power fails."""
        self.end()
        self.start()

    def crash_in_recovery(self, frames: int) -> None:
        """Start, replay so many frames, seal and flush what is there, and crash again."""
        left = [frames]
        apply = recover.Replay._apply

        def apply_some(replay: recover.Replay, frame: Any) -> None:
            if left[0] == 0:
                replay._stop.set()
            else:
                left[0] -= 1
                apply(replay, frame)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(recover.Replay, "_apply", apply_some)
            self.crash(frames)
            thread = self.engine.recovery._thread
            assert thread is not None
            thread.join(30)
            self.seal(0)
            self.flush()
            self.trim()
        self.crash(frames + 1)

    def stop(self) -> None:
        """An orderly stop and a new start; where the disk refuses the last steps, the log has everything."""
        self.recovered()
        self.engine.close()
        self.start()

    def _try(self, act: Any) -> None:
        try:
            act()
        except (DiskFull, Unavailable, OSError):
            pass
        except TidegaugeError as error:
            raise AssertionError(f"a bad disk is told as {type(error).__name__}: {error}") from error

    # --- looking

    def found(self) -> Batch:
        found: Batch = {}
        samples = 0
        for table_id, table in enumerate(self.engine.catalog.table_names()):
            rows = self.engine.samples.collect(table_id, NEVER_NS, FOREVER_NS)
            names = {field.field_id: field.name for field in self.engine.catalog.fields(table_id)}
            for field_id, column in zip(rows.field_ids, rows.values, strict=True):
                present = ~is_absent(column)
                for index in present.nonzero()[0].tolist():
                    host = self.engine.catalog.tags(int(rows.tagset_ids[index]))["host"]
                    second = (NOW_NS - int(rows.times[index])) // NS_PER_SECOND
                    found[table, host, second, names[field_id]] = float(column[index])
                    samples += 1
        assert samples == len(found), "a sample is there twice"
        return found

    def check_tiers(self, found: Batch) -> None:
        self.engine.flush_rollups()
        for tier in ("rollup_1m", "rollup_1d"):
            rows = self.engine.link.rollup_rows(tier, NEVER_NS // 2, FOREVER_NS // 2)
            assert sum(rows["count"].to_pylist()) == len(found), tier
            assert sum(rows["sum"].to_pylist()) == sum(found.values()), tier

    def check(self, *, after_start: bool) -> None:
        self.recovered()
        found = self.found()
        if after_start:
            self.model.settle(found)
        else:
            self.model.check_live(found)


CELLS = st.lists(
    st.tuples(st.sampled_from(TABLES), st.sampled_from(HOSTS), st.sampled_from(SECONDS), st.sampled_from(FIELDS)),
    min_size=1,
    max_size=6,
)
OPERATIONS = st.one_of(
    st.tuples(st.just("write"), CELLS),
    st.tuples(st.just("write"), CELLS),
    st.tuples(st.sampled_from(["again", "flush", "trim", "roll", "space", "stop", "kill", "compact", "freeze"])),
    st.tuples(st.just("delete"), st.sampled_from(HOSTS)),
    st.tuples(st.just("seal"), st.sampled_from([0, 60, 8_000])),
    st.tuples(st.just("fail"), st.integers(0, 6)),
    st.tuples(st.just("fill"), st.integers(0, 2_000)),
    st.tuples(st.just("crash"), st.integers(0, 1 << 16)),
    st.tuples(st.just("crash_in_recovery"), st.integers(0, 4)),
)


@given(operations=st.lists(OPERATIONS, min_size=3, max_size=16))
@settings(
    max_examples=int(os.environ.get("TIDEGAUGE_HISTORIES", "40")),
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
def test_any_history_keeps_what_was_acknowledged(operations: list[Any]) -> None:
    live_through(operations)


CELL = ("t", "a", 0, "x")


@pytest.mark.parametrize(
    "operations",
    [
        # A refused batch whose sync failed is read at the next start, and gone after the power cut that follows.
        [("write", [CELL]), ("fail", 0), ("again",), ("fail", 2), ("write", [CELL]), ("stop",)],
        [("write", [CELL]), ("fail", 0), ("again",), ("fail", 2), ("write", [CELL]), ("kill",), ("seal", 0)],
    ],
)
def test_histories_that_once_went_wrong(operations: list[Any]) -> None:
    live_through(operations)


def live_through(operations: list[Any]) -> None:
    """Do all operations and a last crash, comparing with the model after each that says what must be there."""
    with tempfile.TemporaryDirectory() as folder:
        machine = Machine(Path(folder))
        try:
            for name, *arguments in operations:
                getattr(machine, name)(*arguments)
                if name in ("crash", "crash_in_recovery", "kill", "stop"):
                    machine.check(after_start=True)
                elif name in ("seal", "trim", "compact", "delete"):
                    machine.check(after_start=False)
            machine.crash(len(operations))
            machine.check(after_start=True)
            machine.check_tiers(machine.found())
        finally:
            machine.end()
