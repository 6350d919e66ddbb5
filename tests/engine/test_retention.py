"""Retention: what is too old goes, in whole minutes, and nothing else does."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.clock import NS_PER_DAY, NS_PER_HOUR, NS_PER_MINUTE, NS_PER_SECOND, ManualClock
from engine.config import Config, Query, Retention, TableRetention
from engine.config_units import Duration
from engine.runtime import Engine

NOW_NS = 1_700_000_000 * NS_PER_SECOND
CONFIG = Config(
    retention=Retention(
        raw=Duration.parse("1d"), rollup_1m=Duration.parse("2d"), rollup_5m=Duration.parse("3d"), tables=()
    ),
    query=Query(in_process=True),
)


def counts(engine: Engine) -> dict[str, int]:
    found = {}
    for relation, count in (("samples", "count(*)"), ("rollup_1m", "sum(count)"), ("rollup_5m", "sum(count)")):
        found[relation] = engine.sql(f"SELECT coalesce({count}, 0) AS n FROM {relation}").table["n"][0].as_py()
    return found


def write(engine: Engine, *times: int) -> None:
    engine.submit_lines("\n".join(f"t,host=a x={at}i {time}" for at, time in enumerate(times)).encode()).result(30)


def test_raw_samples_and_tiers_go_when_their_time_is_over(tmp_path: Path) -> None:
    clock = ManualClock(NOW_NS)
    with Engine.open(str(tmp_path / "data"), CONFIG, clock=clock) as engine:
        write(engine, *(NOW_NS - hours * NS_PER_HOUR for hours in range(20)))
        engine.sealer.seal()
        write(engine, NOW_NS - 10 * NS_PER_MINUTE)
        engine.retainer.run()
        assert counts(engine) == {"samples": 21, "rollup_1m": 21, "rollup_5m": 21}
        for hours, expected in (
            (25, {"samples": 0, "rollup_1m": 21, "rollup_5m": 21}),
            (25, {"samples": 0, "rollup_1m": 0, "rollup_5m": 21}),
            (48, {"samples": 0, "rollup_1m": 0, "rollup_5m": 0}),
        ):
            clock.advance(hours * 3_600)
            engine.retainer.run()
            assert counts(engine) == expected


def test_a_late_sample_at_the_edge_of_retention_recomputes_a_whole_minute(tmp_path: Path) -> None:
    clock = ManualClock(NOW_NS)
    with Engine.open(str(tmp_path / "data"), CONFIG, clock=clock) as engine:
        minute = (NOW_NS - NS_PER_DAY) // NS_PER_MINUTE * NS_PER_MINUTE + 5 * NS_PER_MINUTE
        write(engine, *(minute + at * 10 * NS_PER_SECOND for at in range(5)))
        clock.set_ns(minute + NS_PER_DAY + 30 * NS_PER_SECOND)
        engine.retainer.run()
        write(engine, minute + 50 * NS_PER_SECOND)
        assert counts(engine)["rollup_1m"] == 6


TIERS_NS = {
    "rollup_1m": (NS_PER_MINUTE, 5 * NS_PER_MINUTE),
    "rollup_5m": (5 * NS_PER_MINUTE, 15 * NS_PER_MINUTE),
    "rollup_15m": (15 * NS_PER_MINUTE, NS_PER_HOUR),
    "rollup_1h": (NS_PER_HOUR, NS_PER_DAY),
    "rollup_1d": (NS_PER_DAY, NS_PER_DAY),
}


def oldest(engine: Engine, relation: str, table: str) -> int | None:
    found = engine.sql(f"SELECT min(epoch_ns(time)) AS t FROM {relation} WHERE metric = ?", [f"{table}_x"])
    return found.table["t"][0].as_py()


def test_each_layer_table_and_tier_keeps_what_it_is_to_over_simulated_years(tmp_path: Path) -> None:
    """A sample every five days in three tables; what is visible is exactly what each table's settings say."""
    days = Duration.parse
    config = Config(
        retention=Retention(
            rollup_1h=days("400d"),
            tables=(
                TableRetention(match="business*", raw=days("30d")),
                TableRetention(
                    match="audit",
                    raw=days("2d"),
                    rollup_1m=days("3d"),
                    rollup_1h=days("50d"),
                    rollup_1d=days("300d"),
                ),
            ),
        ),
        query=Query(in_process=True),
    )
    # Where a setting is shorter than that of a finer tier, the finer one counts.
    kept_days = {
        "cpu": {"samples": 7, "rollup_1m": 30, "rollup_5m": 90, "rollup_15m": 180, "rollup_1h": 400},
        "business_orders": {"samples": 30, "rollup_1m": 30, "rollup_5m": 90, "rollup_15m": 180, "rollup_1h": 400},
        "audit": {
            "samples": 2, "rollup_1m": 3, "rollup_5m": 90, "rollup_15m": 180, "rollup_1h": 180, "rollup_1d": 300
        },
    }  # fmt: skip
    clock = ManualClock(NOW_NS)
    first_ns = NOW_NS
    with Engine.open(str(tmp_path / "data"), config, clock=clock) as engine:
        for step in range(84):
            now = clock.now_ns()
            lines = [f"{table},host=a x={step}i {now}" for table in kept_days]
            engine.submit_lines("\n".join(lines).encode()).result(30)
            if step % 3 == 2:
                engine.sealer.seal()
            if step % 7 == 6:
                engine.compactor.run()
            engine.retainer.run()
            if step % 20 == 3:
                check_kept(engine, kept_days, first_ns)
            clock.advance(5 * 86_400)
        # Files go too: one of five days is left of what is kept for seven.
        assert len(engine.samples.segments(engine.catalog.table_id("cpu"))) <= 3


def check_kept(engine: Engine, kept_days: dict[str, dict[str, int]], first_ns: int) -> None:
    engine.retainer.run()
    now_ns = engine.clock.now_ns()
    step_ns = 5 * NS_PER_DAY
    for table, kept in kept_days.items():
        for relation in ("samples", *TIERS_NS):
            width, above = TIERS_NS.get(relation, (1, NS_PER_MINUTE))
            found = oldest(engine, relation, table)
            expected = first_ns
            if relation in kept:
                cutoff = (now_ns - kept[relation] * NS_PER_DAY) // above * above
                # The first bucket that starts at the cutoff or later and has a sample.
                expected = next(
                    time for time in range(first_ns, now_ns + 1, step_ns) if time // width * width >= cutoff
                )
            assert found == expected // width * width, (table, relation)


@pytest.mark.parametrize("restart", [False, True])
def test_rows_past_retention_are_hidden_alike_from_queries_and_sql(tmp_path: Path, restart: bool) -> None:
    """A file that crosses the cutoff stays; its older rows are seen by nobody."""
    clock = ManualClock(NOW_NS)
    data = str(tmp_path / "data")
    engine = Engine.open(data, CONFIG, clock=clock)
    try:
        write(engine, *(NOW_NS - hours * NS_PER_HOUR for hours in range(10)))
        engine.sealer.seal()
        clock.advance(20 * 3_600)
        engine.retainer.run()
        if restart:
            engine.close()
            engine = Engine.open(data, CONFIG, clock=clock)
        [segment] = engine.samples.segments()
        assert segment.rows == 10
        assert counts(engine)["samples"] == 5
        rows = engine.samples.collect(0, 0, NOW_NS + 1)
        assert len(rows) == 5
        assert engine.samples.expected_rows(0, 0, NOW_NS + 1) >= 5
    finally:
        engine.close()
