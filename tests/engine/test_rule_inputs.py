"""What rules judge: every kind against the obvious loops, and the pasts that are read rarely and told honestly."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.alerting.baselines import compared, slopes, usual
from engine.catalog.catalog import Catalog
from engine.config import Rule
from engine.config_units import Duration
from engine.errors import Unavailable
from engine.hot.store import HotStore
from engine.maintenance.inputs import RuleInputs
from engine.model.rows import NEVER_NS, Rows
from engine.query.groups import grouped
from engine.query.observe import Observer
from engine.query.pasts import Pasts
from engine.query.range import RangeReader
from engine.query.samples import SampleStore
from tests.filesystems import MemoryFileSystem
from tests.oracles import rules as oracle

S = 1_000_000_000
MINUTE, HOUR, DAY = 60 * S, 3_600 * S, 86_400 * S
#: A Tuesday, 22:00 UTC.
T0 = 1_699_999_200 * S
STALE_AFTER = 300 * S

LABELS: list[dict[str, str]] = [
    {"host": "a", "zone": "x"},
    {"host": "b", "zone": "x"},
    {"host": "b", "zone": "y"},
    {"host": "c"},
]


def no_tiers(*_: Any) -> Any:
    raise AssertionError("a tier was asked for")


class Site:
    """Samples in memory and what rules make of them."""

    def __init__(self, began_ns: int = T0) -> None:
        self.catalog, self.hot = Catalog(), HotStore()
        self.samples: dict[tuple[str, oracle.Labels], dict[int, float]] = {}
        store = SampleStore(MemoryFileSystem(), "", self.hot, ())
        self.ranges = RangeReader(self.catalog, store, no_tiers)
        self.inputs = RuleInputs(
            self.catalog,
            Observer(self.catalog, store),
            Pasts(self.catalog, self.ranges, lambda _: NEVER_NS),
            stale_after_ns=STALE_AFTER,
            began_ns=began_ns,
        )
        self._sequence = 0

    def write(self, metric: str, labels: dict[str, str], time_ns: int, value: float) -> None:
        table_name, _, field_name = metric.partition("_")
        table = self.catalog.native.table(table_name.encode())
        field = self.catalog.native.field(table, field_name.encode())
        pairs = [(name.encode(), text.encode()) for name, text in sorted(labels.items())]
        tagset = self.catalog.native.tagset(table, pairs)
        self._sequence += 1
        rows = Rows(np.array([tagset], np.int32), np.array([time_ns], np.int64), (field,), np.array([[value]]))
        self.hot.append(table, rows, self._sequence)
        self.samples.setdefault((metric, tuple(sorted(labels.items()))), {})[time_ns] = value

    def judged(self, rule: Rule, now_ns: int) -> oracle.Numbers:
        found = self.inputs.of(rule, now_ns)
        told = {}
        for subject, value, time in zip(found.tagset_ids, found.values, found.times, strict=True):
            labels = self.inputs.labels(int(subject))
            assert labels is not None
            if not math.isnan(value):
                told[tuple(sorted(labels.items()))] = (float(value), int(time))
        return told


def rule_of(**changes: Any) -> Rule:
    values: dict[str, Any] = {"name": "r", "metric": "t_x", "op": ">", "threshold": 0.0, **changes}
    for name in ("over", "forecast", "forecast_from"):
        if name in values and values[name] is not None:
            values[name] = Duration(values[name])
    return Rule(**values)


VALUES = st.integers(0, 12).map(float)
WRITES = st.lists(
    st.tuples(st.sampled_from(["t_x", "t_y", "u_x"]), st.integers(0, 3), st.integers(0, 60), VALUES), max_size=40
)
GROUPS = st.sampled_from([None, None, (), ("zone",), ("host",), ("host", "zone"), ("missing",)])


@st.composite
def rules(draw: st.DrawFn, **fixed: Any) -> Rule:
    group_by = draw(GROUPS)
    divide_by = draw(st.sampled_from([None, "t_y", "u_x"]))
    return rule_of(
        match=draw(st.sampled_from([{}, {}, {"zone": "x"}, {"zone": ""}])),
        group_by=group_by,
        group=None if group_by is None else draw(st.sampled_from([None, "avg", "sum", "min", "max", "count"])),
        divide_by=divide_by,
        divide_match=None if divide_by is None else draw(st.sampled_from([None, {}, {"host": "b"}])),
        divide_on=None if divide_by is None or group_by is not None else draw(st.sampled_from([None, ("host",), ()])),
        scale=draw(st.sampled_from([1.0, 100.0])),
        **{name: draw(value) for name, value in fixed.items()},
    )


PRESENT = rules(
    aggregate=st.sampled_from(
        ["last", "avg", "sum", "min", "max", "count", "increase", "rate", "change", "change_percent"]
    ),
    over=st.sampled_from([60 * S, 120 * S, 600 * S]),
)


@settings(deadline=None, max_examples=300)
@given(PRESENT, WRITES)
def test_what_a_rule_judges_is_what_the_obvious_loops_give(
    rule: Rule, writes: list[tuple[str, int, int, float]]
) -> None:
    site = Site()
    for metric, labels, tens, value in writes:
        site.write(metric, LABELS[labels], T0 + tens * 10 * S, value)
    now_ns = T0 + 600 * S
    for step in range(2):
        expected = oracle.judged(rule, site.samples, now_ns, STALE_AFTER)
        found = site.judged(rule, now_ns)
        assert found.keys() == expected.keys()
        for key, (value, time) in expected.items():
            assert found[key][0] == pytest.approx(value, rel=1e-9, abs=1e-9)
            assert found[key][1] == time
        # A series that is new makes other groups.
        site.write("t_x", {"host": f"new{step}", "zone": "x"}, now_ns, 1.0)


COMPARED = rules(
    aggregate=st.sampled_from(["last", "avg", "sum", "min", "max", "count", "increase", "rate"]),
    over=st.sampled_from([60 * S, 600 * S]),
    compare_with=st.sampled_from(["days", "weeks"]),
    compare_past=st.integers(1, 4),
    compare_by=st.sampled_from(["median", "mean"]),
    compare_as=st.sampled_from(["percent", "ratio", "difference"]),
)
#: Which past, and how many minutes after the full hour; a bit outside of it, too.
PASTS = st.lists(
    st.tuples(
        st.sampled_from(["t_x", "t_y", "u_x"]), st.integers(0, 3), st.integers(0, 4), st.integers(-10, 70), VALUES
    ),
    max_size=60,
)


@settings(deadline=None, max_examples=200)
@given(COMPARED, PASTS)
def test_the_same_hour_of_past_days_and_weeks_is_what_the_obvious_loops_give(
    rule: Rule, writes: list[tuple[str, int, int, int, float]]
) -> None:
    site = Site()
    period = oracle.PERIODS[rule.compare_with or "days"]
    for metric, labels, past, minutes, value in sorted(writes, key=lambda each: -each[2]):
        site.write(metric, LABELS[labels], T0 - past * period + minutes * MINUTE, value)
    now_ns = T0 + 59 * MINUTE
    expected = oracle.judged(rule, site.samples, now_ns, STALE_AFTER)
    found = site.judged(rule, now_ns)
    assert found.keys() == expected.keys()
    for key, (value, _) in expected.items():
        assert found[key][0] == pytest.approx(value, rel=1e-9, abs=1e-9)


FORECASTS = rules(
    aggregate=st.sampled_from(["last", "avg", "max", "increase"]),
    over=st.just(600 * S),
    forecast=st.sampled_from([HOUR, 4 * HOUR]),
    forecast_from=st.sampled_from([10 * MINUTE, HOUR, 3 * HOUR]),
)


@settings(deadline=None, max_examples=150)
@given(
    FORECASTS,
    st.lists(
        st.tuples(st.sampled_from(["t_x", "t_y", "u_x"]), st.integers(0, 3), st.integers(-200, 0), VALUES), max_size=80
    ),
)
def test_forecasts_are_what_the_obvious_loops_give(rule: Rule, writes: list[tuple[str, int, int, float]]) -> None:
    site = Site()
    for metric, labels, minutes, value in writes:
        site.write(metric, LABELS[labels], T0 + minutes * MINUTE, value)
    now_ns = T0 + 90 * S
    expected = oracle.judged(rule, site.samples, now_ns, STALE_AFTER)
    found = site.judged(rule, now_ns)
    assert found.keys() == expected.keys()
    for key, (value, time) in expected.items():
        assert found[key][0] == pytest.approx(value, rel=1e-9, abs=1e-6)
        assert found[key][1] == time


def test_metrics_that_number_their_tag_sets_apart_are_paired_by_labels_again_when_others_come() -> None:
    site, rule = Site(), rule_of(metric="up", divide_by="t_y")
    ids = site.catalog.native
    for host in ("a", "b"):
        site.write("t_y", {"host": host}, T0, 4.0)
    table = ids.table(b"prometheus")
    field = ids.field(table, b"value")

    def up(host: str, value: float, sequence: int) -> None:
        tagset = ids.tagset(table, [(b"__name__", b"up"), (b"host", host.encode())])
        rows = Rows(np.array([tagset], np.int32), np.array([T0], np.int64), (field,), np.array([[value]]))
        site.hot.append(table, rows, sequence)

    up("b", 1.0, 100)
    assert site.judged(rule, T0) == {(("host", "b"),): (0.25, T0)}
    up("a", 2.0, 101)
    up("c", 2.0, 102)
    for _ in range(2):
        assert site.judged(rule, T0) == {(("host", "a"),): (0.5, T0), (("host", "b"),): (0.25, T0)}


# ---- numbers -------------------------------------------------------------------------------------


def test_a_trend_is_exact_on_a_line_and_withstands_a_quarter_of_wild_values() -> None:
    times = np.arange(24, dtype=np.int64) * MINUTE
    line = 5.0 + times / MINUTE * 0.25
    wild = line.copy()
    wild[[3, 7, 8, 15, 20, 22]] = [900.0, -900.0, 1e6, 0.0, 5_000.0, -1e6]
    found = slopes(np.array([line, wild]), times) * MINUTE
    assert found[0] == pytest.approx(0.25)
    assert found[1] == pytest.approx(0.25, rel=0.05)


def test_a_trend_needs_values_over_half_of_the_time() -> None:
    times = np.arange(24, dtype=np.int64) * MINUTE
    late, few = np.full(24, np.nan), np.full(24, np.nan)
    late[14:] = 1.0
    few[[0, 5, 10, 15, 20]] = 1.0
    assert np.isnan(slopes(np.array([late, few]), times)).all()
    late[11] = few[23] = 1.0
    assert slopes(np.array([late, few]), times).tolist() == [0.0, 0.0]


def test_slopes_in_pieces_are_those_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.alerting import baselines

    values = np.random.default_rng(1).normal(size=(50, 12))
    times = np.arange(12, dtype=np.int64) * S
    whole = slopes(values, times)
    monkeypatch.setattr(baselines, "_PAIRS_AT_ONCE", 200)
    assert slopes(values, times).tolist() == whole.tolist()


def test_what_is_usual_needs_half_of_the_pasts() -> None:
    nan = math.nan
    pasts = np.array([[1.0, 2.0, 30.0, nan], [1.0, nan, nan, nan], [4.0, nan, 2.0, nan]])
    assert usual(pasts, "median").tolist() == pytest.approx([2.0, nan, 3.0], nan_ok=True)
    assert usual(pasts, "mean").tolist() == pytest.approx([11.0, nan, 3.0], nan_ok=True)


def test_nothing_is_in_percent_of_zero() -> None:
    found = compared(np.array([5.0, 5.0, -5.0]), np.array([0.0, 4.0, -4.0]), "percent")
    assert found.tolist() == pytest.approx([math.nan, 25.0, -25.0], nan_ok=True)


def test_what_several_rules_read_is_read_once_a_tick_and_gives_each_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site()
    for labels in LABELS:
        site.write("t_x", labels, T0, 1.0)
        site.write("t_y", labels, T0, 4.0)
    rules = [
        *(
            rule_of(name=f"r{number}", scale=float(number), group_by=by)
            for number, by in enumerate([None, (), ("zone",), ("zone",)])
        ),
        rule_of(name="most", group_by=("zone",), group="max"),
        rule_of(name="ratio of zones", group_by=("zone",), divide_by="t_y"),
        rule_of(name="ratio", divide_by="t_y"),
        rule_of(name="sum", aggregate="sum"),
    ]
    alone = {rule.name: site.inputs.of(rule, T0) for rule in rules}
    reads: list[str] = []
    observer = Observer.metric

    def counting(self: Observer, metric: str, *arguments: Any, **options: Any) -> Any:
        reads.append(f"{options['aggregate']} {metric}")
        return observer(self, metric, *arguments, **options)

    monkeypatch.setattr(Observer, "metric", counting)
    made: list[str] = []

    def grouping(observed: Any, arrangement: Any, how: str, oldest_ns: int) -> Any:
        made.append(f"{how} of {len(arrangement.numbers)}")
        return grouped(observed, arrangement, how, oldest_ns)

    monkeypatch.setattr("engine.maintenance.inputs.grouped", grouping)
    together = site.inputs.of_all(rules, T0)
    assert reads == ["last t_x", "last t_y", "sum t_x"]
    assert made == ["avg of 1", "avg of 3", "max of 3", "sum of 3", "sum of 3"]
    for name, given_alone in alone.items():
        assert together[name].tagset_ids.tolist() == given_alone.tagset_ids.tolist()
        assert together[name].values.tolist() == given_alone.values.tolist()


# ---- absence -------------------------------------------------------------------------------------


def test_what_has_never_been_seen_is_as_old_as_the_watch() -> None:
    site = Site(began_ns=T0)
    rule = rule_of(aggregate="age", group_by=(), match={"site": "east"}, threshold=60.0)
    assert site.judged(rule, T0 + 60 * S) == {}
    assert site.judged(rule, T0 + 90 * S) == {(("site", "east"),): (90.0, T0 + 90 * S)}
    site.write("t_x", {"site": "west"}, T0 + 80 * S, 1.0)
    assert site.judged(rule, T0 + 90 * S) == {(("site", "east"),): (90.0, T0 + 90 * S)}
    site.write("t_x", {"site": "east", "host": "a"}, T0 + 100 * S, 1.0)
    site.write("t_x", {"site": "east", "host": "b"}, T0 + 50 * S, 1.0)
    assert site.judged(rule, T0 + 1_000 * S) == {(("site", "east"),): (900.0, T0 + 1_000 * S)}


def test_what_has_left_memory_is_as_old_as_its_newest_sample_was() -> None:
    site = Site(began_ns=T0 - 30 * DAY)
    rule = rule_of(aggregate="age", group_by=(), threshold=90_000.0)
    site.write("t_x", {"host": "a"}, T0, 1.0)
    assert site.judged(rule, T0 + HOUR) == {(): (3_600.0, T0 + HOUR)}
    assert site.hot.forget_idle(T0 + HOUR) == 1
    assert site.judged(rule, T0 + 3 * HOUR) == {(): (10_800.0, T0 + 3 * HOUR)}
    # After a restart only the uptime is known; it ends no alert.
    restarted = Site(began_ns=T0 + 3 * HOUR)
    assert restarted.judged(rule, T0 + 4 * HOUR) == {}
    assert restarted.judged(rule, T0 + 29 * HOUR) == {(): (93_600.0, T0 + 29 * HOUR)}


def test_which_series_have_had_one_sample_lately() -> None:
    site = Site()
    for labels, minutes in ((LABELS[0], (0,)), (LABELS[1], (0, 9)), (LABELS[2], (0, 11)), (LABELS[3], ())):
        for ago in minutes:
            site.write("cpu_x", labels, T0 - ago * MINUTE, 1.0)
    given = site.inputs.of(rule_of(metric="cpu_x", confirm=True), T0)
    assert given.alone is not None
    hosts = [site.inputs.labels(int(subject)) for subject in given.tagset_ids[given.alone(given.tagset_ids)]]
    assert hosts == [LABELS[0], LABELS[2]]
    assert not given.alone(np.array([-1], np.int32)).any()
    assert site.inputs.of(rule_of(metric="cpu_x"), T0).alone is None


def test_a_series_grows_old_alone_or_with_its_group() -> None:
    site = Site()
    site.write("t_x", {"host": "a", "zone": "x"}, T0, 1.0)
    site.write("t_x", {"host": "b", "zone": "x"}, T0 + 50 * S, 1.0)
    now_ns = T0 + 60 * S
    assert site.judged(rule_of(aggregate="age"), now_ns) == {
        (("host", "a"), ("zone", "x")): (60.0, now_ns),
        (("host", "b"), ("zone", "x")): (10.0, now_ns),
    }
    assert site.judged(rule_of(aggregate="age", group_by=("zone",)), now_ns) == {(("zone", "x"),): (10.0, now_ns)}


# ---- the past is read rarely ---------------------------------------------------------------------


class Counted:
    """A site that counts how often past buckets are read, and can fail to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.site, self.reads, self.broken = Site(), 0, False
        read = self.site.ranges.buckets

        def counting(*arguments: Any, **options: Any) -> Any:
            self.reads += 1
            if self.broken:
                raise Unavailable("the query process is away")
            return read(*arguments, **options)

        monkeypatch.setattr(self.site.ranges, "buckets", counting)
        for past in range(3):
            self.site.write("t_x", {"host": "a"}, T0 - past * DAY + 5 * MINUTE, 10.0 * (1 + past))


def test_the_past_of_an_hour_is_read_once_and_late_samples_count_from_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counted = Counted(monkeypatch)
    site, rule = counted.site, rule_of(compare_with="days", compare_past=2, compare_as="difference")
    key = (("host", "a"),)
    assert site.judged(rule, T0 + 6 * MINUTE)[key][0] == 10.0 - 25.0
    site.write("t_x", {"host": "a"}, T0 - DAY + 6 * MINUTE, 200.0)
    for minute in range(7, 50):
        site.judged(rule, T0 + minute * MINUTE)
    assert counted.reads == 2
    changed = rule_of(compare_with="days", compare_past=1, compare_as="difference")
    assert site.judged(changed, T0 + 51 * MINUTE)[key][0] == 10.0 - 110.0


def test_the_next_hour_is_read_ahead_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted(monkeypatch)
    site, rule = counted.site, rule_of(compare_with="days", compare_past=2)
    site.inputs.prepare([rule], T0 + 10 * MINUTE)
    assert counted.reads == 2
    site.inputs.prepare([rule], T0 + 56 * MINUTE)
    assert counted.reads == 4
    site.inputs.prepare([rule], T0 + 60 * MINUTE)
    site.judged(rule, T0 + 61 * MINUTE)
    assert counted.reads == 4


def test_a_trend_is_fitted_a_few_times_a_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted(monkeypatch)
    rule = rule_of(forecast=HOUR, forecast_from=6 * HOUR)
    for seconds in range(0, 1_800, 5):
        counted.site.inputs.prepare([rule], T0 + seconds * S)
        counted.site.judged(rule, T0 + seconds * S)
    assert counted.reads == 1_800 * S // (15 * MINUTE // 4)


def test_a_past_that_cannot_be_read_leaves_nothing_to_judge_says_so_and_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counted = Counted(monkeypatch)
    site, rule = counted.site, rule_of(compare_with="days", compare_past=2)
    counted.broken = True
    assert site.judged(rule, T0 + 6 * MINUTE) == {}
    assert site.inputs.problems == {"r": "cannot read the past of t_x: the query process is away"}
    counted.broken = False
    assert site.judged(rule, T0 + 6 * MINUTE + 5 * S) == {}
    assert counted.reads == 1
    assert len(site.judged(rule, T0 + 6 * MINUTE + 30 * S)) == 1
    assert site.inputs.problems == {}
