"""The compaction job: the same samples in fewer files, whatever happens meanwhile."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.clock import NS_PER_DAY, NS_PER_HOUR, NS_PER_SECOND, ManualClock
from engine.config import Config, Query, Retention, Storage
from engine.config_units import ByteSize, Duration
from engine.runtime import Engine
from tests.engine.test_engine_rollups import CONFIG, NOW_NS, Twin, check, random_batch

DAY_NS = NOW_NS // NS_PER_DAY * NS_PER_DAY - 3 * NS_PER_DAY


def engine_with_a_day_of_files(path: Path, clock: ManualClock, **storage: Any) -> Engine:
    """Return an engine with twelve files of one day, too large to be merged while they are sealed."""
    config = Config(
        retention=Retention(raw=Duration.parse("30d")), query=Query(in_process=True), storage=Storage(**storage)
    )
    engine = Engine.open(str(path), config, clock=clock)
    for window in range(12):
        start = DAY_NS + window * 2 * NS_PER_HOUR
        times = [start + at * 5 * NS_PER_SECOND for at in range(1_000)]
        lines = [f"cpu,host=h{at % 3} x={at % 17},y={at / 8} {time}" for at, time in enumerate(times)]
        engine.submit_lines("\n".join(lines).encode()).result(30)
        engine.sealer.seal()
    return engine


def summary(engine: Engine) -> list[tuple[Any, ...]]:
    table = engine.sql("SELECT count(*), sum(x), sum(y), count(DISTINCT time) FROM cpu", []).table
    return [tuple(row.values()) for row in table.to_pylist()]


def test_a_day_that_is_over_becomes_one_file_with_the_same_samples(tmp_path: Path) -> None:
    clock = ManualClock(NOW_NS)
    with engine_with_a_day_of_files(tmp_path / "data", clock) as engine:
        before, files = summary(engine), engine.samples.segments()
        assert 1 < len(files) <= 9
        assert engine.compactor.run() == 0
        clock.advance(2 * 3_600)
        assert engine.compactor.run() == 1
        [merged] = engine.samples.segments()
        assert summary(engine) == before
        assert merged.rows == 12_000
        assert engine.compactor.run() == 0
        text = engine.vitals.render().decode()
        assert 'tidegauge_segment_written_rows_total{cause="compacted"} 12000.0' in text
        assert 'tidegauge_segment_written_rows_total{cause="sealed"} 12000.0' in text
        assert engine.manifest.check(checksums=True) == []
    left = list((tmp_path / "data" / "segments" / "cpu").iterdir())
    # What the manifest before lists stays until the next change.
    assert len(left) <= 1 + len(files)


def test_a_merge_that_is_overtaken_by_sealing_does_not_count(tmp_path: Path) -> None:
    clock = ManualClock(NOW_NS)
    with engine_with_a_day_of_files(tmp_path / "data", clock) as engine:
        clock.advance(2 * 3_600)
        read, late = engine.samples.read, [f"cpu,host=h0 x=1000 {DAY_NS + 1}".encode()]

        def read_slowly(*arguments: Any) -> Any:
            if late:
                engine.submit_lines(late.pop()).result(30)
                engine.sealer.seal()
            return read(*arguments)

        engine.samples.read = read_slowly  # type: ignore[method-assign]
        assert engine.compactor.run() == 0
        assert 'tidegauge_compactions_total{outcome="overtaken"} 1.0' in engine.vitals.render().decode()
        clock.advance(2 * 3_600)
        assert engine.compactor.run() == 1
        assert summary(engine)[0][0] == 12_001
        assert [finding for finding in engine.manifest.check(checksums=True) if finding.kind != "orphan"] == []


def test_rows_that_wait_in_memory_while_their_day_is_merged_come_back_after_a_crash(tmp_path: Path) -> None:
    clock = ManualClock(NOW_NS)
    with engine_with_a_day_of_files(tmp_path / "data", clock) as engine:
        clock.advance(2 * 3_600)
        engine.submit_lines(f"cpu,host=h0 x=1000 {DAY_NS + 1}".encode()).result(30)
        engine.sealer.seal(patient=True)
        assert engine.sealer.waiting_rows == 1
        assert engine.compactor.run() == 1
        before = summary(engine)
        assert before[0][0] == 12_001
        shutil.copytree(tmp_path / "data", tmp_path / "copy")
    with Engine.open(str(tmp_path / "copy"), CONFIG, clock=clock) as engine:
        assert summary(engine) == before


def test_late_rows_do_not_wait_while_the_log_is_long(tmp_path: Path) -> None:
    clock = ManualClock(NOW_NS)
    limits = {"wal_segment": ByteSize.parse("1MiB"), "wal_limit": ByteSize.parse("1MiB")}
    with engine_with_a_day_of_files(tmp_path / "data", clock, **limits) as engine:
        engine.flush_rollups()
        engine.submit_lines(f"cpu,host=h0 x=1000 {DAY_NS + 1}".encode()).result(30)
        engine.sealer.seal(patient=True)
        assert engine.sealer.waiting_rows == 1
        times = range(NOW_NS - 150 * NS_PER_SECOND, NOW_NS, 1_000_000)
        lines = [f"cpu,host=h{time % 97} x={time % 1009} {time}" for time in times]
        engine.submit_lines("\n".join(lines).encode()).result(60)
        # The background job may have been faster.
        engine.sealer.run()
        assert (engine.sealer.waiting_rows, engine.hot.held_rows()) == (0, 0)


def test_nothing_is_merged_that_would_not_fit(tmp_path: Path) -> None:
    clock = ManualClock(NOW_NS)
    with engine_with_a_day_of_files(tmp_path / "data", clock) as engine:
        clock.advance(2 * 3_600)
        free = engine.fs.free_bytes
        engine.fs.free_bytes = lambda path: int(ByteSize.parse("256MiB")) + 1_000  # type: ignore[method-assign]
        assert engine.compactor.run() == 0
        assert 'tidegauge_compactions_total{outcome="no_room"} 1.0' in engine.vitals.render().decode()
        engine.fs.free_bytes = free  # type: ignore[method-assign]
        assert engine.compactor.run() == 1


@pytest.mark.parametrize("seed", range(3))
def test_samples_and_tiers_are_the_same_whenever_segments_are_merged(tmp_path: Path, seed: int) -> None:
    rng = np.random.default_rng(100 + seed)
    clock, twin = ManualClock(NOW_NS), Twin()
    data = tmp_path / "0"
    engine = Engine.open(str(data), CONFIG, clock=clock)
    try:
        for step in range(16):
            start_ns = NOW_NS - int(rng.integers(3, 9)) * NS_PER_DAY
            engine.submit_lines(random_batch(rng, start_ns, twin)).result(30)
            match int(rng.integers(6)):
                case 0:
                    engine.sealer.seal(patient=bool(rng.integers(2)))
                case 1 | 2:
                    engine.sealer.seal()
                    clock.advance(float(rng.integers(1, 40)) * 3_600)
                    engine.compactor.run()
                case 3:
                    copy = tmp_path / str(step + 1)
                    shutil.copytree(data, copy)
                    engine.close()
                    data = copy
                    engine = Engine.open(str(data), CONFIG, clock=clock)
                case _:
                    check(engine, twin)
        clock.advance(8 * 86_400)
        engine.compactor.run()
        check(engine, twin)
    finally:
        engine.close()
