"""The program under kill -9 again and again while alerts fire, escalate and resolve: every event under one key."""

from __future__ import annotations

import json
import random
import time
from collections import defaultdict
from pathlib import Path

import pytest

from tests.recording_server import RecordingServer, Seen
from tests.system.program import Program
from tests.system.test_whole_chain import until

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

KILLS = 8
HOSTS = 5


def config(hook: str) -> str:
    return f"""
[watch]
tick = "1s"
default_rules = false
[[channels]]
name = "hook"
url = "{hook}"
secret = "s3cret"
[[escalation]]
name = "boss"
after = "2s"
channels = ["hook"]
[[rules]]
name = "too-hot"
metric = "web_cpu"
op = ">"
threshold = 90
cooldown = "0s"
channels = ["hook"]
"""


def told(seen: list[Seen]) -> dict[tuple[int, str], set[tuple[str, bytes]]]:
    """Return (key, body) of everything that was received, by alert and event."""
    found: dict[tuple[int, str], set[tuple[str, bytes]]] = defaultdict(set)
    for request in list(seen):
        body = json.loads(request.body)
        key = request.headers["x-tidegauge-delivery"]
        assert body["delivery"] == key
        found[body["alert"]["id"], body["event"]].add((key, request.body))
    return found


def test_every_event_has_one_key_over_kills_at_random_moments(tmp_path: Path) -> None:
    chance = random.Random(7)
    data = tmp_path / "data"
    with RecordingServer() as receiver:
        text = config(receiver.url)
        for number in range(KILLS):
            with Program(data, text) as program:
                hot = number % 2 == 0
                program.write("\n".join(f"web,host=w{at} cpu={99 if hot else 5}" for at in range(HOSTS)))
                time.sleep(chance.uniform(0.0, 3.0))
                program.kill()
        with Program(data, text) as program:
            program.write("\n".join(f"web,host=w{at} cpu=5" for at in range(HOSTS)))
            until(lambda: program.get("/v1/alerts")["alerts"] == [], "every alert ends")
            rows = program.sql("SELECT id, state FROM alerts")
            history = program.sql(
                "SELECT alert_id, event FROM alert_events WHERE event IN ('firing', 'resolved', 'escalated')"
            )
            until(lambda: set(told(receiver.seen)) >= set(history), "every event is delivered")
            assert program.stop() == 0
    assert rows
    assert {state for _, state in rows} == {"resolved"}
    assert len(set(history)) == len(history)
    found = told(receiver.seen)
    assert set(found) == set(history)
    assert {len(keys) for keys in found.values()} == {1}
