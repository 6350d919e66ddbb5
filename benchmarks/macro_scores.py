"""What detection, root causes, forecasts and scaling reach on labelled data, beside what is published and what is easy.

The data and the scorers are not part of this repository: the suite takes them from a folder that has ``data/`` and
``scorers/`` (``--labelled``, by default ``../shared``), and is skipped where there is none.  A scorer asks
``tidegauge.lab``, which is the server's code with its defaults.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from benchmarks.report import SuiteReport
from benchmarks.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
#: Where the labelled data is looked for.
DEFAULT_FOLDER = ROOT.parent / "shared"
#: Parts of the scorer, in the order in which they run, and the folder of data that each needs.
PARTS = {
    "nab": "nab",
    "univariate": "univariate",
    "multivariate": "multivariate",
    "rca": "rca",
    "load": "load",
    "forecast": "forecast",
}
QUICK_PARTS = ("nab",)
#: Figure -> (what is asked of it, the best published, the best of simple baselines, whether more is better).
#: Published: scores in Numenta's repository for the same files (ARTime, contextOSE); for releases MicroRCA's answers
#: as ChangeRCA lists them.  Baselines: moving averages, z-scores and shifts of means for anomalies; the largest
#: deviation for causes; the Horizontal Pod Autoscaler's formula at its best target (60 %) for scaling; the best of
#: seasonal naive, the value of 364 days before, and drift for daily series, seasonal naive for hourly ones.
Reference = tuple[float | None, float | None, float | None, bool]
REFERENCES: Mapping[str, Reference] = {
    "nab.standard": (75.0, 72.7, None, True),
    "nab.reward_low_FP_rate": (66.0, 65.2, None, True),
    "nab.reward_low_FN_rate": (80.0, 78.5, None, True),
    "cloud.auc_pr": (0.60, None, 0.50, True),
    "kpi.auc_pr": (0.42, None, 0.30, True),
    "web.auc_pr": (0.45, None, 0.29, True),
    "smd.auc_pr": (0.72, None, 0.60, True),
    "services.auc_pr": (0.34, None, 0.24, True),
    "asd.auc_pr": (0.42, None, 0.34, True),
    "smd.ac1": (0.92, None, 0.89, True),
    "smd.hitrate100": (0.92, None, 0.90, True),
    "asd.ac1": (None, None, None, True),
    "rca.sockshop.service.ac1": (0.90, None, 0.76, True),
    "rca.sockshop.service.avg5": (0.95, None, 0.83, True),
    "rca.petshop.service.ac1": (0.50, None, 0.19, True),
    "rca.petshop.service.avg5": (0.65, None, 0.41, True),
    "rca.onlineboutique.service.ac1": (0.65, None, 0.43, True),
    "rca.onlineboutique.service.avg5": (0.80, None, 0.65, True),
    "rca.trainticket.service.ac1": (0.30, None, 0.14, True),
    "rca.trainticket.service.avg5": (0.40, None, 0.19, True),
    "rca.releases.service.ac1": (0.75, 0.56, 0.32, True),
    "rca.releases.service.avg5": (0.90, None, 0.51, True),
    "scale.total_ratio": (None, None, 1.60, False),
    "forecast.30.mase": (None, None, 1.23, False),
    "forecast.60.mase": (None, None, 1.31, False),
    "forecast.90.mase": (None, None, 1.42, False),
    "forecast.120.mase": (None, None, 1.36, False),
    "forecast.180.mase": (None, None, 1.34, False),
    "forecast.365.mase": (None, None, 1.41, False),
    "forecast.m4_hourly.mase": (None, None, 1.193, False),
}


def run(settings: Settings, folder: Path) -> SuiteReport:
    """Run the scorers, part by part, and set each figure beside what is asked, published and easy."""
    labelled = Path(settings.labelled) if settings.labelled is not None else DEFAULT_FOLDER
    report = SuiteReport(suite="", title="")
    scorer = labelled / "scorers" / "run_lab.py"
    if not scorer.exists():
        report.skipped = f"there is no {scorer}; --labelled DIR names a folder with data/ and scorers/"
        return report
    report.data = {"folder": str(labelled)}
    figures: dict[str, float] = {}
    left_out: dict[str, str] = {}
    for part, needed in PARTS.items():
        if settings.quick and part not in QUICK_PARTS:
            left_out[part] = "left out by --quick"
        elif not (labelled / "data" / needed).exists():
            left_out[part] = f"there is no data/{needed}"
        else:
            figures |= _scores(part, labelled, folder / f"{part}.json", left_out)
    for name, value in figures.items():
        report.add(name, value, "", "higher" if _of(name)[3] else "lower", note=_note(name, value))
    report.table = table(figures)
    for part, why in left_out.items():
        report.table.append([part, why, "", "", "", ""])
        # What was there and could not be scored is a failure; what is not there is not.
        if why.startswith("failed"):
            report.check(f"{part} was scored", False, why)
    report.check("something was scored", bool(figures), "; ".join(f"{part}: {why}" for part, why in left_out.items()))
    return report


def _scores(part: str, labelled: Path, answer: Path, left_out: dict[str, str]) -> dict[str, float]:
    """Run one part of the scorer in a process of its own, so that its modules stay out of ours."""
    command = [sys.executable, "run_lab.py", "--data", str(labelled / "data"), "--only", part, "--json", str(answer)]
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}
    done = subprocess.run(command, cwd=labelled / "scorers", env=environment, capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        missing = "AttributeError: module 'tidegauge.lab'" in said
        left_out[part] = f"not in this version ({said})" if missing else f"failed: {said}"
        return {}
    scores: dict[str, float] = json.loads(answer.read_text())
    return scores


def table(figures: Mapping[str, float]) -> list[list[str]]:
    """Return the rows to print: every figure that something is asked of, or known of, then the others."""
    rows = [["figure", "Tidegauge", "asked", "", "best published", "best baseline"]]
    for name in sorted(figures, key=lambda name: (name not in REFERENCES, list(figures).index(name))):
        asked, published, baseline, higher = _of(name)
        verdict = "" if asked is None else "met" if _met(figures[name], asked, higher) else "below"
        rows.append([name, _text(figures[name]), _text(asked), verdict, _text(published), _text(baseline)])
    return rows


def _met(value: float, asked: float, higher: bool) -> bool:
    return value >= asked if higher else value <= asked


def _of(name: str) -> Reference:
    higher = not any(word in name for word in ("mase", "smape", "msis", "seconds", "scale.", "false_rows"))
    return REFERENCES.get(name, (None, None, None, higher))


def _note(name: str, value: float) -> str:
    asked, published, baseline, higher = _of(name)
    parts = [
        f"{word} {_text(known)}"
        for word, known in (("asked", asked), ("published", published), ("baseline", baseline))
        if known is not None
    ]
    if asked is not None:
        parts.append("met" if _met(value, asked, higher) else "below")
    return ", ".join(parts)


def _text(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
