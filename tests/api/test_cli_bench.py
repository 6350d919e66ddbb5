"""``tidegauge bench`` hands its options to the suites and says so when they are not installed."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest

from api.cli.main import main


def test_options_reach_the_suites(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def run(*arguments: object, **options: object) -> int:
        calls.append((arguments, options))
        return 1

    monkeypatch.setitem(sys.modules, "benchmarks.cli", types.SimpleNamespace(run=run))  # type: ignore[arg-type]
    options = {"quick": False, "list_only": False, "pattern": "", "fail_over_percent": None, "choices": {}}
    assert main(["bench"]) == 1
    assert calls.pop() == ((None, None, None), options)
    words = ["bench", "ingest", "--json", "a", "--compare", "b"]
    words += ["--fail-over", "7.5", "--pattern", "x", "--quick", "--list"]
    assert main(words) == 1
    changed = {"quick": True, "list_only": True, "pattern": "x", "fail_over_percent": 7.5, "choices": {}}
    assert calls.pop() == (("ingest", "a", "b"), changed)
    assert main(["bench", "peers", "--hosts", "9", "--hours", "0.5", "--engines", "a,b", "--grow", "10"]) == 1
    assert calls.pop()[1]["choices"] == {"hosts": 9, "hours": 0.5, "engines": "a,b", "grow": 10}


def test_sizes_that_make_no_sense_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "peers", "--grow", "0"]) == 2
    assert "got grow 0, want more than 0" in capsys.readouterr().err


def test_where_they_are_missing_there_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "benchmarks.cli", None)  # type: ignore[arg-type]
    assert main(["bench"]) == 2
    said = capsys.readouterr().err
    assert said == "tidegauge bench: cannot run benchmarks: they are not installed here; run from a source tree\n"
