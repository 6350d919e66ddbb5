"""The disk guard: writes stop in time, everything else goes on, and it ends by itself."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from engine.clock import NS_PER_SECOND, ManualClock
from engine.config import Config, Query, Storage
from engine.config_units import ByteSize
from engine.disk.guard import DiskGuard
from engine.disk.real import RealFileSystem
from engine.errors import DiskFull
from engine.runtime import Engine
from tests.filesystems import MemoryFileSystem

NOW_NS = 1_700_000_000 * NS_PER_SECOND


class Disk(MemoryFileSystem):
    """A disk whose free space is what the test says."""

    free = 2_000
    asked = 0

    def free_bytes(self, path: str) -> int:
        self.asked += 1
        return self.free


def test_the_state_is_entered_and_left_once(caplog: pytest.LogCaptureFixture) -> None:
    disk, clock = Disk(), ManualClock(NOW_NS)
    guard = DiskGuard(disk, "data", reserve_bytes=1_000, clock=clock)
    caplog.set_level(logging.WARNING, "tidegauge.disk")
    told = []
    for free, low in ((1_000, False), (999, True), (500, True), (1_049, True), (1_050, False), (1_000, False)):
        disk.free = free
        clock.advance(2)
        for _ in range(3):
            assert guard.low is low
        told.append(len(caplog.records))
        if low:
            with pytest.raises(DiskFull, match=f"{free} bytes are free, 1000 are kept") as raised:
                guard.admit()
            assert raised.value.retry_after_seconds >= 1
        else:
            guard.admit()
    assert told == [0, 1, 1, 1, 2, 2]
    assert guard.times_low == 1
    # The system is asked once a second, not once a write.
    assert disk.asked == 6


def test_a_merge_never_reaches_into_the_reserve() -> None:
    disk = Disk()
    guard = DiskGuard(disk, "data", reserve_bytes=1_000, clock=ManualClock(NOW_NS))
    assert guard.has_room(1_000)
    assert not guard.has_room(1_001)


def test_everything_but_writing_goes_on(tmp_path: Path) -> None:
    class NearlyFull(RealFileSystem):
        free = 1 << 40

        def free_bytes(self, path: str) -> int:
            return self.free

    fs, clock = NearlyFull(), ManualClock(NOW_NS)
    config = Config(query=Query(in_process=True), storage=Storage(disk_reserve=ByteSize.parse("1MiB")))
    with Engine.open(str(tmp_path / "data"), config, clock=clock, fs=fs) as engine:
        engine.submit_lines(f"t,host=a x=1 {NOW_NS}".encode()).result(30)
        fs.free = 1_000
        clock.advance(2)
        with pytest.raises(DiskFull):
            engine.submit_lines(f"t,host=a x=2 {NOW_NS + 1}".encode()).result(30)
        state = engine.readiness()
        assert (state["ready"], state["state"], state["writes"], state["queries"]) == (False, "disk_low", False, True)
        assert state["disk"] == {"state": "low", "free_bytes": 1_000, "reserve_bytes": 1 << 20}
        text = engine.vitals.render().decode()
        assert "tidegauge_disk_low 1.0" in text
        assert 'tidegauge_ingest_overloaded_total{reason="disk_reserve"} 1.0' in text
        assert engine.sql("SELECT count(*) AS n FROM samples").table["n"][0].as_py() == 1
        assert engine.sql("SELECT sum(count) AS n FROM rollup_1m").table["n"][0].as_py() == 1
        assert engine.sealer.seal() == 1
        engine.watcher.tick()
        fs.free = 1 << 40
        clock.advance(2)
        engine.submit_lines(f"t,host=a x=2 {NOW_NS + 1}".encode()).result(30)
        assert engine.readiness()["ready"]
        assert "tidegauge_disk_low 0.0" in engine.vitals.render().decode()
