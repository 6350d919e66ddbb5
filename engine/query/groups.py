"""Series seen as groups with equal labels: their numbers, and observations of series made into those of groups."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engine.catalog.catalog import Catalog
from engine.model.rows import Float64Array, Int32Array, Int64Array
from engine.query.observe import Observed, quotients


class GroupNumbers:
    """Numbers of sets of labels beside those of tag sets: negative, given once, the same until the process ends."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers: dict[tuple[tuple[str, str], ...], int] = {}
        self._labels: list[dict[str, str]] = []

    def number(self, labels: Mapping[str, str]) -> int:
        """Return the number of these labels, a new one where there is none; empty values count as absent."""
        kept = {name: value for name, value in labels.items() if value}
        key = tuple(sorted(kept.items()))
        with self._lock:
            known = self._numbers.get(key)
            if known is None:
                self._labels.append(kept)
                known = self._numbers[key] = -len(self._labels)
            return known

    def labels(self, number: int) -> Mapping[str, str] | None:
        """Return the labels of a number, None for one that has not been given."""
        return self._labels[-1 - number] if -len(self._labels) <= number < 0 else None


@dataclass(frozen=True, slots=True)
class Arrangement:
    """How n series fall into g groups.

    ``tagset_ids`` int32[n]: the series, ascending.  ``order`` int64[n]: their rows, group by group.  ``starts``
    int64[g]: where each group begins in that order, ``lengths`` int64[g]: how many rows it has.  ``numbers`` int32[g]:
    the groups, ascending.
    """

    tagset_ids: Int32Array
    order: Int64Array
    starts: Int64Array
    lengths: Int64Array
    numbers: Int32Array

    def of_rows(self) -> Int32Array:
        """Return int32[n]: the group of each series."""
        groups = np.empty(len(self.tagset_ids), np.int32)
        groups[self.order] = np.repeat(self.numbers, self.lengths)
        return groups


class Grouper:
    """Arranges series into groups; an arrangement is remembered until other series come.  For any thread."""

    def __init__(self, catalog: Catalog, numbers: GroupNumbers) -> None:
        self._catalog, self.numbers = catalog, numbers
        self._known: dict[object, Arrangement] = {}

    def arrange(
        self, tagset_ids: Int32Array, by: Sequence[str], shared: Mapping[str, str], *, remember: object
    ) -> Arrangement:
        """Return the groups of ``tagset_ids``, int32[n] ascending, with equal values of the labels ``by``.

        A group's labels are those and ``shared``, which all series have.  ``remember``: a name for what is asked; the
        last answer under it counts as long as the series are the same.
        """
        key = (remember, tuple(by), tuple(sorted(shared.items())))
        known = self._known.get(key)
        if known is None or not np.array_equal(known.tagset_ids, tagset_ids):
            known = self._known[key] = self._arranged(tagset_ids.copy(), by, shared)
        return known

    def forget(self) -> None:
        """Forget all arrangements; numbers stay."""
        self._known = {}

    def _arranged(self, tagset_ids: Int32Array, by: Sequence[str], shared: Mapping[str, str]) -> Arrangement:
        groups = np.zeros(len(tagset_ids), np.int64)
        columns: list[tuple[Int64Array, list[str]]] = []
        for label in by:
            codes, texts = self._catalog.label_column(tagset_ids, label)
            columns.append((codes, texts))
            _, groups = np.unique(groups * (len(texts) + 1) + codes, return_inverse=True)
        _, first, groups = np.unique(groups, return_index=True, return_inverse=True)
        numbers = np.array(
            [
                self.numbers.number(
                    {**shared, **{label: texts[codes[at]] for label, (codes, texts) in zip(by, columns, strict=True)}}
                )
                for at in first.tolist()
            ],
            np.int32,
        )
        of_rows = numbers[groups]
        order = np.argsort(of_rows, kind="stable")
        ordered = of_rows[order]
        starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]][: len(ordered)])
        lengths = np.diff(np.r_[starts, len(order)])
        return Arrangement(tagset_ids, order, starts, lengths, ordered[starts])


def grouped(observed: Observed, arrangement: Arrangement, how: str, oldest_ns: int) -> Observed:
    """Return one value a group: ``how`` (avg, sum, min, max, count) over its series with a sample since ``oldest_ns``.

    A group without such a series has the value of what it had last, with the time of that: it is as stale as its
    newest series.  The time of a group is that of the newest sample behind its value.
    """
    if not len(observed.tagset_ids):
        return Observed.nothing()
    order, starts = arrangement.order, arrangement.starts
    values, times = observed.values[order], observed.times[order]
    lengths = arrangement.lengths
    if times.min() >= oldest_ns and not np.isnan(values.sum()):
        # Nearly always every series is fresh; a sum without NaN has none in it.
        everyone = _aggregated(values, None, lengths, starts, how)
        return Observed(arrangement.numbers, everyone, np.maximum.reduceat(times, starts))
    known = ~np.isnan(values)
    counted = known & (times >= oldest_ns)
    silent = np.add.reduceat(counted, starts, dtype=np.int64) == 0
    if silent.any():
        counted |= known & np.repeat(silent, lengths)
    counts = np.add.reduceat(counted, starts, dtype=np.int64)
    found = _aggregated(values, counted, counts, starts, how)
    found[counts == 0] = np.nan
    newest = np.maximum.reduceat(np.where(counted, times, np.iinfo(np.int64).min), starts)
    return Observed(arrangement.numbers, found, newest)


def _aggregated(
    values: Float64Array, counted: npt.NDArray[np.bool_] | None, counts: Int64Array, starts: Int64Array, how: str
) -> Float64Array:
    """Return one aggregate a group of the values that are ``counted``, None for all."""

    def among(other: float) -> Float64Array:
        return values if counted is None else np.where(counted, values, other)

    match how:
        case "count":
            return counts.astype(np.float64)
        case "min":
            return np.minimum.reduceat(among(np.inf), starts)
        case "max":
            return np.maximum.reduceat(among(-np.inf), starts)
    sums = np.add.reduceat(among(0.0), starts)
    return sums if how == "sum" else sums / np.maximum(counts, 1)


def divided(above: Observed, below: Observed, keys: Int32Array | None = None) -> Observed:
    """Return ``above`` over what ``below`` has under the same number, or under ``keys``, int32[n], one for each row.

    What has no divisor, or one of zero, is left out.  The time is the older one of the two.
    """
    if not len(below.tagset_ids):
        return Observed.nothing()
    wanted = above.tagset_ids if keys is None else keys
    if np.array_equal(wanted, below.tagset_ids):
        return quotients(above, below.values, below.times, below.values != 0)
    places = np.minimum(np.searchsorted(below.tagset_ids, wanted), len(below.tagset_ids) - 1)
    divisors = below.values[places]
    usable = (below.tagset_ids[places] == wanted) & (divisors != 0)
    return quotients(above, divisors, below.times[places], usable)
