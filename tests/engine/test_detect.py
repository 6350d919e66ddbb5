"""The detection tick in an engine: what is judged, what is noted, what a restart remembers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.catalog.control import ControlDatabase
from engine.clock import ManualClock
from engine.config import Config, Detection
from engine.detection.reasons import reason_of
from engine.detection.roster import Roster
from engine.detection.store import Anomaly, AnomalyStore
from engine.errors import DiskFull
from engine.runtime import Engine

STEP_SECONDS = 300
ROWS = 288 * 3


def engine_at(path: Path, clock: ManualClock, **settings: object) -> Engine:
    return Engine(str(path), Config(detection=Detection(**settings)), clock=clock, mode="embedded")


def feed(engine: Engine, clock: ManualClock, values: list[float], *, hosts: int = 2) -> list[int]:
    noted = []
    for value in values:
        now_ns = clock.now_ns()
        lines = "\n".join(f"cpu,host=h{host} usage={value + host} {now_ns}" for host in range(hosts))
        engine.submit_lines(lines.encode()).result()
        noted.append(engine.finder.tick())
        clock.advance(STEP_SECONDS)
    return noted


def ordinary(count: int, seed: int = 1) -> list[float]:
    return (40 + np.random.default_rng(seed).normal(size=count)).tolist()


def test_spike_is_noted_with_a_reason_and_is_a_row(tmp_path: Path) -> None:
    clock = ManualClock()
    with engine_at(tmp_path / "data", clock) as engine:
        feed(engine, clock, ordinary(ROWS))
        before = len(engine.anomalies.anomalies_table()["id"])
        assert feed(engine, clock, [95.0]) == [2]
        found = engine.anomalies.find(limit=2)
        assert found["metric"] == ["cpu_usage"] * 2
        assert sorted(found["labels"]) == ['{"host": "h0"}', '{"host": "h1"}']
        assert min(found["score"]) >= 0.5
        assert found["reason"][1].startswith("value 95 against expected ")
        rows = engine.sql("SELECT metric, value, reason FROM anomalies ORDER BY id").table.to_pylist()
        assert len(rows) == before + 2
        assert {row["value"] for row in rows[-2:]} == {95.0, 96.0}


def test_same_sample_is_judged_once(tmp_path: Path) -> None:
    clock = ManualClock()
    with engine_at(tmp_path / "data", clock) as engine:
        feed(engine, clock, ordinary(3))
        judged = engine.vitals.detection_samples._value.get()
        engine.finder.tick()
        assert engine.vitals.detection_samples._value.get() == judged == 6


def test_restart_changes_nothing(tmp_path: Path) -> None:
    values = [*ordinary(ROWS), 95.0, *ordinary(20, seed=2)]
    found = []
    for name, cut in (("one", len(values)), ("two", 500)):
        clock = ManualClock()
        with engine_at(tmp_path / name, clock) as engine:
            feed(engine, clock, values[:cut])
        with engine_at(tmp_path / name, clock) as engine:
            feed(engine, clock, values[cut:])
            found.append(engine.anomalies.anomalies_table())
    assert found[0] == found[1]
    assert found[0]["id"]


def test_unreadable_state_is_told_and_detection_starts_over(tmp_path: Path) -> None:
    clock = ManualClock()
    with engine_at(tmp_path / "data", clock) as engine:
        feed(engine, clock, ordinary(5))
    state = tmp_path / "data" / "detectors.state"
    state.write_bytes(state.read_bytes()[:-1])
    with engine_at(tmp_path / "data", clock) as engine:
        assert engine.vitals.detection_lost._value.get() == 1
        assert engine.finder.series == 0
        feed(engine, clock, ordinary(5))
        assert engine.finder.series == 2


def test_state_that_cannot_be_saved_does_not_keep_samples_from_being_sealed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = ManualClock()
    with engine_at(tmp_path / "data", clock) as engine:
        feed(engine, clock, ordinary(3))

        def full(now_ns: int) -> None:
            raise DiskFull("cannot write detectors.state: the disk is full")

        monkeypatch.setattr(engine.finder, "_save", full)
    with engine_at(tmp_path / "data", clock) as engine:
        assert engine.samples.segments()
        assert engine.finder.series == 0


def test_series_beyond_the_limit_are_counted_and_take_the_place_of_silent_ones(tmp_path: Path) -> None:
    clock = ManualClock()
    with engine_at(tmp_path / "data", clock, max_series=3) as engine:
        feed(engine, clock, ordinary(2), hosts=5)
        assert engine.finder.series == 3
        assert engine.finder.left_out == 2
        clock.advance(25 * 3600)
        now_ns = clock.now_ns()
        engine.submit_lines(f"cpu,host=new usage=1 {now_ns}".encode()).result()
        engine.finder.tick()
        assert engine.finder.series <= 3
        assert (engine.finder._roster.rows_of(np.array([5 << 16])) >= 0).all()


@pytest.mark.parametrize(("patterns", "judged"), [((), 2), (("cpu_*",), 2), (("mem_*",), 0)])
def test_only_wanted_metrics_are_judged(tmp_path: Path, patterns: tuple[str, ...], judged: int) -> None:
    clock = ManualClock()
    with engine_at(tmp_path / "data", clock, metrics=patterns) as engine:
        feed(engine, clock, ordinary(1))
        assert engine.finder.series == judged


def test_metric_of_a_pooled_table_goes_by_its_own_name(tmp_path: Path) -> None:
    clock = ManualClock()
    with engine_at(tmp_path / "data", clock) as engine:
        for value in [*ordinary(ROWS), 95.0]:
            engine.submit_lines(f"prometheus,__name__=load,job=a value={value} {clock.now_ns()}".encode()).result()
            engine.finder.tick()
            clock.advance(STEP_SECONDS)
        found = engine.anomalies.find(limit=1)
        assert found["metric"] == ["load"]
        assert found["labels"] == ['{"job": "a"}']


def test_only_the_strangest_of_a_flood_are_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.maintenance.detect.MOST_A_TICK", 2)
    clock = ManualClock()
    with engine_at(tmp_path / "data", clock) as engine:
        feed(engine, clock, ordinary(ROWS), hosts=4)
        assert feed(engine, clock, [500.0], hosts=4) == [2]
        assert engine.vitals.anomalies_dropped._value.get() >= 2


def test_old_anomalies_and_those_beyond_the_most_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.detection.store.MOST", 3)
    store = AnomalyStore(ControlDatabase(str(tmp_path / "control.sqlite")))
    one = Anomaly(5, 1, "m", {}, 1.0, 0.6, "value", 0.0, 2.0, "because")
    store.record([replace(one, time_ns=time_ns) for time_ns in (1, 5, 6, 7, 8)])
    assert store.prune(2) == 2
    assert store.anomalies_table()["time"] == [6, 7, 8]
    assert store.find(metric="m", since_ns=7)["time"] == [8, 7]
    assert store.find(metric="other")["time"] == []
    assert store.find(least_score=0.7)["time"] == []


@pytest.mark.parametrize(
    ("judged", "reason"),
    [
        ((1, 93.0, 93.0, 41.0, 58.0), "value 93 against expected 41..58"),
        ((3, 93.0, 77.5, 41.0, 58.0), "level 77.5 (now 93) against expected 41..58"),
        ((4, 93.0, 12.0, 0.0, 4.0), "changes by 12 from sample to sample, on ordinary days by at most 4"),
        ((6, 93.0, 0.1, 0.5, 1.5), "varies less than on ordinary days: activity 0.1 against expected 0.5..1.5"),
        ((7, 93.0, 90.0, 41.0, 58.0), "value 90 (now 93) against expected 41..58 for this hour"),
        ((1, 1234567.0, 0.0, -1e12, float("inf")), "value 1,234,567 against expected -1,000,000,000,000..very large"),
    ],
)
def test_reasons_can_be_read(judged: tuple[int, float, float, float, float], reason: str) -> None:
    assert reason_of(*judged) == reason


def test_roster_gives_rows_out_once() -> None:
    roster = Roster(3)
    assert roster.admit(np.array([70, 50])).tolist() == [0, 1]
    assert roster.rows_of(np.array([50, 60, 70])).tolist() == [1, -1, 0]
    roster.release(np.array([0]))
    assert roster.admit(np.array([10, 20, 30])).tolist() == [0, 2]
    assert roster.rows_of(np.array([10, 20, 30, 50, 70])).tolist() == [0, 2, -1, 1, -1]
