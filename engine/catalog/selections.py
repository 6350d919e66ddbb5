"""Selections of tag sets that were asked for lately: what a dashboard asks every few seconds is found at once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

import numpy as np
import numpy.typing as npt

Int32Array = npt.NDArray[np.int32]

MAX_SELECTIONS = 512
#: Tag sets in all selections together: 16 MB.
MAX_NUMBERS = 1 << 22


class Selections:
    """Remembers ascending numbers by what they were selected for; thread-safe.

    Tag sets never change and are numbered in order, so a selection only grows: what is new is looked through, not all.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[Hashable, tuple[int, Int32Array]] = OrderedDict()
        self._numbers = 0

    def of(self, key: Hashable, until: int, find: Callable[[int], Int32Array]) -> Int32Array:
        """Return the selection as of ``until`` tag sets; ``find(first)`` gives what is selected from ``first`` on."""
        with self._lock:
            known = self._known.get(key)
            if known is not None:
                self._known.move_to_end(key)
        since, ids = known or (0, np.empty(0, np.int32))
        if since > until:
            return ids[: int(np.searchsorted(ids, until))]
        if known is None or since < until:
            found = find(since)
            ids = found if not len(ids) else np.concatenate([ids, found]) if len(found) else ids
            ids.flags.writeable = False
            self._remember(key, until, ids)
        return ids

    def _remember(self, key: Hashable, until: int, ids: Int32Array) -> None:
        with self._lock:
            before = self._known.get(key)
            if before is not None and before[0] > until:
                return
            self._numbers += len(ids) - (0 if before is None else len(before[1]))
            self._known[key] = (until, ids)
            self._known.move_to_end(key)
            while self._known and (len(self._known) > MAX_SELECTIONS or self._numbers > MAX_NUMBERS):
                _, (_, dropped) = self._known.popitem(last=False)
                self._numbers -= len(dropped)
