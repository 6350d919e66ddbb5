"""Aligned aggregated series without SQL: matchers -> tag sets -> raw samples or a rollup tier -> buckets.

Buckets are half-open, ``[start + k*step, start + (k+1)*step)``.  Averages across series weigh every sample the same:
sums and counts are merged, not averages.  ``increase`` attributes the difference between two samples to the bucket of
the later one and counts a falling value as a reset to zero (Prometheus, ``increase``), without extrapolation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine.catalog.catalog import Catalog, Field
from engine.clock import NS_PER_MINUTE, NS_PER_SECOND
from engine.errors import BadRequest, QueryLimit
from engine.model.matchers import Matcher
from engine.model.rows import FIELD_ID_BITS, Float64Array, Int32Array, Int64Array
from engine.query.grouping import lines_of
from engine.query.quantiles import SHARES, bins_of_column, of_bins, of_samples
from engine.query.samples import SampleStore
from engine.rollups.bins import RELATIVE_ERROR
from engine.rollups.long import HISTOGRAM, INCREASE, NAMES
from engine.rollups.tiers import TIERS, Tier
from native.rollup import BucketColumns, aggregate
from native.sorting import sort_order

AGGREGATES = ("avg", "sum", "min", "max", "count", "first", "last", "increase", "rate", *SHARES)
_COUNTED = ("increase", "rate")
MAX_POINTS_PER_SERIES = 100_000
MAX_POINTS = 10_000_000
#: Below this many raw rows, reading them costs less than asking the query process for a tier.
RAW_ROWS_PREFERRED = 500_000
LOOKBACK_NS = 5 * NS_PER_MINUTE


@dataclass(frozen=True, slots=True)
class RangeQuery:
    """``by``: None keeps every series apart; otherwise series with equal values of these labels are merged."""

    metric: str
    start_ns: int
    end_ns: int
    step_ns: int
    aggregate: str = "avg"
    matchers: tuple[Matcher, ...] = ()
    by: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class SeriesPoints:
    """One line of an answer.  ``times``: int64[n] bucket starts; ``values``: float64[n]; empty buckets are left out."""

    labels: dict[str, str]
    times: Int64Array
    values: Float64Array


@dataclass(slots=True)
class RangeAnswer:
    """Aligned series, and where they come from.

    ``tier``: ``raw`` or a rollup's name; ``rows_read``: raw rows or rollup rows looked at; ``fresh_to_ns``: the newest
    time of a sample in the answer, None when it is empty.
    """

    metric: str
    aggregate: str
    step_ns: int
    tier: str
    series: list[SeriesPoints] = field(default_factory=list)
    rows_read: int = 0
    fresh_to_ns: int | None = None
    #: No quantile is further from the exact one than this share of it; 0.0 for exact ones, None for other aggregates.
    relative_error: float | None = None


@dataclass(slots=True)
class Buckets:
    """Bucket columns sorted by (series, time), whichever source they come from."""

    series_ids: Int64Array
    times: Int64Array
    counts: Int64Array
    sums: Float64Array
    mins: Float64Array
    maxs: Float64Array
    firsts: Float64Array
    lasts: Float64Array
    last_times: Int64Array
    increases: Float64Array


TierRows = Callable[[str, int, int, Int64Array, Sequence[str]], pa.Table]


class RangeReader:
    """Answers range queries of one engine; callable from any thread."""

    def __init__(self, catalog: Catalog, samples: SampleStore, tier_rows: TierRows | None) -> None:
        """``tier_rows(tier, start_ns, end_ns, series_ids, names)`` gives columns of a tier's rows, everything visible
        included.  None: there are no tiers.
        """
        self._catalog, self._samples, self._tier_rows = catalog, samples, tier_rows

    def answer(self, query: RangeQuery, *, raw_since_ns: Callable[[int], int]) -> RangeAnswer:
        """Answer one query; ``raw_since_ns(table_id)`` is the oldest time for which raw samples are still kept.

        Raises BadRequest for a query that makes no sense and QueryLimit for one that is too large.
        """
        _validate(query)
        fields = self._catalog.fields_of_metric(query.metric)
        answer = RangeAnswer(query.metric, query.aggregate, query.step_ns, "raw")
        for one in fields:
            tagset_ids = self._catalog.tagset_ids(one.table_id, (*one.matchers, *query.matchers))
            if not len(tagset_ids):
                continue
            points = len(tagset_ids) * ((query.end_ns - query.start_ns) // query.step_ns + 1)
            if query.by is None and points > MAX_POINTS:
                raise QueryLimit(
                    f"cannot answer query: {len(tagset_ids)} series make up to {points} points,"
                    f" the limit is {MAX_POINTS}; narrow the matchers, take a longer step or group with by="
                )
            since_ns = raw_since_ns(one.table_id)
            tier = self._choose(query, one, tagset_ids, since_ns)
            read = self._read_quantiles if query.aggregate in SHARES else self._read_buckets
            if tier is not None and not read(answer, query, one, tagset_ids, tier):
                if query.start_ns < since_ns:
                    raise BadRequest(_not_kept(query, tier))
                tier = None
            if tier is None:
                read(answer, query, one, tagset_ids, None)
            else:
                answer.tier = tier.name
        return answer

    def _read_buckets(
        self, answer: RangeAnswer, query: RangeQuery, one: Field, tagset_ids: Int32Array, tier: Tier | None
    ) -> bool:
        """Add the lines of one table to the answer; return False, and add nothing, when the tier does not know it."""
        buckets = self._raw(query, one, tagset_ids) if tier is None else self._tier(query, one, tagset_ids, tier)
        if tier is not None and query.aggregate in _COUNTED and np.isnan(buckets.increases).any():
            return False
        answer.rows_read += int(buckets.counts.sum()) if tier is None else len(buckets.counts)
        if len(buckets.last_times):
            answer.fresh_to_ns = max(answer.fresh_to_ns or 0, int(buckets.last_times.max()))
        answer.series.extend(self._lines(query, one.table_id, buckets))
        return True

    def _read_quantiles(
        self, answer: RangeAnswer, query: RangeQuery, one: Field, tagset_ids: Int32Array, tier: Tier | None
    ) -> bool:
        """The same for quantiles: exact from raw samples, from a tier by its histograms."""
        share = SHARES[query.aggregate]
        if tier is None:
            rows = self._samples.collect(one.table_id, query.start_ns, query.end_ns, tagset_ids, (one.field_id,))
            values = rows.values[0] if len(rows.values) else np.empty(0, np.float64)
            present = ~np.isnan(values)
            times, series_ids, values = rows.times[present], rows.tagset_ids[present], values[present]
            wide = series_ids.astype(np.int64) << FIELD_ID_BITS
            labels, groups = lines_of(self._catalog, one.table_id, wide, query.by)
            found = of_samples(groups, (times - query.start_ns) // query.step_ns, values, share)
            newest, error = times, 0.0
        else:
            wanted = (tagset_ids.astype(np.int64) << FIELD_ID_BITS) | one.field_id
            names = ("series_id", "time", "last_time", HISTOGRAM)
            assert self._tier_rows is not None
            table = self._tier_rows(tier.name, query.start_ns, query.end_ns, wanted, names)
            bins = bins_of_column(table.column(HISTOGRAM))
            if bins is None:
                return False
            labels, groups = lines_of(self._catalog, one.table_id, table.column("series_id").to_numpy(), query.by)
            steps = (table.column("time").to_numpy() - query.start_ns) // query.step_ns
            found = of_bins(groups, steps, bins, share)
            newest, error = table.column("last_time").to_numpy(), RELATIVE_ERROR
        answer.relative_error = max(answer.relative_error or 0.0, error)
        answer.rows_read += len(newest)
        if len(newest):
            answer.fresh_to_ns = max(answer.fresh_to_ns or 0, int(newest.max()))
        if not len(found.groups):
            return True
        starts = np.flatnonzero(np.r_[True, found.groups[1:] != found.groups[:-1]])
        for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(found.groups)], strict=True):
            times = query.start_ns + found.buckets[start:end] * query.step_ns
            answer.series.append(SeriesPoints(labels[int(found.groups[start])], times, found.values[start:end]))
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
        tier = self._choose(query, one, tagset_ids, raw_since_ns)
        if tier is not None:
            found = self._tier(query, one, tagset_ids, tier)
            if not (counted and np.isnan(found.increases).any()):
                return found
            if start_ns < raw_since_ns:
                return _take(found, ~np.isnan(found.increases))
        return self._raw(query, one, tagset_ids)

    def _choose(self, query: RangeQuery, one: Field, tagset_ids: Int32Array, raw_since_ns: int) -> Tier | None:
        """Return the coarsest tier that gives the same answer as raw samples, or None for raw samples."""
        if self._tier_rows is None:
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
        share = len(tagset_ids) / max(1, len(self._catalog.tagset_ids(one.table_id)))
        if query.start_ns >= raw_since_ns and expected * share <= RAW_ROWS_PREFERRED:
            return None
        return max(usable, key=lambda tier: tier.width_ns)

    def _raw(self, query: RangeQuery, one: Field, tagset_ids: Int32Array) -> Buckets:
        counted = query.aggregate in _COUNTED
        start = query.start_ns - LOOKBACK_NS if counted else query.start_ns
        rows = self._samples.collect(one.table_id, start, query.end_ns, tagset_ids, (one.field_id,))
        buckets = _of_columns(
            aggregate(
                rows.tagset_ids,
                rows.times,
                np.ascontiguousarray(rows.values),
                np.array(rows.field_ids, np.int32),
                query.step_ns,
                query.start_ns,
            )
        )
        return _with_boundaries(buckets, query.start_ns) if counted else buckets

    def _tier(self, query: RangeQuery, one: Field, tagset_ids: Int32Array, tier: Tier) -> Buckets:
        series_ids = (tagset_ids.astype(np.int64) << FIELD_ID_BITS) | one.field_id
        counted = query.aggregate in _COUNTED
        start = (query.start_ns - LOOKBACK_NS) // tier.width_ns * tier.width_ns if counted else query.start_ns
        names = (*NAMES, INCREASE) if counted else NAMES
        assert self._tier_rows is not None
        found = buckets_of_table(self._tier_rows(tier.name, start, query.end_ns, series_ids, names))
        if counted:
            # The step into the range counts from a sample as near as it does for raw samples.
            near = (found.times >= query.start_ns) | (found.last_times >= query.start_ns - LOOKBACK_NS)
            found = _with_boundaries(_take(found, near), query.start_ns)
        if tier.width_ns == query.step_ns:
            return found
        into = query.start_ns + (found.times - query.start_ns) // query.step_ns * query.step_ns
        return _merge(found, found.series_ids, into)

    # --- results

    def _lines(self, query: RangeQuery, table_id: int, buckets: Buckets) -> list[SeriesPoints]:
        if not len(buckets.times):
            return []
        labels, group = lines_of(self._catalog, table_id, buckets.series_ids, query.by)
        if query.by is not None:
            buckets = _merge(buckets, group, buckets.times)
            group = buckets.series_ids
        values = aggregate_values(buckets, query.aggregate, query.step_ns)
        lines = []
        starts = np.flatnonzero(np.r_[True, group[1:] != group[:-1]])
        ends = np.r_[starts[1:], len(group)]
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            lines.append(SeriesPoints(labels[int(group[start])], buckets.times[start:end], values[start:end]))
        return lines


def _not_kept(query: RangeQuery, tier: Tier) -> str:
    what, setting = ("histograms", "histograms") if query.aggregate in SHARES else ("increases", "counters")
    return (
        f"cannot answer query: {tier.name} does not have the {what} of {query.metric!r} for all of the range, and raw"
        f" samples are no longer kept; want a later start (rollups.{setting} says what is kept from now on)"
    )


def window_buckets(
    samples: SampleStore, one: Field, tagset_ids: Int32Array | None, start_ns: int, end_ns: int, look_back_ns: int = 0
) -> Buckets:
    """Return one bucket a series for ``[start_ns, end_ns)``.

    With ``look_back_ns`` the increase counts from the last sample of that time before the window.
    """
    width = end_ns - start_ns
    rows = samples.collect(one.table_id, start_ns - look_back_ns, end_ns, tagset_ids, (one.field_id,))
    field_ids = np.array(rows.field_ids, np.int32)
    values = np.ascontiguousarray(rows.values)
    buckets = _of_columns(aggregate(rows.tagset_ids, rows.times, values, field_ids, width, start_ns))
    return _with_boundaries(buckets, start_ns) if look_back_ns else buckets


def window_change(
    samples: SampleStore, one: Field, tagset_ids: Int32Array | None, start_ns: int, end_ns: int, look_back_ns: int
) -> tuple[Int64Array, Float64Array, Float64Array, Int64Array]:
    """Return (series, newest value in ``[start_ns, end_ns)``, value when it began, time of the newest sample).

    The value when it began is that of the last sample within ``look_back_ns`` before, else of the first one inside; a
    series with a single sample has none and is left out.
    """
    rows = samples.collect(one.table_id, start_ns - look_back_ns, end_ns, tagset_ids, (one.field_id,))
    field_ids = np.array(rows.field_ids, np.int32)
    values = np.ascontiguousarray(rows.values)
    buckets = _of_columns(aggregate(rows.tagset_ids, rows.times, values, field_ids, end_ns - start_ns, start_ns))
    same = np.r_[False, buckets.series_ids[1:] == buckets.series_ids[:-1]]
    bases = np.where(same, np.r_[np.nan, buckets.lasts[:-1]], buckets.firsts)
    usable = (buckets.times >= start_ns) & (same | (buckets.counts > 1))
    return buckets.series_ids[usable], buckets.lasts[usable], bases[usable], buckets.last_times[usable]


def _validate(query: RangeQuery) -> None:
    if query.aggregate not in AGGREGATES:
        raise BadRequest(f"cannot aggregate: got {query.aggregate!r}, want one of {', '.join(AGGREGATES)}")
    if query.step_ns <= 0:
        raise BadRequest(f"cannot answer query: the step is {query.step_ns} ns, want more than 0")
    if query.end_ns <= query.start_ns:
        raise BadRequest(f"cannot answer query: the end ({query.end_ns}) is not after the start ({query.start_ns})")
    points = (query.end_ns - query.start_ns) // query.step_ns
    if points > MAX_POINTS_PER_SERIES:
        raise BadRequest(
            f"cannot answer query: {points} points a series, want at most {MAX_POINTS_PER_SERIES}; take a longer step"
        )


def aggregate_values(buckets: Buckets, name: str, width_ns: int) -> Float64Array:
    """Return one aggregate of each bucket; ``width_ns`` is what a rate is taken over."""
    match name:
        case "avg":
            return buckets.sums / buckets.counts
        case "sum":
            return buckets.sums
        case "min":
            return buckets.mins
        case "max":
            return buckets.maxs
        case "count":
            return buckets.counts.astype(np.float64)
        case "first":
            return buckets.firsts
        case "last":
            return buckets.lasts
        case "increase":
            return buckets.increases
        case _:
            return buckets.increases / (width_ns / NS_PER_SECOND)


def _of_columns(columns: BucketColumns) -> Buckets:
    return Buckets(
        columns.series_ids,
        columns.times,
        columns.counts,
        columns.sums,
        columns.mins,
        columns.maxs,
        columns.firsts,
        columns.lasts,
        columns.last_times,
        columns.increases,
    )


def _with_boundaries(buckets: Buckets, start_ns: int) -> Buckets:
    """Add to each bucket the step from the series' previous sample, and drop the look-back before ``start_ns``."""
    same = np.r_[False, buckets.series_ids[1:] == buckets.series_ids[:-1]]
    previous = np.r_[np.nan, buckets.lasts[:-1]]
    step = buckets.firsts - previous
    step = np.where(step >= 0, step, buckets.firsts)
    # A series' very first sample adds nothing: what it counted before is unknown.
    increases = buckets.increases + np.where(same, step, 0.0)
    return _take(
        Buckets(
            buckets.series_ids,
            buckets.times,
            buckets.counts,
            buckets.sums,
            buckets.mins,
            buckets.maxs,
            buckets.firsts,
            buckets.lasts,
            buckets.last_times,
            increases,
        ),
        buckets.times >= start_ns,
    )


def _take(buckets: Buckets, chosen: npt.NDArray[np.bool_] | Int64Array) -> Buckets:
    return Buckets(*(getattr(buckets, name)[chosen] for name in Buckets.__slots__))


def _is_sorted(groups: Int64Array, times: Int64Array) -> bool:
    later = (groups[1:] > groups[:-1]) | ((groups[1:] == groups[:-1]) & (times[1:] >= times[:-1]))
    return bool(later.all())


def _merge(buckets: Buckets, groups: Int64Array, times: Int64Array) -> Buckets:
    """Merge bucket rows with equal (group, time); sums are added in the order given."""
    if not len(times):
        return buckets
    ordered = buckets
    if not _is_sorted(groups, times):
        # Only numbers of lines come in another order, and there are fewer of those than rows.
        order = sort_order(groups.astype(np.int32), np.ascontiguousarray(times))
        ordered, groups, times = _take(buckets, order), groups[order], times[order]
    starts = np.flatnonzero(np.r_[True, (groups[1:] != groups[:-1]) | (times[1:] != times[:-1])])
    ends = np.r_[starts[1:], len(times)] - 1
    return Buckets(
        groups[starts],
        times[starts],
        np.add.reduceat(ordered.counts, starts),
        np.add.reduceat(ordered.sums, starts),
        np.minimum.reduceat(ordered.mins, starts),
        np.maximum.reduceat(ordered.maxs, starts),
        ordered.firsts[starts],
        ordered.lasts[ends],
        np.maximum.reduceat(ordered.last_times, starts),
        np.add.reduceat(ordered.increases, starts),
    )


def buckets_of_table(table: pa.Table) -> Buckets:
    """Return bucket columns from a tier's rows, sorted by (series, time); increases are 0 where they are no column."""
    series_ids, times, counts, sums, mins, maxs, firsts, lasts, _first_times, last_times = (
        table.column(name).to_numpy() for name in NAMES
    )
    counted = INCREASE in table.column_names
    found = Buckets(
        series_ids.astype(np.int64, copy=False),
        times.astype(np.int64, copy=False),
        counts.astype(np.int64, copy=False),
        sums.astype(np.float64, copy=False),
        mins.astype(np.float64, copy=False),
        maxs.astype(np.float64, copy=False),
        firsts.astype(np.float64, copy=False),
        lasts.astype(np.float64, copy=False),
        last_times.astype(np.int64, copy=False),
        table.column(INCREASE).to_numpy() if counted else np.zeros(len(times), np.float64),
    )
    if _is_sorted(found.series_ids, found.times):
        return found
    return _take(found, np.lexsort((found.times, found.series_ids)))
