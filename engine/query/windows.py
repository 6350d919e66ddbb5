"""One bucket a series over one window: recent aggregates and changes, from raw samples."""

from __future__ import annotations

import numpy as np

from engine.catalog.catalog import Field
from engine.model.rows import Float64Array, Int32Array, Int64Array
from engine.query.buckets import Buckets, buckets_of_rows, with_boundaries
from engine.query.samples import SampleStore


def window_buckets(
    samples: SampleStore, one: Field, tagset_ids: Int32Array | None, start_ns: int, end_ns: int, look_back_ns: int = 0
) -> Buckets:
    """Return one bucket a series for ``[start_ns, end_ns)``.

    With ``look_back_ns`` the increase counts from the last sample of that time before the window.
    """
    width = end_ns - start_ns
    rows = samples.collect(one.table_id, start_ns - look_back_ns, end_ns, tagset_ids, (one.field_id,))
    buckets = buckets_of_rows(rows, width, start_ns)
    return with_boundaries(buckets, start_ns) if look_back_ns else buckets


def window_change(
    samples: SampleStore, one: Field, tagset_ids: Int32Array | None, start_ns: int, end_ns: int, look_back_ns: int
) -> tuple[Int64Array, Float64Array, Float64Array, Int64Array]:
    """Return (series, newest value in ``[start_ns, end_ns)``, value when it began, time of the newest sample).

    The value when it began is that of the last sample within ``look_back_ns`` before, else of the first one inside; a
    series with a single sample has none and is left out.
    """
    rows = samples.collect(one.table_id, start_ns - look_back_ns, end_ns, tagset_ids, (one.field_id,))
    buckets = buckets_of_rows(rows, end_ns - start_ns, start_ns)
    same = np.r_[False, buckets.series_ids[1:] == buckets.series_ids[:-1]]
    bases = np.where(same, np.r_[np.nan, buckets.lasts[:-1]], buckets.firsts)
    usable = (buckets.times >= start_ns) & (same | (buckets.counts > 1))
    return buckets.series_ids[usable], buckets.lasts[usable], bases[usable], buckets.last_times[usable]
