"""Hosts and services judged as wholes: alarms with culprits, bounds, and a restart that changes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.clock import NS_PER_DAY, NS_PER_MINUTE, ManualClock
from engine.config import Config, Detection, Query
from engine.detection import multivariate
from engine.detection import subject as subjects
from engine.detection.subject import Subject
from engine.detection.univariate import UnivariateDetector
from engine.errors import Damage, DiskFull
from engine.maintenance.detect import STATE_FILE
from engine.maintenance.subjects import SUBJECTS_FILE
from engine.maintenance.verify.directory import verify
from engine.runtime import Engine

RANDOM = np.random.default_rng(4)
START_NS = 1_790_000_000 * 10**9


@pytest.fixture(autouse=True)
def short_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subjects, "REMEMBERED", 240)
    monkeypatch.setattr(subjects, "LEAST", 120)
    monkeypatch.setattr(subjects, "REFIT", 120)


def engine_at(path: Path, clock: ManualClock, **settings: object) -> Engine:
    config = Config(detection=Detection(**settings), query=Query(in_process=True))
    return Engine(str(path), config, clock=clock, mode="embedded")


def feed(engine: Engine, clock: ManualClock, rows: range, *, odd: bool = False) -> int:
    """Two hosts of one service; when ``odd``, the CPU of host a does what its load does not explain."""
    noted = 0
    for row in rows:
        clock.advance(60)
        random = np.random.default_rng(row)
        load = 1 + 0.3 * np.sin(row / 20) + random.normal() / 50
        lines = []
        for number, host in enumerate("ab"):
            cpu = 40 * load + (45 if odd and host == "a" else 0)
            lines.append(f"cpu,host={host},service=web usage={cpu},idle={100 - cpu} {clock.now_ns()}")
            lines.append(f"mem,host={host},service=web used={50 + number + random.normal() / 5} {clock.now_ns()}")
            lines.append(f"app,host={host},service=web requests_total={1000 * row + int(60 * load)}i {clock.now_ns()}")
        engine.submit_lines("\n".join(lines).encode()).result(30)
        noted += engine.subject_finder.tick()
    return noted


def test_a_host_unlike_itself_is_a_row_with_its_culprits(tmp_path: Path) -> None:
    clock = ManualClock(START_NS)
    with engine_at(tmp_path / "data", clock) as engine:
        assert feed(engine, clock, range(300)) == 0
        assert engine.subject_finder.count == 3
        # The host and its service; once, however long it lasts.
        assert feed(engine, clock, range(300, 330), odd=True) == 2
        rows = engine.sql("SELECT * FROM anomalies WHERE cause = 'subject' ORDER BY labels").table.to_pylist()
        assert [json.loads(row["labels"]) for row in rows] == [{"host": "a"}, {"service": "web"}]
        for row in rows:
            assert row["metric"] in ("cpu_usage", "cpu_idle")
            assert row["score"] >= 0.5
            assert row["series_id"] == -1
            assert not row["expected_low"] <= row["value"] <= row["expected_high"]
            assert "cpu_usage" in row["reason"]
        found = engine.anomalies.find(limit=5)
        assert "subject" in found["cause"]


def test_a_restart_changes_nothing(tmp_path: Path) -> None:
    found = []
    for name, cut in (("one", 205), ("two", 130)):
        clock = ManualClock(START_NS)
        with engine_at(tmp_path / name, clock) as engine:
            feed(engine, clock, range(cut))
        with engine_at(tmp_path / name, clock) as engine:
            assert engine.subject_finder.count == 3
            # A counter's first value after a restart has no predecessor.
            engine.subject_finder._readings._before.clear()
            feed(engine, clock, range(cut, 230))
            feed(engine, clock, range(230, 245), odd=True)
            found.append(
                engine.sql("SELECT time, labels, metric FROM anomalies WHERE cause = 'subject'").table.to_pylist()
            )
    assert found[0] == found[1]
    assert found[0]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 300), st.booleans())
def test_a_subject_goes_on_where_it_was_saved(rows: int, missing: bool) -> None:
    random = np.random.default_rng(rows)
    values = random.normal(size=(rows + 5, 4))
    if missing:
        values[random.random(values.shape) < 0.2] = np.nan
    one = Subject(("a", "b", "c", "d"))
    for index in range(rows):
        if one.due:
            one.fit()
        one.advance(START_NS + index * NS_PER_MINUTE, values[index])
    other = Subject.from_bytes(one.to_bytes())
    assert other.to_bytes() == one.to_bytes()
    values[-3:] += 50
    for index in range(rows, rows + 5):
        told = [each.advance(START_NS + index * NS_PER_MINUTE, values[index]) for each in (one, other)]
        assert told[0] == told[1]
    assert other.to_bytes() == one.to_bytes()


def test_columns_that_come_later_are_judged_after_the_next_fit() -> None:
    one = Subject(("a", "b", "c"))
    rows = RANDOM.normal(size=(400, 4))
    for index in range(130):
        if one.due:
            one.fit()
        one.advance(START_NS + index * NS_PER_MINUTE, rows[index, :3])
    one.extend(("d",))
    alarms = []
    for index in range(130, 400):
        if one.due:
            one.fit()
        row = rows[index].copy()
        row[3] += 60 if index > 390 else 0
        alarms.append(one.advance(START_NS + index * NS_PER_MINUTE, row))
    (alarm,) = [each for each in alarms[-9:] if each is not None]
    assert alarm.culprits[0].column == "d"


def test_subjects_are_bounded_and_the_silent_make_room(tmp_path: Path) -> None:
    clock = ManualClock(START_NS)
    with engine_at(tmp_path / "data", clock, max_subjects=2, subjects=("host",)) as engine:

        def report(hosts: range) -> None:
            for _ in range(6):
                clock.advance(60)
                lines = [f"m,host=h{host} a=1,b=2,c=3 {clock.now_ns()}" for host in hosts]
                engine.submit_lines("\n".join(lines).encode()).result(30)
                engine.subject_finder.tick()

        report(range(5))
        assert (engine.subject_finder.count, engine.subject_finder.left_out) == (2, 3)
        assert engine.subject_finder.nbytes > 0
        clock.set_ns(clock.now_ns() + 2 * NS_PER_DAY)
        report(range(7, 8))
        assert engine.subject_finder.count == 1
    with engine_at(tmp_path / "off", clock, subjects=()) as engine:
        feed(engine, clock, range(10))
        assert engine.subject_finder.count == 0


def test_damaged_state_is_told_and_learned_anew(tmp_path: Path) -> None:
    clock = ManualClock(START_NS)
    with engine_at(tmp_path / "data", clock) as engine:
        feed(engine, clock, range(20))
        engine.finder.tick()
    report = verify(str(tmp_path / "data"))
    assert report.clean
    assert report.checked["detector states"] == 2
    for name in (STATE_FILE, SUBJECTS_FILE):
        path = tmp_path / "data" / name
        sound = path.read_bytes()
        for body, kind in ((sound[:-3], "detection_damaged"), (sound[:7] + b"\x63" + sound[8:], "detection_newer")):
            path.write_bytes(body)
            assert dict(verify(str(tmp_path / "data")).counts) == {kind: 1}
        path.write_bytes(sound)
    for name in (STATE_FILE, SUBJECTS_FILE):
        (tmp_path / "data" / name).write_bytes(b"nothing of the kind")
    with engine_at(tmp_path / "data", clock) as engine:
        assert engine.subject_finder.count == 0
        assert engine.vitals.detection_lost._value.get() == 2
        feed(engine, clock, range(20))
    assert verify(str(tmp_path / "data")).checked["detector states"] == 2


def test_a_subject_of_an_earlier_version_is_fitted_anew_from_its_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    one = Subject(("a", "b", "c"))
    for index, row in enumerate(RANDOM.normal(size=(130, 3))):
        if one.due:
            one.fit()
        one.advance(START_NS + index * NS_PER_MINUTE, row)
    with monkeypatch.context() as earlier:
        earlier.setattr(multivariate, "KIND", "earlier")
        data = one.to_bytes()
    other = Subject.from_bytes(data)
    assert other.due
    other.fit()
    row = np.array([0.0, 60.0, 0.0])
    (alarm,) = [told for index in range(5) if (told := other.advance(START_NS + index, row)) is not None]
    assert alarm.culprits[0].column == "b"


def test_no_bytes_but_a_subject_are_taken() -> None:
    with pytest.raises(Damage):
        Subject.from_bytes(b"nothing of the kind, at some length")
    other = UnivariateDetector(1).to_bytes()
    with pytest.raises(Damage, match="want 'subject'"):
        Subject.from_bytes(other)


def test_a_disk_that_refuses_does_not_keep_the_engine_from_closing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = ManualClock(START_NS)
    engine = engine_at(tmp_path / "data", clock)
    feed(engine, clock, range(10))

    def refuse(now_ns: int) -> None:
        raise DiskFull("cannot write: the disk is full")

    monkeypatch.setattr(engine.subject_finder, "_save", refuse)
    engine.close()
    with engine_at(tmp_path / "data", clock) as again:
        assert again.subject_finder.count == 0
