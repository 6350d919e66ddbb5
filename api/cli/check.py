"""``tidegauge check``: every problem of a configuration at once."""

from __future__ import annotations

import argparse

from api.cli import WrongUse
from engine.catalog.callers import token_problems
from engine.config import check_file, load_config
from engine.errors import BadConfig

_EPILOG = """example:
  tidegauge check --config tidegauge.toml

Prints FILE:LINE: key: what is wrong, one line for each problem.  Exit code 0 without problems, 1 with some,
2 when the file cannot be read.  Without --config it checks the defaults.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.description = "Validate a configuration file."
    parser.epilog = _EPILOG
    parser.add_argument("--config", metavar="FILE", help="TOML file (default: every default)")


def run(arguments: argparse.Namespace) -> int:
    path: str | None = arguments.config
    try:
        problems = [] if path is None else check_file(path)[1]
    except BadConfig as error:
        raise WrongUse(error.message) from None
    where = path or "defaults"
    sentences = [problem.sentence for problem in problems]
    if not sentences:
        sentences = [f"{where}: {problem}" for problem in token_problems(load_config(path).server.tokens)]
    for sentence in sentences:
        print(sentence)
    if not sentences:
        print("configuration is valid")
    return 1 if sentences else 0
