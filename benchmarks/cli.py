"""Runs suites: what ``tidegauge bench`` and ``python -m benchmarks`` call."""

from __future__ import annotations

import argparse
import datetime as dt
import importlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from benchmarks import compare, micro_suite, report
from benchmarks.generator import VALUE_KINDS
from benchmarks.measure import ending_on_sigterm, git_commit, scratch_folder, this_machine
from benchmarks.report import RunReport, SuiteReport
from benchmarks.settings import Settings
from engine.errors import BadInput, TidegaugeError

EXIT_OK, EXIT_FAILED, EXIT_USAGE = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Suite:
    """A macro suite: ``module.run(settings, folder)`` fills one report; imported only when it runs."""

    name: str
    title: str
    module: str
    function: str = "run"

    def measure(self, settings: Settings) -> SuiteReport:
        """Run in a fresh folder; what goes wrong becomes a failed check of an otherwise empty report."""
        began = time.perf_counter()
        try:
            with scratch_folder(settings.work_folder) as folder:
                entry = getattr(importlib.import_module(f"benchmarks.{self.module}"), self.function)
                result: SuiteReport = entry(settings, folder)
        except Exception as error:  # one suite's failure must not hide the others' figures
            result = SuiteReport(suite=self.name, title=self.title)
            notes = "".join(f"\n{note}" for note in getattr(error, "__notes__", ()))
            result.check("the suite ran", False, f"{type(error).__name__}: {error}{notes}")
        result.suite, result.title = self.name, self.title
        result.seconds = time.perf_counter() - began
        return result


SUITES = (
    Suite("startup", "time to ready on an empty folder, memory when idle", "macro_operations", "startup"),
    Suite("ingest-lp", "line protocol over HTTP, acknowledged = fsynced", "macro_ingest", "line_protocol"),
    Suite("ingest-lp-one-field", "line protocol of one field a line", "macro_ingest", "one_field_lines"),
    Suite("ingest-arrow", "Arrow IPC streams over HTTP, acknowledged = fsynced", "macro_ingest", "arrow"),
    Suite(
        "ingest-remote-write",
        "Prometheus remote write, acknowledged = fsynced",
        "macro_ingest",
        "remote_write",
    ),
    Suite("ingest-latency", "acknowledgements at half of the peak, open-loop", "macro_latency"),
    Suite("backfill", "a year of history imported beside live writers", "macro_backfill"),
    Suite("storage", "bytes on disk after a graceful stop", "macro_storage", "storage"),
    Suite("storage-pooled", "bytes on disk of node-exporter scrapes", "macro_pooled", "storage_pooled"),
    Suite("rollup", "how fast tiers catch up after a bulk load", "macro_storage", "rollup"),
    Suite("upkeep", "what tiers cost beside live ingest, time passed in", "macro_upkeep"),
    Suite("queries", "the fifteen devops queries over HTTP", "macro_query"),
    Suite("series", "a million series: becoming known, memory, finding them by label", "macro_series", "many"),
    Suite("churn", "a simulated week in which every series is renamed hourly", "macro_series", "churn"),
    Suite("rules", "one tick of all alert rules, in process", "macro_watch"),
    Suite("scores", "detection, causes and forecasts on labelled data, beside published figures", "macro_scores"),
    Suite("recovery", "kill -9 with a full log, then start again", "macro_operations", "recovery"),
)
PEERS = Suite("peers", "the same data and queries in other engines", "peers")
MICRO, MACRO = "micro", "macro"


def suite_names() -> list[tuple[str, str]]:
    """Return every name that :func:`run` takes, with what it stands for."""
    groups = [(MACRO, "all suites below except peers"), (MICRO, "functions of single modules, in process")]
    return [*groups, *((suite.name, suite.title) for suite in (*SUITES, PEERS))]


def run(
    suite: str | None = None,
    json_path: str | None = None,
    compare_path: str | None = None,
    *,
    quick: bool = False,
    list_only: bool = False,
    pattern: str = "",
    fail_over_percent: float | None = None,
    settings: Settings | None = None,
    choices: Mapping[str, Any] | None = None,
) -> int:
    """Run one suite, or all but ``peers`` when it is None, print the figures and return the exit code.

    ``choices`` are settings by name, for who has none made.

    0 = measured and all checks passed; 1 = a check failed, or with ``fail_over_percent`` a figure is worse
    than in the stored run by more than that and by more than its noise; 2 = wrong use.
    """
    if list_only:
        for line in report.table_lines(("suite", "measures"), suite_names()):
            print(line)
        return EXIT_OK
    try:
        settings = msgspec.structs.replace(settings or Settings(**(choices or {})), quick=quick)
        stored = report.load(compare_path) if compare_path is not None else None
        suites = _chosen(suite, settings, pattern)
        result = RunReport(
            started=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
            quick=quick,
            commit=git_commit(),
            machine=this_machine(),
        )
        report.print_heading(result)
        with ending_on_sigterm():
            for one in suites:
                result.suites.append(one)
                report.print_suite(one)
                sys.stdout.flush()
        if not result.suites:
            raise BadInput(f"cannot run benchmarks: no micro benchmark's name contains {pattern!r}")
        if json_path is not None:
            report.save(result, json_path)
    except TidegaugeError as error:
        print(f"tidegauge bench: {error.message}", file=sys.stderr)
        return EXIT_USAGE if isinstance(error, BadInput) else EXIT_FAILED
    return _judge(result, stored, fail_over_percent)


def _chosen(name: str | None, settings: Settings, pattern: str) -> Iterable[SuiteReport]:
    """Return the reports of the suites called ``name``, each measured when it is asked for."""
    if name == MICRO:
        return micro_suite.run(quick=settings.quick, pattern=pattern)
    if name in (MACRO, None):

        def everything() -> Iterator[SuiteReport]:
            for one in SUITES:
                yield one.measure(settings)
            if name is None:
                yield from micro_suite.run(quick=settings.quick, pattern=pattern)

        return everything()
    measures: dict[str, Callable[[Settings], SuiteReport]] = {one.name: one.measure for one in (*SUITES, PEERS)}
    if name not in measures:
        known = ", ".join(known for known, _ in suite_names())
        raise BadInput(f"cannot run benchmarks: got suite {name!r}, want one of {known}")
    return (measure(settings) for measure in [measures[name]])


def _judge(result: RunReport, stored: RunReport | None, fail_over_percent: float | None) -> int:
    code = EXIT_OK
    if failed := result.failed_checks:
        suites = ", ".join(sorted({suite for suite, _ in failed}))
        print(
            f"tidegauge bench: {len(failed)} checks failed in {suites}; the report says which",
            file=sys.stderr,
        )
        code = EXIT_FAILED
    if stored is not None:
        compared = compare.compare_runs(stored, result)
        compare.print_comparison(compared)
        if fail_over_percent is not None:
            for one in compared.regressions(fail_over_percent / 100.0):
                print(
                    f"tidegauge bench: {one.suite}: {one.name} is {one.loss * 100:.0f}% worse than in the "
                    f"stored run, more than the {fail_over_percent:g}% allowed and than its noise, "
                    f"{one.noise * 100:.0f}%",
                    file=sys.stderr,
                )
                code = EXIT_FAILED
    return code


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``python -m benchmarks``."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure Tidegauge. Without a suite: all macro suites, then the micro benchmarks.",
        epilog="example: python -m benchmarks ingest-lp --quick --compare benchmarks/baseline.json",
    )
    made.add_argument("suite", nargs="?", help="one of the names that --list shows")
    add_arguments(made)
    return made


def add_arguments(made: argparse.ArgumentParser) -> None:
    """Add the options that every way of starting the benchmarks has in common."""
    made.add_argument("--json", dest="json_path", metavar="FILE", help="write the figures as JSON")
    made.add_argument("--compare", dest="compare_path", metavar="FILE", help="print ratios to a stored run")
    made.add_argument(
        "--fail-over",
        dest="fail_over_percent",
        type=float,
        metavar="PERCENT",
        help="with --compare: exit code 1 when a figure is worse by more than this and than its noise",
    )
    made.add_argument("--quick", action="store_true", help="small data, for continuous integration")
    made.add_argument("--list", dest="list_only", action="store_true", help="show the suites")
    made.add_argument(
        "--filter", "--pattern", dest="pattern", default="", metavar="TEXT", help="micro: only names with TEXT"
    )
    made.add_argument("--hosts", type=int, help="hosts of the generated data")
    made.add_argument("--hours", type=float, help="hours of the generated data")
    made.add_argument("--values", choices=VALUE_KINDS, help="kind of the generated values (default int)")
    made.add_argument("--seed", type=int, help="seed of the generated data (default 123)")
    made.add_argument("--connections", type=int, help="connections of the sender (default 2)")
    made.add_argument("--batch-lines", type=int, help="lines of a line protocol batch (default 10000)")
    made.add_argument("--runs", type=int, help="repetitions of each query or load")
    made.add_argument("--work", dest="work_folder", metavar="DIR", help="where scratch folders are made")
    made.add_argument("--scrapes", metavar="DIR", help="storage-pooled: saved expositions, <unix ms>.prom each")
    made.add_argument("--labelled", metavar="DIR", help="scores: a folder with data/ and scorers/ (default ../shared)")
    made.add_argument("--grow", type=int, metavar="N", help="peers: measure again with N times the hosts")
    made.add_argument("--engines", help="peers: comma-separated names, default all that are installed")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks from the command line and return the exit code."""
    chosen = vars(parser().parse_args(arguments))
    given = {name: chosen.pop(name) for name in Settings.__struct_fields__ if name in chosen and name != "quick"}
    try:
        settings = Settings(**{name: value for name, value in given.items() if value is not None})
    except BadInput as error:
        print(f"tidegauge bench: {error.message}", file=sys.stderr)
        return EXIT_USAGE
    return run(**chosen, settings=settings)
