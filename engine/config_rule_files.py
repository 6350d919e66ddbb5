"""Files of rules beside a configuration: TOML with ``[[rules]]`` and nothing else, named by ``watch.rule_files``."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence

import msgspec
from msgspec import inspect

from engine.config import Config, Rule, read_config_text
from engine.config_base import Settings
from engine.config_check import check_rules, same_kind
from engine.config_toml import Problem, key_lines, parse_toml
from engine.config_tree import TreeChecker
from engine.errors import BadConfig


class RuleFile(Settings, frozen=True, kw_only=True):
    rules: tuple[Rule, ...] = ()


def rule_files(patterns: Sequence[str], config_path: str) -> list[str]:
    """Return the files that ``patterns`` name, relative to the configuration's directory, in order, each once."""
    found: dict[str, None] = {}
    for pattern in patterns:
        path = os.path.join(os.path.dirname(config_path), pattern)
        matching = sorted(glob.glob(path)) if glob.has_magic(path) else [path]
        found.update(dict.fromkeys(matching))
    return list(found)


def with_rule_files(config: Config, config_path: str) -> tuple[Config, list[Problem]]:
    """Return the configuration with the rules of its files behind its own, and what is wrong with them."""
    if not config.watch.rule_files:
        return config, []
    origins = {rule.name: config_path for rule in config.rules}
    channels = [channel.name for channel in config.channels]
    rules = list(config.rules)
    problems: list[Problem] = []
    for path in rule_files(config.watch.rule_files, config_path):
        try:
            text = read_config_text(path, what="rules ")
        except BadConfig as error:
            problems.append(Problem("watch.rule_files", 0, path, "a file", error.message, config_path))
            continue
        found, wrong = read_rules(text, path=path, channels=channels, origins=origins)
        problems += wrong
        rules += found
        origins.update({rule.name: path for rule in found})
    return msgspec.structs.replace(config, rules=tuple(rules)), problems


def read_rules(
    text: str, *, path: str, channels: Sequence[str] | None = (), origins: dict[str, str] | None = None
) -> tuple[tuple[Rule, ...], list[Problem]]:
    """Return the rules in the TOML document ``text`` and every problem in the order of lines.

    ``channels``: the names of the channels there are, None when that is not known.  ``origins``: for each rule there
    is already, its file.
    """
    tree, text, problems = parse_toml(text)
    rules: tuple[Rule, ...] = ()
    if tree is not None:
        checker = TreeChecker(key_lines(text), complete=not problems)
        kind = inspect.type_info(RuleFile)
        assert isinstance(kind, inspect.StructType)
        clean = checker.struct(tree, kind, ())
        rules = msgspec.convert(clean, RuleFile, dec_hook=same_kind).rules
        check_rules(
            rules, checker, tree, [name for rule in rules for name in rule.channels] if channels is None else channels
        )
        for index, rule in zip(checker.kept.get(("rules",), ()), rules, strict=False):
            origin = (origins or {}).get(rule.name)
            if origin is not None:
                allowed = f"a name of its own: {origin} has this one already"
                checker.report(("rules", index, "name"), rule.name, allowed, f'got "{rule.name}", want {allowed}')
        problems = problems + checker.problems
    problems = [msgspec.structs.replace(problem, path=path) for problem in problems]
    return rules, sorted(problems, key=lambda problem: problem.line)
