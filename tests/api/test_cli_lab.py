"""``tidegauge lab``: what it writes is what ``tidegauge.lab`` answers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from api.cli.main import main
from engine.forecasting.seasons import usual_season
from tidegauge import lab

ROWS = 600
TIMES = 1_700_000_000 + 300 * np.arange(ROWS, dtype=np.int64)
RANDOM = np.random.default_rng(4)
VALUES = {"cpu": 40 + RANDOM.normal(size=ROWS), "memory": 5 + RANDOM.normal(size=ROWS) / 10}


def table() -> pl.DataFrame:
    return pl.DataFrame({"ts": TIMES, "host": ["a"] * ROWS, **VALUES})


@pytest.mark.parametrize(("given", "wanted"), [("in.parquet", "out.csv"), ("in.csv", "out.parquet")])
def test_each_column_is_scored(tmp_path: Path, given: str, wanted: str) -> None:
    file, output = tmp_path / given, tmp_path / wanted
    table().write_parquet(file) if given.endswith("parquet") else table().write_csv(file)
    assert main(["lab", "score", str(file), "--unit", "s", "--output", str(output)]) == 0
    found = pl.read_csv(output) if wanted.endswith("csv") else pl.read_parquet(output)
    assert found.columns == ["file", "series", "time", "value", "score"]
    for name, values in VALUES.items():
        scores = found.filter(pl.col("series") == name)["score"].to_numpy()
        np.testing.assert_allclose(scores, lab.score_series(TIMES * 1_000_000_000, values), rtol=1e-9)
    assert not list(tmp_path.glob("*.partial"))


def test_columns_are_scored_together(tmp_path: Path) -> None:
    file, output = tmp_path / "in.parquet", tmp_path / "out.parquet"
    table().drop("ts").write_parquet(file)
    assert main(["lab", "score", str(file), "--train-rows", "300", "--output", str(output)]) == 0
    found = pl.read_parquet(output)
    score, contribution = lab.score_matrix(np.column_stack(list(VALUES.values())), 300)
    assert found.columns == ["file", "row", "score", "contribution_cpu", "contribution_memory"]
    np.testing.assert_array_equal(found["score"].to_numpy(), score)
    np.testing.assert_array_equal(found["contribution_memory"].to_numpy(), contribution[:, 1])


def test_text_times_and_empty_cells(tmp_path: Path) -> None:
    file, output = tmp_path / "in.csv", tmp_path / "out.csv"
    file.write_text("when,v\n2026-01-01T00:00:00Z,1\n2026-01-01T00:05:00Z,\n2026-01-01T00:10:00Z,2.5\n")
    assert main(["lab", "score", str(file), "--time", "when", "--output", str(output)]) == 0
    assert pl.read_csv(output)["score"].to_list()[:2] == [0.0, 0.0]


@pytest.mark.parametrize(
    ("content", "options", "code", "sentence"),
    [
        ("v\n1\n", [], 1, "no column of times"),
        ("ts,host\n1,a\n", [], 1, "no column of numbers"),
        ("ts,v\n1,2\n", ["--time", "when"], 1, "no column 'when'; it has ts, v"),
        ("ts,v\nsoon,2\n", [], 1, "no time in row 1"),
        ("ts,v\n1,2\n", ["--train-rows", "0"], 2, "want 1 or more"),
        ("ts,v\n1,2\n", ["--train-rows", "5"], 1, "train_rows 5 of 1 rows"),
    ],
)
def test_mistakes_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, options: list[str], code: int, sentence: str
) -> None:
    file = tmp_path / "in.csv"
    file.write_text(content)
    assert main(["lab", "score", str(file), *options, "--output", str(tmp_path / "out.csv")]) == code
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "out.csv").exists()


def test_other_kinds_of_files_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lab", "score", "x.xlsx", "--output", str(tmp_path / "out.csv")]) == 1
    assert "ends in .parquet or .csv" in capsys.readouterr().err
    assert main(["lab", "score", str(tmp_path / "none.csv"), "--output", str(tmp_path / "out.csv")]) == 1
    assert "cannot read" in capsys.readouterr().err


def test_columns_are_forecast(tmp_path: Path) -> None:
    file, output = tmp_path / "in.csv", tmp_path / "out.parquet"
    times = np.delete(np.datetime64("2026-01-01") + np.arange(60), 30)
    used = 10.0 + np.delete(np.arange(60), 30)
    pl.DataFrame({"time": times, "used": used, "host": ["a"] * 59}).write_csv(file)
    assert main(["lab", "forecast", str(file), "--horizon", "14", "--output", str(output)]) == 0
    found = pl.read_parquet(output)
    assert found.columns == ["file", "series", "step", "time", "mean", "lo80", "hi80", "lo95", "hi95"]
    assert found["time"].to_list()[0].isoformat() == "2026-03-02T00:00:00"
    whole = np.insert(used, 30, np.nan)
    np.testing.assert_array_equal(found["hi95"].to_numpy(), lab.forecast(whole, 14)["hi95"])
    assert main(["lab", "forecast", str(file), "--horizon", "3", "--season", "1", "--output", str(output)]) == 0
    np.testing.assert_array_equal(pl.read_parquet(output)["mean"].to_numpy(), lab.forecast(whole, 3, season=1)["mean"])


def test_rows_without_times_are_days(tmp_path: Path) -> None:
    file, output = tmp_path / "in.parquet", tmp_path / "out.csv"
    table().drop("ts").write_parquet(file)
    assert main(["lab", "forecast", str(file), "--horizon", "5", "--output", str(output)]) == 0
    found = pl.read_csv(output).filter(pl.col("series") == "cpu")
    np.testing.assert_allclose(found["mean"].to_numpy(), lab.forecast(VALUES["cpu"], 5)["mean"], rtol=1e-12)
    assert "time" not in found.columns


@pytest.mark.parametrize(
    ("times", "sentence"),
    [
        ([0, 60, 30, 90], "row 3 is not later than the row before"),
        ([0, 60, 120, 150, 210], "row 4 is not a whole number of 60 s"),
        ([0], "it has 1 rows"),
        ([0, 1, 2, 90_000_000], "too many"),
        ([0, 3600], "got 2 values"),
    ],
)
def test_times_that_are_no_grid(
    times: list[int], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "in.parquet"
    pl.DataFrame({"ts": times, "v": [1.0] * len(times)}).write_parquet(file)
    command = ["lab", "forecast", str(file), "--unit", "s", "--horizon", "5", "--output", str(tmp_path / "o.csv")]
    assert main(command) == 1
    assert sentence in capsys.readouterr().err


def test_rows_are_decided_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, output = tmp_path / "in.csv", tmp_path / "out.csv"
    times = np.arange(0, 150, 15)
    rows = {"time": times, "cpu": [80.0] * 10, "memory": [40.0] * 10, "queue": [None] + [1.0] * 9, "ready": [4] * 10}
    pl.DataFrame(rows).write_csv(file)
    assert main(["lab", "scale", str(file), "--unit", "s", "--max", "6", "--output", str(output)]) == 0
    found = pl.read_csv(output)
    assert found["desired"].to_list() == [6] * 10
    assert found["action"].to_list()[0] == "up"
    assert found["limited_by"].to_list()[0] == "max"
    assert "10 rows, 1 changes" in capsys.readouterr().err
    pl.DataFrame({"time": [15, 0], "ready": [1, 2]}).write_csv(file)
    assert main(["lab", "scale", str(file), "--output", str(output)]) == 1
    assert "row 2 is before the row before it" in capsys.readouterr().err
    pl.DataFrame({"time": [15], "cpu": [1.0]}).write_csv(file)
    assert main(["lab", "scale", str(file), "--output", str(output)]) == 1
    assert "neither a column ready nor target" in capsys.readouterr().err


@pytest.mark.parametrize(("step_seconds", "season"), [(86400, 7), (3600, 24), (300, 288), (7 * 86400, 1), (7000, 1)])
def test_usual_seasons(step_seconds: float, season: int) -> None:
    assert usual_season(step_seconds) == season


# --- causes

SERVICES = ("web", "shop", "cart")
CALLS = [("web", "shop"), ("shop", "cart")]


def incident() -> tuple[list[str], pl.DataFrame]:
    """Return columns and 80 rows, of which the last 10 are abnormal: cart busy and slow, its callers slow."""
    random = np.random.default_rng(9)
    columns = [f"{service}/{metric}" for service in SERVICES for metric in ("cpu", "latency")]
    values = 10 + random.normal(size=(80, len(columns)))
    for column, factor in (("cart/cpu", 6.0), ("cart/latency", 4.0), ("shop/latency", 6.0), ("web/latency", 9.0)):
        values[72:, columns.index(column)] *= factor
    times = 1_700_000_000 + 60 * np.arange(80)
    return columns, pl.DataFrame({"ts": times, **dict(zip(columns, values.T, strict=True))})


def ranked(tmp_path: Path, *options: str) -> pl.DataFrame:
    output = tmp_path / "out.parquet"
    assert main(["lab", "causes", *options, "--output", str(output)]) == 0
    return pl.read_parquet(output)


def test_causes_are_what_the_library_answers(tmp_path: Path) -> None:
    columns, frame = incident()
    file, graph, normal = tmp_path / "in.csv", tmp_path / "graph.json", tmp_path / "normal.parquet"
    frame.write_csv(file)
    graph.write_text('[["web", "shop"]]')
    values = frame.drop("ts").to_numpy()
    change = ("cart", -30.0)
    expected = lab.rank_causes(
        columns, values[:70], values[70:], entry="web/latency", graph=CALLS, changes=[change], step_seconds=60
    )
    given = ["--unit", "s", "--entry", "web/latency", "--graph", str(graph), "--call", "shop > cart"]
    change_time = f"cart={1_700_000_000 + 60 * 70 - 30}"
    start = "2023-11-14T23:23:20Z"
    found = ranked(tmp_path, str(file), *given, "--start", start, "--change", change_time)
    assert found["service"].to_list() == list(expected.services)
    assert found["service"][0] == "cart"
    assert found["rank"].to_list() == [1, 2, 3]
    np.testing.assert_allclose(found["suspicion"].to_numpy(), [cause.suspicion for cause in expected.causes])
    assert found["reason"].to_list() == [cause.reason for cause in expected.causes]
    assert found["metrics"].to_list() == ["; ".join(cause.metrics) for cause in expected.causes]
    assert found["first_row"][0] == 2
    assert str(found["first_time"][0]) == "2023-11-14 23:25:20"
    assert ranked(tmp_path, str(file), *given, "--normal-rows", "70", "--change", change_time).equals(found)
    metrics = ranked(tmp_path, str(file), *given, "--normal-rows", "70", "--change", change_time, "--metrics")
    assert metrics["column"].to_list() == list(expected.metrics)
    # A table of normal rows, in another order and without one of the columns.
    frame[:70].select(["ts", *reversed(columns[1:])]).write_parquet(normal)
    frame[70:].write_csv(file)
    found = ranked(tmp_path, str(file), "--unit", "s", "--normal", str(normal))
    gone = values.copy()
    gone[:, 0] = np.nan
    assert found["service"].to_list() == list(
        lab.rank_causes(columns, gone[:70], values[70:], step_seconds=60).services
    )


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        ([], 2, "one of the arguments --start --normal-rows --normal is required"),
        (["--normal-rows", "0"], 2, "want 1 or more"),
        (["--normal-rows", "80"], 1, "got 80 normal and 0 abnormal rows"),
        (["--start", "2001-01-01T00:00:00Z"], 1, "got 0 normal and 80 abnormal rows"),
        (["--start", "soon"], 1, "cannot read time 'soon'"),
        (["--normal-rows", "70", "--entry", "web/none"], 1, "no such column of numbers"),
        (["--normal-rows", "70", "--call", "web"], 1, "want CALLER>CALLEE"),
        (["--normal-rows", "70", "--change", "web"], 1, "want SERVICE=TIME"),
        (["--normal-rows", "70", "--graph", "none.json"], 1, "cannot read none.json"),
        (["--normal", "none.csv"], 1, "cannot read none.csv: there is no such file"),
    ],
)
def test_mistakes_with_causes_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], code: int, sentence: str
) -> None:
    file, output = tmp_path / "in.csv", tmp_path / "out.csv"
    incident()[1].write_csv(file)
    assert main(["lab", "causes", str(file), "--unit", "s", *options, "--output", str(output)]) == code
    assert sentence in capsys.readouterr().err
    assert not output.exists()
