"""What the detectors reach on public labelled data, where that is at hand; docs/detectors.md has the whole table.

The data lies beside the repository (``../shared/data``, with ``../shared/scorers``); without it these tests are
skipped.  The smaller sets are read: the whole takes minutes.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import polars as pl
import pytest

from tidegauge import lab

ROOT = Path(__file__).resolve().parents[3]
SHARED = next((place for place in (ROOT.parent / "shared", ROOT / "shared") if (place / "data").is_dir()), None)
needs_data = pytest.mark.skipif(SHARED is None, reason="the labelled data (../shared/data) is not there")


def scorer(name: str) -> ModuleType:
    assert SHARED is not None
    specification = importlib.util.spec_from_file_location(f"shared_{name}", SHARED / "scorers" / f"{name}.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    return module


@needs_data
def test_nab() -> None:
    assert SHARED is not None
    nab = scorer("nab")
    windows = json.loads((SHARED / "data/nab/windows.json").read_text())
    files, scores = {}, {}
    for (name,), rows in pl.read_parquet(SHARED / "data/nab/series.parquet").group_by(["file"], maintain_order=True):
        times = rows["timestamp"].cast(pl.Datetime("ns")).to_physical().to_numpy()
        files[name] = nab.NabFile.from_timestamps(times.astype("datetime64[ns]"), windows[name])
        scores[name] = lab.score_series(times, rows["value"].cast(pl.Float64).to_numpy())
    assert len(files) == 29
    assert nab.score_corpus(files, scores, "standard")["score"] >= 75
    assert nab.score_corpus(files, scores, "reward_low_FP_rate")["score"] >= 66
    assert nab.score_corpus(files, scores, "reward_low_FN_rate")["score"] >= 80


@needs_data
@pytest.mark.parametrize(("kind", "least"), [("cloud", 0.60), ("web", 0.45)])
def test_univariate_sets(kind: str, least: float) -> None:
    assert SHARED is not None
    anomaly = scorer("anomaly")
    areas = []
    frame = pl.read_parquet(SHARED / f"data/univariate/{kind}/series.parquet")
    for _, rows in frame.group_by(["series"], maintain_order=True):
        tested = rows["part"].to_numpy() == 1
        labels = rows["label"].to_numpy()[tested]
        if labels.any():
            times = rows["timestamp"].cast(pl.Datetime("ns")).to_physical().to_numpy()
            scores = lab.score_series(times, rows["value"].cast(pl.Float64).fill_null(float("nan")).to_numpy())
            areas.append(anomaly.auc_pr(labels, scores[tested]))
    assert np.mean(areas) >= least


@needs_data
@pytest.mark.parametrize(
    ("kind", "least", "least_first"), [("smd", 0.72, 0.92), ("asd", 0.42, 0.85), ("services", 0.34, None)]
)
def test_multivariate_sets(kind: str, least: float, least_first: float | None) -> None:
    assert SHARED is not None
    anomaly = scorer("anomaly")
    areas, culprits = [], []
    for _, train, test, labels, events in anomaly.load_machines(SHARED / "data/multivariate" / kind):
        score, contribution = lab.score_matrix(np.vstack([train, test]).astype(float), len(train))
        areas.append(anomaly.auc_pr(labels, score[len(train) :]))
        if events:
            culprits.append(anomaly.culprits(contribution[len(train) :], events))
    assert np.mean(areas) >= least
    if least_first is None:
        return
    weights = [found["events"] for found in culprits]
    assert np.average([found["ac1"] for found in culprits], weights=weights) >= least_first
