"""``tidegauge notify test``: one request to the channel, one sentence, and the exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from api.cli.main import main
from tests.mail_server import MailServer
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


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("webhook", 'url = "{url}/hook"'),
        ("slack", 'url = "{url}/services/x"'),
        ("sms", 'url = "{url}/send"\nto = ["+491"]\nencoding = "form"'),
        ("apprise", 'url = "{json}/topic"'),
    ],
)
def test_each_type_of_channel_over_http_is_tried(
    tmp_path: Path, kind: str, settings: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if kind == "apprise":
        pytest.importorskip("apprise")
    file = tmp_path / "t.toml"
    with RecordingServer(lambda _: Answer(200)) as server:
        given = settings.format(url=server.url, json=server.url.replace("http", "json", 1))
        file.write_text(f'[[channels]]\nname = "ops"\ntype = "{kind}"\n{given}\n')
        assert main(["notify", "test", "ops", "--config", str(file)]) == 0
    (request,) = server.seen
    assert b"This is a test of Tidegauge" in request.body.replace(b"+", b" ")
    assert f"channel 'ops' ({kind}) took the test notification" in capsys.readouterr().out


def test_a_mail_is_tried_and_a_dashboard_has_no_receiver(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "t.toml"
    board = '[[channels]]\nname = "board"\ntype = "dashboard"\n'
    with MailServer() as server:
        mail = f'server = "{server.address}"\nsecurity = "none"\nfrom = "tide@example.org"\nto = ["ops@example.org"]\n'
        file.write_text(f'{board}[[channels]]\nname = "ops"\ntype = "email"\n{mail}')
        assert main(["notify", "test", "ops", "--config", str(file)]) == 0
    (sent,) = server.mails
    assert sent.recipients == ("ops@example.org",)
    assert b"This is a test of Tidegauge" in sent.text
    assert main(["notify", "test", "board", "--config", str(file)]) == 0
    assert "(dashboard) has no receiver: the server keeps what it is told" in capsys.readouterr().out


def test_what_cannot_be_meant(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["notify", "test", "opps", "--config", config(tmp_path, "http://127.0.0.1:1")]) == 2
    assert "cannot test channel 'opps': the configuration has no such channel, want ops" in capsys.readouterr().err
    assert main(["notify", "test", "ops"]) == 2
    assert "want an entry in [[channels]]" in capsys.readouterr().err
    assert main(["notify", "try", "ops"]) == 2


ROUTED = """
[[channels]]
name = "chat"
type = "slack"
url = "http://127.0.0.1/"
[[channels]]
name = "phone"
type = "sms"
url = "http://127.0.0.1/"
to = ["1"]
[[routes]]
name = "night"
match = 'service=~"shop|cart"'
times = ["22:00-06:00"]
timezone = "Europe/Berlin"
channels = ["phone"]
[[rules]]
name = "own"
metric = "m"
op = ">"
threshold = 1
severity = "critical"
channels = ["phone"]
"""


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (
            ["service=shop", "severity=critical", "--at", "2026-11-28T03:00:00Z"],
            [
                "category=custom, rule=any, service=shop, severity=critical at 2026-11-28T03:00:00.000000000Z",
                "channels: phone [sms] (by route 'night')",
            ],
        ),
        (
            ["rule=response-slow", "service=shop", "--at", "2026-11-28T05:00:00Z"],
            [
                "category=performance, rule=response-slow, service=shop, severity=warning at "
                "2026-11-28T05:00:00.000000000Z",
                "channels: chat [slack] (by route 'performance')",
                "after 15m: chat [slack] (by step 'performance')",
            ],
        ),
        (
            ["rule=own", "--at", "2026-11-28T05:00:00Z"],
            [
                "category=custom, rule=own, severity=critical at 2026-11-28T05:00:00.000000000Z",
                "channels: phone [sms] (the rule 'own' names them)",
            ],
        ),
        (
            ["a=b", "--at", "2026-11-28T05:00:00Z"],
            [
                "a=b, category=custom, rule=any, severity=warning at 2026-11-28T05:00:00.000000000Z",
                "channels: chat [slack], phone [sms] (no route accepts the alert, so every channel)",
            ],
        ),
    ],
)
def test_which_channels_an_alert_would_take(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], lines: list[str]
) -> None:
    file = tmp_path / "t.toml"
    file.write_text(ROUTED)
    assert main(["notify", "route", *arguments, "--config", str(file)]) == 0
    assert capsys.readouterr().out.splitlines() == lines


def test_without_channels_the_reason_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["notify", "route", "a=b"]) == 0
    assert "channels: none (the configuration has no channel)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["shop"], "cannot read label 'shop': want NAME=VALUE"),
        (["severity=bad"], "cannot route an alert of severity 'bad': want one of critical, warning, info"),
        (["a=b", "--at", "noon"], "cannot read time 'noon'"),
    ],
)
def test_labels_that_no_alert_can_have(capsys: pytest.CaptureFixture[str], arguments: list[str], error: str) -> None:
    assert main(["notify", "route", *arguments]) == 2
    assert error in capsys.readouterr().err
