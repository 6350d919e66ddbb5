"""The catalogue's tag sets as columns, from which tag columns and label maps are cut for one statement.

Kept for all tables together in the order of tag-set numbers: the entries (key, value) of tag set i stand at
``offsets[i]:offsets[i + 1]``, as numbers of keys and values.  One million tag sets of five tags take about 60 MB.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine.model.rows import Int32Array, Int64Array
from native.catalogue import Catalogue

#: The tag that carries the metric's name in pooled tables.
METRIC_TAG = b"__name__"
_MISSING = -1


class _Column:
    """An int32 array that grows at its end; a ``view`` taken before stays valid and unchanged while it does."""

    def __init__(self) -> None:
        self._data: Int32Array = np.empty(1024, np.int32)
        self.view: Int32Array = self._data[:0]

    def extend(self, values: Sequence[int] | Int32Array) -> None:
        length = len(self.view)
        end = length + len(values)
        if end > len(self._data):
            grown = np.empty(max(end, 2 * len(self._data)), np.int32)
            grown[:length] = self.view
            self._data = grown
        self._data[length:end] = values
        self.view = self._data[:end]


class TagStore:
    """Reads the tag sets of a native catalogue as they come.  Thread-safe."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._lock = threading.Lock()
        self._count = 0
        self._tables, self._offsets = _Column(), _Column()
        self._owners, self._keys, self._values = _Column(), _Column(), _Column()
        self._offsets.extend([0])
        self._key_numbers: dict[bytes, int] = {}
        self._value_numbers: dict[bytes, int] = {}
        self._key_names: list[bytes] = []
        self._value_names: list[bytes] = []
        self._keys_of_table: dict[int, dict[int, None]] = {}

    def sync(self) -> int:
        """Take over tag sets that are new in the catalogue; return how many there are."""
        with self._lock:
            known = self._catalogue.tagset_count
            while self._count < known:
                self._read(self._count, min(known, self._count + 65_536))
            return self._count

    def _read(self, first: int, last: int) -> None:
        tables = self._catalogue.tagset_tables(first, last)
        key_numbers, value_numbers = self._key_numbers, self._value_numbers
        owners: list[int] = []
        keys: list[int] = []
        values: list[int] = []
        offsets: list[int] = []
        base = len(self._keys.view)
        for tagset_id in range(first, last):
            for key, value in self._catalogue.tags(tagset_id):
                owners.append(tagset_id)
                keys.append(key_numbers.setdefault(key, len(key_numbers)))
                values.append(value_numbers.setdefault(value, len(value_numbers)))
            offsets.append(base + len(keys))
        self._key_names.extend(list(key_numbers)[len(self._key_names) :])
        self._value_names.extend(list(value_numbers)[len(self._value_names) :])
        # The first tag set of a table that has a key decides the key's place among the table's columns.
        owning_tables = np.repeat(tables, np.diff([base, *offsets]))
        pairs = owning_tables.astype(np.int64) << 32 | np.asarray(keys, np.int64)
        _, seen_first = np.unique(pairs, return_index=True)
        for index in np.sort(seen_first).tolist():
            self._keys_of_table.setdefault(int(owning_tables[index]), {})[keys[index]] = None
        # Readers take no lock: they go from the tables to the offsets to the entries, so those are there first.
        self._owners.extend(owners)
        self._keys.extend(keys)
        self._values.extend(values)
        self._offsets.extend(offsets)
        self._tables.extend(tables)
        self._count = last

    # --- which tag sets

    def keys_of(self, table_id: int) -> list[bytes]:
        """Return the tag keys of a table in order of first sight."""
        with self._lock:
            return [self._key_names[number] for number in self._keys_of_table.get(table_id, ())]

    def of_table(self, table_id: int) -> Int32Array:
        """Return the numbers of a table's tag sets, ascending."""
        return np.flatnonzero(self._tables.view == table_id).astype(np.int32)

    def all(self) -> Int32Array:
        return np.arange(len(self._tables.view), dtype=np.int32)

    def tables_of(self, tagset_ids: Int32Array) -> Int32Array:
        """Return the table number of each tag set."""
        return self._tables.view[tagset_ids]

    # --- columns

    def column(self, key: bytes, tagset_ids: Int32Array) -> Int32Array:
        """Return for each tag set the number of its value under ``key``, -1 where it has none."""
        number = self._key_numbers.get(key)
        if number is None:
            return np.full(len(tagset_ids), _MISSING, np.int32)
        offsets = self._offsets.view
        keys, values = self._keys.view[: offsets[-1]], self._values.view
        if len(tagset_ids) * 16 < len(offsets):
            entries, owners = self._entries(tagset_ids)
            mine = keys[entries] == number
            found = np.full(len(tagset_ids), _MISSING, np.int32)
            found[owners[mine]] = values[entries[mine]]
            return found
        whole = np.full(len(offsets) - 1, _MISSING, np.int32)
        at = np.flatnonzero(keys == number)
        whole[self._owners.view[at]] = values[at]
        return whole[tagset_ids]

    def texts(self, numbers: Int32Array) -> pa.DictionaryArray:
        """Return value numbers as strings, NULL for -1; the dictionary holds only what occurs."""
        missing = numbers < 0
        distinct, positions = self._distinct(numbers[~missing])
        indices = np.zeros(len(numbers), np.int32)
        indices[~missing] = positions
        return pa.DictionaryArray.from_arrays(
            pa.array(indices, mask=missing), _strings([self._value_names[number] for number in distinct.tolist()])
        )

    def labels(self, tagset_ids: Int32Array, hide_metric: npt.NDArray[np.bool_]) -> pa.MapArray:
        """Return all tags of each tag set as a map; without ``__name__`` where ``hide_metric`` says so."""
        entries, owners = self._entries(tagset_ids)
        keys = self._keys.view[entries]
        metric = self._key_numbers.get(METRIC_TAG)
        if metric is not None and hide_metric.any():
            kept = ~((keys == metric) & hide_metric[owners])
            entries, owners, keys = entries[kept], owners[kept], keys[kept]
        offsets = np.zeros(len(tagset_ids) + 1, np.int32)
        np.cumsum(np.bincount(owners, minlength=len(tagset_ids)), out=offsets[1:])
        distinct, positions = self._distinct(keys)
        return pa.MapArray.from_arrays(
            pa.array(offsets),
            pa.DictionaryArray.from_arrays(
                pa.array(positions), _strings([self._key_names[number] for number in distinct.tolist()])
            ),
            self.texts(self._values.view[entries]),
        )

    def _entries(self, tagset_ids: Int32Array) -> tuple[Int64Array, Int64Array]:
        """Return the positions of all entries of these tag sets, and for each the index of its tag set."""
        offsets = self._offsets.view.astype(np.int64, copy=False)
        starts = offsets[tagset_ids]
        lengths = offsets[tagset_ids + 1] - starts
        owners = np.repeat(np.arange(len(tagset_ids)), lengths)
        ends = np.cumsum(lengths)
        entries = np.arange(len(owners)) + np.repeat(starts - (ends - lengths), lengths)
        return entries, owners

    def _distinct(self, numbers: Int32Array) -> tuple[Int32Array, Int32Array]:
        """Return the distinct numbers and, for each number, its position among them."""
        if not len(numbers):
            return numbers, numbers
        top = int(numbers.max()) + 1
        used = np.zeros(top, np.bool_)
        used[numbers] = True
        distinct = np.flatnonzero(used).astype(np.int32)
        position = np.zeros(top, np.int32)
        position[distinct] = np.arange(len(distinct), dtype=np.int32)
        return distinct, position[numbers]


def _strings(texts: list[bytes]) -> pa.StringArray:
    # The catalogue takes only UTF-8.
    return pa.array(texts, pa.binary()).cast(pa.string())
