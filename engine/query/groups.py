"""Series seen as groups with equal labels: their numbers, and observations of series made into those of groups."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from engine.catalog.catalog import Catalog
from engine.model.rows import Int32Array, Int64Array
from engine.query.observe import Observed, quotients
from native.groups import aggregate_groups


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

    ``tagset_ids`` int32[n]: the series, ascending.  ``numbers`` int32[g]: the groups, ascending.  ``groups`` int32[n]:
    the place of each series' group among them.
    """

    tagset_ids: Int32Array
    numbers: Int32Array
    groups: Int32Array

    def of_rows(self) -> Int32Array:
        """Return int32[n]: the number of each series' group."""
        found: Int32Array = self.numbers[self.groups]
        return found


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
        ascending, places = np.unique(numbers, return_inverse=True)
        return Arrangement(tagset_ids, ascending, places[groups].astype(np.int32))


def grouped(observed: Observed, arrangement: Arrangement, how: str, oldest_ns: int) -> Observed:
    """Return one value a group: ``how`` (avg, sum, min, max, count) over its series with a sample since ``oldest_ns``.

    A group without such a series has the value of what it had last, with the time of that: it is as stale as its
    newest series.  The time of a group is that of the newest sample behind its value.
    """
    numbers = arrangement.numbers
    values, times = aggregate_groups(
        np.ascontiguousarray(observed.values),
        np.ascontiguousarray(observed.times),
        arrangement.groups,
        len(numbers),
        how,
        oldest_ns,
    )
    return Observed(numbers, values, times)


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
