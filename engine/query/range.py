"""Aligned aggregated series without SQL: matchers -> tag sets -> raw samples or a rollup tier -> buckets.

Buckets are half-open, ``[start + k*step, start + (k+1)*step)``.  Averages across series weigh every sample the same:
sums and counts are merged, not averages.  ``increase`` attributes the difference between two samples to the bucket of
the later one and counts a falling value as a reset to zero (Prometheus, ``increase``), without extrapolation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from engine.catalog.catalog import Catalog, Field
from engine.clock import NS_PER_MINUTE
from engine.errors import BadRequest, QueryLimit
from engine.model.matchers import Matcher
from engine.model.rows import MAX_FIELDS, NEVER_NS, Float64Array, Int32Array, Int64Array
from engine.model.times import time_text
from engine.query.buckets import (
    Buckets,
    aggregate_values,
    buckets_of_rows,
    buckets_of_table,
    merge_buckets,
    take_buckets,
    with_boundaries,
)
from engine.query.gridreader import GridPart, GridReader
from engine.query.grouping import lines_of
from engine.query.newest import NewestReader
from engine.query.planning import RAW, Planner, Tiers
from engine.query.prompt import PromptReader
from engine.query.quantilereader import QuantileReader
from engine.query.quantiles import SHARES
from engine.query.ranking import highest
from engine.query.samples import SampleStore
from engine.query.selected import Selected, Selections
from engine.query.sequences import COUNTED, ORDERED, SequenceReader
from engine.query.serieslist import LineBlock, SeriesList
from engine.rollups.bins import RELATIVE_ERROR
from engine.rollups.long import INCREASE, NAMES
from engine.rollups.tiers import TIERS, Tier

AGGREGATES = ("avg", "sum", "min", "max", "count", "first", "last", "increase", "rate", *SHARES)
_WIDTHS = {RAW: 0} | {tier.name: tier.width_ns for tier in TIERS}
MAX_POINTS_PER_SERIES = 100_000
MAX_POINTS = 10_000_000
#: Below this many raw samples, reading them costs less than asking the query process for a tier.
RAW_SAMPLES_PREFERRED = 500_000
LOOKBACK_NS = 5 * NS_PER_MINUTE


@dataclass(frozen=True, slots=True)
class RangeQuery:
    """``by``: None keeps every series apart; otherwise series with equal values of these labels are merged.

    ``further_metrics`` are answered like ``metric``, each with lines of its own; those of one table are read together.
    ``top`` and ``bottom``: of each bucket only the points of so many lines with the highest or the lowest values.
    """

    metric: str
    start_ns: int
    end_ns: int
    step_ns: int
    aggregate: str = "avg"
    matchers: tuple[Matcher, ...] = ()
    by: tuple[str, ...] | None = None
    further_metrics: tuple[str, ...] = ()
    top: int | None = None
    bottom: int | None = None

    @property
    def metrics(self) -> tuple[str, ...]:
        return (self.metric, *self.further_metrics)


@dataclass(slots=True)
class RangeAnswer:
    """Aligned series, and where they come from.

    ``tier``: ``raw`` or a rollup's name, the widest one where there are several sources; ``sources``: how many samples
    or rollup rows were read of each, ``rows_read`` of all; ``fresh_to_ns``: the newest time of a sample in the answer,
    None when it is empty; ``reason``: why there are none, or none of a metric.
    """

    metric: str
    aggregate: str
    step_ns: int
    tier: str
    series: SeriesList = field(default_factory=SeriesList)
    rows_read: int = 0
    fresh_to_ns: int | None = None
    #: No quantile is further from the exact one than this share of it; 0.0 for exact ones, None for other aggregates.
    relative_error: float | None = None
    reason: str | None = None
    sources: dict[str, int] = field(default_factory=dict)

    def count(self, source: str, rows: int, newest_ns: int | None) -> None:
        """Add what has been read of one source."""
        self.rows_read += rows
        self.sources[source] = self.sources.get(source, 0) + rows
        if newest_ns is not None:
            self.fresh_to_ns = max(self.fresh_to_ns or 0, newest_ns)

    def tells_of(self, metrics: Iterable[str]) -> bool:
        """Return whether there is a series of each of these metrics."""
        return {block.metric for block in self.series.blocks}.issuperset(metrics)


class RangeReader:
    """Answers range queries of one engine; callable from any thread."""

    def __init__(
        self,
        catalog: Catalog,
        samples: SampleStore,
        tiers: Tiers | None,
        newest: NewestReader | None = None,
    ) -> None:
        """``tiers``: None where there are none.  ``newest``: finds newest samples without reading others."""
        self._newest = newest
        self._catalog, self._samples, self._tiers = catalog, samples, tiers
        self._prompt = PromptReader(catalog, samples)
        self._selections = Selections()
        planner = Planner(catalog, samples, tiers)
        self._grids = GridReader(catalog, samples, planner)
        self._sequences = SequenceReader(samples, planner)
        self._quantiles = QuantileReader(catalog, samples, tiers)

    def answer(self, query: RangeQuery, *, raw_since_ns: Callable[[int], int]) -> RangeAnswer:
        """Answer one query; ``raw_since_ns(table_id)`` is the oldest time for which raw samples are still kept.

        Raises BadRequest for a query that makes no sense and QueryLimit for one that is too large.
        """
        answer = self._answer(query, raw_since_ns, prompt=False)
        assert answer is not None
        return answer

    def prompt_answer(self, query: RangeQuery, *, raw_since_ns: Callable[[int], int]) -> RangeAnswer | None:
        """Return the same answer if it takes well under a millisecond and waits for nothing, else None."""
        return self._answer(query, raw_since_ns, prompt=True)

    def _answer(self, query: RangeQuery, raw_since_ns: Callable[[int], int], *, prompt: bool) -> RangeAnswer | None:
        _validate(query)
        answer = RangeAnswer(query.metric, query.aggregate, query.step_ns, "raw")
        for one in self._selected(query):
            since_ns = raw_since_ns(one.table_id)
            whole = (query.start_ns, query.end_ns)
            few = prompt or not self._grids.suits(one, query.aggregate, whole)
            if few and query.start_ns >= since_ns and self._read_prompt(answer, query, one):
                continue
            if prompt:
                return None
            newest = self._newest_buckets(query, one, since_ns)
            if newest is not None:
                self._add(answer, query, one, newest, {RAW: int(newest.counts.sum())})
                continue
            grid = self._grids.read(one, query.aggregate, query.by, whole, query.step_ns, since_ns)
            if grid is not None:
                self._add_grid(answer, grid)
                continue
            sequences = self._sequences.read(one, query.aggregate, whole, query.step_ns, since_ns, LOOKBACK_NS)
            if sequences is not None:
                self._add(answer, query, one, *sequences)
                continue
            # Where all raw samples are kept and sequences are not for it, a tier lacks what is asked for.
            kept = query.aggregate in ORDERED and query.start_ns - LOOKBACK_NS >= since_ns
            tier = None if kept else self._choose(query, one, since_ns)
            read = self._read_quantiles if query.aggregate in SHARES else self._read_buckets
            if tier is not None and not read(answer, query, one, tier):
                if query.start_ns < since_ns:
                    raise BadRequest(_not_kept(query, one, tier))
                tier = None
            if tier is None:
                read(answer, query, one, None)
        answer.tier = max(answer.sources, key=_WIDTHS.__getitem__, default=RAW)
        if query.further_metrics:
            # Those of several tables come table by table.
            place = {metric: number for number, metric in enumerate(query.metrics)}
            answer.series.sort(place.__getitem__)
        if query.top is not None:
            answer.series = highest(answer.series, query.top)
        elif query.bottom is not None:
            answer.series = highest(answer.series, query.bottom, lowest=True)
        return answer

    def _selected(self, query: RangeQuery) -> list[Selected]:
        """Return what is to be read, metrics of the same tag sets together.  Raises QueryLimit for too many points."""
        found = self._selections.of(query.metrics, query.matchers, self._catalog.native.mark(), self._select)
        for one in found:
            lines = len(one.tagset_ids) * len(one.metrics)
            points = lines * ((query.end_ns - query.start_ns) // query.step_ns + 1)
            if query.by is None and points > MAX_POINTS:
                raise QueryLimit(
                    f"cannot answer query: {lines} series make up to {points} points,"
                    f" the limit is {MAX_POINTS}; narrow the matchers, take a longer step or group with by="
                )
        return found

    def _select(self, metrics: Sequence[str], wanted: Sequence[Matcher]) -> list[Selected]:
        tables: dict[tuple[int, tuple[Matcher, ...]], dict[int, str]] = {}
        for metric in dict.fromkeys(metrics):
            for one in self._catalog.fields_of_metric(metric):
                tables.setdefault((one.table_id, one.matchers), {})[one.field_id] = metric
        found = []
        for (table_id, matchers), names in tables.items():
            tagset_ids = self._catalog.tagset_ids(table_id, (*matchers, *wanted))
            if len(tagset_ids):
                every = len(tagset_ids) == len(self._catalog.tagset_ids(table_id))
                found.append(Selected(table_id, dict(sorted(names.items())), tagset_ids, every))
        return found

    def _read_prompt(self, answer: RangeAnswer, query: RangeQuery, one: Selected) -> bool:
        """Add the lines of one table to the answer if they come of few samples; return False, and add nothing, else."""
        if query.aggregate in SHARES or self._wants_newest(query):
            return False
        part = self._prompt.read(
            one,
            query.aggregate,
            query.by,
            query.start_ns,
            query.end_ns,
            query.step_ns,
            LOOKBACK_NS if query.aggregate in COUNTED else 0,
            RAW_SAMPLES_PREFERRED,
        )
        if part is None:
            return False
        for block in part.blocks:
            answer.series.add(block)
        if part.samples:
            answer.count(RAW, part.samples, part.newest_ns)
        return True

    def _read_buckets(self, answer: RangeAnswer, query: RangeQuery, one: Selected, tier: Tier | None) -> bool:
        """Add the lines of one table to the answer; return False, and add nothing, when the tier does not know it."""
        buckets = self._raw(query, one) if tier is None else self._tier(query, one, tier)
        if tier is not None and query.aggregate in COUNTED and np.isnan(buckets.increases).any():
            return False
        rows = int(buckets.counts.sum()) if tier is None else len(buckets.counts)
        self._add(answer, query, one, buckets, {RAW if tier is None else tier.name: rows})
        return True

    @staticmethod
    def _add_grid(answer: RangeAnswer, grid: GridPart) -> None:
        for source, rows in grid.rows.items():
            answer.count(source, rows, grid.newest_ns)
        for block in grid.blocks:
            answer.series.add(block)
        if grid.lacking is not None:
            start, end = (time_text(each) for each in grid.lacking)
            answer.reason = (
                f"raw samples from {start} to {end} are no longer kept, and what is asked for there is not whole"
                " buckets of a tier: points of that time lack them"
            )

    def _add(
        self, answer: RangeAnswer, query: RangeQuery, one: Selected, buckets: Buckets, sources: Mapping[str, int]
    ) -> None:
        """Add the lines of some buckets to the answer."""
        if not len(buckets.last_times):
            return
        for source, rows_read in sources.items():
            answer.count(source, rows_read, int(buckets.last_times.max()))
        # Fields of one tag set have the same labels: these are told apart once for all of them.
        labels, groups = lines_of(self._catalog, one.table_id, buckets.series_ids & -MAX_FIELDS, query.by)
        field_ids = buckets.series_ids & (MAX_FIELDS - 1)
        for field_id, metric in one.metrics.items():
            if len(one.metrics) == 1:
                answer.series.add(_lines(query, metric, labels, groups, buckets))
                continue
            places = np.flatnonzero(field_ids == field_id)
            answer.series.add(_lines(query, metric, labels, groups[places], take_buckets(buckets, places)))

    def _read_quantiles(self, answer: RangeAnswer, query: RangeQuery, one: Selected, tier: Tier | None) -> bool:
        """The same for quantiles: exact from raw samples, from a tier by its histograms."""
        share, whole = SHARES[query.aggregate], (query.start_ns, query.end_ns)
        parts = self._quantiles.read(one, share, query.by, whole, query.step_ns, tier)
        if parts is None:
            return False
        error = 0.0 if tier is None else RELATIVE_ERROR
        answer.relative_error = max(answer.relative_error or 0.0, error)
        for metric, labels, found, rows, newest_ns in parts:
            if rows:
                answer.count(RAW if tier is None else tier.name, rows, newest_ns)
            times = query.start_ns + found.buckets * query.step_ns
            answer.series.add(_block(metric, labels, found.groups, times, found.values))
        return True

    # --- sources

    def buckets(
        self,
        one: Field,
        tagset_ids: Int32Array,
        start_ns: int,
        end_ns: int,
        step_ns: int,
        *,
        counted: bool,
        raw_since_ns: int,
    ) -> Buckets:
        """Return the buckets of each series of one field, from the coarsest tier that answers like raw samples.

        ``counted``: with increases.  Where no source knows all of the range, the buckets that are known come.
        """
        query = RangeQuery("", start_ns, end_ns, step_ns, "increase" if counted else "avg")
        selected = Selected(one.table_id, {one.field_id: one.metric}, tagset_ids, every=False)
        tier = self._choose(query, selected, raw_since_ns)
        if tier is not None:
            found = self._tier(query, selected, tier)
            if not (counted and np.isnan(found.increases).any()):
                return found
            if start_ns < raw_since_ns:
                return take_buckets(found, ~np.isnan(found.increases))
        return self._raw(query, selected)

    def _newest_buckets(self, query: RangeQuery, one: Selected, raw_since_ns: int) -> Buckets | None:
        """Return the newest sample of each series as its one bucket; None where the query may need others."""
        if self._newest is None or not self._wants_newest(query) or query.start_ns < raw_since_ns:
            return None
        if self._samples.newest_time_ns(one.table_id) >= query.end_ns:
            return None
        found = self._newest.newest(one.table_id, one.tagset_ids, one.field_ids, query.start_ns)
        known = (found.times != NEVER_NS).T
        values, times = found.values.T[known], found.times.T[known]
        if np.isnan(values).any():
            return None
        buckets = np.full(len(times), query.start_ns, np.int64)
        series_ids = one.series_ids.reshape(known.shape)[known]
        ones, zeros = np.ones(len(times), np.int64), np.zeros(len(times), np.float64)
        return Buckets(series_ids, buckets, ones, values, values, values, values, values, times, zeros)

    def _wants_newest(self, query: RangeQuery) -> bool:
        """Return whether the newest samples may be all that is asked for."""
        one_bucket = query.end_ns - query.start_ns <= query.step_ns
        return self._newest is not None and query.aggregate == "last" and query.by is None and one_bucket

    def _choose(self, query: RangeQuery, one: Selected, raw_since_ns: int) -> Tier | None:
        """Return the coarsest tier that gives the same answer as raw samples, or None for raw samples."""
        if self._tiers is None:
            return None
        newest = self._samples.newest_time_ns(one.table_id)
        usable = [
            tier
            for tier in TIERS
            if query.step_ns % tier.width_ns == 0
            and query.start_ns % tier.width_ns == 0
            and (query.end_ns % tier.width_ns == 0 or newest < query.end_ns)
        ]
        if not usable:
            return None
        expected = self._samples.expected_rows(one.table_id, query.start_ns, query.end_ns)
        share = len(one.tagset_ids) / max(1, len(self._catalog.tagset_ids(one.table_id)))
        if query.start_ns >= raw_since_ns and expected * share * len(one.metrics) <= RAW_SAMPLES_PREFERRED:
            return None
        return max(usable, key=lambda tier: tier.width_ns)

    def _raw(self, query: RangeQuery, one: Selected) -> Buckets:
        counted = query.aggregate in COUNTED
        start = query.start_ns - LOOKBACK_NS if counted else query.start_ns
        rows = self._samples.collect(one.table_id, start, query.end_ns, one.narrowed, one.field_ids)
        buckets = buckets_of_rows(rows, query.step_ns, query.start_ns)
        return with_boundaries(buckets, query.start_ns) if counted else buckets

    def _tier(self, query: RangeQuery, one: Selected, tier: Tier) -> Buckets:
        counted = query.aggregate in COUNTED
        start = (query.start_ns - LOOKBACK_NS) // tier.width_ns * tier.width_ns if counted else query.start_ns
        names = (*NAMES, INCREASE) if counted else NAMES
        assert self._tiers is not None
        found = buckets_of_table(self._tiers.rows(tier.name, start, query.end_ns, one.series_ids, names))
        if counted:
            # The step into the range counts from a sample as near as it does for raw samples.
            near = (found.times >= query.start_ns) | (found.last_times >= query.start_ns - LOOKBACK_NS)
            found = with_boundaries(take_buckets(found, near), query.start_ns)
        if tier.width_ns == query.step_ns:
            return found
        into = query.start_ns + (found.times - query.start_ns) // query.step_ns * query.step_ns
        return merge_buckets(found, found.series_ids, into)


def _lines(
    query: RangeQuery, metric: str, labels: Sequence[dict[str, str]], group: Int64Array, buckets: Buckets
) -> LineBlock:
    """Return the lines of one metric; ``group``: for each bucket the place of its labels."""
    if query.by is not None and len(buckets.times):
        buckets = merge_buckets(buckets, group, buckets.times)
        group = buckets.series_ids
    values = aggregate_values(buckets, query.aggregate, query.step_ns)
    sample_times = buckets.last_times if query.aggregate == "last" else None
    return _block(metric, labels, group, buckets.times, values, sample_times)


def _block(
    metric: str,
    labels: Sequence[dict[str, str]],
    group: Int64Array,
    times: Int64Array,
    values: Float64Array,
    sample_times: Int64Array | None = None,
) -> LineBlock:
    """Return points as lines: those with one number in ``group``, where they stand together, are a line."""
    starts = np.flatnonzero(np.concatenate((np.ones(min(1, len(group)), np.bool_), group[1:] != group[:-1])))
    chosen = [labels[number] for number in group[starts].tolist()]
    return LineBlock(metric, chosen, np.append(starts, len(group)), times, values, sample_times)


def _not_kept(query: RangeQuery, one: Selected, tier: Tier) -> str:
    what, setting = ("histograms", "histograms") if query.aggregate in SHARES else ("increases", "counters")
    return (
        f"cannot answer query: {tier.name} does not have the {what} of {_named(one)} for all of the range, and raw"
        f" samples are no longer kept; want a later start (rollups.{setting} says what is kept from now on)"
    )


def _named(one: Selected) -> str:
    return ", ".join(repr(metric) for metric in one.metrics.values())


def _validate(query: RangeQuery) -> None:
    if query.aggregate not in AGGREGATES:
        raise BadRequest(f"cannot aggregate: got {query.aggregate!r}, want one of {', '.join(AGGREGATES)}")
    if query.step_ns <= 0:
        raise BadRequest(f"cannot answer query: the step is {query.step_ns} ns, want more than 0")
    if query.end_ns <= query.start_ns:
        end, start = time_text(query.end_ns), time_text(query.start_ns)
        raise BadRequest(f"cannot answer query: the end ({end}) is not after the start ({start})")
    if query.top is not None and query.bottom is not None:
        raise BadRequest("cannot answer query: got both topk and bottomk, want one of them")
    points = (query.end_ns - query.start_ns) // query.step_ns
    if points > MAX_POINTS_PER_SERIES:
        raise BadRequest(
            f"cannot answer query: {points} points a series, want at most {MAX_POINTS_PER_SERIES}; take a longer step"
        )
