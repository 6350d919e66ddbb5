"""What each rule judges: its metric read, divided, grouped, compared with the past or carried into the future.

The past is read once an hour for each rule, and trends are fitted again a few times a bucket, so that a tick costs what
reading the newest values costs; :meth:`RuleInputs.prepare` does it ahead of time and off the tick.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from engine.alerting.baselines import compared, slopes, usual
from engine.alerting.rules import RuleInput, breaks
from engine.alerting.states import BoolArray
from engine.catalog.catalog import Catalog
from engine.clock import NS_PER_DAY, NS_PER_HOUR, NS_PER_MINUTE, NS_PER_SECOND
from engine.config import Rule
from engine.errors import TidegaugeError
from engine.model.matchers import Matcher
from engine.model.rows import NEVER_NS, Float64Array, Int32Array, Int64Array
from engine.query.groups import Grouper, GroupNumbers, divided, grouped
from engine.query.observe import Observed, Observer
from engine.query.pasts import Pasts, width_for

PERIODS_NS = {"days": NS_PER_DAY, "weeks": 7 * NS_PER_DAY}
#: A series without another sample within so long has nothing by which a reading could be confirmed.
CONFIRMED_WITHIN_NS = 10 * NS_PER_MINUTE
#: How long before the next hour its past is read.
AHEAD_NS = 5 * NS_PER_MINUTE
#: After a past that could not be read, the next attempt comes this much later.
RETRY_NS = 30 * NS_PER_SECOND

#: What one tick has read, by metric, matchers, aggregate and window, and what it has grouped of that.
_Read = dict[tuple[object, ...], Observed]


class _Known:
    """What a rule's past has told at ``made_ns``: one number for each of ``ids``, int32[n] ascending."""

    def __init__(self, rule: Rule, made_ns: int, ids: Int32Array, numbers: Float64Array) -> None:
        self.rule, self.made_ns = rule, made_ns
        self._ids, self._numbers = ids, numbers
        # Tick after tick the same series are asked for.
        self._asked, self._answered = ids, numbers

    def of(self, ids: Int32Array) -> Float64Array:
        """Return float64[n]: the number of each of ``ids``, NaN where there is none.  Shared: read only."""
        if np.array_equal(ids, self._asked):
            return self._answered
        found = np.full(len(ids), np.nan)
        if len(self._ids):
            places = np.minimum(np.searchsorted(self._ids, ids), len(self._ids) - 1)
            same = self._ids[places] == ids
            found[same] = self._numbers[places[same]]
        self._asked, self._answered = ids.copy(), found
        return found


class RuleInputs:
    """Makes the input of every rule of one engine; :meth:`of` and :meth:`prepare` may run in two threads.

    ``began_ns``: since when samples are watched for; what has never been seen is at least as old as that.
    """

    def __init__(
        self, catalog: Catalog, observer: Observer, pasts: Pasts, *, stale_after_ns: int, began_ns: int
    ) -> None:
        self._catalog, self._observer, self._pasts = catalog, observer, pasts
        self._stale_after_ns, self._began_ns = stale_after_ns, began_ns
        self.groups = GroupNumbers()
        self._grouper = Grouper(catalog, self.groups)
        self._usual: dict[tuple[str, int], _Known] = {}
        self._trends: dict[str, _Known] = {}
        self._failed_ns: dict[str, int] = {}
        # When the newest sample was that a rule about silence has seen.
        self._seen_ns: dict[tuple[str, str, tuple[Matcher, ...]], int] = {}
        #: Rules whose past cannot be read, by name, and why.
        self.problems: dict[str, str] = {}

    def labels(self, subject_id: int) -> Mapping[str, str] | None:
        """Return the labels of a tag set or, for a negative number, of a group; None where there is none."""
        if subject_id < 0:
            return self.groups.labels(subject_id)
        return self._catalog.labels(subject_id) if subject_id < self._catalog.native.tagset_count else None

    def of_all(self, rules: Sequence[Rule], now_ns: int) -> dict[str, RuleInput]:
        """Return what each of ``rules`` judges at ``now_ns``, by its name; what several of them read is read once."""
        read: _Read = {}
        return {rule.name: self._of(rule, now_ns, read) for rule in rules}

    def of(self, rule: Rule, now_ns: int) -> RuleInput:
        """Return what ``rule`` judges at ``now_ns``.

        A rule whose past cannot be read has nothing to judge, and :attr:`problems` says why.
        """
        return self._of(rule, now_ns, {})

    def _of(self, rule: Rule, now_ns: int, read: _Read) -> RuleInput:
        found = self._present(rule, now_ns, read)
        values = found.values
        if rule.compare_with is not None or rule.forecast is not None:
            try:
                values = self._related(rule, found, now_ns)
            except TidegaugeError as error:
                self._failed(rule, error, now_ns)
                values = np.full(len(values), np.nan)
        alone = partial(self._alone, rule, now_ns) if rule.confirm else None
        return RuleInput(found.tagset_ids, values, found.times, alone)

    def _alone(self, rule: Rule, now_ns: int, ids: Int32Array) -> BoolArray:
        """Return which series have had one sample of the rule's metric lately; a group has several."""
        counted = self._observer.metric(
            rule.metric, rule.matchers, now_ns, aggregate="count", over_ns=CONFIRMED_WITHIN_NS
        )
        return np.isin(ids, counted.tagset_ids[counted.values == 1.0])

    def prepare(self, rules: Sequence[Rule], now_ns: int) -> None:
        """Read ahead of time what the past tells the next ticks, and forget what is over."""
        names = {rule.name for rule in rules}
        # Lists, because a tick may add to these meanwhile.
        hour = now_ns // NS_PER_HOUR
        for key in [key for key in list(self._usual) if key[1] < hour or key[0] not in names]:
            self._usual.pop(key, None)
        for name in [name for name in list(self._trends) if name not in names]:
            self._trends.pop(name, None)
        for seen in [seen for seen in list(self._seen_ns) if seen[0] not in names]:
            self._seen_ns.pop(seen, None)
        for name in [name for name in list(self.problems) if name not in names]:
            self.problems.pop(name, None)
        for rule in rules:
            try:
                if rule.compare_with is not None:
                    self._usual_in(rule, hour, now_ns)
                    self._usual_in(rule, (now_ns + AHEAD_NS) // NS_PER_HOUR, now_ns)
                if rule.forecast is not None:
                    self._trend(rule, now_ns, oldest_ns=_refit_ns(rule))
            except TidegaugeError as error:
                self._failed(rule, error, now_ns)

    def forget(self) -> None:
        """Forget how series fall into groups, which is found out again; to be called when rules have changed."""
        self._grouper.forget()

    def _failed(self, rule: Rule, error: TidegaugeError, now_ns: int) -> None:
        self._failed_ns[rule.name] = now_ns
        self.problems[rule.name] = f"cannot read the past of {rule.metric}: {error.message}"

    # --- the present

    def _present(self, rule: Rule, now_ns: int, read: _Read) -> Observed:
        above = self._read(rule.metric, rule.matchers, rule, now_ns, read)
        below = None
        if rule.divide_by is not None:
            below = self._read(rule.divide_by, rule.divisor_matchers, rule, now_ns, read)
        found = self._combined(rule, above, below, now_ns - self._stale_after_ns, "present", read)
        if rule.aggregate == "age" and rule.group_by == ():
            if len(above.tagset_ids):
                self._seen_ns[rule.name, rule.metric, rule.matchers] = now_ns - int(above.values.min() * NS_PER_SECOND)
            else:
                return self._silent(rule, now_ns)
        return found

    def _silent(self, rule: Rule, now_ns: int) -> Observed:
        """Return the age of a group in which no series is known: that is what such a rule is there to notice."""
        number = np.array([self.groups.number(rule.match)], np.int32)
        times = np.array([now_ns], np.int64)
        seen_ns = self._seen_ns.get((rule.name, rule.metric, rule.matchers))
        since_ns = self._began_ns if seen_ns is None else seen_ns
        age = np.array([(now_ns - since_ns) / NS_PER_SECOND * rule.scale])
        if seen_ns is None and not breaks(rule, age).any():
            # It is that old at least; what came before the start is not known, so this can tell of no end.
            age = np.full(1, np.nan)
        return Observed(number, age, times)

    def _read(self, metric: str, matchers: tuple[Matcher, ...], rule: Rule, now_ns: int, read: _Read) -> Observed:
        over_ns = 0 if rule.aggregate in ("last", "age") else int(rule.over)
        key = (metric, matchers, rule.aggregate, over_ns)
        found = read.get(key)
        if found is None:
            found = read[key] = self._observer.metric(
                metric, matchers, now_ns, aggregate=rule.aggregate, over_ns=over_ns
            )
        return found

    def _combined(
        self,
        rule: Rule,
        above: Observed,
        below: Observed | None,
        oldest_ns: int,
        when: str,
        read: _Read | None = None,
    ) -> Observed:
        """Return the rule's number for each series or group from its metric and its divisor at one time.

        ``read``: what several rules use, where ``above`` and ``below`` are of it.
        """
        if rule.group_by is not None:
            above = self._grouped(rule, above, rule.group_by, oldest_ns, f"{when} above", read)
            if below is not None:
                below = self._grouped(rule, below, rule.group_by, oldest_ns, f"{when} below", read)
                above = divided(above, below)
        elif below is not None and rule.divide_on is not None:
            keys = self._grouper.arrange(above.tagset_ids, rule.divide_on, {}, remember=(rule.name, when, "on"))
            joined = self._grouper.arrange(below.tagset_ids, rule.divide_on, {}, remember=(rule.name, when, "by"))
            above = divided(above, grouped(below, joined, "sum", oldest_ns), keys.of_rows())
        elif below is not None:
            above = self._observer.ratio(above, below, remember=(rule.name, when))
        return above.scaled(rule.scale)

    def _grouped(
        self, rule: Rule, observed: Observed, by: Sequence[str], oldest_ns: int, which: str, read: _Read | None
    ) -> Observed:
        # What has been read is kept as long as what was made of it, so its identity is its name.
        key = (id(observed), tuple(by), tuple(sorted(rule.match.items())), rule.group_aggregate)
        found = None if read is None else read.get(key)
        if found is None:
            arrangement = self._grouper.arrange(observed.tagset_ids, by, rule.match, remember=(rule.name, which))
            found = grouped(observed, arrangement, rule.group_aggregate, oldest_ns)
            if read is not None:
                read[key] = found
        return found

    # --- the past

    def _related(self, rule: Rule, found: Observed, now_ns: int) -> Float64Array:
        if now_ns - RETRY_NS < self._failed_ns.get(rule.name, NEVER_NS) <= now_ns:
            return np.full(len(found.values), np.nan)
        if rule.compare_with is not None:
            usual_now = self._usual_in(rule, now_ns // NS_PER_HOUR, now_ns)
            return compared(found.values, usual_now.of(found.tagset_ids), rule.compare_as)
        assert rule.forecast is not None
        trend = self._trend(rule, now_ns, oldest_ns=2 * _refit_ns(rule))
        return found.values + trend.of(found.tagset_ids) * rule.forecast

    def _usual_in(self, rule: Rule, hour: int, now_ns: int) -> _Known:
        """Return what is usual in an hour, the number of hours since 1970; read once."""
        known = self._usual.get((rule.name, hour))
        if known is not None and known.rule == rule:
            return known
        assert rule.compare_with is not None
        period_ns = PERIODS_NS[rule.compare_with]
        starts = [hour * NS_PER_HOUR - past * period_ns for past in range(1, rule.compare_past + 1)]
        ids, matrix = _aligned([self._in_hour(rule, start_ns) for start_ns in starts])
        known = self._usual[rule.name, hour] = _Known(rule, now_ns, ids, usual(matrix, rule.compare_by))
        self._succeeded(rule)
        return known

    def _in_hour(self, rule: Rule, start_ns: int) -> Observed:
        def read(metric: str, matchers: tuple[Matcher, ...]) -> Observed:
            return self._pasts.hour(metric, matchers, start_ns, aggregate=rule.aggregate, over_ns=int(rule.over))

        above = read(rule.metric, rule.matchers)
        below = None if rule.divide_by is None else read(rule.divide_by, rule.divisor_matchers)
        return self._combined(rule, above, below, NEVER_NS, "past")

    def _trend(self, rule: Rule, now_ns: int, *, oldest_ns: int) -> _Known:
        """Return how much each series or group rises a nanosecond; a fit of the last ``oldest_ns`` will do."""
        known = self._trends.get(rule.name)
        if known is not None and known.rule == rule and 0 <= now_ns - known.made_ns < oldest_ns:
            return known
        width_ns = width_for(int(rule.forecast_from))
        # Whole buckets only: one under way would count half of what it will hold.
        end_ns = now_ns // width_ns * width_ns
        start_ns = (now_ns - int(rule.forecast_from)) // width_ns * width_ns

        def read(metric: str, matchers: tuple[Matcher, ...]) -> list[Observed]:
            return self._pasts.grid(
                metric, matchers, start_ns, end_ns, width_ns, aggregate=rule.aggregate, over_ns=int(rule.over)
            )

        above = read(rule.metric, rule.matchers)
        below = [None] * len(above) if rule.divide_by is None else read(rule.divide_by, rule.divisor_matchers)
        ids, matrix = _aligned(
            [self._combined(rule, one, other, NEVER_NS, "past") for one, other in zip(above, below, strict=True)]
        )
        middles: Int64Array = start_ns + width_ns // 2 + width_ns * np.arange(len(above), dtype=np.int64)
        known = self._trends[rule.name] = _Known(rule, now_ns, ids, slopes(matrix, middles))
        self._succeeded(rule)
        return known

    def _succeeded(self, rule: Rule) -> None:
        self.problems.pop(rule.name, None)
        self._failed_ns.pop(rule.name, None)


def past_ns(rule: Rule) -> int:
    """Return how far back the samples are with which ``rule`` compares; 0 when it looks at the present alone."""
    if rule.compare_with is not None:
        return PERIODS_NS[rule.compare_with] * rule.compare_past + NS_PER_HOUR
    return 0 if rule.forecast is None else int(rule.forecast_from) + width_for(int(rule.forecast_from))


def _refit_ns(rule: Rule) -> int:
    """Return after how long a trend is fitted again: four times a bucket."""
    return width_for(int(rule.forecast_from)) // 4


def _aligned(columns: Sequence[Observed]) -> tuple[Int32Array, Float64Array]:
    """Return all numbers that occur, int32[n] ascending, and float64[n, k]: their values in each column or NaN."""
    ids = np.unique(np.concatenate([np.empty(0, np.int32), *(column.tagset_ids for column in columns)]))
    matrix = np.full((len(ids), len(columns)), np.nan)
    for place, column in enumerate(columns):
        matrix[np.searchsorted(ids, column.tagset_ids), place] = column.values
    return ids, matrix
