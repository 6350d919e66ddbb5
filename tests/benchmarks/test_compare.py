"""Comparisons: ratios, what is beyond the noise, what is not compared, and the exit code."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import cli
from benchmarks.compare import NOISE_FLOOR, UNKNOWN_NOISE, compare_figures, compare_runs, print_comparison
from benchmarks.measure import Machine
from benchmarks.report import Better, Figure, RunReport, SuiteReport, save

MACHINE = Machine(cores=2, model="test", memory_bytes=1 << 34, python="3.11.2", system="Linux")


def figure(value: float, better: Better = "higher", spread: float | None = 0.01, name: str = "speed") -> Figure:
    return Figure(name=name, value=value, unit="rows/s", better=better, spread=spread, runs=3)


def report(*figures: Figure, **changes: Any) -> RunReport:
    suite = SuiteReport(suite="s", title="t", data={"hosts": 1}, figures=list(figures))
    suite = msgspec.structs.replace(suite, **{key: changes.pop(key) for key in list(changes) if key != "machine"})
    return RunReport(started="", quick=False, commit=None, machine=changes.get("machine", MACHINE), suites=[suite])


@pytest.mark.parametrize(
    ("old", "new", "better", "verdict"),
    [
        (100.0, 80.0, "higher", "worse"),
        (100.0, 120.0, "higher", "better"),
        (100.0, 80.0, "lower", "better"),
        (100.0, 120.0, "lower", "worse"),
        (100.0, 120.0, "neither", "changed"),
        (100.0, 104.0, "higher", "same"),
        (100.0, 100.0, "lower", "same"),
        (0.0, 0.0, "lower", "same"),
        (0.0, 1.0, "lower", "worse"),
        (0.0, 1.0, "higher", "better"),
    ],
)
def test_verdicts(old: float, new: float, better: Better, verdict: str) -> None:
    assert compare_figures("s", figure(old, better), figure(new, better)).verdict == verdict


def test_noise_is_the_larger_spread_with_a_floor() -> None:
    def noise(old: float | None, new: float | None) -> float:
        return compare_figures("s", figure(1.0, spread=old), figure(1.0, spread=new)).noise

    assert noise(0.3, 0.2) == 0.3
    assert noise(0.001, 0.002) == NOISE_FLOOR
    assert noise(None, None) == UNKNOWN_NOISE
    assert noise(None, 0.1) == 0.1


@given(st.floats(1e-3, 1e9), st.floats(1e-3, 1e9), st.sampled_from(["higher", "lower"]), st.floats(0, 1))
@settings(deadline=None)
def test_swapping_better_swaps_the_verdict(old: float, new: float, better: Better, spread: float) -> None:
    other: Better = "lower" if better == "higher" else "higher"
    one = compare_figures("s", figure(old, better, spread), figure(new, better, spread))
    two = compare_figures("s", figure(old, other, spread), figure(new, other, spread))
    assert one.ratio == two.ratio == new / old
    assert one.loss == -two.loss
    assert {one.verdict, two.verdict} in ({"same"}, {"better", "worse"})


def test_regressions_need_noise_and_tolerance() -> None:
    result = compare_runs(
        report(figure(100.0, name="a"), figure(100.0, name="b"), figure(100.0, name="c", spread=0.5)),
        report(figure(88.0, name="a"), figure(60.0, name="b"), figure(60.0, name="c", spread=0.5)),
    )
    assert [one.name for one in result.regressions(0.0)] == ["a", "b"]
    assert [one.name for one in result.regressions(0.2)] == ["b"]


def test_equal_runs_have_no_remarks() -> None:
    result = compare_runs(report(figure(1.0)), report(figure(1.0)))
    assert [one.verdict for one in result.comparisons] == ["same"]
    assert result.remarks == ()


@pytest.mark.parametrize(
    ("old", "remark"),
    [
        (report(figure(1.0), data={"hosts": 2}), "data or shape differ"),
        (report(figure(1.0), shape={"connections": 9}), "data or shape differ"),
        (report(figure(1.0), suite="other"), "not in the stored run"),
        (report(figure(1.0), skipped="because"), "skipped in the stored run"),
        (report(msgspec.structs.replace(figure(1.0), unit="ms")), "was in ms, is in rows/s"),
        (report(figure(1.0, name="old name")), "old name is only in the stored run"),
        (report(), "speed is not in the stored run"),
    ],
)
def test_what_cannot_be_compared_is_said(old: RunReport, remark: str) -> None:
    result = compare_runs(old, report(figure(1.0)))
    assert result.comparisons == ()
    assert any(remark in one for one in result.remarks)


def test_another_machine_is_said() -> None:
    other = msgspec.structs.replace(MACHINE, cores=64)
    result = compare_runs(report(figure(1.0), machine=other), report(figure(1.0)))
    assert len(result.comparisons) == 1
    assert "another machine" in result.remarks[0]


def test_printed_comparison_marks_what_is_beyond_the_noise() -> None:
    out = io.StringIO()
    old = report(figure(100.0, name="slower"), figure(100.0, name="steady"))
    print_comparison(compare_runs(old, report(figure(50.0, name="slower"), figure(101.0, name="steady"))), out)
    lines = out.getvalue().splitlines()
    assert next(line for line in lines if "slower" in line).endswith("WORSE")
    assert next(line for line in lines if "steady" in line).endswith("±5%")


@pytest.mark.parametrize(
    ("now", "tolerance", "code"),
    [(100.0, 0.0, 0), (50.0, None, 0), (50.0, 20.0, 1), (50.0, 60.0, 0), (200.0, 0.0, 0)],
)
def test_exit_code_tells_a_regression_only_when_asked(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    now: float,
    tolerance: float | None,
    code: int,
) -> None:
    path = str(tmp_path / "old.json")
    save(report(figure(100.0)), path)
    monkeypatch.setattr(cli.micro_suite, "run", lambda **choices: iter(report(figure(now)).suites))
    assert cli.run("micro", compare_path=path, fail_over_percent=tolerance) == code
    assert ("more than the" in capsys.readouterr().err) == (code == 1)


def test_a_failed_check_is_exit_code_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    suite = report(figure(1.0)).suites[0]
    suite.check("sums agree", False, "got 1, want 2")
    monkeypatch.setattr(cli.micro_suite, "run", lambda **choices: iter([suite]))
    assert cli.run("micro") == 1
    printed = capsys.readouterr()
    assert "CHECK FAILED: sums agree: got 1, want 2" in printed.out
    assert "1 checks failed in s" in printed.err


def test_json_holds_what_was_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "now.json"
    monkeypatch.setattr(cli.micro_suite, "run", lambda **choices: iter(report(figure(7.0)).suites))
    assert cli.run("micro", str(path)) == 0
    stored = msgspec.json.decode(path.read_bytes())
    assert stored["suites"][0]["figures"][0]["value"] == 7.0
    assert stored["machine"]["cores"] >= 1
    assert "speed" in capsys.readouterr().out
