"""``tidegauge check`` and what ``tidegauge serve`` does with a configuration before it starts anything."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest

from api.cli.main import main
from engine.config import Config

GOOD = '[server]\nlisten = "127.0.0.1:9000"\n'
BAD = "[server]\nlisten = 3\nx = 4\n"


def test_defaults_are_valid(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check"]) == 0
    assert capsys.readouterr().out == "configuration is valid\n"


def test_a_good_file_is_valid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "good.toml"
    file.write_text(GOOD)
    assert main(["check", "--config", str(file)]) == 0
    assert capsys.readouterr().out == "configuration is valid\n"


def test_every_problem_is_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(BAD)
    assert main(["check", "--config", str(file)]) == 1
    captured = capsys.readouterr()
    first, second = captured.out.splitlines()
    assert first == f"{file}:2: server.listen: got 3, want a text"
    assert second.startswith(f"{file}:3: server.x: unknown setting; ")
    assert captured.err == ""


@pytest.mark.parametrize("command", ["check", "serve"])
def test_a_file_that_cannot_be_read_is_wrong_use(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "none.toml"
    assert main([command, "--config", str(path)]) == 2
    said = capsys.readouterr().err
    assert said == f"tidegauge {command}: cannot read configuration {path}: No such file or directory\n"


class Served:
    """Stands in for the server: keeps what it was called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[Config, str, str | None]] = []

    def serve(self, config: Config, data: str, listen: str | None, config_path: str | None) -> int:
        self.calls.append((config, data, listen))
        self.config_path = config_path
        return 0


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Served:
    served = Served()
    monkeypatch.setitem(sys.modules, "api.server", types.SimpleNamespace(serve=served.serve))  # type: ignore[arg-type]
    return served


def test_serve_without_options_uses_the_defaults(served: Served) -> None:
    assert main(["serve"]) == 0
    assert served.calls == [(Config(), "./tidegauge-data", "127.0.0.1:8433")]


def test_serve_takes_file_and_options(served: Served, tmp_path: Path) -> None:
    file = tmp_path / "good.toml"
    file.write_text(GOOD)
    assert main(["serve", "--config", str(file), "--data", "/d"]) == 0
    assert main(["serve", "--config", str(file), "--listen", "[::1]:0"]) == 0
    assert [(config.server.listen, data, listen) for config, data, listen in served.calls] == [
        ("127.0.0.1:9000", "/d", "127.0.0.1:9000"),
        ("[::1]:0", "./tidegauge-data", "[::1]:0"),
    ]


def test_serve_refuses_a_configuration_with_problems_and_names_them_all(
    served: Served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(BAD)
    assert main(["serve", "--config", str(file)]) == 1
    said = capsys.readouterr().err
    assert f"{file}:2: server.listen" in said
    assert f"{file}:3: server.x" in said
    assert served.calls == []


@pytest.mark.parametrize(
    ("listen", "reason"), [("8433", "want HOST:PORT"), ("h:99999", "want HOST:PORT"), ("0.0.0.0:80", "without tokens")]
)
def test_the_address_of_the_command_line_is_held_to_the_same_rules(
    listen: str, reason: str, served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--listen", listen]) == 2
    assert reason in capsys.readouterr().err
    assert served.calls == []


def test_beyond_this_machine_with_tokens_is_fine(served: Served, tmp_path: Path) -> None:
    file = tmp_path / "tokens.toml"
    file.write_text(f'[[server.tokens]]\nname = "a"\nsha256 = "{"0" * 64}"\nscopes = ["read"]\n')
    assert main(["serve", "--config", str(file), "--listen", "0.0.0.0:80"]) == 0
    assert served.calls[0][2] == "0.0.0.0:80"


def test_rules_in_other_files_are_checked_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "t.toml"
    file.write_text('[watch]\nrule_files = ["r.toml"]')
    (tmp_path / "r.toml").write_text('[[rules]]\nname = "a"\nmetric = "m"\nop = ">"\nthreshold = 1\nupper = 2\n')
    assert main(["check", "--config", str(file)]) == 1
    assert capsys.readouterr().out == f'{tmp_path}/r.toml:6: rules[1].upper: got 2.0, want no upper for op = ">"\n'
