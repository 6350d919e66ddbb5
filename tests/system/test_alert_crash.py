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
[[channels]]
name = "grouped"
url = "{hook}"
group_by = ["rule"]
group_wait = "1s"
group_interval = "1s"
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
channels = ["hook", "grouped"]
"""


Told = dict[tuple[int, str], set[tuple[str, bytes]]]


def told(seen: list[Seen], channel: str) -> Told:
    """Return (key, body) of everything that was received, by alert and event; of a group, all its alerts' events."""
    found: Told = defaultdict(set)
    for request in list(seen):
        body = json.loads(request.body)
        key = request.headers["x-tidegauge-delivery"]
        assert body["delivery"] == key
        if body["channel"] != channel:
            continue
        listed = [{"events": [body["event"]], **body["alert"]}] if body["alert"] else body["alerts"]
        for alert in listed:
            for event in alert["events"]:
                found[alert["id"], event].add((key, request.body))
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
            until(lambda: set(told(receiver.seen, "hook")) >= set(history), "every event is delivered")
            grouped = {(alert, event) for alert, event in history if event != "escalated"}
            until(lambda: set(told(receiver.seen, "grouped")) >= grouped, "every event is in a group's message")
            assert program.stop() == 0
    assert rows
    assert {state for _, state in rows} == {"resolved"}
    assert len(set(history)) == len(history)
    for channel, expected in (("hook", set(history)), ("grouped", grouped)):
        found = told(receiver.seen, channel)
        assert set(found) == expected
        assert {len(keys) for keys in found.values()} == {1}
