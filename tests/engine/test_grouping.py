"""Lines of an answer, told from label columns, against a dictionary of tuples."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from engine.catalog.catalog import Catalog
from engine.catalog.pooled import METRIC_TAG, POOLED_TABLES
from engine.model.rows import FIELD_ID_BITS
from engine.query.grouping import lines_of

LABELS = ("a", "b", METRIC_TAG)
tagsets = st.lists(st.dictionaries(st.sampled_from(LABELS), st.sampled_from(["", "x", "y", "é"])), max_size=12)
by_labels = st.none() | st.lists(st.sampled_from([*LABELS, "nowhere"]), max_size=3).map(tuple)


def obvious(catalog: Catalog, series_ids: list[int], by: tuple[str, ...] | None) -> list[dict[str, str]]:
    """Return the labels of the line that each row belongs to."""
    labels = [catalog.labels(number >> FIELD_ID_BITS) for number in series_ids]
    return labels if by is None else [{label: each.get(label, "") for label in by} for each in labels]


@given(tagsets, st.sampled_from(["plain", sorted(POOLED_TABLES)[0]]), by_labels, st.data())
def test_lines_are_those_of_the_obvious_loop(
    wanted: list[dict[str, str]], table: str, by: tuple[str, ...] | None, data: st.DataObject
) -> None:
    catalog = Catalog()
    table_id = catalog.native.table(table.encode())
    ids = [catalog.native.tagset(table_id, [(k.encode(), v.encode()) for k, v in tags.items()]) for tags in wanted]
    rows = data.draw(st.lists(st.sampled_from(ids), max_size=30)) if ids else []
    if data.draw(st.booleans()):
        rows.sort()
    series_ids = [(number << FIELD_ID_BITS) | 3 for number in rows]
    labels, numbers = lines_of(catalog, table_id, np.array(series_ids, np.int64), by)
    assert [labels[number] for number in numbers.tolist()] == obvious(catalog, series_ids, by)
    # Every line has a row, merged ones differ, and ascending series come to them in order.
    assert set(numbers.tolist()) == set(range(len(labels)))
    if by is not None:
        assert len({tuple(sorted(each.items())) for each in labels}) == len(labels)
    first_met = list(dict.fromkeys(numbers[np.argsort(series_ids, kind="stable")].tolist())) if rows else []
    assert first_met == sorted(first_met)
