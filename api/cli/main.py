"""Entry point of ``tidegauge``: finds the subcommand, runs it, and turns every outcome into an exit code.

===  =================================================================
0    done
1    failed; one sentence on standard error says why
2    wrong use; the sentence says what is allowed
130  interrupted from the keyboard
===  =================================================================

Nothing heavy is imported here, and of the subcommands only the one that was called.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from keyword import iskeyword
from typing import NoReturn, Protocol

from api.cli import WrongUse
from engine.errors import BadConfig, TidegaugeError

#: Subcommand -> what it does, in the order of the help; each is a module of this package (``import_`` of ``import``).
COMMANDS = {
    "serve": "run the server",
    "demo": "run the server with this host's agent and a simulated fleet that has an incident",
    "agent": "read this host's sensors and push them to a server",
    "gate": "tell whether a deployment may go on, as an exit code",
    "deploy": "record and list deployments, and tell whether one may go on",
    "replay": "tell what alerts there would have been over stored history",
    "sql": "run SQL against a server or a data directory",
    "import": "load files: line protocol, Prometheus text, CSV, Parquet, Arrow",
    "export": "write samples, or the answer of a statement, to a file",
    "token": "make, list and revoke API tokens",
    "check": "validate a configuration file",
    "notify": "send a test notification, or show which channels an alert takes",
    "rules": "list, check, test and import alert rules",
    "lab": "run the server's detectors, forecaster and scaling policy on files",
    "verify": "check everything that is stored in a data directory",
    "bench": "run the benchmark suites",
}
_EPILOG = """example:
  tidegauge demo                        see everything move
  tidegauge serve --data /var/lib/tidegauge
  tidegauge sql "SELECT * FROM cpu ORDER BY time DESC LIMIT 10"

`tidegauge COMMAND --help` tells the options of a command, with examples.
"""
EXIT_FAILED = 1
EXIT_WRONG_USE = 2
EXIT_INTERRUPTED = 130


class Command(Protocol):
    """What a subcommand's module has."""

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add description, options and examples."""

    def run(self, arguments: argparse.Namespace) -> int:
        """Do it and return the exit code."""


class _Parser(argparse.ArgumentParser):
    """argparse with one sentence for a mistake, and without abbreviations of options."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        kwargs |= {"allow_abbrev": False, "formatter_class": argparse.RawDescriptionHelpFormatter}
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        self.exit(EXIT_WRONG_USE, f"{self.prog}: {message}; see `{self.prog} --help`\n")


def build_parser(called: str | None) -> tuple[argparse.ArgumentParser, Command | None]:
    """Return the parser and the module of the subcommand ``called``, the only one that is imported."""
    parser = _Parser(
        prog="tidegauge",
        description="A time-series engine for the metrics of running systems.",
        epilog=_EPILOG,
    )
    parser.add_argument("--version", action="store_true", help="print the version and exit")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    command: Command | None = None
    for name, summary in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=summary)
        if name == called:
            command = importlib.import_module(f"api.cli.{name}_" if iskeyword(name) else f"api.cli.{name}")
            assert command is not None
            command.configure(subparser)
    return parser, command


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (the process's own for None) and return the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    called = next((word for word in words if not word.startswith("-")), None)
    prog = f"tidegauge {called}" if called in COMMANDS else "tidegauge"
    try:
        parser, command = build_parser(called)
        arguments = parser.parse_args(words)
        if arguments.version:
            print(_version())
            return 0
        if command is None:
            parser.print_help(sys.stderr)
            return EXIT_WRONG_USE
        code = command.run(arguments)
        sys.stdout.flush()
    except SystemExit as end:
        # argparse ends this way after --help and after a mistake, which it has written already.
        return end.code if isinstance(end.code, int) else EXIT_FAILED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except WrongUse as error:
        return _say(prog, error.message, EXIT_WRONG_USE)
    except BadConfig as error:
        return _say(prog, "\n".join(error.problems) or error.message, EXIT_FAILED)
    except TidegaugeError as error:
        return _say(prog, error.message, EXIT_FAILED)
    except BrokenPipeError:
        # Whoever read our output has enough, as `| head` has.  Python would complain once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        return _say(prog, f"cannot go on: {error.strerror or error}{where}", EXIT_FAILED)
    return code


def _say(prog: str, sentence: str, code: int) -> int:
    print(f"{prog}: {sentence}", file=sys.stderr)
    return code


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return f"tidegauge {version('tidegauge')}"
    except PackageNotFoundError:
        return "tidegauge (not installed)"


if __name__ == "__main__":
    sys.exit(main())
