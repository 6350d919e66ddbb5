"""Micro benchmarks: finds ``benchmarks/micro/bench_*.py`` and times the cases that each module's authors
wrote.

Such a file defines ``cases() -> list[tuple[name, unit_count, unit, callable]]``: ``callable`` does the work
once, ``unit_count`` says how much work that is, ``unit`` of what ("rows", "bytes", "samples").  Making the
inputs belongs into ``cases()``, outside the timing.
"""

from __future__ import annotations

import importlib
import pkgutil
import time
from collections.abc import Callable, Iterator

import benchmarks.micro
from benchmarks.measure import summarise, time_repeatedly
from benchmarks.report import SuiteReport

Case = tuple[str, float, str, Callable[[], object]]
PREFIX = "bench_"
RUNS = 9
QUICK_RUNS = 5
LEAST_SECONDS = 0.1
QUICK_LEAST_SECONDS = 0.01
# An action whose runs together would take longer than this is run less often; the report says how often.
CASE_BUDGET_SECONDS = 10.0
QUICK_CASE_BUDGET_SECONDS = 0.5


def module_names() -> list[str]:
    """Return the names of the micro benchmark modules, without ``bench_``, sorted."""
    found = (module.name for module in pkgutil.iter_modules(benchmarks.micro.__path__))
    return sorted(name.removeprefix(PREFIX) for name in found if name.startswith(PREFIX))


def cases_of(name: str) -> list[Case]:
    """Import one module and return its cases; raises TypeError where they are not as this module's page
    says.
    """
    module = importlib.import_module(f"benchmarks.micro.{PREFIX}{name}")
    cases = list(module.cases())
    for case in cases:
        if not (isinstance(case, tuple) and len(case) == 4 and callable(case[3]) and case[1] > 0):
            raise TypeError(f"cannot run micro benchmark {name}: got {case!r}, want (name, count > 0, unit, callable)")
    return cases


def run(*, quick: bool = False, pattern: str = "") -> Iterator[SuiteReport]:
    """Yield one report for each module that has a case whose ``module/case`` name contains ``pattern``."""
    for name in module_names():
        began = time.perf_counter()
        report = SuiteReport(
            suite=f"micro/{name}",
            title=f"functions of {name}, in process",
            shape={"threads": 1, "least_runs": QUICK_RUNS if quick else RUNS},
        )
        try:
            for case_name, count, unit, action in cases_of(name):
                if pattern in f"{name}/{case_name}":
                    _time_case(report, case_name, count, unit, action, quick=quick)
        except Exception as error:  # one module's broken benchmark must not hide the others' figures
            report.check("cases ran", False, f"{type(error).__name__}: {error}")
        report.seconds = time.perf_counter() - began
        if report.figures or report.checks:
            yield report


def _time_case(
    report: SuiteReport, name: str, count: float, unit: str, action: Callable[[], object], *, quick: bool
) -> None:
    began = time.perf_counter()
    action()
    once = time.perf_counter() - began
    budget = QUICK_CASE_BUDGET_SECONDS if quick else CASE_BUDGET_SECONDS
    wanted = QUICK_RUNS if quick else RUNS
    runs = min(wanted, max(3, int(budget / max(once, 1e-9))))
    seconds = summarise(
        time_repeatedly(action, runs=runs, least_seconds=QUICK_LEAST_SECONDS if quick else LEAST_SECONDS)
    )
    note = f"{_duration(seconds.median)} for {count:,.0f} {unit}, fastest run {_duration(seconds.minimum)}"
    report.add(
        name,
        count / seconds.median,
        f"{unit}/s",
        "higher",
        spread=seconds.spread,
        runs=seconds.runs,
        note=note,
    )


def _duration(seconds: float) -> str:
    for limit, scale, unit in ((1e-3, 1e6, "µs"), (1.0, 1e3, "ms")):
        if seconds < limit:
            return f"{seconds * scale:.3g} {unit}"
    return f"{seconds:.3g} s"
