"""The deployment gate: its tests against slow twins, worked cases, and how often it errs."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.deploys import samples
from engine.errors import BadRequest
from tidegauge import lab

FEW = st.lists(st.integers(0, 6).map(float), min_size=4, max_size=12).map(np.array)


@given(FEW)
def test_midranks_are_those_of_counting(values: np.ndarray) -> None:
    slow = [(values < value).sum() + ((values == value).sum() + 1) / 2 for value in values]
    np.testing.assert_allclose(samples.midranks(values), slow)


@given(FEW, FEW)
def test_the_share_is_that_of_all_pairs(first: np.ndarray, second: np.ndarray) -> None:
    pairs = [1.0 if b > a else 0.5 if a == b else 0.0 for a, b in itertools.product(first, second)]
    found = samples.superiority(first, second)
    assert found.share == pytest.approx(sum(pairs) / len(pairs))
    assert 0.0 <= found.p_value <= 1.0
    assert samples.superiority(second, first).share == pytest.approx(1.0 - found.share)


def test_brunner_and_munzels_own_example(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pain scores of two groups of patients (Brunner & Munzel 2000; SciPy's ``brunnermunzel`` shows the same data)."""
    first = np.array([1, 2, 1, 1, 1, 1, 1, 1, 1, 1, 2, 4, 1, 1], float)
    second = np.array([3, 3, 4, 3, 1, 2, 3, 1, 1, 5, 4], float)
    monkeypatch.setattr(samples, "effective_size", lambda values: float(len(values)))
    found = samples.superiority(first, second)
    assert found.share == pytest.approx(0.788961, abs=1e-6)
    # Two-sided there.
    assert found.p_value == pytest.approx(0.005786208666151538 / 2, rel=1e-6)


@given(st.integers(0, 8), st.integers(1, 8), st.integers(0, 8), st.integers(1, 8))
def test_fishers_exact_test(first: int, of_first: int, second: int, of_second: int) -> None:
    first, second = min(first, of_first), min(second, of_second)
    total, hits = of_first + of_second, first + second
    exact = sum(
        Fraction(math.comb(of_second, k) * math.comb(of_first, hits - k), math.comb(total, hits))
        for k in range(second, min(hits, of_second) + 1)
        if 0 <= hits - k <= of_first
    )
    assert samples.more_often(first, of_first, second, of_second) == pytest.approx(float(exact), rel=1e-9)


@given(st.integers(1, 30), st.integers(0, 30), st.floats(0.05, 0.95))
def test_binomial_tails(trials: int, hits: int, chance: float) -> None:
    exact = sum(
        math.comb(trials, k) * chance**k * (1 - chance) ** (trials - k)
        for k in range(min(hits, trials + 1), trials + 1)
    )
    if hits <= trials:
        assert samples.binomial_at_least(hits, trials, chance) == pytest.approx(exact, rel=1e-7, abs=1e-12)


@pytest.mark.parametrize(("t", "freedom", "above"), [(0.0, 5, 0.5), (2.015048373, 5, 0.05), (-2.015048373, 5, 0.95),
                                                     (6.313751515, 1, 0.05), (1.812461123, 10, 0.05)])  # fmt: skip
def test_students_table(t: float, freedom: float, above: float) -> None:
    assert samples.student_above(t, freedom) == pytest.approx(above, rel=1e-6)


@given(FEW, FEW)
def test_the_shift_is_the_median_of_all_differences(first: np.ndarray, second: np.ndarray) -> None:
    middle, low, high = samples.shift(first, second)
    assert middle == np.median([b - a for a, b in itertools.product(first, second)])
    assert low <= middle <= high


@given(FEW, FEW, st.lists(st.floats(0.0, 1.0), min_size=1, max_size=3))
def test_quantiles_of_differences_are_found_without_all_of_them(
    first: np.ndarray, second: np.ndarray, shares: list[float]
) -> None:
    expected = np.quantile([b - a for a, b in itertools.product(first, second)], shares)
    found = samples.difference_quantiles(first, second, shares, most_pairs=0)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_many_samples_are_judged_like_few() -> None:
    many = lab.gate({"latency_ms": latency(1, 3_000)}, {"latency_ms": latency(2, 3_000)})
    assert (many.verdict, many.metrics[0].canary_samples) == ("promote", 3_000)
    assert lab.gate({"latency_ms": latency(1, 3_000)}, {"latency_ms": latency(2, 3_000, level=130.0)}).verdict == (
        "roll back"
    )


def test_neighbours_that_resemble_each_other_are_worth_less() -> None:
    random = np.random.default_rng(1)
    assert samples.effective_size(random.normal(size=100)) > 70
    assert samples.effective_size(np.cumsum(random.normal(size=100))) < 20
    assert samples.effective_size(np.ones(9)) == 9


# ---- verdicts ----


def latency(seed: int, rows: int = 30, *, level: float = 100.0) -> np.ndarray:
    return level * np.exp(0.2 * np.random.default_rng(seed).normal(size=rows))


def test_the_same_goes_on_and_twice_as_slow_goes_back() -> None:
    assert lab.gate({"latency_ms": latency(1)}, {"latency_ms": latency(2)}).verdict == "promote"
    found = lab.gate({"latency_ms": latency(1)}, {"latency_ms": latency(2, level=200.0)})
    assert found.verdict == "roll back"
    assert found.reasons[0].startswith("latency_ms is ")
    assert "above the baseline's" in found.reasons[0]


@pytest.mark.parametrize(
    ("name", "level", "verdict"),
    [
        ("latency_ms", 60.0, "promote"),
        ("success_rate", 60.0, "roll back"),
        ("success_rate", 160.0, "promote"),
        ("requests_rate", 60.0, "roll back"),
        ("requests_rate", 160.0, "roll back"),
        ("cpu_percent", 160.0, "roll back"),
    ],
)
def test_names_tell_which_way_is_worse(name: str, level: float, verdict: str) -> None:
    assert lab.gate({name: latency(1)}, {name: latency(2, level=level)}).verdict == verdict


def test_directions_may_be_said() -> None:
    pair = {"latency_ms": latency(1)}, {"latency_ms": latency(2, level=200.0)}
    assert lab.gate(*pair, directions={"latency_ms": "down"}).verdict == "promote"
    assert lab.gate(latency(1), latency(2, level=50.0), directions="up").verdict == "promote"
    assert lab.gate(latency(1), latency(2, level=50.0)).verdict == "roll back"


def test_a_difference_within_the_tolerance_goes_on_however_certain() -> None:
    random = np.random.default_rng(3)
    old, new = 100 + random.normal(size=60), 105 + random.normal(size=60)
    assert lab.gate({"latency": old}, {"latency": new}).verdict == "promote"
    assert lab.gate({"latency": old}, {"latency": new}, tolerance=0.02).verdict == "roll back"


def test_a_worse_tail_is_seen_where_the_middle_is_the_same() -> None:
    new = latency(2, 60)
    new[::4] *= 6
    found = lab.gate({"latency": latency(1, 60)}, {"latency": new})
    assert found.verdict == "roll back"
    assert "where the baseline rarely is" in found.reasons[0]


def test_rare_errors_are_counted_as_events() -> None:
    """Kayenta passes a canary with 0, 1, 2, 1, 0, 0 errors beside none at all (kayenta#426)."""
    few = lab.gate({"errors": [0] * 6}, {"errors": [0, 1, 2, 1, 0, 0]})
    assert few.verdict == "hold"
    assert few.reasons == ("errors: 6 samples of the baseline and 6 of the canary, want 8 of each",)
    assert lab.gate({"errors": [0] * 12}, {"errors": [0, 1, 2, 1, 0, 0] * 2}).verdict == "roll back"
    assert lab.gate({"errors": [0, 0, 1, 0] * 3}, {"errors": [0, 1, 0, 0] * 3}).verdict == "promote"
    assert lab.gate({"errors": [0] * 12}, {"errors": [0] * 12}).verdict == "promote"


def test_without_data_nothing_goes_on() -> None:
    whole = {"latency": latency(1), "errors": np.zeros(30)}
    missing = lab.gate(whole, {"latency": latency(2)})
    assert missing.verdict == "hold"
    assert missing.reasons == ("errors: 30 samples of the baseline and 0 of the canary, want 8 of each",)
    assert lab.gate(whole, {"latency": latency(2)}, required=["latency"]).verdict == "promote"
    assert lab.gate(whole, whole, required=["latency", "orders"]).reasons == ("orders: no samples of either",)
    assert lab.gate({"latency": []}, {"latency": []}, required=[]).verdict == "hold"
    nan = np.full(30, np.nan)
    assert lab.gate({"latency": nan}, {"latency": latency(2)}).verdict == "hold"
    # What is bad enough goes back, whatever else is missing.
    assert lab.gate(whole, {"latency": latency(2, level=300.0)}).verdict == "roll back"


def test_too_few_samples_of_a_noisy_metric_hold() -> None:
    random = np.random.default_rng(5)
    old, new = np.exp(random.normal(size=8)), np.exp(random.normal(size=8) + 0.6)
    found = lab.gate({"latency": old}, {"latency": new})
    assert found.verdict == "hold"
    assert found.metrics[0].finding == "unclear"


def test_the_first_samples_may_be_left_out() -> None:
    new = latency(2)
    new[:6] *= 10
    assert lab.gate({"latency": latency(1)}, {"latency": new}).verdict == "roll back"
    assert lab.gate({"latency": latency(1)}, {"latency": new}, warm_up=6).verdict == "promote"


def test_how_often_it_errs() -> None:
    same = [lab.gate({"latency": latency(2 * k)}, {"latency": latency(2 * k + 1)}).verdict for k in range(150)]
    assert same.count("roll back") <= 6
    assert same.count("promote") >= 130
    worse = [lab.gate({"l": latency(2 * k)}, {"l": latency(2 * k + 1, level=150.0)}).verdict for k in range(100)]
    assert worse.count("roll back") >= 98
    many = [
        lab.gate(
            {f"latency{m}": latency(100 * k + m) for m in range(8)},
            {f"latency{m}": latency(100 * k + 50 + m) for m in range(8)},
        ).verdict
        for k in range(40)
    ]
    assert many.count("roll back") <= 3


@settings(deadline=None, max_examples=60)
@given(FEW, FEW)
def test_any_samples_get_a_verdict_and_a_reason(first: np.ndarray, second: np.ndarray) -> None:
    found = lab.gate({"m": first}, {"m": second}, minimum=4)
    assert found.verdict in ("promote", "hold", "roll back")
    assert all(found.reasons)
    assert found == lab.gate({"m": first}, {"m": second}, minimum=4)


@pytest.mark.parametrize(
    ("arguments", "options", "sentence"),
    [
        (({}, {}), {}, "there are no metrics"),
        (({"m": [[1.0]]}, {"m": [1.0]}), {}, "want numbers"),
        (({"m": ["a"]}, {"m": [1.0]}), {}, "want numbers"),
        (([1.0], [1.0]), {"directions": "left"}, "got direction 'left'"),
        (([1.0], [1.0]), {"confidence": 1.0}, "got confidence 1.0"),
        (([1.0], [1.0]), {"tolerance": -0.1}, "got tolerance -0.1"),
        (([1.0], [1.0]), {"minimum": 2}, "got minimum 2"),
        (([1.0], [1.0]), {"warm_up": -1}, "got warm_up -1"),
    ],
)
def test_wrong_arguments_are_told(arguments: tuple[Any, Any], options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadRequest) as caught:
        lab.gate(*arguments, **options)
    assert sentence in str(caught.value)
