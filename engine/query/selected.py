"""What a range query selects: fields and tag sets of tables, remembered until the catalogue has something new."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np

from engine.model.matchers import Matcher
from engine.model.rows import FIELD_ID_BITS, Int32Array, Int64Array

#: Selections that are remembered, ...
MAX_REMEMBERED = 512
#: ... and how many tag sets each may have: with their labels some 500 KB at most.
MAX_REMEMBERED_TAGSETS = 1_000

_Key = tuple[tuple[str, ...], tuple[Matcher, ...]]


@dataclass(frozen=True, slots=True)
class Lines:
    """``labels`` of each line; ``of_tagset`` int32[n]: for each tag set the place of its line."""

    labels: list[dict[str, str]]
    of_tagset: Int32Array


@dataclass(frozen=True, slots=True)
class Selected:
    """Fields of one table, each with the metric it is asked as, ascending, and the tag sets asked for (ascending).

    ``tagset_ids`` int32[n]; ``every``: they are all that the table has.  ``lines``: those that have been looked for, by
    the labels they are grouped by.
    """

    table_id: int
    metrics: dict[int, str]
    tagset_ids: Int32Array
    every: bool
    lines: dict[tuple[str, ...] | None, Lines] = field(default_factory=dict, compare=False)

    @property
    def field_ids(self) -> tuple[int, ...]:
        return tuple(self.metrics)

    @property
    def narrowed(self) -> Int32Array | None:
        return None if self.every else self.tagset_ids

    @property
    def series_ids(self) -> Int64Array:
        fields = np.array(self.field_ids, np.int64)
        return ((self.tagset_ids.astype(np.int64) << FIELD_ID_BITS)[:, None] | fields).ravel()


class Selections:
    """Remembers what metrics and matchers select, those asked for last; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[_Key, tuple[Hashable, list[Selected]]] = OrderedDict()

    def of(
        self,
        metrics: tuple[str, ...],
        matchers: tuple[Matcher, ...],
        version: Hashable,
        find: Callable[[Sequence[str], Sequence[Matcher]], list[Selected]],
    ) -> list[Selected]:
        """Return the selection; it is found again when the catalogue's ``version`` is another."""
        key = (metrics, matchers)
        with self._lock:
            known = self._known.get(key)
            if known is not None and known[0] == version:
                self._known.move_to_end(key)
                return known[1]
        found = find(metrics, matchers)
        with self._lock:
            self._known.pop(key, None)
            if sum(len(one.tagset_ids) for one in found) <= MAX_REMEMBERED_TAGSETS:
                self._known[key] = (version, found)
                while len(self._known) > MAX_REMEMBERED:
                    self._known.popitem(last=False)
        return found
