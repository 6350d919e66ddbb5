"""``tidegauge rules``: lists rules, checks files of them, runs unit tests of them, and imports those of Prometheus."""

from __future__ import annotations

import argparse
import os
import sys

from api.cli import WrongUse, config_of
from engine.config import Config, read_config_text
from engine.config_rule_tests import ReadTests, read_tests
from engine.errors import BadConfig, BadRequest

_EPILOG = """example:
  tidegauge rules list --config tidegauge.toml
  tidegauge rules check rules/*.toml
  tidegauge rules test tests/alerts.toml
  tidegauge rules import prometheus-alerts.yml --output rules/imported.toml

`list` shows every rule that is judged, the built-in ones included.  `check` tells every mistake in files of rules, such
as watch.rule_files names.  `test` runs the unit tests in files (docs/rule-tests.md).  `import` turns alerting rules of
Prometheus into rules and tells by rule what it cannot (docs/prometheus-rules.md).  Exit code 0 when all is well, 1 when
there are mistakes, tests that fail or rules left out, 2 when a file cannot be meant.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = "List, check, test and import alert rules."
    parser.epilog = _EPILOG
    actions = parser.add_subparsers(dest="action", metavar="ACTION", title="actions", required=True)
    listing = actions.add_parser(
        "list",
        help="show the rules that a configuration has in force",
        description="Show the rules that a configuration has in force.",
    )
    listing.add_argument("--config", metavar="FILE", help="TOML file (default: every default)")
    checking = actions.add_parser(
        "check", help="tell every mistake in files of rules", description="Tell every mistake in files of rules."
    )
    checking.add_argument("files", nargs="+", metavar="FILE", help="TOML file with [[rules]] and nothing else")
    testing = actions.add_parser("test", help="run unit tests of rules", description="Run unit tests of rules.")
    testing.add_argument("files", nargs="+", metavar="FILE", help="TOML file with tests (docs/rule-tests.md)")
    testing.add_argument("--config", metavar="FILE", help="the configuration to test, instead of the file's own")
    importing = actions.add_parser(
        "import",
        help="turn alerting rules of Prometheus into rules",
        description="Turn alerting rules of Prometheus into rules.",
    )
    importing.add_argument("files", nargs="+", metavar="FILE", help="YAML file with groups of rules")
    importing.add_argument("--output", metavar="FILE", help="where the rules go (default: standard output)")


def run(arguments: argparse.Namespace) -> int:
    if arguments.action == "list":
        return _list(config_of(arguments.config))
    if arguments.action == "check":
        return _check(arguments.files)
    if arguments.action == "import":
        return _import(arguments.files, arguments.output)
    return _test(arguments.files, arguments.config)


# --- list


def _list(config: Config) -> int:
    from engine.alerting.conditions import condition

    rules = config.effective_rules
    width = max((len(rule.name) for rule in rules), default=0)
    for rule in rules:
        off = "" if rule.enabled else "  (not enabled)"
        print(f"{rule.name:<{width}}  {rule.severity:<8}  {condition(rule)}{off}")
    return 0


# --- check and import


def _text_of(path: str) -> str:
    try:
        return read_config_text(path, what="")
    except BadConfig as error:
        raise WrongUse(error.message) from None


def _check(files: list[str]) -> int:
    from engine.config_rule_files import read_rules

    count = 0
    origins: dict[str, str] = {}
    sentences: list[str] = []
    for path in files:
        rules, problems = read_rules(_text_of(path), path=path, channels=None, origins=origins)
        sentences += [problem.sentence for problem in problems]
        origins |= {rule.name: path for rule in rules}
        count += len(rules)
    for sentence in sentences:
        print(sentence)
    if not sentences:
        print(f"{count} rules are valid")
    return 1 if sentences else 0


def _import(files: list[str], output: str | None) -> int:
    from api.promrules.files import Imported, import_rules

    found: list[tuple[str, Imported]] = []
    names: dict[str, int] = {}
    for path in files:
        try:
            found.append((path, import_rules(_text_of(path), path=path, names=names)))
        except BadRequest as error:
            raise WrongUse(error.message) from None
    text = "\n".join(imported.text for _, imported in found if imported.text)
    if output is None:
        print(text, end="")
    else:
        with open(output, "w", encoding="utf-8") as file:
            file.write(text)
    for path, imported in found:
        for note in imported.notes:
            print(f"{path}: note: {note}", file=sys.stderr)
        for reason in imported.left_out:
            print(f"{path}: left out: {reason}", file=sys.stderr)
    rules, left_out = sum(each.rules for _, each in found), sum(len(each.left_out) for _, each in found)
    print(f"{rules} rules imported, {left_out} left out", file=sys.stderr)
    return 1 if left_out else 0


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
    tests, problems = read_tests(_text_of(path), path=path)
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
