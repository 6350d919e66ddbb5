"""Which line of an answer each series belongs to, told from columns of label values.

Nothing here makes a Python object a series unless every series is a line of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from engine.catalog.catalog import Catalog
from engine.catalog.pooled import METRIC_TAG
from engine.model.rows import FIELD_ID_BITS, Int64Array


def lines_of(
    catalog: Catalog, table_id: int, series_ids: Int64Array, by: Sequence[str] | None
) -> tuple[list[dict[str, str]], Int64Array]:
    """Return the labels of each line, and int64[n]: for each row the number of its line.

    ``series_ids``: int64[n], of one table.  ``by``: None makes every series a line; otherwise those with equal values
    of these labels are one, a label that is not there being the same as an empty one.  Lines are numbered in the order
    in which ascending series first come to them.
    """
    if by is not None and not by:
        return [{}] if len(series_ids) else [], np.zeros(len(series_ids), np.int64)
    keys, inverse = _distinct(series_ids)
    tagset_ids = (keys >> FIELD_ID_BITS).astype(np.int32)
    if by is None:
        return catalog.labels_of(table_id, tagset_ids), inverse
    groups = np.zeros(len(keys), np.int64)
    # A pooled table's metric name is no label, see `Catalog.labels`.
    hidden = METRIC_TAG if catalog.is_pooled(table_id) else None
    columns: list[tuple[Int64Array, list[str]]] = []
    for label in by:
        codes, texts = catalog.label_column(tagset_ids, label) if label != hidden else _nowhere(len(keys))
        columns.append((codes, texts))
        _, groups = np.unique(groups * (len(texts) + 1) + codes, return_inverse=True)
    _, first, groups = np.unique(groups, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    number = np.empty(len(order), np.int64)
    number[order] = np.arange(len(order))
    firsts = first[order].tolist()
    labels = [{label: texts[codes[at]] for label, (codes, texts) in zip(by, columns, strict=True)} for at in firsts]
    return labels, number[groups][inverse]


def _distinct(series_ids: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Return the distinct numbers, ascending, and for each row the place of its own; sorted input needs no sorting."""
    if len(series_ids) and (series_ids[1:] >= series_ids[:-1]).all():
        new = np.concatenate(([True], series_ids[1:] != series_ids[:-1]))
        return series_ids[new], np.cumsum(new) - 1
    keys, inverse = np.unique(series_ids, return_inverse=True)
    return keys, inverse.astype(np.int64)


def _nowhere(count: int) -> tuple[Int64Array, list[str]]:
    return np.zeros(count, np.int64), [""]
