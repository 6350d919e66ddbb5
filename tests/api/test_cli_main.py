"""The command line as a whole: help, exit codes, one sentence for every mistake, nothing heavy before it is needed."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from api.cli import WrongUse, token_of
from api.cli.main import COMMANDS, main
from engine.errors import BadConfig, QueueFull

ROOT = Path(__file__).parents[2]
HEAVY = (
    "numba",
    "polars",
    "duckdb",
    "pyarrow",
    "litestar",
    "numpy",
    "prompt_toolkit",
    "psutil",
    "uvicorn",
    "native.columns",
)


def python(code: str, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=60,
        check=False,
    )


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from api.cli.main import main; code = main(['--help'])\n"
        f"print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules], code)"
    )
    done = python(code)
    assert done.stderr == ""
    assert done.stdout.endswith("HEAVY [] 0\n")
    assert all(f"  {name} " in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_has_help_with_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: tidegauge {command}")
    assert f"example:\n  tidegauge {command}" in text or f"tidegauge {command}" in text.split("example:")[1]


def test_commands_are_documented() -> None:
    text = (ROOT / "docs" / "cli.md").read_text()
    for name in COMMANDS:
        assert f"| `tidegauge {name}` |" in text
        assert f"\n## {name}\n" in text or name == "agent"


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_option_is_documented(command: str) -> None:
    from api.cli.main import build_parser

    parser, _ = build_parser(command)
    (subparsers,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    options = {option for action in subparsers.choices[command]._actions for option in action.option_strings}
    page = (ROOT / "docs" / ("agent.md" if command == "agent" else "cli.md")).read_text()
    section = page if command == "agent" else page.split(f"\n## {command}\n")[1].split("\n## ")[0]
    assert {option for option in options - {"-h", "--help"} if option not in section} == set()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["sqk"], "tidegauge: argument COMMAND: invalid choice: 'sqk'"),
        (["serve", "--datta", "x"], "tidegauge: unrecognized arguments: --datta x"),
        (["sql", "--form", "csv", "SELECT 1"], "tidegauge: unrecognized arguments: --form"),
        (["sql", "--format", "xml", "SELECT 1"], "tidegauge sql: argument --format: invalid choice: 'xml'"),
        (["sql", "--data", "a", "--url", "b"], "tidegauge sql: argument --url: not allowed with argument --data"),
        (["demo", "--minutes", "x"], "tidegauge demo: argument --minutes: invalid float value: 'x'"),
    ],
)
def test_wrong_use_is_one_sentence_and_2(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(sentence)
    assert captured.err.count("\n") == 1
    assert "--help`" in captured.err


def test_without_a_command_there_is_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "commands:" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("tidegauge ")


def raising(error: BaseException) -> Callable[[argparse.Namespace], int]:
    def run(_: argparse.Namespace) -> int:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (WrongUse("cannot do: got this, want that"), 2, "tidegauge check: cannot do: got this, want that\n"),
        (QueueFull("cannot take it now"), 1, "tidegauge check: cannot take it now\n"),
        (BadConfig("summary", ["f:1: a: x", "f:2: b: y"]), 1, "tidegauge check: f:1: a: x\nf:2: b: y\n"),
        (KeyboardInterrupt(), 130, ""),
        (
            PermissionError(13, "Permission denied", "/x"),
            1,
            "tidegauge check: cannot go on: Permission denied (/x)\n",
        ),
        (SystemExit(7), 7, ""),
    ],
)
def test_every_outcome_has_its_exit_code(
    error: BaseException,
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    module = types.SimpleNamespace(configure=lambda parser: None, run=raising(error))
    monkeypatch.setitem(sys.modules, "api.cli.check", module)  # type: ignore[arg-type]
    assert main(["check"]) == code
    assert capsys.readouterr().err == said


def test_a_bug_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.SimpleNamespace(configure=lambda parser: None, run=raising(AssertionError("ours")))
    monkeypatch.setitem(sys.modules, "api.cli.check", module)  # type: ignore[arg-type]
    with pytest.raises(AssertionError):
        main(["check"])


def test_a_reader_that_has_enough_is_no_traceback() -> None:
    read, write = os.pipe()
    os.close(read)
    process = subprocess.Popen(
        [sys.executable, "-m", "api.cli.main", "check"], cwd=ROOT, stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (1, "")


def test_the_token_comes_from_the_command_line_the_environment_or_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text("from-file\n")
    monkeypatch.delenv("TIDEGAUGE_TOKEN", raising=False)
    assert token_of(None) is None
    assert token_of(None, file=str(file)) == "from-file"
    monkeypatch.setenv("TIDEGAUGE_TOKEN", "from-environment")
    assert token_of(None, file=str(file)) == "from-environment"
    assert token_of("given", file=str(file)) == "given"


@pytest.mark.parametrize("token", ["a b", "a\nb", "ü", "a\x7f"])
def test_a_token_that_no_header_can_hold_is_wrong_use(token: str) -> None:
    with pytest.raises(WrongUse, match="cannot use the token"):
        token_of(token)


def test_a_token_file_that_cannot_be_read_is_wrong_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TIDEGAUGE_TOKEN", raising=False)
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(WrongUse, match="it is not text"):
        token_of(None, file=str(binary))
    with pytest.raises(WrongUse, match="No such file"):
        token_of(None, file=str(tmp_path / "none"))
