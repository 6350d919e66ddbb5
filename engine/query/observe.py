"""The newest value, or a recent aggregate, of every series of a metric: what rules and scaling policies look at.

A value belongs to a tag set.  ``last`` is read from the hot store in constant time a series; other aggregates are taken
over the samples of the last ``over`` nanoseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.catalog.catalog import Catalog, Field
from engine.clock import NS_PER_SECOND
from engine.model.matchers import Matcher
from engine.model.rows import FIELD_ID_BITS, Float64Array, Int32Array, Int64Array
from engine.query.buckets import aggregate_values
from engine.query.range import LOOKBACK_NS
from engine.query.samples import SampleStore
from engine.query.windows import window_buckets, window_change

#: A table, and what its tag sets must have.
_Selection = tuple[int, tuple[Matcher, ...]]
Matchers = tuple[Matcher, ...]
_CHANGES = ("change", "change_percent")


@dataclass(frozen=True, slots=True)
class Observed:
    """Values by tag set: ``tagset_ids`` int32[n] ascending, ``values`` float64[n], ``times`` int64[n] (ns)."""

    tagset_ids: Int32Array
    values: Float64Array
    times: Int64Array

    @staticmethod
    def nothing() -> Observed:
        return Observed(np.empty(0, np.int32), np.empty(0, np.float64), np.empty(0, np.int64))

    def scaled(self, factor: float) -> Observed:
        return self if factor == 1.0 else Observed(self.tagset_ids, self.values * factor, self.times)


class Observer:
    """Reads observations of one engine; callable from any thread."""

    def __init__(self, catalog: Catalog, samples: SampleStore) -> None:
        self._catalog, self._samples = catalog, samples
        self._selected: dict[_Selection, tuple[int, Int32Array]] = {}
        self._in_use: dict[_Selection, tuple[int, npt.NDArray[np.bool_]]] = {}
        self._pairs: dict[object, tuple[Int32Array, Int32Array, Int64Array]] = {}

    def values(
        self,
        metric: str,
        matchers: Matchers,
        now_ns: int,
        *,
        aggregate: str = "last",
        over_ns: int = 0,
        divide_by: str | None = None,
        scale: float = 1.0,
    ) -> Observed:
        """Return the metric's present value for each tag set that ``matchers`` accept.

        With ``divide_by`` the value is the ratio of the two aggregates of the same labels; a tag set without a
        divisor, or with a divisor of zero, has none.  The time is that of the newest sample behind the value.
        """
        found = self.metric(metric, matchers, now_ns, aggregate=aggregate, over_ns=over_ns)
        if divide_by is not None:
            below = self.metric(divide_by, matchers, now_ns, aggregate=aggregate, over_ns=over_ns)
            found = self.ratio(found, below, remember=(metric, divide_by, matchers))
        return found.scaled(scale)

    def metric(
        self, metric: str, matchers: Matchers, now_ns: int, *, aggregate: str = "last", over_ns: int = 0
    ) -> Observed:
        """Return one aggregate of a metric for each tag set that ``matchers`` accept.

        ``change`` is the newest value in the window less the one that held when it began (the last sample of the
        five minutes before, else the first in it), ``change_percent`` that in percent of it; both want two samples.
        ``age`` is how many seconds ago the newest sample was, as of now.
        """
        parts = [
            self._field(field, matchers, now_ns, aggregate, over_ns) for field in self._catalog.fields_of_metric(metric)
        ]
        return united(parts)

    def _select(self, field: Field, wanted: Matchers) -> Int32Array | None:
        """Return the tag sets with these labels, ascending, or None for all; remembered until there are new ones."""
        if not wanted and not field.matchers:
            return None
        matchers = (*field.matchers, *wanted)
        key = (field.table_id, matchers)
        count = self._catalog.native.tagset_count
        known = self._selected.get(key)
        if known is None or known[0] != count:
            since, ids = known or (0, np.empty(0, np.int32))
            known = (count, np.concatenate([ids, self._catalog.tagset_ids(field.table_id, matchers, since=since)]))
            self._selected[key] = known
        return known[1]

    def _among(self, field: Field, wanted: Matchers) -> tuple[int, npt.NDArray[np.bool_]] | None:
        """Return which of the table's tag sets in use have these labels, by place; None for all."""
        if not wanted and not field.matchers:
            return None
        matchers = (*field.matchers, *wanted)
        key = (field.table_id, matchers)
        generation, tagset_ids = self._samples.hot.tagsets_in_use(field.table_id)
        known = self._in_use.get(key)
        if known is None or known[0] != generation:
            known = (generation, np.empty(0, np.bool_))
        if len(known[1]) < len(tagset_ids):
            new = tagset_ids[len(known[1]) :]
            known = (generation, np.concatenate([known[1], self._catalog.accepts(new, matchers)]))
            self._in_use[key] = known
        return known

    def _latest(self, field: Field, wanted: Matchers) -> Observed:
        hot = self._samples.hot
        latest = None
        for _ in range(3):
            # Tag sets may be forgotten between the two calls, but not every time.
            among = self._among(field, wanted)
            latest = hot.latest(field.table_id, field.field_id, among)
            if latest is not None or among is None or among[0] == hot.tagsets_in_use(field.table_id)[0]:
                break
        if latest is None:
            return Observed.nothing()
        tagset_ids, values, times = latest.tagset_ids, latest.values, latest.times
        if len(tagset_ids) > 1 and not (tagset_ids[1:] > tagset_ids[:-1]).all():
            order = np.argsort(tagset_ids)
            tagset_ids, values, times = tagset_ids[order], values[order], times[order]
        return Observed(tagset_ids, values, times)

    def _field(self, field: Field, wanted: Matchers, now_ns: int, aggregate: str, over_ns: int) -> Observed:
        if aggregate in ("last", "age"):
            latest = self._latest(field, wanted)
            if aggregate == "last":
                return latest
            ages = (now_ns - latest.times) / NS_PER_SECOND
            return Observed(latest.tagset_ids, ages, np.full(len(ages), now_ns, np.int64))
        selected = self._select(field, wanted)
        start_ns = now_ns - over_ns
        if aggregate in _CHANGES:
            series_ids, values, bases, times = window_change(
                self._samples, field, selected, start_ns + 1, now_ns + 1, LOOKBACK_NS
            )
            found = values - bases
            if aggregate == "change_percent":
                # From zero there is no percentage.
                series_ids, found, bases, times = _kept(bases != 0, series_ids, found, bases, times)
                found = 100.0 * found / np.abs(bases)
            return Observed((series_ids >> FIELD_ID_BITS).astype(np.int32), found, times)
        look_back = LOOKBACK_NS if aggregate in ("increase", "rate") else 0
        buckets = window_buckets(self._samples, field, selected, start_ns + 1, now_ns + 1, look_back)
        tagset_ids = (buckets.series_ids >> FIELD_ID_BITS).astype(np.int32)
        return Observed(tagset_ids, aggregate_values(buckets, aggregate, over_ns), buckets.last_times)

    def ratio(self, above: Observed, below: Observed, *, remember: object = None) -> Observed:
        """Return the quotients of what has equal labels; what has no divisor, or one of zero, has none.

        ``remember``: a name for the two; which belong together is found out again only when there are others.
        """
        if not len(above.tagset_ids) or not len(below.tagset_ids):
            return Observed.nothing()
        if np.array_equal(above.tagset_ids, below.tagset_ids):
            # Two fields of one table, most often: nothing to look for.
            return quotients(above, below.values, below.times, below.values != 0)
        positions = np.minimum(np.searchsorted(below.tagset_ids, above.tagset_ids), len(below.tagset_ids) - 1)
        same = below.tagset_ids[positions] == above.tagset_ids
        if not same.any():
            # Two tables, and two metrics of a pooled one, number their tag sets apart; equal labels make the pair.
            positions = self._paired(above.tagset_ids, below.tagset_ids, remember)
            same = positions >= 0
        divisors = below.values[positions]
        return quotients(above, divisors, below.times[positions], same & (divisors != 0))

    def _paired(self, above: Int32Array, below: Int32Array, remember: object) -> Int64Array:
        """Return int64[n]: for each of ``above`` the place of the one among ``below`` with equal labels, or -1."""
        known = self._pairs.get(remember)
        if known is not None and np.array_equal(known[0], above) and np.array_equal(known[1], below):
            return known[2]
        of_labels = {self._key(tagset_id): index for index, tagset_id in enumerate(below.tolist())}
        positions = np.array([of_labels.get(self._key(tagset_id), -1) for tagset_id in above.tolist()], np.int64)
        if remember is not None:
            self._pairs[remember] = (above.copy(), below.copy(), positions)
        return positions

    def _key(self, tagset_id: int) -> tuple[tuple[str, str], ...]:
        return tuple(sorted(self._catalog.labels(tagset_id).items()))


def quotients(above: Observed, divisors: Float64Array, times: Int64Array, usable: npt.NDArray[np.bool_]) -> Observed:
    """Return ``above`` over ``divisors`` where that is ``usable``; the time is the older one of the two."""
    older = np.minimum(above.times, times)
    if usable.all():
        return Observed(above.tagset_ids, above.values / divisors, older)
    return Observed(above.tagset_ids[usable], above.values[usable] / divisors[usable], older[usable])


def united(parts: Sequence[Observed]) -> Observed:
    """Return the observations of several tables as one, ascending."""
    parts = [part for part in parts if len(part.tagset_ids)]
    if not parts:
        return Observed.nothing()
    if len(parts) == 1:
        return parts[0]
    tagset_ids = np.concatenate([part.tagset_ids for part in parts])
    order = np.argsort(tagset_ids, kind="stable")
    return Observed(
        tagset_ids[order],
        np.concatenate([part.values for part in parts])[order],
        np.concatenate([part.times for part in parts])[order],
    )


def _kept(
    mask: npt.NDArray[np.bool_], ids: Int64Array, one: Float64Array, two: Float64Array, times: Int64Array
) -> tuple[Int64Array, Float64Array, Float64Array, Int64Array]:
    return ids[mask], one[mask], two[mask], times[mask]
