"""The agent's rhythm, on a clock that moves only when told to."""

from __future__ import annotations

from collections.abc import Callable

from engine.clock import ManualClock
from engine.collect.agent import Agent
from engine.collect.points import Point
from engine.collect.sensors import Reading


class FakeSensors:
    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self.failures: tuple[str, ...] = ()
        self.reads = 0

    def read(self) -> Reading:
        self.reads += 1
        return Reading(self._clock.now_ns(), (Point("cpu", {"host": "h"}, {"usage_percent": 5.0}),), self.failures)


class FakePusher:
    def __init__(self) -> None:
        self.pushed: list[bytes] = []
        self.drained: list[float] = []
        self.while_pushing: Callable[[], None] = lambda: None
        self.delivers = True
        self.delivered_lines, self.refused_lines, self.lost_lines = 1, 2, 3
        self.waiting_batches, self.waiting_bytes = 4, 5

    def push(self, body: bytes) -> bool:
        self.pushed.append(body)
        self.while_pushing()
        return self.delivers

    def drain(self, *, seconds: float) -> bool:
        self.drained.append(seconds)
        return True


class Rig:
    def __init__(self, *, stop_after: int, interval_seconds: float = 10.0) -> None:
        self.clock = ManualClock()
        self.sensors = FakeSensors(self.clock)
        self.pusher = FakePusher()
        self.waits: list[float] = []
        self.said: list[str] = []

        def wait(seconds: float) -> bool:
            self.waits.append(seconds)
            self.clock.advance(seconds)
            return len(self.waits) > stop_after

        self.agent = Agent(
            self.sensors,  # type: ignore[arg-type]
            self.pusher,  # type: ignore[arg-type]
            self.clock,
            host="h",
            interval_seconds=interval_seconds,
            wait=wait,
            report=self.said.append,
        )


def test_readings_keep_their_rhythm_whatever_sending_takes() -> None:
    rig = Rig(stop_after=3)
    rig.pusher.while_pushing = lambda: rig.clock.advance(4.0)
    rig.agent.run()
    assert rig.waits == [1.0, 6.0, 6.0, 6.0]
    assert len(rig.pusher.pushed) == 3
    assert rig.pusher.drained == [5.0] * 3
    assert rig.said == []


def test_readings_that_come_too_late_are_left_out_and_told() -> None:
    rig = Rig(stop_after=2)
    rig.pusher.while_pushing = lambda: rig.clock.advance(25.0)
    rig.agent.run()
    assert rig.waits == [1.0, 5.0, 5.0]
    assert rig.said == ["reading and sending took too long: left out 2 readings"] * 2


def test_the_first_reading_only_primes_the_counters() -> None:
    rig = Rig(stop_after=0)
    rig.agent.run()
    assert (rig.sensors.reads, rig.pusher.pushed) == (1, [])


def test_once_pushes_one_reading_and_tells_whether_it_arrived() -> None:
    rig = Rig(stop_after=9)
    assert rig.agent.once()
    rig.pusher.delivers = False
    assert not rig.agent.once()
    assert len(rig.pusher.pushed) == 2
    assert rig.sensors.reads == 4


def test_the_agent_reports_on_itself() -> None:
    rig = Rig(stop_after=1)
    rig.agent.run()
    time_ns = 1_700_000_001_000_000_000
    assert rig.pusher.pushed == [
        b"cpu,host=h usage_percent=5.0 %d\n"
        b"agent,host=h read_seconds=0.0,sensor_failures_total=0i,delivered_lines_total=1i,refused_lines_total=2i,"
        b"lost_lines_total=3i,buffered_batches=4i,buffered_bytes=5i %d\n" % (time_ns, time_ns)
    ]


def test_a_failing_sensor_is_told_when_it_begins_to_fail() -> None:
    rig = Rig(stop_after=9)
    for failures in ((), ("cannot read sensor a: x",), ("cannot read sensor a: x",), (), ("cannot read sensor a: x",)):
        rig.sensors.failures = failures
        rig.agent.tick()
    assert rig.said == ["cannot read sensor a: x"] * 2
    assert b"sensor_failures_total=3i" in rig.pusher.pushed[-1]
