"""A run beside a stored run: ratios, and which of them are beyond the noise.

A figure is compared only where suite, data, shape and unit are the same.  Its noise is the larger of the two
runs' spreads and never less than :data:`NOISE_FLOOR`; where neither run was repeated it is
:data:`UNKNOWN_NOISE`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Literal, TextIO

from benchmarks.report import Figure, RunReport, SuiteReport, format_value, table_lines

NOISE_FLOOR = 0.05
UNKNOWN_NOISE = 0.15

Verdict = Literal["better", "worse", "same", "changed"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One figure in both runs; ``ratio`` is new / old, infinite when only the old value is zero."""

    suite: str
    name: str
    unit: str
    old: float
    new: float
    ratio: float
    noise: float
    verdict: Verdict
    loss: float
    """By how much the new figure is worse, as a fraction of the old one; negative when it is better."""


@dataclass(frozen=True, slots=True)
class RunComparison:
    comparisons: tuple[Comparison, ...]
    remarks: tuple[str, ...]

    def regressions(self, tolerance: float) -> list[Comparison]:
        """Return the figures that are worse by more than their noise and by more than ``tolerance`` (a
        fraction).
        """
        return [one for one in self.comparisons if one.verdict == "worse" and one.loss > tolerance]


def compare_figures(suite: str, old: Figure, new: Figure) -> Comparison:
    """Return the comparison of one figure measured twice."""
    spreads = [figure.spread for figure in (old, new) if figure.spread is not None]
    noise = max([NOISE_FLOOR, *spreads]) if spreads else UNKNOWN_NOISE
    if old.value:
        ratio = new.value / old.value
    else:
        ratio = 1.0 if not new.value else float("inf")
    change = ratio - 1.0
    loss = -change if new.better == "higher" else change
    verdict: Verdict
    if abs(change) <= noise:
        verdict = "same"
    elif new.better == "neither":
        verdict = "changed"
    else:
        verdict = "worse" if loss > 0 else "better"
    return Comparison(suite, new.name, new.unit, old.value, new.value, ratio, noise, verdict, loss)


def compare_runs(old: RunReport, new: RunReport) -> RunComparison:
    """Compare every figure of ``new`` with the one of the same name in ``old``; the remarks say what was not
    compared.
    """
    remarks = []
    if old.machine != new.machine:
        remarks.append(
            f"the stored run is of another machine ({old.machine.cores} cores of {old.machine.model}, Python "
            f"{old.machine.python}): ratios say little about the code"
        )
    old_suites = {suite.suite: suite for suite in old.suites}
    comparisons: list[Comparison] = []
    for suite in new.suites:
        before = old_suites.get(suite.suite)
        if before is None:
            remarks.append(f"{suite.suite}: not in the stored run")
        elif suite.skipped or before.skipped:
            remarks.append(f"{suite.suite}: skipped in {'this' if suite.skipped else 'the stored'} run")
        elif (before.data, before.shape) != (suite.data, suite.shape):
            remarks.append(f"{suite.suite}: not compared, its data or shape differ from the stored run's")
        else:
            comparisons += _compare_suite(before, suite, remarks)
    return RunComparison(tuple(comparisons), tuple(remarks))


def _compare_suite(old: SuiteReport, new: SuiteReport, remarks: list[str]) -> list[Comparison]:
    before = {figure.name: figure for figure in old.figures}
    out = []
    for figure in new.figures:
        stored = before.pop(figure.name, None)
        if stored is None:
            remarks.append(f"{new.suite}: {figure.name} is not in the stored run")
        elif stored.unit != figure.unit:
            remarks.append(f"{new.suite}: {figure.name} was in {stored.unit}, is in {figure.unit}")
        else:
            out.append(compare_figures(new.suite, stored, figure))
    remarks += [f"{new.suite}: {name} is only in the stored run" for name in before]
    return out


def print_comparison(result: RunComparison, out: TextIO | None = None) -> None:
    """Print ratios new / old; ``same`` means within the noise."""
    out = out or sys.stdout
    print("\ncompared with the stored run (ratio = this run / stored run)", file=out)
    rows = [
        (
            one.suite,
            one.name,
            one.unit,
            format_value(one.old),
            format_value(one.new),
            f"{one.ratio:.2f}",
            f"±{one.noise * 100:.0f}%",
            "" if one.verdict == "same" else one.verdict.upper() if one.verdict == "worse" else one.verdict,
        )
        for one in result.comparisons
    ]
    if rows:
        header = ("suite", "figure", "unit", "stored", "now", "ratio", "noise", "beyond noise")
        for line in table_lines(header, rows, right=(3, 4, 5, 6)):
            print(f"  {line}", file=out)
    for remark in result.remarks:
        print(f"  note: {remark}", file=out)
