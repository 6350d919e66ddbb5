"""``tidegauge gate``: the verdict as an exit code, from a data directory and from a server."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

import tidegauge
from api import canary
from api.cli.main import main
from tests.recording_server import Answer, RecordingServer

SECOND_NS = 1_000_000_000


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two old and two new instances of three services, a sample every ten seconds of the last ten minutes."""
    path = str(tmp_path_factory.mktemp("gate") / "data")
    random = np.random.default_rng(1)
    now_ns = time.time_ns()
    lines = []
    for service, slower, errors in (("same", 1.0, 0.0), ("slow", 2.0, 0.0), ("failing", 1.0, 4.0)):
        for version, factor, more in (("1", 1.0, 0.0), ("2", slower, errors)):
            for host in ("a", "b"):
                total = 0.0
                for step in range(60):
                    total += random.poisson(0.1 + more)
                    latency = 100 * factor * np.exp(0.1 * random.normal())
                    lines.append(
                        f"app,service={service},version={version},host={host}"
                        f" latency_ms={latency},errors_total={total},color={random.normal()}"
                        f" {now_ns - (60 - step) * 10 * SECOND_NS}"
                    )
    lines.append(f"paint,service=plain color=1 {now_ns}")
    with tidegauge.open(path) as db:
        assert not db.write("\n".join(lines)).refused
    return path


def gate(data: str, service: str, *more: str) -> int:
    selectors = ["--baseline", 'version="1"', "--canary", 'version="2"']
    return main(["gate", "--data", data, "--service", service, *selectors, "--for", "5m", "--step", "10s", *more])


@pytest.mark.parametrize(
    ("service", "code", "verdict", "sentence"),
    [
        ("same", 0, "promote", "none of 2 metrics is worse"),
        ("slow", 1, "roll back", "app_latency_ms is "),
        ("failing", 1, "roll back", "app_errors_total: "),
        ("absent", 2, "", "no series satisfies --baseline"),
    ],
)
def test_the_exit_code_is_the_verdict(
    data: str, service: str, code: int, verdict: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gate(data, service) == code
    told = capsys.readouterr()
    assert told.out.startswith(verdict)
    assert sentence in told.out + told.err


def test_metrics_may_be_named_with_a_direction(data: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert gate(data, "slow", "--metric", "app_latency_ms=down") == 0
    assert gate(data, "same", "--metric", "app_latency_ms", "--metric", "app_missing") == 3
    assert "app_missing: 0 samples of the baseline and 0 of the canary" in capsys.readouterr().out
    assert gate(data, "same", "--metric", "app_latency_ms=left") == 2


def test_json_has_every_comparison(data: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert gate(data, "slow", "--format", "json") == 1
    told = json.loads(capsys.readouterr().out)
    assert told["verdict"] == "roll back"
    assert [each["metric"] for each in told["metrics"]] == ["app_errors_total", "app_latency_ms"]
    assert told["metrics"][1]["finding"] == "worse"
    assert told["metrics"][0]["margin"] is None


def test_two_instances_of_each_give_the_samples_of_both(data: str) -> None:
    with tidegauge.open(data, read_only=True) as db:
        assert canary.judged_metrics(db, 'service="same"') == ["app_errors_total", "app_latency_ms"]
        selector = 'service="same",version="1"'
        found = canary.samples(db, ["app_latency_ms"], selector, start="-310s", step_seconds=10)["app_latency_ms"]
    assert 50 <= len(found) <= 60


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--for", "soon"], "cannot use --for"),
        (["--step", "0.5s"], "want whole seconds"),
        (["--warm-up", "5m"], "want less than --for"),
        (["--confidence", "2"], "got confidence 2.0"),
        (["--metric", "app_latency_ms", "--canary", "version"], "cannot read"),
        (["--baseline", 'version="9"'], 'no series satisfies --baseline service="same",version="9"'),
    ],
)
def test_wrong_use(data: str, options: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert gate(data, "same", *options) == 2
    assert sentence in capsys.readouterr().err


def test_series_whose_names_tell_nothing_have_to_be_named(data: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gate", "--data", data, "--baseline", 'service="plain"', "--canary", 'service="same"']) == 2
    assert "tells by its name what it is; use --metric" in capsys.readouterr().err


def test_a_server_that_does_not_answer_is_a_reason_to_hold(capsys: pytest.CaptureFixture[str]) -> None:
    with RecordingServer(lambda _: Answer(503, b'{"error": "recovering", "message": "not yet"}')) as server:
        command = ["gate", "--url", server.url, "--baseline", 'v="1"', "--canary", 'v="2"', "--metric", "m"]
        assert main(command) == 3
    assert "hold: not yet" in capsys.readouterr().err
