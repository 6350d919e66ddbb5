"""What a target's load has been, read from stored samples, and the model that starts with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.clock import NS_PER_MINUTE, NS_PER_SECOND, ManualClock
from engine.config import KEEP_ALL, Config, Query, ScaleTarget, Signal
from engine.maintenance.loads import STEPS, loads_so_far
from engine.query.range import RangeAnswer, RangeQuery
from engine.query.serieslist import SeriesPoints
from engine.runtime import Engine
from engine.scaling.demand import LEAST_SLOTS, SLOT_NS

NOW_NS = 1_700_000_000 * NS_PER_SECOND // NS_PER_MINUTE * NS_PER_MINUTE
TARGET = ScaleTarget(target="web", match={"service": "web"}, signals=(Signal(kind="cpu"),))


def answering(*lines: dict[int, float]) -> list[tuple[int, float]]:
    """Return what is made of lines of {minutes before now: value}."""
    asked: list[RangeQuery] = []

    def read(query: RangeQuery) -> RangeAnswer:
        asked.append(query)
        answer = RangeAnswer(query.metric, "avg", query.step_ns, "raw")
        for line in lines:
            ago = sorted(line, reverse=True)
            times = np.array([NOW_NS - minutes * NS_PER_MINUTE for minutes in ago], np.int64)
            answer.series.extend([SeriesPoints({}, times, np.array([line[minutes] for minutes in ago]))])
        return answer

    found = list(loads_so_far(TARGET, NOW_NS + 5, read))
    assert [(query.by, query.metric) for query in asked] == [(("host",), "cpu_usage_percent")]
    assert asked[0].start_ns == NOW_NS - STEPS * NS_PER_MINUTE
    return found


def test_a_minutes_load_is_the_sum_of_its_instances() -> None:
    found = answering({3: 50.0, 2: 70.0}, {3: 30.0, 2: 30.0})
    assert found[:4] == [(NOW_NS - 3 * NS_PER_MINUTE + slot * SLOT_NS, 0.8) for slot in range(4)]
    assert [load for _, load in found[4:8]] == [1.0] * 4


def test_an_instance_that_is_silent_for_a_while_counts_as_before() -> None:
    by_minute = [load for _, load in answering({9: 50.0, 8: 50.0, 7: 50.0, 6: 50.0, 5: 50.0}, {9: 30.0, 5: 40.0})[::4]]
    assert by_minute == pytest.approx([0.8, 0.8, 0.8, 0.5, 0.9, 0.9, 0.9])


def test_signals_that_are_more_than_a_metric_give_nothing() -> None:
    def never(query: RangeQuery) -> RangeAnswer:
        raise AssertionError

    for signal in (Signal(kind="memory"), Signal(kind="cpu", across="max"), Signal(kind="cpu", divide_by="cores")):
        target = ScaleTarget(target="web", match={}, signals=(signal,))
        assert list(loads_so_far(target, NOW_NS, never)) == []


def test_after_a_restart_the_load_is_known_at_once(tmp_path: Path) -> None:
    config = Config(query=Query(in_process=True), retention=KEEP_ALL, scale=(TARGET,))
    lines = [
        f"cpu,service=web,host={host} usage_percent={40 + minute % 7} {NOW_NS - minute * NS_PER_MINUTE}"
        for minute in range(26 * 60)
        for host in ("a", "b")
    ]
    with Engine(str(tmp_path / "data"), config, clock=ManualClock(NOW_NS)) as engine:
        engine.submit_lines("\n".join(lines).encode(), 1).result(30)
    with Engine(str(tmp_path / "data"), config, clock=ManualClock(NOW_NS + NS_PER_SECOND)) as engine:
        assert engine.recovery.wait(30)
        now = "\n".join(f"cpu,service=web,host={host} usage_percent=40 {NOW_NS + 1}" for host in ("a", "b"))
        engine.submit_lines(now.encode(), 1).result(30)
        decision = engine.scale("web")
    (found,) = decision.inputs
    assert found.demand is not None
    assert found.demand.now == pytest.approx(0.8)
    assert 0.8 <= found.demand.high <= 1.2
    assert LEAST_SLOTS < STEPS
