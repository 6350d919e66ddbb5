"""``tidegauge replay``: exit codes, both formats, one sentence for wrong use."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from api.cli.main import main
from engine.clock import NS_PER_SECOND, ManualClock
from engine.config import Config, Query
from engine.runtime import Engine

START = 1_790_000_000


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    clock = ManualClock((START + 600) * NS_PER_SECOND)
    with Engine.open(str(path), Config(query=Query(in_process=True)), clock=clock) as engine:
        lines = [
            f"cpu,host=a usage_percent={95 if 200 <= second < 300 else 40} {(START + second) * NS_PER_SECOND}"
            for second in range(0, 600, 30)
        ]
        engine.submit_lines("\n".join(lines).encode()).result(30)
    return path


def replay(data: Path, *more: str) -> int:
    words = ["--from", str(START), "--to", str(START + 600), "--data", str(data), *more]
    return main(["replay", *words])


def test_text(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert replay(data) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    fires = "critical cpu-saturated fires to 2026-09-21T14:18:20.000000000Z: CPU of a at 95 %"
    assert lines[0] == f"2026-09-21T14:16:50.000000000Z  {fires}"
    assert lines[1] == "cpu-saturated: fired 1 times"
    assert lines[2] == "1 alerts fired, 0 were pending and did not, 0 anomalies noted, 0 scaling decisions"
    assert lines[-1].startswith("120 ticks over 19 rows from ")
    assert captured.err == ""


def test_json_and_other_rules(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text('[[rules]]\nname = "cpu-saturated"\nmetric = "cpu_usage_percent"\nop = ">"\nthreshold = 96\n')
    assert replay(data, "--format", "json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert [(alert["rule"], alert["labels"]) for alert in answer["alerts"]] == [("cpu-saturated", {"host": "a"})]
    assert (answer["from"], answer["rows"]) == ("2026-09-21T14:13:20.000000000Z", 19)
    assert replay(data, "--format", "json", "--rules", str(rules)) == 0
    assert json.loads(capsys.readouterr().out)["alerts"] == []


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "want --from, or --labelled"),
        (["--from", "now", "--to", "now-1h"], "is not after --from"),
        (["--from", "yesterday"], "cannot read time 'yesterday'"),
        (["--from", "now-1h", "--learn", "long"], "'long'"),
        (["--from", "now-1h", "--data", "/nowhere"], "it is no data directory of tidegauge"),
        (["--from", "now-1h", "--rules", "/nowhere.toml"], "cannot read configuration /nowhere.toml"),
    ],
)
def test_wrong_use(words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", *words]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert len(error.splitlines()) == 1


def test_a_directory_in_use_is_refused(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Engine.open(str(data), Config(query=Query(in_process=True))):
        assert replay(data) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
