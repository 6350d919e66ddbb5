"""``tidegauge notify test``: one request to the channel, one sentence, and the exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from api.cli.main import main
from tests.recording_server import Answer, RecordingServer


def config(tmp_path: Path, url: str) -> str:
    file = tmp_path / "t.toml"
    file.write_text(f'[[channels]]\nname = "ops"\nurl = "{url}/hidden"\nsecret = "s3cret"\n')
    return str(file)


def test_a_channel_that_takes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RecordingServer() as server:
        assert main(["notify", "test", "ops", "--config", config(tmp_path, server.url)]) == 0
    (request,) = server.seen
    told = json.loads(request.body)
    assert (told["event"], told["channel"], told["alert"]["rule"]) == ("test", "ops", "test")
    assert request.headers["x-tidegauge-delivery"] == told["delivery"]
    assert capsys.readouterr().out == f"channel 'ops' (webhook) took the test notification {told['delivery']}: 204\n"


def test_a_channel_that_does_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with RecordingServer(lambda _: Answer(500)) as server:
        assert main(["notify", "test", "ops", "--config", config(tmp_path, server.url)]) == 1
    error = capsys.readouterr().err
    assert error == "tidegauge notify: cannot notify channel 'ops': the answer was 500\n"


def test_what_cannot_be_meant(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["notify", "test", "opps", "--config", config(tmp_path, "http://127.0.0.1:1")]) == 2
    assert "cannot test channel 'opps': the configuration has no such channel, want ops" in capsys.readouterr().err
    assert main(["notify", "test", "ops"]) == 2
    assert "want an entry in [[channels]]" in capsys.readouterr().err
    assert main(["notify", "try", "ops"]) == 2
