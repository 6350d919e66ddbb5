"""``tidegauge rules``: lists the rules of a configuration and runs unit tests of them."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

from api.cli import WrongUse, config_of
from engine.config import Config, read_config_text
from engine.config_rule_tests import ReadTests, read_tests
from engine.errors import BadConfig

if TYPE_CHECKING:
    from engine.config import Rule

_EPILOG = """example:
  tidegauge rules list --config tidegauge.toml
  tidegauge rules test tests/alerts.toml

`list` shows every rule that is judged, the built-in ones included.  `test` runs the unit tests in files
(docs/rule-tests.md): exit code 0 when all pass, 1 when some fail, 2 when a file cannot be meant.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = "List the rules of a configuration, and test them."
    parser.epilog = _EPILOG
    actions = parser.add_subparsers(dest="action", metavar="ACTION", title="actions", required=True)
    listing = actions.add_parser("list", help="show the rules that a configuration has in force")
    listing.add_argument("--config", metavar="FILE", help="TOML file (default: every default)")
    testing = actions.add_parser("test", help="run unit tests of rules")
    testing.add_argument("files", nargs="+", metavar="FILE", help="TOML file with tests (docs/rule-tests.md)")
    testing.add_argument("--config", metavar="FILE", help="the configuration to test, instead of the file's own")


def run(arguments: argparse.Namespace) -> int:
    if arguments.action == "list":
        return _list(config_of(arguments.config))
    return _test(arguments.files, arguments.config)


# --- list


def _list(config: Config) -> int:
    rules = config.effective_rules
    width = max((len(rule.name) for rule in rules), default=0)
    for rule in rules:
        off = "" if rule.enabled else "  (not enabled)"
        print(f"{rule.name:<{width}}  {rule.severity:<8}  {condition(rule)}{off}")
    return 0


def condition(rule: Rule) -> str:
    """Return what a rule wants to hold, in one line."""
    number = _number(rule)
    if rule.group_by is not None:
        number = f"{rule.group_aggregate} by ({', '.join(rule.group_by)}) of {number}"
    if rule.scale != 1.0:
        number = f"{number} x {rule.scale:g}"
    if rule.compare_with is not None:
        usual = f"the {rule.compare_by} of the same hour of {rule.compare_past} past {rule.compare_with}"
        number = f"{rule.compare_as} of {number} to {usual}"
    if rule.forecast is not None:
        number = f"{number} in {rule.forecast.text}"
    level = f"{rule.threshold:g}" if rule.upper is None else f"{rule.threshold:g}..{rule.upper:g}"
    waiting = f" for {rule.for_.text}" if rule.for_ else ""
    return f"{number} {rule.op} {level}{waiting}"


def _number(rule: Rule) -> str:
    def one(metric: str, match: dict[str, str], where: str) -> str:
        parts = [f'{name}="{value}"' for name, value in match.items()]
        chosen = f"{metric}{{{','.join([*parts, *([where] if where else [])])}}}" if parts or where else metric
        if rule.aggregate == "last":
            return chosen
        return f"{rule.aggregate}({chosen}" + (")" if rule.aggregate == "age" else f" over {rule.over.text})")

    above = one(rule.metric, rule.match, rule.where)
    if rule.divide_by is None:
        return above
    match = rule.match if rule.divide_match is None else rule.divide_match
    below = one(rule.divide_by, match, rule.where if rule.divide_where is None else rule.divide_where)
    return f"{above} / {below}"


# --- test


def _test(files: list[str], config_path: str | None) -> int:
    read = [(path, _read(path)) for path in files]
    configs = [_config_of(path, tests, config_path) for path, tests in read]
    from engine.maintenance.replay.ruletests import run_test

    failed = count = 0
    for (path, tests), config in zip(read, configs, strict=True):
        for index, test in enumerate(tests.tests.tests):
            count += 1
            differences = run_test(config, test)
            failed += bool(differences)
            print(f"{'FAIL' if differences else 'ok  '}  {test.name}")
            for difference in differences:
                line = tests.lines[index, difference.place]
                for sentence in difference.sentences:
                    print(f"      {path}:{line}: at {difference.at.text}: {sentence}")
    print(f"{count} tests, {failed} failed")
    return 1 if failed else 0


def _read(path: str) -> ReadTests:
    try:
        text = read_config_text(path)
    except BadConfig as error:
        raise WrongUse(error.message) from None
    tests, problems = read_tests(text, path=path)
    if tests is None:
        raise WrongUse("\n".join(problem.sentence for problem in problems))
    return tests


def _config_of(path: str, tests: ReadTests, given: str | None) -> Config:
    chosen = given
    if chosen is None and tests.tests.config is not None:
        chosen = os.path.join(os.path.dirname(path), tests.tests.config)
    try:
        config = config_of(chosen)
    except BadConfig as error:
        raise WrongUse("\n".join(error.problems) or error.message) from None
    known = {rule.name for rule in config.effective_rules}
    unknown = [
        f"{path}:{tests.lines[one, two]}: expects {name!r}, which is no rule of {chosen or 'the defaults'}"
        for one, test in enumerate(tests.tests.tests)
        for two, expectation in enumerate(test.expect)
        for name in sorted({*expectation.rules, *(alert.rule for alert in expectation.alerts)} - known)
    ]
    if unknown:
        raise WrongUse("\n".join(unknown))
    return config
