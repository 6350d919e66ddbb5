"""``tidegauge bench`` hands its options to the suites and says so when they are not installed."""

from __future__ import annotations

import sys
import types

import pytest

from api.cli.main import main


def test_options_reach_the_suites(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def run(*arguments: object, **options: object) -> int:
        calls.append((arguments, options))
        return 1

    monkeypatch.setitem(sys.modules, "benchmarks.cli", types.SimpleNamespace(run=run))  # type: ignore[arg-type]
    options = {"quick": False, "list_only": False, "pattern": "", "fail_over_percent": None}
    assert main(["bench"]) == 1
    assert calls.pop() == ((None, None, None), options)
    words = ["bench", "ingest", "--json", "a", "--compare", "b"]
    words += ["--fail-over", "7.5", "--pattern", "x", "--quick", "--list"]
    assert main(words) == 1
    changed = {"quick": True, "list_only": True, "pattern": "x", "fail_over_percent": 7.5}
    assert calls.pop() == (("ingest", "a", "b"), changed)


def test_where_they_are_missing_there_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "benchmarks.cli", None)  # type: ignore[arg-type]
    assert main(["bench"]) == 2
    said = capsys.readouterr().err
    assert said == "tidegauge bench: cannot run benchmarks: they are not installed here; run from a source tree\n"
