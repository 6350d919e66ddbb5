"""Damage of every kind to every file: what verify says, what a start does, and that the page says the same."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest

from engine.clock import ManualClock
from engine.config import Query
from engine.errors import Damage, TidegaugeError
from engine.maintenance.verify.directory import verify
from engine.runtime import Engine
from tests.engine.damage import ROLLUPS, SEGMENT, Case, build, flip, zeros
from tests.engine.damage_cases import CASES, PAGE, with_tables
from tests.engine.test_engine_rollups import CONFIG, NOW_NS, Twin

Built = tuple[Path, Twin]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Built:
    target = tmp_path_factory.mktemp("damage") / "killed"
    return target, build(target)


def test_the_page_has_the_tables_of_the_tests() -> None:
    text = PAGE.read_text()
    assert text == with_tables(text), "run `python -m tests.engine.damage_cases`"


def test_the_undamaged_directory_is_sound(killed: Built) -> None:
    assert verify(str(killed[0])).counts == {}


def samples_of(engine: Engine) -> list[tuple[Any, ...]]:
    statement = "SELECT metric, labels['host'] AS host, epoch_ns(time) AS time, value FROM samples"
    return [tuple(row.values()) for row in engine.sql(statement).table.to_pylist()]


def metric_rows(frame: pl.DataFrame) -> set[tuple[Any, ...]]:
    return set(frame.select(pl.col("table") + "_" + pl.col("field"), "host", "time", "value").rows())


def check_start(engine: Engine, case: Case, twin: Twin) -> None:
    """Check what a started engine says and what has come back."""
    readiness = engine.readiness()
    assert readiness["ready"]
    said = [*readiness["log_findings"], *readiness["storage_findings"]]
    if case.opening == "fails":
        with pytest.raises(TidegaugeError, match=case.says):
            samples_of(engine)
        return
    if case.opening == "reports":
        assert any(re.search(case.says, sentence) for sentence in said), said
    else:
        assert said == []
    engine.flush_rollups()
    if case.opening == "heals":
        assert any(re.search(case.says, sentence) for sentence in engine.readiness()["storage_findings"])
    found = samples_of(engine)
    assert len({row[:3] for row in found}) == len(found), "a sample twice"
    if case.all_back:
        assert set(found) == metric_rows(twin.latest())
    else:
        sent = {(f"{table}_{field}", host, time, value) for table, host, time, field, value in twin.sent}
        assert set(found) < sent
        assert len(found) > len(sent) / 3


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.part}: {case.what}")
def test_damage(killed: Built, tmp_path: Path, case: Case) -> None:
    data = tmp_path / "data"
    shutil.copytree(killed[0], data)
    case.apply(data)
    report = verify(str(data))
    assert set(report.counts) == case.kinds, report.findings
    if case.opening == "refuses":
        with pytest.raises(TidegaugeError, match=case.says):
            Engine.open(str(data), CONFIG, clock=ManualClock(NOW_NS))
        return
    with Engine.open(str(data), CONFIG, clock=ManualClock(NOW_NS)) as engine:
        check_start(engine, case, killed[1])
    assert set(verify(str(data)).counts) == case.stays


def test_a_damaged_segment_holds_up_neither_other_segments_nor_other_tables(killed: Built, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(killed[0], data)
    segment = sorted(data.glob(SEGMENT))[1]
    flip(segment, 100)
    with Engine.open(str(data), CONFIG, clock=ManualClock(NOW_NS)) as engine:
        held = engine.hot.held_rows()
        assert engine.sealer.seal() > 0
        left = engine.hot.held_rows()
        assert 0 < left < held
        assert any(segment.name in sentence for sentence in engine.readiness()["storage_findings"])
        metrics = engine.vitals.render().decode()
        assert 'seals_total{outcome="damaged"} 1.0' in metrics
        assert engine.flush_rollups() > 0
        assert engine.dirty.unreadable_buckets > 0
        assert len(engine.sql("SELECT * FROM disk").table) > 0
        with pytest.raises(TidegaugeError, match=r"cannot read segment.*\.parquet"):
            engine.sql("SELECT * FROM cpu")
    # The rows that had to wait are in the log.
    with Engine.open(str(data), CONFIG, clock=ManualClock(NOW_NS)) as engine:
        assert engine.hot.held_rows() >= left
    assert set(verify(str(data)).counts) == {"segment_damaged"}


def test_the_query_process_sets_a_damaged_rollup_database_aside(killed: Built, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(killed[0], data)
    zeros(data / ROLLUPS)
    config = msgspec.structs.replace(CONFIG, query=Query(in_process=False))
    with Engine.open(str(data), config, clock=ManualClock(NOW_NS), mode="server") as engine:
        engine.flush_rollups()
        assert set(samples_of(engine)) == metric_rows(killed[1].latest())
        assert any("set aside" in sentence for sentence in engine.readiness()["storage_findings"])
    assert (data / f"{ROLLUPS}.damaged").stat().st_size == (killed[0] / ROLLUPS).stat().st_size
    assert verify(str(data)).counts == {}


def test_a_catalogue_of_fewer_or_other_tables_is_refused(tmp_path: Path) -> None:
    for name, line in {"one": b"cpu,host=a x=1i", "other": b"disk,host=a x=1i"}.items():
        with Engine.open(str(tmp_path / name), CONFIG, clock=ManualClock(NOW_NS)) as engine:
            engine.submit_lines(line + f" {NOW_NS}".encode()).result(30)
    catalogue = tmp_path / "one" / "catalog.log"
    whole = catalogue.read_bytes()
    for body, words in {
        b"": "got 0 tables, want table 0, cpu as in segments/cpu/",
        (tmp_path / "other" / "catalog.log").read_bytes(): "got disk as table 0, want cpu",
    }.items():
        catalogue.write_bytes(body)
        assert set(verify(str(tmp_path / "one")).counts) <= {"catalogue_lacks", "segment_names"}
        with pytest.raises(Damage, match=rf"cannot use catalogue: {words}.*catalog\.log"):
            Engine.open(str(tmp_path / "one"), CONFIG, clock=ManualClock(NOW_NS))
    catalogue.write_bytes(whole)
    assert verify(str(tmp_path / "one")).counts == {}
