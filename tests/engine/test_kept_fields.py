"""Increases of tiers are those of raw samples, quantiles are within 1 %, and what is not kept is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.clock import NS_PER_HOUR, NS_PER_MINUTE, NS_PER_SECOND, ManualClock
from engine.config import Config, Query, Retention, Rollups
from engine.config_units import Duration
from engine.errors import BadRequest
from engine.query import planning
from engine.query import range as ranges
from engine.query.range import RangeAnswer, RangeQuery
from engine.rollups.bins import RELATIVE_ERROR, Bins, bins_of, quantile, values_of
from engine.runtime import Engine

NOW_NS = 1_700_000_000 * NS_PER_SECOND
START_NS = NOW_NS // NS_PER_HOUR * NS_PER_HOUR - 6 * NS_PER_HOUR
END_NS = START_NS + 6 * NS_PER_HOUR
RETENTION = Retention(raw=Duration.parse("30d"))
KEPT = Config(
    retention=RETENTION, query=Query(in_process=True), rollups=Rollups(counters=("*_total",), histograms=("*_ms",))
)
NOTHING_KEPT = Config(retention=RETENTION, query=Query(in_process=True), rollups=Rollups(counters=(), histograms=()))


def prefer_tiers(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ranges, "RAW_SAMPLES_PREFERRED", 0)
    for limit in ("RAW_SAMPLES_PREFERRED", "RAW_SAMPLES_BESIDE_KEPT", "RAW_SAMPLES_BEFORE_FLUSH"):
        patch.setattr(planning, limit, 0)


def lines_of(field: str, host: str, times: np.ndarray, values: np.ndarray) -> bytes:
    lines = (
        f"web,host={host} {field}={value!r} {time}" for time, value in zip(times.tolist(), values.tolist(), strict=True)
    )
    return "\n".join(lines).encode()


def ask(engine: Engine, metric: str, aggregate: str, step_ns: int, by: tuple[str, ...] | None = None) -> RangeAnswer:
    return engine.query(RangeQuery(metric, START_NS, END_NS, step_ns, aggregate, by=by))


def same(left: RangeAnswer, right: RangeAnswer) -> None:
    def points(answer: RangeAnswer) -> list[tuple[list[tuple[str, str]], list[int], list[float]]]:
        return sorted((sorted(s.labels.items()), s.times.tolist(), s.values.tolist()) for s in answer.series)

    assert points(left) == points(right)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("step_ns", [NS_PER_MINUTE, 10 * NS_PER_MINUTE, NS_PER_HOUR])
def test_increases_of_tiers_are_those_of_raw_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, step_ns: int
) -> None:
    rng = np.random.default_rng(seed)
    with Engine.open(str(tmp_path / "data"), KEPT, clock=ManualClock(NOW_NS)) as engine:
        for host in ("a", "b"):
            span = 7 * 3600
            seconds = np.sort(rng.choice(span, int(rng.integers(20, 800)), replace=False))
            times = START_NS - NS_PER_HOUR + seconds * NS_PER_SECOND
            rises = rng.integers(0, 9, len(times)).cumsum().astype(float)
            for reset in np.sort(rng.choice(len(times), 5)):
                rises[reset:] -= rises[reset] - float(rng.integers(0, 3))
            order = rng.permutation(len(times))
            for part in np.array_split(order, 3):
                engine.submit_lines(lines_of("requests_total", host, times[part], rises[part])).result(30)
                engine.flush_rollups()
        for aggregate in ("increase", "rate"):
            for by in (None, ()):
                raw = ask(engine, "web_requests_total", aggregate, step_ns, by)
                assert raw.tier == "raw"
                with monkeypatch.context() as patch:
                    prefer_tiers(patch)
                    tier = ask(engine, "web_requests_total", aggregate, step_ns, by)
                assert tier.tier.startswith("rollup_")
                if aggregate == "increase":
                    same(raw, tier)


def test_the_increase_of_a_known_counter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prefer_tiers(monkeypatch)
    times = START_NS + np.array([-60, 30, 90, 3000, 3700]) * NS_PER_SECOND
    with Engine.open(str(tmp_path / "data"), KEPT, clock=ManualClock(NOW_NS)) as engine:
        engine.submit_lines(lines_of("requests_total", "a", times, np.array([5.0, 9.0, 2.0, 7.0, 1.0]))).result(30)
        answer = ask(engine, "web_requests_total", "increase", NS_PER_HOUR)
        assert answer.tier == "rollup_1h"
        assert answer.series[0].values.tolist() == [4.0 + 2.0 + 5.0, 1.0]


DISTRIBUTIONS = {
    "lognormal": lambda rng, n: rng.lognormal(3, 1, n),
    "bimodal": lambda rng, n: np.where(rng.random(n) < 0.7, rng.normal(20, 1, n), rng.normal(5000, 100, n)),
    "constant": lambda rng, n: np.full(n, 7.25),
    "negative": lambda rng, n: -rng.lognormal(0, 2, n),
    "mixed": lambda rng, n: np.round(rng.normal(0, 10, n)),
}


@pytest.mark.parametrize("kind", DISTRIBUTIONS)
def test_quantiles_of_tiers_are_within_one_percent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    rng = np.random.default_rng(5)
    values = DISTRIBUTIONS[kind](rng, 4000)
    times = START_NS + np.sort(rng.choice(6 * 3600 * 10, 4000, replace=False)) * (NS_PER_SECOND // 10)
    with Engine.open(str(tmp_path / "data"), KEPT, clock=ManualClock(NOW_NS)) as engine:
        for host, part in (("a", slice(0, None, 2)), ("b", slice(1, None, 2))):
            engine.submit_lines(lines_of("took_ms", host, times[part], values[part])).result(30)
        # Late corrections are exact in histograms as elsewhere.
        values[::10] = DISTRIBUTIONS[kind](rng, 400)
        engine.flush_rollups()
        engine.submit_lines(lines_of("took_ms", "a", times[::10], values[::10])).result(30)
        for aggregate, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("p99.9", 0.999)):
            for step_ns in (15 * NS_PER_MINUTE, 6 * NS_PER_HOUR):
                exact = ask(engine, "web_took_ms", aggregate, step_ns, ())
                assert (exact.tier, exact.relative_error) == ("raw", 0.0)
                with monkeypatch.context() as patch:
                    prefer_tiers(patch)
                    near = ask(engine, "web_took_ms", aggregate, step_ns, ())
                assert near.relative_error == RELATIVE_ERROR < 0.01
                assert near.tier.startswith("rollup_")
                np.testing.assert_array_equal(near.series[0].times, exact.series[0].times)
                difference = np.abs(near.series[0].values - exact.series[0].values)
                assert (difference <= 0.01 * np.abs(exact.series[0].values)).all()
            ranked = np.sort(values)[int(share * 3999)]
            assert exact.series[0].values.tolist() == [ranked]
            sql = f"SELECT histogram_quantile(histogram, {share}) AS q FROM rollup_1h WHERE metric = 'web_took_ms'"
            assert engine.sql(sql).table["q"].to_pylist() == pytest.approx([ranked], rel=0.01)


def test_what_was_not_kept_comes_from_raw_samples_or_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefer_tiers(monkeypatch)
    times = START_NS + np.arange(0, 7200, 30) * NS_PER_SECOND
    clock = ManualClock(NOW_NS)
    with Engine.open(str(tmp_path / "data"), NOTHING_KEPT, clock=clock) as engine:
        for field in ("requests_total", "took_ms"):
            engine.submit_lines(lines_of(field, "a", times, np.arange(len(times)) * 1.0)).result(30)
        for metric, aggregate in (("web_requests_total", "increase"), ("web_took_ms", "p99")):
            assert ask(engine, metric, aggregate, NS_PER_HOUR).tier == "raw"
    # The setting is changed: what is rolled up from then on is kept, and the rest is not guessed.
    with Engine.open(str(tmp_path / "data"), KEPT, clock=clock) as engine:
        monkeypatch.setattr(engine.admission, "oldest_ns", lambda *_: END_NS)
        for metric, aggregate, setting in (
            ("web_requests_total", "rate", "counters"),
            ("web_took_ms", "p50", "histograms"),
        ):
            with pytest.raises(BadRequest, match=rf"rollup_1h does not have the .*rollups\.{setting} says"):
                ask(engine, metric, aggregate, NS_PER_HOUR)


def test_bins_hold_every_number_within_the_error() -> None:
    rng = np.random.default_rng(3)
    values = np.concatenate(
        [rng.normal(0, 1, 500) * 10.0 ** rng.integers(-300, 300, 500), [0.0, -0.0, np.inf, -np.inf, 5e-324, 1.7e308]]
    )
    stands = values_of(bins_of(values))
    finite = np.isfinite(values) & (np.abs(values) > 1e-300)
    assert (np.abs(stands[finite] - values[finite]) <= (RELATIVE_ERROR + 1e-9) * np.abs(values[finite])).all()
    assert stands[-6:-2].tolist() == [0.0, 0.0, np.inf, -np.inf]
    order = np.argsort(values, kind="stable")
    assert (np.diff(bins_of(values[order])) >= 0).all()


def test_bins_are_added_up_and_taken() -> None:
    one = Bins.counted(np.array([1, 0, 1, 1]), np.array([5, 2, 5, 3], np.int32), np.ones(4, np.int64), 3)
    assert (one.offsets.tolist(), one.bins.tolist(), one.counts.tolist()) == ([0, 1, 3, 3], [2, 3, 5], [1, 1, 2])
    assert one.take(np.array([2, 1])).offsets.tolist() == [0, 0, 2]
    both = one.merged(np.array([0, 0, 1]), 2)
    assert (both.bins.tolist(), both.counts.tolist(), both.offsets.tolist()) == ([2, 3, 5], [1, 1, 2], [0, 3, 3])
    assert np.isnan(quantile(both.bins[:0], both.counts[:0], 0.5))
    assert quantile(bins_of(np.array([1.0, 100.0])), np.array([9, 1]), 0.5) == pytest.approx(1.0, rel=0.01)
