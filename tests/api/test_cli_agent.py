"""``tidegauge agent`` against a server in the test: one reading, delivered or kept for later."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from api.cli import agent as command
from api.cli.main import main
from tests.recording_server import Answer, RecordingServer


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Nothing waits, no token is in the environment, the working directory is empty, signals are put back."""
    monkeypatch.setattr("engine.collect.agent.PRIME_SECONDS", 0.0)
    monkeypatch.delenv("TIDEGAUGE_TOKEN", raising=False)
    monkeypatch.chdir(tmp_path)
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_once_pushes_one_reading_of_this_host() -> None:
    with RecordingServer() as server:
        assert main(["agent", "--to", server.url, "--once", "--token", "t0"]) == 0
    (seen,) = server.seen
    assert (seen.method, seen.path) == ("POST", "/write?precision=ns")
    assert seen.headers["authorization"] == "Bearer t0"
    lines = seen.body.decode().splitlines()
    assert {line.split(",")[0] for line in lines} >= {"cpu", "memory", "disk", "processes", "agent"}
    assert all(f"host={socket.gethostname()}" in line for line in lines)
    assert os.listdir("tidegauge-agent-buffer") == ["lock"]


def test_once_keeps_the_reading_while_the_server_is_away_and_delivers_it_next_time(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with RecordingServer(lambda _: Answer(503, b'{"message":"starting"}')) as server:
        assert main(["agent", "--to", server.url, "--once", "--host", "h1", "--buffer", "kept"]) == 1
    assert "the server does not take batches now (503): starting" in capsys.readouterr().err
    assert len(os.listdir("kept")) == 2
    with RecordingServer() as server_back:
        assert main(["agent", "--to", server_back.url, "--once", "--host", "h1", "--buffer", "kept"]) == 0
    assert server_back.seen[0].body == server.seen[0].body
    assert len(server_back.seen) == 2
    assert os.listdir("kept") == ["lock"]


def test_settings_come_from_the_file_and_the_command_line_wins(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("from-file\n")
    with RecordingServer() as server:
        (tmp_path / "tide.toml").write_text(
            f'[agent]\nto = "{server.url}/prefix"\ntoken_file = "{tmp_path}/token"\nbuffer_directory = "b1"\n'
        )
        assert main(["agent", "--config", "tide.toml", "--once"]) == 0
        assert main(["agent", "--config", "tide.toml", "--once", "--to", server.url, "--buffer", "b2"]) == 0
    assert [seen.path for seen in server.seen] == ["/prefix/write?precision=ns", "/write?precision=ns"]
    assert {seen.headers["authorization"] for seen in server.seen} == {"Bearer from-file"}
    assert {"b1", "b2"} <= set(os.listdir())


def test_it_goes_on_until_it_is_told_to_stop(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    waits: list[float] = []

    class StopAfterTwo:
        def set(self) -> None: ...

        def wait(self, seconds: float) -> bool:
            waits.append(seconds)
            return len(waits) > 2

    monkeypatch.setattr(command, "threading", SimpleNamespace(Event=StopAfterTwo))
    with RecordingServer() as server:
        assert main(["agent", "--to", server.url, "--interval", "1h", "--host", "h1"]) == 0
    assert len(server.seen) == 2
    assert 3_500 < waits[1] <= 3_600
    assert capsys.readouterr().out == f"tidegauge agent: pushing the sensors of h1 to {server.url} every 1h\n"


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["--interval", "5"], 2, "cannot read a duration: got '5'"),
        (["--interval", "100ms"], 2, "cannot use interval 100ms: want 1s to 1h"),
        (["--to", "nowhere"], 1, "cannot use server address: got 'nowhere'"),
        (["--config", "none.toml"], 2, "cannot read configuration none.toml"),
    ],
)
def test_mistakes_are_one_sentence(
    words: list[str], code: int, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["agent", "--once", *words]) == code
    said = capsys.readouterr().err
    assert said.startswith(f"tidegauge agent: {sentence}")
    assert said.count("\n") == 1
    assert os.listdir() == []
