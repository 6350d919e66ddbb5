"""The course of the demo: history first, then the fleet live with its incident, and a line for every change."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

from api.client import Client
from api.demo.fleet import Fleet
from api.demo.incident import Incident
from engine.clock import NS_PER_SECOND, Clock
from engine.errors import Overload, TidegaugeError

TARGET = "shop"
HISTORY_SECONDS = 2 * 3_600
HISTORY_STEP_SECONDS = 30
INCIDENT_AFTER_SECONDS = 10
STEP_SECONDS = 1.0

#: Quick to fire and to resolve, so that a minute shows what otherwise takes an hour.
CONFIG = f"""
[watch]
tick = "1s"
default_rules = false

[[rules]]
name = "cpu-saturated"
category = "system"
severity = "critical"
metric = "cpu_usage_percent"
match = {{service = "{TARGET}"}}
op = ">"
threshold = 90
clear = 85
for = "2s"
cooldown = "5s"
summary = "CPU of {{host}} at {{value}} %"

[[rules]]
name = "response-slow"
category = "performance"
metric = "app_response_time_ms"
op = ">"
threshold = 2000
clear = 1500
for = "2s"
cooldown = "5s"
summary = "{{service}} on {{host}} answers in {{value}} ms"

[[rules]]
name = "error-rate-high"
category = "performance"
metric = "app_errors_total"
divide_by = "app_requests_total"
aggregate = "increase"
over = "15s"
scale = 100
op = ">"
threshold = 5
clear = 3
for = "2s"
cooldown = "5s"
summary = "{{value}} % of the requests to {{service}} on {{host}} fail"

[[scale]]
target = "{TARGET}"
match = {{service = "{TARGET}"}}
cooldown = "10s"
stabilisation = "20s"
stale_after = "30s"

[[scale.signals]]
kind = "cpu"

[[scale.signals]]
kind = "response_time"

[[scale.signals]]
kind = "queue"

[[scale.signals]]
kind = "error_rate"
over = "15s"
"""


class Show:
    """Feeds the server and tells what it says; ``write`` takes lines, ``wait`` is as for the agent."""

    def __init__(
        self,
        client: Client,
        fleet: Fleet,
        clock: Clock,
        *,
        wait: Callable[[float], bool],
        write: Callable[[str], None],
    ) -> None:
        self._client = client
        self._fleet = fleet
        self._clock = clock
        self._wait = wait
        self._write = write
        self._started_ns = clock.now_ns()
        self._states: dict[int, str] = {}
        self._desired: int | None = None
        self._trouble = ""

    def write_history(self) -> int:
        """Write the fleet's last two hours; return how many rows.  Waits when the server asks for time."""
        step_ns = HISTORY_STEP_SECONDS * NS_PER_SECOND
        end_ns = self._clock.now_ns()
        rows = 0
        for body in self._fleet.history(end_ns - HISTORY_SECONDS * NS_PER_SECOND, end_ns, step_ns):
            while True:
                try:
                    rows += self._client.write(body).rows
                    break
                except Overload as error:
                    if self._wait(error.retry_after_seconds):
                        return rows
        return rows

    def run(self, seconds: float | None, *, check: Callable[[], None] = lambda: None) -> None:
        """Go on for ``seconds``, for ever for None, or until told to stop; ``check`` is called every step."""
        self._started_ns = self._clock.now_ns()
        start_ns = self._started_ns + INCIDENT_AFTER_SECONDS * NS_PER_SECOND
        self._fleet.incidents = (Incident(start_ns, TARGET),)
        due = self._clock.monotonic()
        end = None if seconds is None else due + seconds
        while end is None or due < end:
            check()
            self.step()
            due = max(due + STEP_SECONDS, self._clock.monotonic())
            if self._wait(due - self._clock.monotonic()):
                return

    def step(self) -> None:
        """Push what the fleet reports now, and tell what has changed since the last step."""
        try:
            self._client.write(self._fleet.lines(self._clock.now_ns()))
            self._tell_alerts(self._client.alerts(state="all"))
            self._tell_decision(self._client.scale(TARGET))
        except TidegaugeError as error:
            if error.message != self._trouble:
                self._say(error.message)
            self._trouble = error.message
        else:
            self._trouble = ""

    def _tell_alerts(self, alerts: list[dict[str, Any]]) -> None:
        changed: dict[tuple[str, str], list[str]] = defaultdict(list)
        for alert in reversed(alerts):
            state = str(alert["state"])
            if self._states.get(alert["id"]) != state:
                self._states[alert["id"]] = state
                if state != "pending":
                    changed[state, str(alert["rule"])].append(str(alert["summary"]))
        for (state, rule), summaries in changed.items():
            more = f" (and {len(summaries) - 1} more)" if len(summaries) > 1 else ""
            self._say(f"alert {state}: {rule}: {summaries[0]}{more}")

    def _tell_decision(self, decision: dict[str, Any]) -> None:
        desired = decision["desired"]
        if desired != self._desired:
            before = "" if self._desired is None else f"from {self._desired} "
            self._say(f"scale {TARGET}: {before}to {desired} instances: {decision['reason']}")
            self._desired = desired

    def _say(self, text: str) -> None:
        seconds = (self._clock.now_ns() - self._started_ns) / NS_PER_SECOND
        self._write(f"{seconds:5.0f} s  {text}")
