"""What the health paths and the query paths say while the log is being recovered, and after."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from api.app import Application
from api.server import told_of_recovery
from engine.clock import ManualClock
from engine.disk.real import RealFileSystem
from engine.runtime import Engine
from tests.api.test_error_shape import Caller, config
from tests.filesystems import SlowFileSystem

T0 = 1_700_000_000_000_000_000
NEEDS_SAMPLES = ["/v1/query?metric=t_x", "/v1/sql?q=SELECT%20*%20FROM%20samples", "/v1/sql?q=SELECT%20*%20FROM%20t"]
WITHOUT_SAMPLES = ["/v1/alerts", "/v1/rules", "/v1/labels", "/v1/series", "/v1/sql?q=SELECT%20*%20FROM%20alerts"]


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    with Engine.open(str(tmp_path / "data"), config(), clock=ManualClock(T0)) as engine:
        engine.submit_lines(b"t,host=a x=1").result(30)
        shutil.copytree(tmp_path / "data", tmp_path / "killed")
    return tmp_path / "killed"


def test_while_recovering_writes_are_taken_and_queries_are_told_to_come_back(killed: Path) -> None:
    fs = SlowFileSystem(RealFileSystem())
    fs.hold("read_range")
    with Engine.open(str(killed), config(), clock=ManualClock(T0), fs=fs, wait=False) as engine:
        call = Caller(Application(engine, config()))
        assert call("POST", "/write", b"t,host=b x=2")[0] == 204
        assert call("GET", "/health/live")[0] == 200
        assert call("GET", "/health/ready?for=writes")[0] == 200
        for path in ("/health/ready", "/health/ready?for=queries"):
            status, headers, body = call("GET", path)
            state = json.loads(body)
            assert (status, state["state"], state["writes"], state["queries"]) == (503, "recovering", True, False)
            assert int(headers["retry-after"]) >= 1
            assert state["recovery"].keys() == {
                "frames_done", "frames_total", "bytes_done", "bytes_total", "rows_done", "estimated_seconds", "problem"
            }  # fmt: skip
        for path in NEEDS_SAMPLES:
            status, headers, body = call("GET", path)
            answer = json.loads(body)
            assert (status, answer["error"]) == (503, "recovering")
            assert int(headers["retry-after"]) >= 1
            assert answer["details"]["frames_total"] == 2
        assert [call("GET", path)[0] for path in WITHOUT_SAMPLES] == [200] * len(WITHOUT_SAMPLES)
        status, _, body = call("GET", "/v1/scale/web")
        assert (status, json.loads(body)["action"]) == (200, "hold")
        assert call("GET", "/v1/scale/web/keda")[0] == 503
        fs.release()
        assert engine.recovery.wait(30)
        assert call("GET", "/health/ready")[0] == 200
        assert [call("GET", path)[0] for path in NEEDS_SAMPLES] == [200] * len(NEEDS_SAMPLES)
        assert json.loads(call("GET", "/v1/sql?q=SELECT%20count(*)%20FROM%20t")[2])["rows"] == [[2]]


def test_the_ready_line_is_preceded_by_what_is_left(killed: Path) -> None:
    fs = SlowFileSystem(RealFileSystem())
    fs.hold("read_range")
    with Engine.open(str(killed), config(), clock=ManualClock(T0), fs=fs, wait=False) as engine:
        left = engine.recovery.pending_bytes
        assert left > 0
        assert told_of_recovery(engine) == (
            f"tidegauge: recovering {left} bytes of log; writes are taken, queries answer 503 until then"
            " (GET /health/ready)"
        )
        fs.release()
        assert engine.recovery.wait(30)
        assert told_of_recovery(engine) is None


def test_readiness_for_something_unknown_is_refused(killed: Path) -> None:
    with Engine.open(str(killed), config(), clock=ManualClock(T0)) as engine:
        status, _, body = Caller(Application(engine, config()))("GET", "/health/ready?for=ever")
        assert (status, json.loads(body)["message"]) == (
            400,
            "cannot tell readiness for 'ever': want all, writes or queries",
        )
