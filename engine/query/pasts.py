"""What a metric was at past times, bucket by bucket, from the tier or the raw samples that answer alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from engine.catalog.catalog import Catalog
from engine.clock import NS_PER_HOUR, NS_PER_MINUTE, NS_PER_SECOND
from engine.model.matchers import Matcher
from engine.model.rows import FIELD_ID_BITS, Float64Array, Int64Array
from engine.query.buckets import Buckets
from engine.query.observe import Observed, united
from engine.query.range import RangeReader

#: Widths of buckets that tiers know or make up, ns.
WIDTHS_NS = tuple(minutes * NS_PER_MINUTE for minutes in (1, 5, 15, 60, 3 * 60, 24 * 60))
MOST_BUCKETS = 36


def width_for(range_ns: int) -> int:
    """Return the smallest width of a tier's buckets of which at most 36 make ``range_ns``."""
    return next((width for width in WIDTHS_NS if range_ns <= MOST_BUCKETS * width), WIDTHS_NS[-1])


class Pasts:
    """Reads past buckets of one engine; callable from any thread."""

    def __init__(self, catalog: Catalog, ranges: RangeReader, raw_since_ns: Callable[[int], int]) -> None:
        """``raw_since_ns(table_id)``: the oldest time for which raw samples are kept."""
        self._catalog, self._ranges, self._raw_since_ns = catalog, ranges, raw_since_ns

    def hour(
        self, metric: str, matchers: tuple[Matcher, ...], start_ns: int, *, aggregate: str, over_ns: int
    ) -> Observed:
        """Return the metric's typical value in the hour that begins at ``start_ns``, by tag set.

        ``last`` becomes the average of the hour; ``sum``, ``count`` and ``increase`` are brought to the length
        ``over_ns``.
        """
        return united(
            [
                _observed(buckets, aggregate, NS_PER_HOUR, over_ns)
                for buckets in self._buckets(metric, matchers, start_ns, start_ns + NS_PER_HOUR, NS_PER_HOUR, aggregate)
            ]
        )

    def grid(
        self,
        metric: str,
        matchers: tuple[Matcher, ...],
        start_ns: int,
        end_ns: int,
        width_ns: int,
        *,
        aggregate: str,
        over_ns: int,
    ) -> list[Observed]:
        """Return the same for each bucket of ``width_ns`` in the range; the time is that of the bucket's middle."""
        count = (end_ns - start_ns) // width_ns
        parts: list[list[Observed]] = [[] for _ in range(count)]
        for buckets in self._buckets(metric, matchers, start_ns, end_ns, width_ns, aggregate):
            whole = _observed(buckets, aggregate, width_ns, over_ns)
            places = (buckets.times - start_ns) // width_ns
            for place in range(count):
                rows = places == place
                middle_ns = start_ns + place * width_ns + width_ns // 2
                times: Int64Array = np.full(int(np.count_nonzero(rows)), middle_ns, np.int64)
                parts[place].append(Observed(whole.tagset_ids[rows], whole.values[rows], times))
        return [united(each) for each in parts]

    def _buckets(
        self, metric: str, matchers: tuple[Matcher, ...], start_ns: int, end_ns: int, width_ns: int, aggregate: str
    ) -> Iterator[Buckets]:
        for one in self._catalog.fields_of_metric(metric):
            tagset_ids = self._catalog.tagset_ids(one.table_id, (*one.matchers, *matchers))
            if len(tagset_ids):
                yield self._ranges.buckets(
                    one,
                    tagset_ids,
                    start_ns,
                    end_ns,
                    width_ns,
                    counted=aggregate in ("increase", "rate"),
                    raw_since_ns=self._raw_since_ns(one.table_id),
                )


def _observed(buckets: Buckets, aggregate: str, width_ns: int, over_ns: int) -> Observed:
    tagset_ids = (buckets.series_ids >> FIELD_ID_BITS).astype(np.int32)
    return Observed(tagset_ids, _values(buckets, aggregate, width_ns, over_ns), buckets.last_times)


def _values(buckets: Buckets, aggregate: str, width_ns: int, over_ns: int) -> Float64Array:
    part = over_ns / width_ns
    found: Float64Array
    match aggregate:
        case "min":
            return buckets.mins
        case "max":
            return buckets.maxs
        case "sum":
            found = buckets.sums * part
        case "count":
            found = buckets.counts.astype(np.float64) * part
        case "increase":
            found = buckets.increases * part
        case "rate":
            found = buckets.increases / (width_ns / NS_PER_SECOND)
        case _:
            found = buckets.sums / buckets.counts
    return found
