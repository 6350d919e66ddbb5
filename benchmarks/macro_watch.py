"""One tick of all alert rules: an engine in this process, 10,000 tag sets of ten fields, two rules a field.

Each rule looks at 10,000 series, of which about one in a hundred breaks it and fires; nothing changes between
ticks, which is what a tick finds nearly always.  Then the same rules over groups, ratios and ages, against past days,
ahead of time, and a mix of all kinds, none of which fires.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.devops import CPU, Float64Array
from benchmarks.encoding import line_batches
from benchmarks.generator import DataShape, DevopsGenerator
from benchmarks.measure import summarise
from benchmarks.report import SuiteReport
from benchmarks.settings import INTERVAL_NS, Settings
from engine.clock import NS_PER_DAY, NS_PER_MINUTE

if TYPE_CHECKING:
    from engine.config import Rule
    from engine.runtime import Engine

HOSTS = 10_000
HIGH, LOW = 99.0, 1.0
NEVER = 1e12
WARM_UP_TICKS = 3
#: What rules that look at the past find there.
PAST_DAYS = 4
RECENT_STEPS, RECENT_STEP_NS = 12, 10 * NS_PER_MINUTE


def run(settings: Settings, folder: Path) -> SuiteReport:
    """Measure the tick as the server runs it, and judging alone on values already read."""
    from msgspec.structs import replace

    from engine.config import Config, Watch
    from engine.config_units import Duration
    from engine.runtime import Engine

    ticks = settings.repetitions(full=100, quick=20)
    hosts = settings.hosts or HOSTS
    shape = DataShape(hosts=hosts, steps=1, seed=settings.seed, values="full", start_ns=time.time_ns() - INTERVAL_NS)
    generator = DevopsGenerator(shape)
    rules = _rules()
    report = SuiteReport(
        suite="",
        title="",
        data=shape.describe(),
        shape={"rules": len(rules), "series_per_rule": hosts, "ticks": ticks},
    )
    watch = Watch(tick=Duration.parse("5m"), stale_after=Duration.parse("1d"), default_rules=False)
    with Engine.open(str(folder / "data"), Config(rules=rules, watch=watch), mode="embedded") as engine:
        for body in line_batches(generator):
            engine.submit_lines(body).result()
        for _ in range(WARM_UP_TICKS):
            engine.watcher.tick()
        wrong = _wrong_states(engine, generator)
        report.check("the rules fire for the right series", not wrong, wrong)
        seconds = []
        for _ in range(ticks):
            began = time.perf_counter()
            events = engine.watcher.tick()
            seconds.append(time.perf_counter() - began)
            if events:
                report.check("nothing changes between ticks", False, f"got {events} events, want 0")
        report.add_summary("tick: read, judge, record", summarise(seconds), "ms", "lower", scale=1e3)
        judged = summarise(_judging_seconds(engine, ticks))
        report.add_summary("judge only", judged, "ms", "lower", scale=1e3)
        rate = hosts * len(rules) / summarise(seconds).median
        report.add("series judged", rate, "series/s", "higher", spread=summarise(seconds).spread, runs=ticks)
        for name, changed in _kinds(rules).items():
            engine.watcher.replace(replace(engine.config, rules=changed))
            for _ in range(WARM_UP_TICKS):
                engine.watcher.tick()
            report.add_summary(f"tick: {name}", summarise(_tick_seconds(engine, ticks)), "ms", "lower", scale=1e3)
        for body in _history(shape):
            engine.submit_lines(body).result()
        for name, changed in _related(rules).items():
            engine.watcher.replace(replace(engine.config, rules=changed))
            began = time.perf_counter()
            engine.watcher.prepare()
            report.add(f"read the past: {name}", (time.perf_counter() - began) * 1e3, "ms", "lower")
            for _ in range(WARM_UP_TICKS):
                engine.watcher.tick()
            without = _without_value(engine)
            report.check(f"every series has a value: {name}", not without, without)
            wall, processor = _tick_seconds(engine, ticks), _tick_seconds(engine, ticks, time.process_time)
            report.add_summary(f"tick: {name}", summarise(wall), "ms", "lower", scale=1e3)
            report.add_summary(f"tick: {name}, CPU", summarise(processor), "ms", "lower", scale=1e3)
    return report


def _tick_seconds(engine: Engine, ticks: int, clock: Callable[[], float] = time.perf_counter) -> list[float]:
    seconds = []
    for _ in range(ticks):
        began = clock()
        engine.watcher.tick()
        seconds.append(clock() - began)
    return seconds


def _history(shape: DataShape) -> Iterator[bytes]:
    """Yield samples of the same series in this hour of past days and within the last two hours."""
    newest_ns = shape.start_ns
    days = [newest_ns - day * NS_PER_DAY for day in range(1, PAST_DAYS + 1)]
    recent = [newest_ns - step * RECENT_STEP_NS for step in range(1, RECENT_STEPS + 1)]
    for start_ns in (*days, *reversed(recent)):
        past = dataclasses.replace(shape, start_ns=start_ns)
        yield from line_batches(DevopsGenerator(past))


def _without_value(engine: Engine) -> str:
    """Return which rules have series that nothing can be said of."""
    few = [each for each in engine.rule_watch.status() if not each.series or each.firing]
    return ", ".join(f"{each.rule.name}: {each.series} series, {each.firing} fire" for each in few)


def _related(rules: tuple[Rule, ...]) -> dict[str, tuple[Rule, ...]]:
    """Return the rules as ones that look at the past, at levels that nothing breaks."""
    from msgspec.structs import replace

    from engine.config_units import Duration

    quiet = tuple(replace(rule, op=">", threshold=NEVER) for rule in rules)
    compared = tuple(replace(rule, compare_with="days", compare_past=PAST_DAYS) for rule in quiet)
    ahead = tuple(replace(rule, forecast=Duration.parse("4h"), forecast_from=Duration.parse("2h")) for rule in quiet)
    kinds = (quiet, compared, ahead, *_kinds(rules).values())
    return {
        "against past days": compared,
        "ahead of time": ahead,
        "a mix": tuple(kinds[place % len(kinds)][place] for place in range(len(rules))),
    }


def _kinds(rules: tuple[Rule, ...]) -> dict[str, tuple[Rule, ...]]:
    """Return the rules as rules of other kinds, at levels that nothing breaks."""
    from msgspec.structs import replace

    quiet = tuple(replace(rule, op=">", threshold=NEVER) for rule in rules)
    return {
        "groups by region": tuple(replace(rule, group_by=("region",)) for rule in quiet),
        "groups of ten hosts or so": tuple(replace(rule, group_by=("region", "datacenter", "rack")) for rule in quiet),
        "ratios": tuple(replace(rule, divide_by=f"{CPU.name}_{CPU.field_names[0]}") for rule in quiet),
        "ages": tuple(replace(rule, aggregate="age") for rule in quiet),
    }


def _rules() -> tuple[Rule, ...]:
    from engine.config import Rule

    high = [
        Rule(name=f"high-{field}", metric=f"{CPU.name}_{field}", op=">", threshold=HIGH) for field in CPU.field_names
    ]
    low = [Rule(name=f"low-{field}", metric=f"{CPU.name}_{field}", op="<", threshold=LOW) for field in CPU.field_names]
    return (*high, *low)


def _wrong_states(engine: Engine, generator: DevopsGenerator) -> str:
    """Return which rule has another number of firing series than the generated values give."""
    (block,) = generator.blocks()
    values: Float64Array = block.columns[CPU.name][:, 0]
    for status in engine.rule_watch.status():
        column = values[CPU.field_names.index(status.rule.metric.removeprefix(f"{CPU.name}_"))]
        want = int(np.sum(column > HIGH if status.rule.op == ">" else column < LOW))
        if status.firing != want or status.series != len(column):
            got = f"got {status.firing} of {status.series} firing, want {want} of {len(column)}"
            return f"{status.rule.name}: {got}"
    return ""


def _judging_seconds(engine: Engine, ticks: int) -> list[float]:
    from engine.alerting.evaluator import evaluate
    from engine.alerting.rules import RuleInput
    from engine.alerting.states import EMPTY_STATE

    stale_after_ns = int(engine.config.watch.stale_after)
    now_ns = engine.clock.now_ns()
    inputs = []
    for rule in engine.config.rules:
        observed = engine.observer.values(rule.metric, rule.matchers, now_ns)
        inputs.append(RuleInput(observed.tagset_ids, observed.values, observed.times))
    states = [EMPTY_STATE] * len(inputs)
    seconds = []
    for tick in range(ticks + WARM_UP_TICKS):
        began = time.perf_counter()
        for index, (rule, given) in enumerate(zip(engine.config.rules, inputs, strict=True)):
            states[index] = evaluate(rule, states[index], given, now_ns, stale_after_ns=stale_after_ns).next_state
        if tick >= WARM_UP_TICKS:
            seconds.append(time.perf_counter() - began)
    return seconds
