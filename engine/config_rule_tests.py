"""The file format of unit tests for rules: series with values, and the alerts that they should give at times.

The format is told in docs/rule-tests.md.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, inspect

from engine.config_base import Name, Settings
from engine.config_check import same_kind
from engine.config_toml import Path, Problem, key_lines, parse_toml
from engine.config_tree import TreeChecker, shown
from engine.config_units import Duration, within

Offset = Annotated[Duration, within("0s", "365d")]
#: A Monday.
DEFAULT_START = "2026-01-05T00:00:00Z"
MOST_VALUES = 1_000_000
_NUMBER = r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?"
_VALUES = re.compile(rf"(?:(_)|({_NUMBER})(?:\.\.({_NUMBER}))?)(?:x(\d{{1,7}}))?")


class ExpectedAlert(Settings, frozen=True, kw_only=True):
    """An alert that is open; what is left out may be anything."""

    rule: Name
    state: Literal["pending", "firing"] = "firing"
    labels: dict[str, str] | None = None
    value: float | None = None
    summary: str | None = None
    stale: bool | None = None
    notified: bool | None = None


class Expectation(Settings, frozen=True, kw_only=True):
    """The alerts that are open ``at`` so long after the start, no others; of ``rules`` alone where these are named."""

    at: Offset
    alerts: tuple[ExpectedAlert, ...]
    rules: tuple[str, ...] = ()


class TestedSeries(Settings, frozen=True, kw_only=True):
    """A series with a sample ``every`` so long from ``before`` the start on; each arrives ``late`` after its time."""

    metric: Name
    values: str
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    every: Annotated[Duration, within("1ms", "365d")] = Duration.parse("30s")
    before: Offset = Duration.parse("0s")
    late: Offset = Duration.parse("0s")


class RuleTest(Settings, frozen=True, kw_only=True):
    name: Name
    start: str = DEFAULT_START
    series: tuple[TestedSeries, ...] = ()
    expect: Annotated[tuple[Expectation, ...], Meta(min_length=1)]

    @property
    def start_ns(self) -> int:
        return time_ns_of(self.start)


class RuleTests(Settings, frozen=True, kw_only=True):
    """The tests of one file; ``config``: the configuration whose rules they test, beside this file."""

    config: str | None = None
    tests: Annotated[tuple[RuleTest, ...], Meta(min_length=1)]


class ReadTests(msgspec.Struct, frozen=True):
    """A file's tests, the line of each expectation by its places, and how many places there are."""

    tests: RuleTests
    lines: dict[tuple[int, int], int]


def time_ns_of(text: str) -> int:
    """Return nanoseconds since 1970 of an RFC 3339 time.  Raises ValueError."""
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError("without an offset from UTC")
    return round((time - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()) * 1_000_000_000


def values_of(text: str) -> list[float | None]:
    """Return the samples that ``text`` describes, None for one that is missing.

    Parts between spaces: ``5`` a sample, ``5x10`` ten of them, ``5..50x10`` ten from 5 to 50 in equal steps, ``_``
    none, ``_x10`` ten times none.  Raises ValueError with the part that is none of these.
    """
    found: list[float | None] = []
    for part in text.split():
        match = _VALUES.fullmatch(part)
        if match is None:
            raise ValueError(part)
        count = 1 if match[4] is None else int(match[4])
        if len(found) + count > MOST_VALUES or (match[3] is not None and count < 2):
            raise ValueError(part)
        if match[1]:
            found += [None] * count
        elif match[3] is None:
            found += [float(match[2])] * count
        else:
            first, last = float(match[2]), float(match[3])
            found += [first + (last - first) * step / (count - 1) for step in range(count)]
    return found


def read_tests(text: str, *, path: str) -> tuple[ReadTests | None, list[Problem]]:
    """Return the tests in the TOML document ``text``, or None and every problem in the order of lines."""
    tree, text, problems = parse_toml(text)
    if tree is not None:
        lines = key_lines(text)
        checker = TreeChecker(lines, complete=not problems)
        kind = inspect.type_info(RuleTests)
        assert isinstance(kind, inspect.StructType)
        clean = checker.struct(tree, kind, ())
        if clean is not None and not checker.problems and not problems:
            tests = msgspec.convert(clean, RuleTests, dec_hook=same_kind)
            _check(tests, checker)
            if not checker.problems:
                places = {
                    (one, two): lines.get(("tests", one, "expect", two), 0)
                    for one, test in enumerate(tests.tests)
                    for two in range(len(test.expect))
                }
                return ReadTests(tests, places), []
        problems = problems + checker.problems
    problems = [msgspec.structs.replace(problem, path=path) for problem in problems]
    return None, sorted(problems, key=lambda problem: problem.line)


def _check(tests: RuleTests, checker: TreeChecker) -> None:
    def report(path: Path, found: str, allowed: str) -> None:
        checker.report(path, shown(found), allowed, f"got {shown(found)}, want {allowed}")

    for index, test in enumerate(tests.tests):
        try:
            time_ns_of(test.start)
        except ValueError:
            report(("tests", index, "start"), test.start, f'a time such as "{DEFAULT_START}"')
        for place, series in enumerate(test.series):
            try:
                values_of(series.values)
            except ValueError as error:
                allowed = 'parts such as "5", "5x10", "5..50x10" (two or more), "_", "_x10"; at most a million samples'
                report(("tests", index, "series", place, "values"), str(error), allowed)
