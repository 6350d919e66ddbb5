"""Reports survive a round trip, tables line up, and summaries agree with the textbook."""

from __future__ import annotations

import io
import signal
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import cli, micro_suite
from benchmarks.measure import (
    Machine,
    allocated_bytes,
    ending_on_sigterm,
    file_bytes,
    percentile,
    scratch_folder,
    summarise,
    this_machine,
    time_repeatedly,
    tree_usage,
    wait_until_quiet,
)
from benchmarks.report import (
    RunReport,
    SuiteReport,
    format_spread,
    format_value,
    load,
    print_heading,
    print_suite,
    save,
    table_lines,
)
from benchmarks.settings import ALIGNMENT_NS, Settings
from engine.errors import BadInput

MACHINE = Machine(cores=2, model="test", memory_bytes=1 << 34, python="3.11.2", system="Linux")


def example_report() -> RunReport:
    suite = SuiteReport(suite="ingest-lp", title="line protocol", data={"hosts": 1000}, shape={"connections": 2})
    suite.add("acknowledged", 10_250_000.0, "samples/s", "higher", spread=0.04, runs=3)
    suite.add("ack p99", 12.34, "ms", "lower")
    suite.check("all samples are stored", True)
    suite.check("sums agree", False, "got 1, want 2")
    return RunReport(started="2026-01-01T00:00:00+00:00", quick=True, commit="abc", machine=MACHINE, suites=[suite])


def test_report_reads_back(tmp_path: Path) -> None:
    path = str(tmp_path / "run.json")
    save(example_report(), path)
    assert load(path) == example_report()


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"format": 99}', '{"format": 1}', '{"format": 1, "suites": 3}', "\xff"]
)
def test_what_is_no_report_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "run.json"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(BadInput, match="cannot read benchmark report"):
        load(str(path))


def test_missing_files_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"cannot read benchmark report.*absent\.json"):
        load(str(tmp_path / "absent.json"))
    with pytest.raises(BadInput, match=r"cannot write benchmark report.*folder"):
        save(example_report(), str(tmp_path / "folder" / "run.json"))


def test_printed_suite_shows_figures_and_failed_checks() -> None:
    out = io.StringIO()
    print_heading(example_report(), out)
    print_suite(example_report().suites[0], out)
    text = out.getvalue()
    assert "commit abc" in text
    assert "hosts 1,000" in text
    assert "10.25 M" in text
    assert "±4%" in text
    assert "checks: 1 of 2 passed" in text
    assert "CHECK FAILED: sums agree: got 1, want 2" in text


def test_printed_table_takes_the_place_of_the_figures() -> None:
    suite = example_report().suites[0]
    suite.table = [["engine", "ms"], ["one", "1.0"]]
    out = io.StringIO()
    print_suite(suite, out)
    assert "engine   ms" in out.getvalue()
    assert "acknowledged" not in out.getvalue()


def test_skipped_suite_says_why() -> None:
    out = io.StringIO()
    print_suite(SuiteReport(suite="rules", title="rules", skipped="nothing to measure"), out)
    assert "skipped: nothing to measure" in out.getvalue()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.000123456, "0.0001235"),
        (0.5, "0.5"),
        (1.23456, "1.235"),
        (12.3456, "12.35"),
        (123.456, "123.5"),
        (1234.56, "1,235"),
        (42.0, "42"),
        (12_345_678.0, "12.35 M"),
        (45_678_000_000.0, "45,678 M"),
    ],
)
def test_format_value(value: float, text: str) -> None:
    assert format_value(value) == text


def test_format_spread() -> None:
    assert [format_spread(spread) for spread in (None, 0.0, 0.126)] == ["", "±0%", "±13%"]


def test_table_columns_line_up() -> None:
    lines = table_lines(("name", "n"), [("a", "1"), ("longer", "1,000")], right=(1,))
    assert lines == ["name        n", "------  -----", "a           1", "longer  1,000"]


@given(st.lists(st.floats(0.001, 1e9), min_size=1, max_size=50), st.floats(0.01, 1.0))
@settings(deadline=None)
def test_percentile_is_the_smallest_figure_that_enough_do_not_exceed(figures: list[float], fraction: float) -> None:
    def enough(candidate: float) -> bool:
        return sum(figure <= candidate for figure in figures) >= fraction * len(figures) * (1 - 1e-12)

    assert percentile(figures, fraction) == min(figure for figure in figures if enough(figure))


@given(st.lists(st.floats(0.001, 1e9), min_size=1, max_size=30))
@settings(deadline=None)
def test_summary_is_ordered_and_its_spread_relative(figures: list[float]) -> None:
    summary = summarise(figures)
    assert summary.minimum <= summary.median <= summary.maximum
    assert summary.median == statistics.median(figures)
    assert summary.runs == len(figures)
    assert (summary.spread is None) == (len(figures) == 1)
    if summary.spread is not None:
        assert 0 <= summary.spread <= (max(figures) - min(figures)) / summary.median


def test_spread_ignores_one_stray_run_of_many() -> None:
    assert summarise([1.0, 1.1]).spread == pytest.approx(0.1 / 2 / 1.05)
    assert summarise([1.0] * 9 + [100.0]).spread == 0.0


def test_nothing_cannot_be_summarised() -> None:
    with pytest.raises(ValueError, match="cannot summarise"):
        summarise([])
    with pytest.raises(ValueError, match="cannot take a percentile"):
        percentile([1.0], 0.0)


def test_time_repeatedly_calls_as_often_as_it_says() -> None:
    calls = []
    figures = time_repeatedly(lambda: calls.append(None), runs=4, least_seconds=0.0, warm_up_runs=2)
    assert len(figures) == 4
    assert len(calls) == 2 + 1 + 4
    assert all(figure >= 0 for figure in figures)


def test_disk_use_counts_files_in_folders(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "one").write_bytes(b"x" * 10_000)
    (tmp_path / "two").write_bytes(b"y" * 5)
    assert file_bytes(tmp_path) == 10_005
    assert file_bytes(tmp_path / "two") == 5
    assert allocated_bytes(tmp_path / "a" / "one") == allocated_bytes(tmp_path / "a")
    assert allocated_bytes(tmp_path / "absent") == 0


def test_scratch_folder_goes_away_after_a_failure(tmp_path: Path) -> None:
    def fail_inside() -> None:
        with scratch_folder(str(tmp_path / "work")) as folder:
            (folder / "file").write_text("x", encoding="ascii")
            raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        fail_inside()
    assert list((tmp_path / "work").iterdir()) == []


def test_sigterm_ends_what_is_inside(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def end_inside() -> None:
        with ending_on_sigterm(), scratch_folder(str(tmp_path)):
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit) as raised:
        end_inside()
    assert raised.value.code == 143
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) == before


def test_process_tree_includes_children() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        alone = tree_usage(child.pid)
        assert alone.processes == 1
        assert alone.rss_bytes > 0
    finally:
        child.communicate(b"\n")
    assert tree_usage(child.pid).processes == 0
    assert wait_until_quiet(child.pid, quiet_seconds=0.0) is not None


def test_machine_is_described() -> None:
    machine = this_machine()
    assert machine.cores >= 1
    assert machine.memory_bytes > 1 << 20
    assert machine.model


def test_settings_choose_a_size_and_align_the_end() -> None:
    shape = Settings(quick=True, hours=3.0).shape(hosts=9, hours=9, quick_hosts=5, quick_hours=1)
    assert (shape.hosts, shape.steps) == (5, 1080)
    assert shape.end_ns % ALIGNMENT_NS == 0
    with pytest.raises(BadInput, match="want more than 0"):
        Settings(hosts=0)


def test_list_names_every_suite(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--list"]) == 0
    printed = capsys.readouterr().out
    for name, _ in cli.suite_names():
        assert name in printed


@pytest.mark.parametrize(
    "arguments",
    [["nonsense"], ["micro", "--hosts", "-1"], ["micro", "--compare", "/nonexistent/run.json"]],
)
def test_wrong_use_is_one_sentence_and_code_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("tidegauge bench: cannot ")
    assert errors.count("\n") == 1


def test_a_failing_suite_is_a_failed_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite = cli.Suite("broken", "breaks", "no_such_module")
    measured = suite.measure(Settings(work_folder=str(tmp_path)))
    assert measured.suite == "broken"
    assert [check.passed for check in measured.checks] == [False]
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().out == ""


def test_micro_suite_measures_discovered_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    cases = [("count", 10.0, "rows", lambda: calls.append(None)), ("other", 1.0, "bytes", lambda: None)]
    monkeypatch.setattr(micro_suite, "module_names", lambda: ["one", "two"])
    monkeypatch.setattr(micro_suite, "cases_of", lambda name: cases if name == "one" else cases[1:])
    monkeypatch.setattr(micro_suite, "QUICK_LEAST_SECONDS", 0.0)
    reports = list(micro_suite.run(quick=True, pattern="one/count"))
    assert [(report.suite, [figure.name for figure in report.figures]) for report in reports] == [
        ("micro/one", ["count"])
    ]
    figure = reports[0].figures[0]
    assert figure.unit == "rows/s"
    assert figure.value > 0
    assert len(calls) >= figure.runs


def test_micro_suite_reports_a_broken_module(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> list[micro_suite.Case]:
        raise TypeError(f"{name} is broken")

    monkeypatch.setattr(micro_suite, "module_names", lambda: ["one"])
    monkeypatch.setattr(micro_suite, "cases_of", broken)
    (report,) = micro_suite.run(quick=True)
    assert [check.detail for check in report.failed_checks] == ["TypeError: one is broken"]
