"""Prompt answers are those of the general path, wherever samples are and whatever has become of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine.catalog.callers import EVERYONE, Caller
from engine.clock import NS_PER_DAY, NS_PER_HOUR, NS_PER_MINUTE, NS_PER_SECOND, ManualClock
from engine.config import Config, Query, Retention
from engine.config_units import Duration
from engine.hot import block
from engine.model.matchers import parse_matchers
from engine.model.rows import FOREVER_NS, NEVER_NS
from engine.query import prompt
from engine.query.prompt import PromptReader
from engine.query.range import RangeAnswer, RangeQuery
from engine.runtime import Engine

NOW_NS = 1_700_000_000 * NS_PER_SECOND // NS_PER_HOUR * NS_PER_HOUR
CONFIG = Config(retention=Retention(raw=Duration.parse("2d")), query=Query(in_process=True))
AGGREGATES = ("avg", "sum", "min", "max", "count", "first", "last", "increase", "rate")
HOSTS = 6


def lines(seed: int, hours: range, hosts: range = range(HOSTS), minute_step: int = 5, shift_ns: int = 0) -> bytes:
    """Lines of one measurement in order of time; some fields are missing."""
    rng = np.random.default_rng(seed)
    found = []
    for hour, minute, host in itertools.product(hours, range(0, 60, minute_step), hosts):
        fields = [f"busy={int(rng.integers(0, 99))}"]
        if rng.random() < 0.7:
            fields.append(f"idle={rng.integers(0, 9999) / 100}")
        zone = f",zone=z{host % 2}" if host % 5 else ""
        time_ns = NOW_NS + hour * NS_PER_HOUR + minute * NS_PER_MINUTE + host + shift_ns
        found.append(f"cpu,host=h{host}{zone} {','.join(fields)} {time_ns}")
    return "\n".join(found).encode()


QUERIES = [
    RangeQuery("cpu_busy", NOW_NS + start * NS_PER_MINUTE, NOW_NS + end * NS_PER_MINUTE, step, aggregate,
               parse_matchers(match), by, further_metrics=further, top=top)
    for (start, end, step), match, by, further, top in (
        ((-60, 60, NS_PER_MINUTE), 'host="h1"', None, (), None),
        ((-60, 60, 7 * NS_PER_MINUTE), 'host=~"h1|h2|h5"', (), ("cpu_idle",), None),
        ((-300, 60, NS_PER_HOUR), 'zone="z1"', ("zone",), ("cpu_idle",), None),
        ((-300, 60, 45 * NS_PER_MINUTE), "", ("zone", "rack"), (), None),
        ((-180, 59, NS_PER_HOUR), "", None, (), 2),
        ((-47, -12, NS_PER_MINUTE * 11), 'zone=""', None, ("cpu_idle",), None),
    )
    for aggregate in AGGREGATES
]  # fmt: skip


def told(answer: RangeAnswer) -> Any:
    series = [
        (line.metric, line.labels, line.times.tolist(), line.values.tolist(),
         None if line.sample_times is None else line.sample_times.tolist())
        for line in answer.series
    ]  # fmt: skip
    return answer.tier, answer.rows_read, answer.fresh_to_ns, answer.reason, series


def general(engine: Engine, query: RangeQuery, caller: Caller = EVERYONE) -> RangeAnswer:
    """Return the answer of the general path."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PromptReader, "read", lambda *_: None)
        return engine.query(query, caller)


def compared(engine: Engine, *, prompt_ones: bool = True) -> int:
    """Compare all queries, and return how many were prompt; ``prompt_ones``: those that can be have to be."""
    found = 0
    for query in QUERIES:
        answer = engine.prompt_query(query)
        expected = general(engine, query)
        assert told(engine.query(query)) == told(expected)
        if answer is not None:
            assert told(answer) == told(expected)
            found += 1
        elif prompt_ones:
            assert query.by is not None
            assert query.aggregate not in ("min", "max", "count")
    return found


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with Engine.open(str(tmp_path / "data"), CONFIG, clock=ManualClock(NOW_NS + NS_PER_HOUR)) as opened:
        opened.submit_lines(lines(1, range(-5, 1))).result(30)
        yield opened


def searched(engine: Engine) -> None:
    """Ask for everything once, so that columns of segments are kept."""
    for query in QUERIES:
        general(engine, query)


def test_rows_in_memory(engine: Engine) -> None:
    assert compared(engine) >= 3 * len(AGGREGATES)
    for table_id in engine.hot.table_ids():
        engine.hot.freeze(table_id)
    assert engine.hot.arrange() == 1
    engine.submit_lines(lines(2, range(1, 2))).result(30)
    assert compared(engine) >= 3 * len(AGGREGATES)


def test_rows_that_an_index_finds(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block, "UNINDEXED_ROWS", 1)
    # The block grows with these and has room for more.
    engine.submit_lines(lines(6, range(1, 2), range(1), minute_step=30)).result(30)
    (view,) = engine.hot.snapshot(engine.hot.table_ids()[0], NEVER_NS, FOREVER_NS)
    hot = view.block
    searched(engine)
    assert engine.hot.arrange() == 1
    assert engine.hot.arrange() == 0
    rows, index = hot.indexed_view()
    assert index is not None
    assert len(index.order) == len(rows)
    assert compared(engine) >= 3 * len(AGGREGATES)
    # Rows behind the index, and an index of rows that lie elsewhere now.
    engine.submit_lines(lines(2, range(1, 2), range(1, HOSTS), minute_step=20)).result(30)
    rows, index = hot.indexed_view()
    assert index is not None
    assert len(index.order) < len(rows)
    assert compared(engine) >= 3 * len(AGGREGATES)
    engine.hot.freeze(engine.hot.table_ids()[0])
    hot.sorted_view()
    assert hot.indexed_view()[1] is None
    assert compared(engine) >= 3 * len(AGGREGATES)


def test_rows_in_segments_whose_columns_are_kept(engine: Engine) -> None:
    engine.sealer.seal()
    engine.submit_lines(lines(3, range(1, 2))).result(30)
    assert compared(engine, prompt_ones=False) < len(QUERIES)
    searched(engine)
    assert compared(engine) >= 3 * len(AGGREGATES)


def test_no_file_is_opened_or_decoded_for_a_prompt_answer(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.sealer.seal()
    for query in QUERIES:
        assert engine.prompt_query(query) is None
    searched(engine)
    monkeypatch.setattr("engine.segments.columns.map_segment", None)
    monkeypatch.setattr(engine.samples, "read", None)
    assert engine.prompt_query(QUERIES[0]) is not None


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("shift_ns", [0, 7, -1])
def test_late_rows_correct_others_or_stand_between_them(engine: Engine, sealed: bool, shift_ns: int) -> None:
    if sealed:
        engine.sealer.seal()
        searched(engine)
    before = told(engine.query(QUERIES[0]))
    engine.submit_lines(lines(4, range(-1, 0), range(1, 4), shift_ns=shift_ns)).result(30)
    # The same once more: of late rows too the later one counts.
    engine.submit_lines(lines(5, range(-1, 0), range(2, 5), 10, shift_ns=shift_ns)).result(30)
    assert engine.hot.late_rows_total == 3 * 12 + 3 * 6
    assert told(engine.query(QUERIES[0])) != before
    assert compared(engine) >= 3 * len(AGGREGATES)
    engine.sealer.seal()
    searched(engine)
    assert compared(engine) >= 3 * len(AGGREGATES)


def test_many_late_rows_are_left_to_the_general_path(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.submit_lines(lines(4, range(-1, 0), range(1, 4))).result(30)
    assert engine.prompt_query(QUERIES[0]) is not None
    monkeypatch.setattr(prompt, "MAX_LATE_ROWS", 11)
    assert engine.prompt_query(QUERIES[0]) is None
    compared(engine, prompt_ones=False)


@pytest.mark.parametrize("sealed", [False, True])
def test_deleted_rows_are_gone(engine: Engine, sealed: bool) -> None:
    if sealed:
        engine.sealer.seal()
        searched(engine)
    before = told(engine.query(QUERIES[0]))
    engine.delete_series(parse_matchers('host="h1"'), start_ns=NOW_NS - NS_PER_HOUR, end_ns=NOW_NS)
    assert told(engine.query(QUERIES[0])) != before
    compared(engine, prompt_ones=False)


def test_new_series_and_fields_are_seen_at_once(engine: Engine) -> None:
    compared(engine)
    at = NOW_NS + 59 * NS_PER_MINUTE
    engine.submit_lines(f"cpu,host=h1,zone=z1,rack=r7 busy=5,idle=6 {at}\ncpu,host=h9 busy=7 {at + 1}".encode()).result(
        30
    )
    compared(engine)
    answer = engine.prompt_query(QUERIES[0])
    assert answer is not None
    assert [line.labels.get("rack") for line in answer.series] == [None, "r7"]
    query = replace(QUERIES[0], metric="cpu_steal")
    assert engine.prompt_query(query) is None
    engine.submit_lines(f"cpu,host=h1,zone=z1 steal=3 {at + 2}".encode()).result(30)
    answer = engine.prompt_query(query)
    assert answer is not None
    assert [line.values.tolist() for line in answer.series] == [[3.0]]


def test_rows_that_outlive_their_retention_are_not_seen(engine: Engine) -> None:
    engine.sealer.seal()
    searched(engine)
    clock = engine.clock
    assert isinstance(clock, ManualClock)
    clock.set_ns(NOW_NS + 2 * NS_PER_DAY - NS_PER_HOUR // 2)
    # Raw samples of the range's beginning are no longer kept: tiers are asked, or nothing is.
    assert engine.prompt_query(QUERIES[0]) is None
    engine.retainer.hide()
    engine.submit_lines(f"cpu,host=h1,zone=z1 busy=5 {NOW_NS + 2 * NS_PER_DAY - NS_PER_HOUR}".encode()).result(30)
    query = replace(QUERIES[0], start_ns=clock.now_ns() - 2 * NS_PER_DAY, end_ns=clock.now_ns())
    for asked in (query, replace(query, start_ns=query.start_ns + NS_PER_HOUR)):
        answer = engine.prompt_query(asked)
        assert answer is None or told(answer) == told(general(engine, asked))


def test_after_a_restart(engine: Engine, tmp_path: Path) -> None:
    engine.close()
    with Engine.open(str(tmp_path / "data"), CONFIG, clock=ManualClock(NOW_NS + NS_PER_HOUR)) as opened:
        searched(opened)
        opened.submit_lines(lines(5, range(1, 2))).result(30)
        assert compared(opened) >= 3 * len(AGGREGATES)


def test_a_limited_caller_sees_its_own(engine: Engine) -> None:
    caller = Caller("z", parse_matchers('zone="z1"'))
    for query in QUERIES:
        answer = engine.prompt_query(query, caller)
        if answer is not None:
            assert told(answer) == told(general(engine, query, caller))
            assert {line.labels.get("zone", "z1") for line in answer.series} == {"z1"}
    assert engine.prompt_query(QUERIES[0], Caller("y", parse_matchers('zone="z0"'))) is None


@pytest.mark.parametrize(
    "limit", ["MAX_CELLS", "MAX_LOOKED_THROUGH", "MAX_BUCKETS", "MAX_TAGSETS", "MAX_SOURCES", "MAX_LINES"]
)
def test_what_is_too_much_is_left_to_the_general_path(
    engine: Engine, limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prompt, limit, 0)
    assert engine.prompt_query(QUERIES[0]) is None
    compared(engine, prompt_ones=False)


def test_whoever_writes_is_not_waited_for(engine: Engine) -> None:
    class Busy:
        def acquire(self, blocking: bool) -> bool:
            assert not blocking
            return False

    engine.hot.lock, lock = Busy(), engine.hot.lock  # type: ignore[assignment]
    try:
        assert engine.prompt_query(QUERIES[0]) is None
    finally:
        engine.hot.lock = lock


def test_mistakes_empty_answers_and_queues_are_for_the_general_path(engine: Engine) -> None:
    good = QUERIES[0]
    for wrong in (
        replace(good, aggregate="median"),
        replace(good, step_ns=0),
        replace(good, metric="none"),
        replace(good, further_metrics=("none",)),
        replace(good, end_ns=good.start_ns),
        replace(good, start_ns=0, end_ns=10),
        replace(good, aggregate="p90"),
    ):
        assert engine.prompt_query(wrong) is None
    turns = [engine.query_turns.enter(EVERYONE) for _ in range(CONFIG.query.concurrency)]
    assert engine.prompt_query(good) is None
    for turn in turns:
        engine.query_turns.leave(turn)
    assert engine.prompt_query(good) is not None


def test_answers_are_the_askers_own(engine: Engine) -> None:
    first = engine.query(QUERIES[0])
    first.series[0].labels["host"] = "changed"
    assert engine.query(QUERIES[0]).series[0].labels["host"] == "h1"


def test_a_prompt_answer_counts_as_a_turn_and_a_query(engine: Engine) -> None:
    def counted() -> tuple[float, float]:
        read = engine.vitals.registry.get_sample_value
        labels = {"path": "query"}
        return (
            read("tidegauge_query_turns_total", labels | {"token": "me", "outcome": "granted"}) or 0.0,
            read("tidegauge_query_seconds_count", labels) or 0.0,
        )

    before = counted()
    assert engine.prompt_query(QUERIES[0], Caller("me")) is not None
    assert counted() == (before[0] + 1, before[1] + 1)
