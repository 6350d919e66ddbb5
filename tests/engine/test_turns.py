"""Turns of queries: who goes next, how many at once, who is sent away; with time passed in and nothing that sleeps."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from api.turns import turn_of
from engine.catalog.callers import EVERYONE, Caller
from engine.errors import QueueFull
from engine.query.turns import Turn, Turns
from engine.vitals import Vitals


class Time:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def turns_of(time: Time | None = None, vitals: Vitals | None = None, **changes: Any) -> Turns:
    options: dict[str, Any] = {
        "at_once": 2,
        "waiting": 100,
        "patience_seconds": 30.0,
        "caller_at_once": 2,
        "caller_waiting": 50,
        "monotonic": time or Time(),
        "vitals": vitals or Vitals(),
    }
    return Turns("sql", **(options | changes))


def runs(turn: Turn) -> bool:
    return turn.granted.done()


def served(turns: Turns, time: Time, queue: list[Turn], seconds: dict[str, float], count: int) -> list[str]:
    """Let the queries run one after the other; return whose they were."""
    order = []
    for _ in range(count):
        (running,) = [turn for turn in queue if runs(turn)]
        queue.remove(running)
        order.append(running.line.name)
        time.now += seconds.get(running.line.name, 0.0)
        turns.leave(running)
    return order


def test_callers_alternate_however_many_queries_one_has() -> None:
    time = Time()
    turns = turns_of(time, at_once=1)
    queue = [turns.enter(Caller("greedy")) for _ in range(20)]
    queue += [turns.enter(Caller("modest")) for _ in range(3)]
    order = served(turns, time, queue, {}, 8)
    assert order == ["greedy", "modest", "greedy", "modest", "greedy", "modest", "greedy", "greedy"]


def test_time_is_shared_by_weight_not_by_number() -> None:
    time = Time()
    turns = turns_of(time, at_once=1)
    queue = [turns.enter(Caller("heavy", weight=3)) for _ in range(40)]
    queue += [turns.enter(Caller("light")) for _ in range(40)]
    # Of 16 seconds of queries of one second each, three quarters are of the weight of three quarters.
    assert Counter(served(turns, time, queue, {"heavy": 1.0, "light": 1.0}, 16)) == {"heavy": 12, "light": 4}


def test_one_with_long_queries_gets_fewer() -> None:
    time = Time()
    turns = turns_of(time, at_once=1)
    queue = [turns.enter(Caller("slow")) for _ in range(20)]
    queue += [turns.enter(Caller("quick")) for _ in range(40)]
    order = served(turns, time, queue, {"slow": 5.0, "quick": 1.0}, 24)
    assert order.count("quick") == 5 * order.count("slow")


def test_a_query_that_still_runs_counts_already() -> None:
    time = Time()
    turns = turns_of(time, at_once=2)
    long = turns.enter(Caller("a"))
    other = turns.enter(Caller("b"))
    waits = [turns.enter(Caller("a")), turns.enter(Caller("b"))]
    time.now = 10.0
    turns.leave(other)
    # Both have had ten seconds; b's are over, a's go on: the earlier arrival of the two goes, then the other.
    assert [runs(turn) for turn in waits] == [True, False]
    time.now = 20.0
    turns.leave(waits[0])
    assert runs(waits[1])
    turns.leave(long)


def test_who_has_been_away_does_not_catch_up() -> None:
    time = Time()
    turns = turns_of(time, at_once=1)
    turns.leave(turns.enter(Caller("away")))
    queue = [turns.enter(Caller("busy")) for _ in range(30)]
    served(turns, time, queue, {"busy": 1.0}, 10)
    queue += [turns.enter(Caller("away")) for _ in range(10)]
    order = served(turns, time, queue, {"busy": 1.0, "away": 1.0}, 10)
    assert order.count("away") == 5


def test_a_caller_cannot_take_every_turn() -> None:
    turns = turns_of(at_once=4, caller_at_once=3)
    greedy = [turns.enter(Caller("greedy")) for _ in range(10)]
    assert sum(map(runs, greedy)) == 3
    assert runs(turns.enter(Caller("modest")))
    turns = turns_of(at_once=4)
    assert [runs(turns.enter(Caller("own", concurrency=1))) for _ in range(2)] == [True, False]


def test_without_tokens_nobody_is_held_to_a_callers_limit() -> None:
    turns = turns_of(at_once=4, caller_at_once=1, caller_waiting=0)
    assert sum(runs(turns.enter(EVERYONE)) for _ in range(6)) == 4


def test_a_callers_own_queue_is_full_before_the_others() -> None:
    turns = turns_of(at_once=1, caller_waiting=2)
    for _ in range(3):
        turns.enter(Caller("greedy"))
    with pytest.raises(QueueFull, match="2 of 'greedy' are waiting already") as refused:
        turns.enter(Caller("greedy"))
    assert refused.value.retry_after_seconds == 1
    turns.enter(Caller("modest"))
    with pytest.raises(QueueFull, match="0 of 'hurried' are waiting already"):
        turns.enter(Caller("hurried", queue=0))


def test_the_whole_queue_is_full() -> None:
    turns = turns_of(at_once=1, waiting=1)
    turns.enter(EVERYONE)
    turns.enter(EVERYONE)
    with pytest.raises(QueueFull, match=r"1 are waiting already \(query.queue\)"):
        turns.enter(EVERYONE)


def test_retry_after_follows_how_long_turns_take() -> None:
    time = Time()
    turns = turns_of(time, at_once=1, waiting=4)
    queue = [turns.enter(EVERYONE) for _ in range(5)]
    for _ in range(100):
        time.now += 3.0
        turns.leave(next(turn for turn in queue if runs(turn)))
        queue = [turn for turn in queue if not runs(turn) or turn in turn.line.running]
        queue.append(turns.enter(EVERYONE))
    with pytest.raises(QueueFull) as refused:
        turns.enter(EVERYONE)
    # Four wait and one more would, three seconds each.
    assert refused.value.retry_after_seconds == 15


def test_whoever_no_longer_waits_leaves_its_place() -> None:
    turns = turns_of(at_once=1)
    first, second, third = (turns.enter(EVERYONE) for _ in range(3))
    turns.leave(second)
    turns.leave(second)
    turns.leave(first)
    assert runs(third)
    assert not runs(second)


def test_waiting_in_vain_is_an_error_and_frees_the_place() -> None:
    turns = turns_of(at_once=1, patience_seconds=0.0)
    held = turns.enter(EVERYONE)
    with pytest.raises(QueueFull, match="its turn did not come within 0 s"), turns.take(EVERYONE):
        raise AssertionError
    turns.leave(held)
    with turns.take(EVERYONE):
        pass


def test_a_coroutine_waits_without_a_thread_and_leaves_when_it_is_cancelled() -> None:
    turns = turns_of(at_once=1)
    order: list[str] = []

    async def query(name: str, until: asyncio.Event, began: asyncio.Event) -> None:
        async with turn_of(turns, EVERYONE):
            order.append(name)
            began.set()
            await until.wait()

    async def main() -> None:
        ends = {name: asyncio.Event() for name in "abc"}
        begins = {name: asyncio.Event() for name in "abc"}
        tasks = {name: asyncio.create_task(query(name, ends[name], begins[name])) for name in "abc"}
        await begins["a"].wait()
        tasks["b"].cancel()
        await asyncio.gather(tasks["b"], return_exceptions=True)
        ends["a"].set()
        await begins["c"].wait()
        ends["c"].set()
        await asyncio.gather(tasks["a"], tasks["c"])

    asyncio.run(main())
    assert order == ["a", "c"]


def test_metrics_tell_turns_by_token() -> None:
    time, vitals = Time(), Vitals()
    turns = turns_of(time, vitals, at_once=1, caller_waiting=1)
    first = turns.enter(Caller("a"))
    turns.enter(Caller("a"))
    with pytest.raises(QueueFull):
        turns.enter(Caller("a"))
    time.now = 2.5
    text = vitals.render().decode()
    assert 'tidegauge_query_running{path="sql",token="a"} 1.0' in text
    assert 'tidegauge_query_waiting{path="sql",token="a"} 1.0' in text
    turns.leave(first)
    text = vitals.render().decode()
    assert 'tidegauge_query_turn_seconds_total{path="sql",token="a"} 2.5' in text
    assert 'tidegauge_query_turns_total{outcome="granted",path="sql",token="a"} 2.0' in text
    assert 'tidegauge_query_turns_total{outcome="refused",path="sql",token="a"} 1.0' in text


class History(RuleBasedStateMachine):
    """Whatever comes and goes: limits hold, no turn stays unused, each caller's queries go in order."""

    def __init__(self) -> None:
        super().__init__()
        self.time = Time()
        self.turns = turns_of(self.time, at_once=3, waiting=8, caller_at_once=2, caller_waiting=5)
        self.open: list[Turn] = []

    @rule(name=st.sampled_from(["", "a", "b", "c"]), weight=st.sampled_from([1, 2]))
    def enters(self, name: str, weight: int) -> None:
        waiting = sum(not runs(turn) for turn in self.open)
        mine = sum(not runs(turn) and turn.line.name == name for turn in self.open)
        try:
            self.open.append(self.turns.enter(Caller(name, weight=weight)))
        except QueueFull:
            assert waiting >= 8 or (name and mine >= 5)

    @rule(which=st.integers(0, 20), seconds=st.sampled_from([0.0, 0.5, 3.0]))
    def leaves(self, which: int, seconds: float) -> None:
        if self.open:
            self.time.now += seconds
            self.turns.leave(self.open.pop(which % len(self.open)))

    @invariant()
    def holds(self) -> None:
        running = [turn for turn in self.open if runs(turn)]
        waiting = [turn for turn in self.open if not runs(turn)]
        by_name = Counter(turn.line.name for turn in running)
        assert len(running) <= 3
        assert all(count <= 2 for name, count in by_name.items() if name)
        if len(running) < 3:
            assert all(turn.line.name and by_name[turn.line.name] == 2 for turn in waiting)
        for name in {turn.line.name for turn in waiting}:
            last = max((turn.number for turn in running if turn.line.name == name), default=0)
            assert last < min(turn.number for turn in waiting if turn.line.name == name)

    def teardown(self) -> None:
        for turn in self.open:
            self.turns.leave(turn)
        assert runs(self.turns.enter(EVERYONE))


TestHistory = History.TestCase
TestHistory.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
