"""Who takes how many series: by table, by label, by label=value pair.

Columns of tags are read one label at a time, so that what is counted takes four bytes a tag set and the distinct
values of one label, however many labels there are.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from engine.catalog.catalog import Catalog
from engine.model.rows import Int32Array
from native.tagcolumns import tables_of, tags_of, values_of

#: The label with the most values is looked for among this many of the newest tag sets of a table.
SAMPLED_TAGSETS = 20_000


@dataclass(frozen=True, slots=True)
class Counted:
    """The largest first: (table, tag sets), (label, values), (label, value, tag sets)."""

    tables: list[tuple[str, int]] = field(default_factory=list)
    labels: list[tuple[str, int]] = field(default_factory=list)
    pairs: list[tuple[str, str, int]] = field(default_factory=list)


def count(catalog: Catalog, tagset_ids: Int32Array, top: int) -> Counted:
    """Return the ``top`` tables, labels and pairs among these tag sets."""
    if not len(tagset_ids):
        return Counted()
    by_table = np.bincount(tables_of(catalog.native, tagset_ids))
    tables = [(catalog.table_name(int(number)), int(by_table[number])) for number in _largest(by_table, top)]
    labels: list[tuple[str, int]] = []
    pairs: list[tuple[str, str, int]] = []
    for label in catalog.label_names():
        codes, offsets, data = values_of(catalog.native, label.encode(), tagset_ids)
        if len(offsets) == 1:
            continue
        labels.append((label, len(offsets) - 1))
        by_value = np.bincount(codes[codes >= 0])
        pairs += [
            (label, data[offsets[value] : offsets[value + 1]].decode(), int(by_value[value]))
            for value in _largest(by_value, top)
        ]
    labels.sort(key=lambda each: (-each[1], each[0]))
    pairs.sort(key=lambda each: (-each[2], each[0], each[1]))
    return Counted(tables, labels[:top], pairs[:top])


def _largest(counts: np.ndarray[tuple[int], np.dtype[np.int64]], top: int) -> list[int]:
    """Return the places of the largest counts that are not zero, the largest first."""
    order = np.argsort(-counts, kind="stable")[:top]
    return [int(place) for place in order if counts[place] > 0]


def widest_label(catalog: Catalog, table_id: int) -> tuple[str, int] | None:
    """Return the label with the most values among the newest tag sets of a table, and how many; None without labels."""
    newest = catalog.tagset_ids(table_id)[-SAMPLED_TAGSETS:]
    _, keys, values, key_texts, _ = tags_of(catalog.native, newest)
    if not len(keys):
        return None
    distinct = np.unique(keys.astype(np.int64) << 32 | values)
    by_key = np.bincount(distinct >> 32)
    key = int(by_key.argmax())
    offsets, data = key_texts
    return data[offsets[key] : offsets[key + 1]].decode(), int(by_key[key])
