"""The catalogue's tag sets as Arrow columns, from which tag columns and label maps are cut for one statement.

Nothing is kept here but which tag keys each table has: columns are read from the native catalogue when a statement
needs them, about 10 ms for a column of a million tag sets.
"""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from engine.model.rows import Int32Array
from native.catalogue import Catalogue
from native.tagcolumns import keys_between, members_of, tables_of, tags_of, values_of

#: The tag that carries the metric's name in pooled tables.
METRIC_TAG = b"__name__"


class TagStore:
    """Reads the tag sets of a native catalogue.  Thread-safe."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._lock = threading.Lock()
        self._count = 0
        self._keys_of_table: dict[int, dict[bytes, None]] = {}

    def sync(self) -> int:
        """Take note of tag sets that are new in the catalogue; return how many there are."""
        with self._lock:
            known = self._catalogue.tagset_count
            if known > self._count:
                # The first tag set of a table that has a key decides the key's place among the table's columns.
                for table_id, key in keys_between(self._catalogue, self._count, known):
                    self._keys_of_table.setdefault(table_id, {})[key] = None
                self._count = known
            return self._count

    # --- which tag sets

    def keys_of(self, table_id: int) -> list[bytes]:
        """Return the tag keys of a table in order of first sight."""
        with self._lock:
            return list(self._keys_of_table.get(table_id, ()))

    def of_table(self, table_id: int) -> Int32Array:
        """Return the numbers of a table's tag sets, ascending."""
        return members_of(self._catalogue, table_id, 0, self._count)

    def all(self) -> Int32Array:
        return np.arange(self._count, dtype=np.int32)

    def tables_of(self, tagset_ids: Int32Array) -> Int32Array:
        """Return the table number of each tag set."""
        return tables_of(self._catalogue, tagset_ids)

    # --- columns

    def texts(
        self, key: bytes, tagset_ids: Int32Array, where: npt.NDArray[np.bool_] | None = None
    ) -> pa.DictionaryArray:
        """Return the value of ``key`` for each tag set, NULL where it has none or ``where`` is False.

        The dictionary holds the values of all of ``tagset_ids`` that ``where`` allows, each once.
        """
        if where is None or where.all():
            codes, offsets, data = values_of(self._catalogue, key, tagset_ids)
        else:
            codes = np.full(len(tagset_ids), -1, np.int32)
            codes[where], offsets, data = values_of(self._catalogue, key, tagset_ids[where])
        return pa.DictionaryArray.from_arrays(pa.array(codes, mask=codes < 0), _strings(offsets, data))

    def labels(self, tagset_ids: Int32Array, hide_metric: npt.NDArray[np.bool_]) -> pa.MapArray:
        """Return all tags of each tag set as a map; without ``__name__`` where ``hide_metric`` says so."""
        offsets, keys, values, key_texts, value_texts = tags_of(self._catalogue, tagset_ids)
        names = _strings(*key_texts)
        metric = names.index(METRIC_TAG.decode()).as_py()
        if metric >= 0 and hide_metric.any():
            owners = np.repeat(np.arange(len(tagset_ids)), np.diff(offsets))
            kept = ~((keys == metric) & hide_metric[owners])
            keys, values = keys[kept], values[kept]
            offsets = np.zeros(len(tagset_ids) + 1, np.int32)
            np.cumsum(np.bincount(owners[kept], minlength=len(tagset_ids)), out=offsets[1:])
        return pa.MapArray.from_arrays(
            pa.array(offsets),
            pa.DictionaryArray.from_arrays(pa.array(keys), names),
            pa.DictionaryArray.from_arrays(pa.array(values), _strings(*value_texts)),
        )


def _strings(offsets: npt.NDArray[np.int32], data: bytes) -> pa.StringArray:
    # The catalogue takes only UTF-8.
    return pa.StringArray.from_buffers(len(offsets) - 1, pa.py_buffer(offsets), pa.py_buffer(data))
