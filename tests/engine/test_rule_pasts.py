"""Rules that look back over what is kept in tiers alone: an engine that lives through five weeks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.clock import NS_PER_SECOND, ManualClock
from engine.config import Config, Query, Rule, Watch
from engine.config_units import Duration
from engine.runtime import Engine

S = NS_PER_SECOND
HOUR, WEEK = 3_600 * S, 7 * 86_400 * S
#: A full hour.
T0 = 1_699_999_200 * S


def rule(name: str, **changes: Any) -> Rule:
    values: dict[str, Any] = {"metric": "t_x", "op": ">", "threshold": 0.0, "compare_as": "ratio", **changes}
    return Rule(name=name, **values)


RULES = (
    rule("gauge", compare_with="weeks"),
    rule("counter", metric="t_n_total", aggregate="increase", over=Duration(600 * S), compare_with="weeks"),
    rule("group", metric="t_n_total", aggregate="rate", over=Duration(600 * S), compare_with="weeks", group_by=()),
    rule("ratio", metric="t_n_total", divide_by="t_x", compare_with="weeks", compare_past=2),
    rule("forecast", forecast=Duration(WEEK), forecast_from=Duration(28 * 86_400 * S)),
)


def lines(start_ns: int, x: float, step: float) -> bytes:
    """One hour of two hosts, a sample a minute; of the second host everything is twice as much."""
    return "".join(
        f"t,host={host} x={x * times},n_total={step * times * minute} {start_ns + minute * 60 * S}\n"
        for minute in range(60)
        for host, times in (("a", 1), ("b", 2))
    ).encode()


def test_what_is_usual_comes_from_tiers_once_raw_samples_are_gone(tmp_path: Path) -> None:
    clock = ManualClock(T0)
    watch = Watch(default_rules=False, tick=Duration(300 * S))
    config = Config(rules=RULES, watch=watch, query=Query(in_process=True))
    with Engine.open(str(tmp_path / "data"), config, clock=clock, mode="embedded") as engine:
        for week in range(5):
            clock.set_ns(T0 + week * WEEK + HOUR - S)
            # 10, 20, 30, 40 and then 50; 6, 12, 18, 24 and then 30 a minute.
            engine.submit_lines(lines(T0 + week * WEEK, 10.0 * (week + 1), 6.0 * (week + 1))).result()
            for day in (2, 4) if week < 4 else ():
                clock.set_ns(T0 + week * WEEK + day * 24 * HOUR)
                x = 10.0 * (week + 1 + day / 7)
                engine.submit_lines(
                    f"t,host=a x={x} {clock.now_ns()}\nt,host=b x={2 * x} {clock.now_ns()}".encode()
                ).result()
            engine.flush_rollups()
        engine.retainer.run()
        now_ns = clock.now_ns()
        assert engine.admission.oldest_ns(now_ns, engine.catalog.table_id("t")) > T0 + 3 * WEEK
        found = {name: given.values.tolist() for name, given in engine.watcher.inputs.of_all(RULES, now_ns).items()}
        assert engine.watcher.inputs.problems == {}
    # The median of the four weeks is 25, and 15 a minute; a past hour has 59 of its 60 steps.
    assert found["gauge"] == pytest.approx([2.0, 2.0])
    assert found["counter"] == pytest.approx([2.0 * 60 / 59] * 2)
    assert found["group"] == pytest.approx([2.0 * 60 / 59])
    # 59 steps of 30 over 50 now; averages of 29.5 steps of 18 over 30 and of 24 over 40 then.
    assert found["ratio"] == pytest.approx([2.0, 2.0])
    # 10 a week more for the first host.
    assert found["forecast"] == pytest.approx([60.0, 120.0], rel=0.02)
