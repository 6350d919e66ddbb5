"""The demo: its configuration, what it tells, and that it ends what it started."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from api.cli.demo import lines_to_try
from api.cli.main import main
from api.demo.fleet import Fleet
from api.demo.process import ServerProcess, serve_command
from api.demo.show import CONFIG, HISTORY_SECONDS, HISTORY_STEP_SECONDS, TARGET, Show
from engine.clock import NS_PER_SECOND, ManualClock
from engine.config import check_config, parse_config
from engine.errors import QueueFull, TidegaugeError, Unavailable
from engine.ingest.batch import WriteResult


class FakeClient:
    """Answers like a client; ``alerts_now`` and ``decision`` are what the server would say."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.alerts_now: list[dict[str, Any]] = []
        self.decision: dict[str, Any] = {"desired": 8, "reason": "calm"}
        self.failures: list[TidegaugeError] = []

    def write(self, body: bytes) -> WriteResult:
        if self.failures:
            raise self.failures.pop(0)
        self.written.append(body)
        return WriteResult(body.count(b"\n"), 0, 0, {}, (), 1)

    def alerts(self, *, state: str) -> list[dict[str, Any]]:
        assert state == "all"
        return self.alerts_now

    def scale(self, target: str) -> dict[str, Any]:
        assert target == TARGET
        return self.decision


class Rig:
    def __init__(self) -> None:
        self.client = FakeClient()
        self.clock = ManualClock(1_790_000_000 * NS_PER_SECOND)
        self.fleet = Fleet(1, 5)
        self.said: list[str] = []
        self.waits: list[float] = []
        self.show = Show(
            self.client,  # type: ignore[arg-type]
            self.fleet,
            self.clock,
            wait=self._wait,
            write=self.said.append,
        )

    def _wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        self.clock.advance(seconds)
        return False


def alert(number: int, state: str, rule: str = "cpu-saturated") -> dict[str, Any]:
    return {"id": number, "state": state, "rule": rule, "summary": f"host {number}"}


def test_its_configuration_is_valid_and_quick() -> None:
    assert check_config(CONFIG, path="demo") == []
    config, _ = parse_config(CONFIG, path="demo")
    assert config is not None
    assert [rule.name for rule in config.effective_rules] == ["cpu-saturated", "response-slow", "error-rate-high"]
    assert all(rule.for_.seconds <= 2 and rule.match in ({}, {"service": TARGET}) for rule in config.rules)
    assert [target.target for target in config.scale] == [TARGET]
    assert config.server.listen.startswith("127.")


def test_history_covers_two_hours_and_waits_when_the_server_asks_for_it() -> None:
    rig = Rig()
    rig.client.failures = [QueueFull("full", retry_after_seconds=3)]
    rows = rig.show.write_history()
    assert rig.waits == [3]
    times = [int(line.rpartition(b" ")[2]) for body in rig.client.written for line in body.splitlines()]
    assert len(times) == rows
    assert max(times) < 1_790_000_000 * NS_PER_SECOND
    assert len(set(times)) == HISTORY_SECONDS // HISTORY_STEP_SECONDS
    assert min(times) == (1_790_000_000 - HISTORY_SECONDS) * NS_PER_SECOND


def test_the_fleet_reports_every_second_and_has_its_incident_from_10_to_30() -> None:
    rig = Rig()
    rig.show.run(40.0)
    assert len(rig.client.written) == 40
    (incident,) = rig.fleet.incidents
    assert (incident.start_ns, incident.end_ns) == (
        1_790_000_010 * NS_PER_SECOND,
        1_790_000_030 * NS_PER_SECOND,
    )
    assert rig.client.written[20] == rig.fleet.lines(1_790_000_020 * NS_PER_SECOND)


def test_it_ends_when_told_to_and_checks_the_server_at_every_step() -> None:
    rig = Rig()

    def ended() -> None:
        raise Unavailable("the server has ended")

    with pytest.raises(Unavailable):
        rig.show.run(None, check=ended)
    assert rig.client.written == []


def test_changes_of_alerts_and_decisions_are_told_once() -> None:
    rig = Rig()
    rig.show.step()
    rig.show.step()
    rig.clock.advance(12)
    rig.client.alerts_now = [alert(3, "firing"), alert(2, "firing"), alert(1, "pending")]
    rig.client.decision = {"desired": 16, "reason": "cpu at 97"}
    rig.show.step()
    rig.show.step()
    rig.client.alerts_now = [alert(3, "resolved"), alert(2, "firing"), alert(1, "firing")]
    rig.show.step()
    assert rig.said == [
        "    0 s  scale shop: to 8 instances: calm",
        "   12 s  alert firing: cpu-saturated: host 2 (and 1 more)",
        "   12 s  scale shop: from 8 to 16 instances: cpu at 97",
        "   12 s  alert firing: cpu-saturated: host 1",
        "   12 s  alert resolved: cpu-saturated: host 3",
    ]


def test_trouble_is_told_once_until_it_changes() -> None:
    rig = Rig()
    rig.client.failures = [Unavailable("away"), Unavailable("away"), Unavailable("elsewhere")]
    for _ in range(5):
        rig.show.step()
    rig.client.failures = [Unavailable("away")]
    rig.show.step()
    assert [line.split("  ")[-1] for line in rig.said] == [
        "away",
        "elsewhere",
        "scale shop: to 8 instances: calm",
        "away",
    ]


def test_five_lines_to_try() -> None:
    lines = lines_to_try("http://127.0.0.1:1")
    assert len(lines) == 5
    assert all("http://127.0.0.1:1" in line for line in lines)
    assert [word in line for word, line in zip(("health", "sql", "query", "alerts", "scale"), lines, strict=True)] == [
        True
    ] * 5


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--minutes", "0"], "cannot run for 0 minutes: want more than 0"),
        (["--minutes", "nan"], "cannot run for nan minutes: want more than 0"),
        (["--listen", "0.0.0.0:80"], "cannot listen on 0.0.0.0:80 without tokens"),
    ],
)
def test_wrong_use(words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", *words]) == 2
    assert capsys.readouterr().err.startswith(f"tidegauge demo: {sentence}")


# --- the server's process ---------------------------------------------------------------------------------


def child(code: str, tmp_path: Path) -> ServerProcess:
    return ServerProcess([sys.executable, "-c", code], str(tmp_path / "log"))


READY_UNTIL_TERMINATED = (
    "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: (print('ended', file=sys.stderr), sys.exit(0)));"
    "print('noise'); print('tidegauge: ready at http://127.0.0.1:7', flush=True); signal.pause()"
)


def test_a_ready_server_tells_its_url_and_is_ended_gracefully(tmp_path: Path) -> None:
    with child(READY_UNTIL_TERMINATED, tmp_path) as server:
        assert server.wait_ready(threading.Event()) == "http://127.0.0.1:7"
        server.check()
    assert (tmp_path / "log").read_text() == "ended\n"
    with pytest.raises(Unavailable, match="exit code 0: ended"):
        server.check()


def test_a_server_that_cannot_start_gives_its_reason(tmp_path: Path) -> None:
    code = "import sys; sys.exit('tidegauge serve: cannot listen on 127.0.0.1:1: Address already in use')"
    with (
        child(code, tmp_path) as server,
        pytest.raises(
            Unavailable, match=r"^the server has ended with exit code 1: cannot listen on 127\.0\.0\.1:1: Addr"
        ),
    ):
        server.wait_ready(threading.Event())


def test_a_server_that_is_not_ready_in_time_is_given_up(tmp_path: Path) -> None:
    with child("import signal; signal.pause()", tmp_path) as server:
        with pytest.raises(Unavailable, match="it is not ready after 0 s"):
            server.wait_ready(threading.Event(), seconds=0.1)
        stop = threading.Event()
        stop.set()
        assert server.wait_ready(stop) is None


def test_the_server_runs_in_this_python() -> None:
    assert serve_command("c", "d", "h:1") == [
        *(sys.executable, "-P", "-m", "api.cli.main", "serve"),
        *("--config", "c", "--data", "d", "--listen", "h:1"),
    ]
