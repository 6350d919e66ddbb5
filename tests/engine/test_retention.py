"""Retention: what is too old goes, in whole minutes, and nothing else does."""

from __future__ import annotations

from pathlib import Path

from engine.clock import NS_PER_DAY, NS_PER_HOUR, NS_PER_MINUTE, NS_PER_SECOND, ManualClock
from engine.config import Config, Query, Retention
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
