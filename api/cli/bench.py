"""``tidegauge bench``: the benchmark suites, which live in a package of their own."""

from __future__ import annotations

import argparse
import importlib

from api.cli import WrongUse

_EPILOG = """example:
  tidegauge bench --list
  tidegauge bench ingest-lp --json now.json
  tidegauge bench --compare baseline.json --fail-over 10
  tidegauge bench peers --hosts 100 --hours 1 --grow 10
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = "Run benchmark suites and print their figures."
    parser.epilog = _EPILOG
    parser.add_argument("suite", nargs="?", metavar="SUITE", help="one suite (default: all); see --list")
    parser.add_argument("--json", metavar="FILE", help="write the figures to FILE")
    parser.add_argument("--compare", metavar="FILE", help="compare with the figures in FILE")
    parser.add_argument("--fail-over", metavar="PERCENT", type=float, help="fail when a figure is worse by more")
    parser.add_argument("--pattern", metavar="TEXT", default="", help="only micro benchmarks whose name has TEXT")
    parser.add_argument("--hosts", metavar="N", type=int, help="hosts of the generated data")
    parser.add_argument("--hours", metavar="N", type=float, help="hours of the generated data")
    parser.add_argument("--engines", metavar="NAMES", help="peers: only these, with commas between them")
    parser.add_argument("--grow", metavar="N", type=int, help="peers: measure again with N times the hosts")
    parser.add_argument("--quick", action="store_true", help="small data, to see that everything runs")
    parser.add_argument("--list", action="store_true", help="list the suites and exit")


def run(arguments: argparse.Namespace) -> int:
    try:
        benchmarks = importlib.import_module("benchmarks.cli")
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != "benchmarks":
            raise
        raise WrongUse("cannot run benchmarks: they are not installed here; run from a source tree") from None
    given = {name: getattr(arguments, name) for name in ("hosts", "hours", "engines", "grow")}
    code: int = benchmarks.run(
        arguments.suite,
        arguments.json,
        arguments.compare,
        quick=arguments.quick,
        list_only=arguments.list,
        pattern=arguments.pattern,
        fail_over_percent=arguments.fail_over,
        choices={name: value for name, value in given.items() if value is not None},
    )
    return code
