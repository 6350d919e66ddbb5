"""The suite of scores: what is asked beside what was reached, and what is absent is said."""

from __future__ import annotations

from pathlib import Path

from benchmarks.cli import suite_names
from benchmarks.macro_scores import REFERENCES, run, table
from benchmarks.settings import Settings

SCORER = """
import json, sys
part, path = sys.argv[sys.argv.index("--only") + 1], sys.argv[sys.argv.index("--json") + 1]
if part == "load":
    from tidegauge import lab
    lab.NoSuchPolicy
if part == "rca":
    raise SystemExit("scores must be finite")
found = {"nab": {"nab.standard": 76.0}, "univariate": {"kpi.auc_pr": 0.4, "kpi.best_f1": 0.5}}
json.dump(found.get(part, {}), open(path, "w"))
"""


def test_without_the_data_the_suite_is_skipped(tmp_path: Path) -> None:
    report = run(Settings(labelled=str(tmp_path / "nothing")), tmp_path)
    assert "there is no" in report.skipped
    assert not report.checks
    assert "scores" in dict(suite_names())


def test_each_part_is_scored_left_out_or_failed(tmp_path: Path) -> None:
    labelled = tmp_path / "labelled"
    (labelled / "scorers").mkdir(parents=True)
    (labelled / "scorers" / "run_lab.py").write_text(SCORER)
    for name in ("nab", "univariate", "rca", "load"):
        (labelled / "data" / name).mkdir(parents=True)
    report = run(Settings(labelled=str(labelled)), tmp_path)
    rows = {row[0]: row for row in report.table}
    assert rows["nab.standard"] == ["nab.standard", "76.0", "75.0", "met", "72.7", ""]
    assert rows["kpi.auc_pr"] == ["kpi.auc_pr", "0.400", "0.420", "below", "", "0.300"]
    assert rows["kpi.best_f1"] == ["kpi.best_f1", "0.500", "", "", "", ""]
    assert rows["multivariate"][1] == "there is no data/multivariate"
    assert rows["load"][1].startswith("not in this version")
    assert rows["rca"][1] == "failed: scores must be finite"
    assert [check.name for check in report.failed_checks] == ["rca was scored"]
    assert {figure.name: figure.note for figure in report.figures}["nab.standard"] == "asked 75.0, published 72.7, met"


def test_rows_with_references_come_first_and_lower_can_be_better() -> None:
    rows = table({"other": 1.0, "forecast.m4_hourly.mase": 1.0, "smd.auc_pr": 0.5})
    assert [row[0] for row in rows] == ["figure", "forecast.m4_hourly.mase", "smd.auc_pr", "other"]
    assert not REFERENCES["forecast.m4_hourly.mase"][3]
