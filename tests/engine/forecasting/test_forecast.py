"""The forecaster against its slow twin, and what holds for any series."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import BadRequest
from engine.forecasting.design import design, regressors
from engine.forecasting.forecast import LONGEST_HORIZON, forecast
from engine.forecasting.members import members
from tests.oracles import forecasting as oracle
from tidegauge import lab

DAY = 86_400.0


def made(rows: int, seed: int, *, season: int = 7, slope: float = 0.0, noise: float = 1.0) -> np.ndarray:
    random = np.random.default_rng(seed)
    steps = np.arange(rows)
    return 50 + slope * steps + 5 * np.sin(2 * np.pi * steps / season) + noise * random.normal(size=rows)


@pytest.mark.parametrize(
    ("rows", "season", "step_seconds"),
    [(3, 7, DAY), (11, 7, DAY), (40, 1, DAY), (60, 7, DAY), (200, 24, 3600.0), (120, 5, 60.0), (600, 7, DAY)],
)
def test_members_are_those_of_the_twin(rows: int, season: int, step_seconds: float) -> None:
    values = made(rows, rows)
    held = np.clip(values, 47, 53)
    plan = design(rows, 30, season, step_seconds)
    year_steps = 365.25 * DAY / step_seconds if plan.year else 0.0
    x, penalty = regressors(rows, 30, plan.season, plan.week, year_steps)
    for origins in (plan.past, plan.now):
        found = members(plan, origins, values, held)
        for o in {0, len(origins.ends) // 2, len(origins.ends) - 1}:
            for g in {0, len(origins.horizons) // 2, len(origins.horizons) - 1}:
                if origins.at[o, g] >= len(x):
                    continue
                slow = oracle.members(
                    x, penalty, values.tolist(), held.tolist(), int(origins.ends[o]), int(origins.horizons[g]),
                    unit=plan.unit, season=plan.season, week=plan.week, year=plan.year,
                )  # fmt: skip
                np.testing.assert_allclose(found[:, o, g], slow, rtol=1e-6, atol=1e-6)


def test_past_origins_see_nothing_behind_them() -> None:
    rows, values = 300, made(300, 1)
    plan = design(rows, 60, 7, DAY)
    changed = values.copy()
    changed[250:] = 1e6
    early = plan.past.ends <= 250
    assert early.any()
    np.testing.assert_allclose(
        members(plan, plan.past, values, values)[:, early], members(plan, plan.past, changed, changed)[:, early]
    )


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.one_of(st.floats(-1e9, 1e9), st.just(float("nan")), st.just(float("inf"))), min_size=3, max_size=60
    ).filter(lambda values: np.isfinite(values).sum() >= 3),
    st.integers(1, 40),
    st.sampled_from([1, 7, 24]),
)
def test_intervals_hold_the_middle_and_each_other(values: list[float], horizon: int, season: int) -> None:
    found = forecast(np.array(values), horizon, season=season)
    again = forecast(np.array(values), horizon, season=season)
    np.testing.assert_array_equal(found.mean, again.mean)
    for lower, upper in (("lo95", "lo80"), ("lo80", "mean"), ("mean", "hi80"), ("hi80", "hi95")):
        assert len(getattr(found, lower)) == horizon
        assert np.isfinite(getattr(found, lower)).all()
        assert (getattr(found, lower) <= getattr(found, upper)).all()


@pytest.mark.parametrize(("factor", "shift"), [(1e-6, -1.0), (3.0, -500.0), (1e9, 0.0)])
def test_units_do_not_matter(factor: float, shift: float) -> None:
    values = made(120, 2) - 100
    plain = forecast(values, 30)
    other = forecast(values * factor + shift, 30)
    for name in ("mean", "lo95", "hi80"):
        wanted = getattr(plain, name) * factor + shift
        np.testing.assert_allclose(getattr(other, name), wanted, rtol=1e-6, atol=1e-6 * factor)


def test_a_line_goes_on() -> None:
    values = made(400, 3, slope=0.5)
    found = forecast(values, 90)
    steps = np.arange(400, 490)
    truth = 50 + 0.5 * steps + 5 * np.sin(2 * np.pi * steps / 7)
    assert np.abs(found.mean - truth).mean() < 3
    assert ((found.lo95 <= truth) & (truth <= found.hi95)).mean() > 0.95


def test_a_constant_stays_and_a_count_is_never_negative() -> None:
    constant = forecast(np.full(50, 7.5), 10)
    np.testing.assert_allclose([constant.mean, constant.lo95, constant.hi95], 7.5, rtol=1e-9)
    counts = np.random.default_rng(5).poisson(0.4, 90).astype(np.float64)
    assert (forecast(counts, 60).lo95 >= 0).all()


def test_growth_by_a_factor_goes_on() -> None:
    steps = np.arange(400)
    values = 100 * np.exp(0.004 * steps) * np.exp(0.03 * np.random.default_rng(6).normal(size=400))
    found = forecast(values, 90)
    assert found.mean[-1] == pytest.approx(100 * np.exp(0.004 * 489), rel=0.12)


def test_one_wild_value_moves_nothing() -> None:
    values = made(200, 7)
    wild = values.copy()
    wild[150] = 5000
    plain, held = forecast(values, 14), forecast(wild, 14)
    assert np.abs(plain.mean - held.mean).max() < 2


def test_gaps_and_a_missing_end() -> None:
    values = made(200, 8)
    gaps = values.copy()
    gaps[[20, 21, 90, 130]] = np.nan
    assert np.abs(forecast(gaps, 20).mean - forecast(values, 20).mean).max() < 1
    late = np.append(values, [np.nan, np.nan])
    np.testing.assert_allclose(forecast(late, 20).mean, forecast(values, 22).mean[2:], rtol=1e-9)


def test_intervals_hold_what_they_say() -> None:
    inside = {80: [], 95: []}
    for seed in range(40):
        random = np.random.default_rng(seed)
        steps = random.normal(size=330)
        series = np.empty(330)
        series[0] = 0.0
        for t in range(1, 330):
            series[t] = 0.8 * series[t - 1] + steps[t]
        found = forecast(series[:300], 30)
        for share in inside:
            low, high = getattr(found, f"lo{share}"), getattr(found, f"hi{share}")
            inside[share].append(((low <= series[300:]) & (series[300:] <= high)).mean())
    assert 0.72 <= np.mean(inside[80]) <= 0.93
    assert 0.90 <= np.mean(inside[95]) <= 0.995


@pytest.mark.parametrize(
    ("values", "options", "sentence"),
    [
        ([1.0, 2.0], {"horizon": 1}, "got 2 values, want 3 or more"),
        ([1.0, 2.0, float("nan"), float("inf")], {"horizon": 1}, "got 2 values"),
        ([1.0, 2.0, 3.0], {"horizon": 0}, "got horizon 0"),
        ([1.0, 2.0, 3.0], {"horizon": LONGEST_HORIZON + 1}, "want 1 to 10000"),
        ([1.0, 2.0, 3.0], {"horizon": 1, "season": 0}, "got season 0"),
        ([1.0, 2.0, 3.0], {"horizon": 1, "step_seconds": 0}, "got step_seconds 0"),
        ([[1.0, 2.0, 3.0]], {"horizon": 1}, "want float64[n]"),
        (["a", "b", "c"], {"horizon": 1}, "want float64[n]"),
    ],
)
def test_what_cannot_be_forecast(values: list[object], options: dict[str, int], sentence: str) -> None:
    with pytest.raises(BadRequest, match="cannot forecast") as caught:
        lab.forecast(values, **options)
    assert sentence in str(caught.value)


def test_times_follow_the_history() -> None:
    found = lab.forecast([1, 2, 3, 4], 2, start=np.datetime64("2026-01-01"))
    assert list(found) == ["mean", "lo80", "hi80", "lo95", "hi95", "times"]
    assert found["times"].astype("datetime64[ns]").tolist() == [
        np.datetime64("2026-01-05", "ns").astype(int),
        np.datetime64("2026-01-06", "ns").astype(int),
    ]
    assert lab.forecast([1, 2, 3], 1, start=0, step_seconds=60)["times"].tolist() == [180_000_000_000]
