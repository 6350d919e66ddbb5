"""Damage of every kind to every file: what verify says, what a start does, and that the page says the same."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from engine.clock import ManualClock
from engine.errors import TidegaugeError
from engine.maintenance.verify.directory import verify
from engine.runtime import Engine
from tests.engine.damage import Case, build
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
