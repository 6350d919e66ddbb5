"""The result of a run: figures with their unit and spread, the checks behind them, as a table and as JSON."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TextIO

import msgspec

from benchmarks.measure import Machine, Summary
from engine.errors import BadInput

FORMAT = 1
Better = Literal["higher", "lower", "neither"]


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One measured value.  ``spread`` is relative to the value (see measure.py), None for a single run."""

    name: str
    value: float
    unit: str
    better: Better
    spread: float | None = None
    runs: int = 1
    note: str = ""


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """Whether what was timed also answered rightly."""

    name: str
    passed: bool
    detail: str = ""


class SuiteReport(msgspec.Struct, kw_only=True):
    """One suite: what was done (``data``, ``shape``), the figures and the checks; ``skipped`` says why there
    are none.

    ``table``, header first, is printed in the place of the figures where a matrix reads better than a list.
    """

    suite: str
    title: str
    data: dict[str, Any] = {}
    shape: dict[str, Any] = {}
    figures: list[Figure] = []
    checks: list[Check] = []
    table: list[list[str]] = []
    seconds: float = 0.0
    skipped: str = ""

    @property
    def failed_checks(self) -> list[Check]:
        return [check for check in self.checks if not check.passed]

    def add(
        self,
        name: str,
        value: float,
        unit: str,
        better: Better,
        *,
        spread: float | None = None,
        runs: int = 1,
        note: str = "",
    ) -> None:
        self.figures.append(
            Figure(name=name, value=value, unit=unit, better=better, spread=spread, runs=runs, note=note)
        )

    def add_summary(
        self, name: str, summary: Summary, unit: str, better: Better, *, scale: float = 1.0, note: str = ""
    ) -> None:
        """Add the median of repeated figures, each multiplied by ``scale``."""
        self.add(name, summary.median * scale, unit, better, spread=summary.spread, runs=summary.runs, note=note)

    def check(self, name: str, passed: bool, detail: str = "") -> None:
        self.checks.append(Check(name=name, passed=passed, detail=detail))


class RunReport(msgspec.Struct, kw_only=True):
    """Everything that one call of the benchmark command measured."""

    format: int = FORMAT
    started: str
    quick: bool
    commit: str | None
    machine: Machine
    suites: list[SuiteReport] = []

    @property
    def failed_checks(self) -> list[tuple[str, Check]]:
        return [(suite.suite, check) for suite in self.suites for check in suite.failed_checks]


def save(report: RunReport, path: str) -> None:
    """Write the report as indented JSON with a final newline."""
    text = msgspec.json.format(msgspec.json.encode(report), indent=2)
    try:
        Path(path).write_bytes(text + b"\n")
    except OSError as error:
        raise BadInput(f"cannot write benchmark report: got {error.strerror}, want a writable file ({path})") from error


def load(path: str) -> RunReport:
    """Read a report written by :func:`save`; raises BadInput for anything else."""
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise BadInput(f"cannot read benchmark report: got {error.strerror}, want a readable file ({path})") from error
    try:
        version = msgspec.json.decode(raw, type=dict[str, Any]).get("format")
        if version != FORMAT:
            raise BadInput(f"cannot read benchmark report: got format {version!r}, want {FORMAT} ({path})")
        return msgspec.json.decode(raw, type=RunReport)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"cannot read benchmark report: got {error}, want a report of this command ({path})") from error


def format_value(value: float) -> str:
    """Return a figure with four significant digits; from a million on in millions, marked M."""
    magnitude = abs(value)
    if magnitude >= 1e6:
        return f"{value / 1e6:,.4g} M" if magnitude < 1e10 else f"{value / 1e6:,.0f} M"
    if magnitude >= 1000 or value == int(value):
        return f"{value:,.0f}"
    for limit, decimals in ((100, 1), (10, 2), (1, 3)):
        if magnitude >= limit:
            return f"{value:.{decimals}f}"
    return f"{value:.4g}"


def format_spread(spread: float | None) -> str:
    return "" if spread is None else f"±{spread * 100:.0f}%"


def table_lines(header: Sequence[str], rows: Iterable[Sequence[str]], *, right: Iterable[int] = ()) -> list[str]:
    """Return an aligned text table; ``right`` lists the columns set flush right."""
    rows = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(header, *rows, strict=True)]
    flush_right = set(right)

    def line(cells: Sequence[str]) -> str:
        parts = [
            cell.rjust(width) if index in flush_right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "  ".join(parts).rstrip()

    return [line(header), "  ".join("-" * width for width in widths), *(line(row) for row in rows)]


def print_suite(suite: SuiteReport, out: TextIO | None = None) -> None:
    """Print one suite: what was done, its figures, and every check that failed."""
    out = out or sys.stdout
    print(f"\n{suite.suite}: {suite.title}  ({suite.seconds:.1f} s)", file=out)
    if suite.skipped:
        print(f"  skipped: {suite.skipped}", file=out)
        return
    for label, described in (("data", suite.data), ("shape", suite.shape)):
        if described:
            print(f"  {label}: {_described(described)}", file=out)
    rows = [
        (
            figure.name,
            format_value(figure.value),
            figure.unit,
            format_spread(figure.spread),
            str(figure.runs),
            figure.note,
        )
        for figure in suite.figures
    ]
    if suite.table:
        for line in table_lines(suite.table[0], suite.table[1:], right=range(1, len(suite.table[0]))):
            print(f"  {line}", file=out)
    elif rows:
        for line in table_lines(("figure", "value", "unit", "spread", "runs", "note"), rows, right=(1, 3, 4)):
            print(f"  {line}", file=out)
    passed = len(suite.checks) - len(suite.failed_checks)
    if suite.checks:
        print(f"  checks: {passed} of {len(suite.checks)} passed", file=out)
    for check in suite.failed_checks:
        print(f"  CHECK FAILED: {check.name}: {check.detail}", file=out)


def print_heading(report: RunReport, out: TextIO | None = None) -> None:
    machine = report.machine
    print(
        f"tidegauge benchmarks  {report.started}  commit {report.commit or 'unknown'}  "
        f"{'quick' if report.quick else 'full'} size\n"
        f"{machine.cores} cores of {machine.model}, {machine.memory_bytes / (1 << 30):.1f} GiB, "
        f"Python {machine.python}, {machine.system}",
        file=out or sys.stdout,
    )


def _described(described: Mapping[str, Any]) -> str:
    def text(value: Any) -> str:
        return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)

    return ", ".join(f"{key.replace('_', ' ')} {text(value)}" for key, value in described.items())
