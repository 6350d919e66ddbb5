"""Selections of rows and of tag sets against the obvious loops."""

from __future__ import annotations

import re

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.catalog.catalog import Catalog
from engine.catalog.selections import Selections
from engine.model.matchers import Matcher
from engine.model.rows import FOREVER_NS, NEVER_NS, Rows, sort_merge
from engine.model.selection import FEW_TAGSETS, find_indexed, find_rows, select

rows_strategy = st.lists(st.tuples(st.integers(0, 90), st.integers(0, 30)), max_size=120)
bounds = st.one_of(st.none(), st.integers(-1, 31))


@given(
    rows_strategy,
    bounds,
    bounds,
    st.one_of(st.none(), st.sets(st.integers(0, 95), max_size=FEW_TAGSETS + 30)),
    st.one_of(st.none(), st.sampled_from([(), (0,), (2,), (0, 1), (0, 2), (0, 1, 2), (1, 7)])),
    st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_selected_rows_are_those_of_a_loop(
    keys: list[tuple[int, int]],
    start: int | None,
    end: int | None,
    wanted: set[int] | None,
    fields: tuple[int, ...] | None,
    in_order: bool,
) -> None:
    count = len(keys)
    rows = Rows(
        np.array([tagset for tagset, _ in keys], np.int32),
        np.array([time for _, time in keys], np.int64),
        (0, 1, 2),
        np.arange(3.0 * count).reshape(3, count),
    )
    if in_order:
        rows = sort_merge(rows)
    found = select(
        rows,
        start_ns=NEVER_NS if start is None else start,
        end_ns=FOREVER_NS if end is None else end,
        tagset_ids=None if wanted is None else np.array(sorted(wanted), np.int32),
        field_ids=fields,
        in_order=in_order,
    )
    chosen = [
        place
        for place, (tagset, time) in enumerate(zip(rows.tagset_ids.tolist(), rows.times.tolist(), strict=True))
        if (wanted is None or tagset in wanted) and (start is None or time >= start) and (end is None or time < end)
    ]
    kept = [field for field in (0, 1, 2) if fields is None or field in fields]
    assert found.tagset_ids.tolist() == rows.tagset_ids[chosen].tolist()
    assert found.times.tolist() == rows.times[chosen].tolist()
    assert found.field_ids == tuple(kept)
    assert found.values.tolist() == rows.values[kept][:, chosen].tolist()


@given(st.lists(st.sampled_from(["a", "b", "ab", "", "a.c", "abc", "A", "a|b"]), max_size=4).map("|".join))
def test_listed_texts_of_a_pattern_are_those_it_matches(pattern: str) -> None:
    matcher, opposite = Matcher.of("host", "=~", pattern), Matcher.of("host", "!~", pattern)
    for value in ("a", "b", "ab", "", "a.c", "abc", "axc", "A", "a|b"):
        matched = re.fullmatch(pattern, value) is not None
        assert matcher.accepts(value) == matched
        assert opposite.accepts(value) != matched
        texts = matcher.wanted_texts()
        assert texts is None or (value in texts) == matched


def test_a_selection_follows_the_catalogue_as_it_grows() -> None:
    catalog = Catalog()
    table = catalog.native.table(b"t")
    other = catalog.native.table(b"u")
    wanted = (Matcher.of("zone", "=~", "x|y"), Matcher.of("host", "!=", "h3"))
    for number in range(12):
        tags = [(b"host", f"h{number}".encode()), (b"zone", b"xyz"[number % 3 : number % 3 + 1])]
        catalog.native.tagset(table if number % 4 else other, tags)
        found = catalog.tagset_ids(table, wanted)
        expected = [each for each in range(number + 1) if each % 4 and each % 3 != 2 and each != 3]
        assert found.tolist() == expected
        assert catalog.tagset_ids(table, wanted).tolist() == expected
        assert number < 5 or catalog.tagset_ids(table, wanted, since=5).tolist() == [
            each for each in expected if each >= 5
        ]


def test_remembered_selections_are_bounded() -> None:
    selections = Selections()
    asked: list[int] = []

    def find(first: int) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
        asked.append(first)
        return np.arange(first, 1 << 20, dtype=np.int32)

    for key in range(6):
        assert len(selections.of(key, 1 << 20, find)) == 1 << 20
    assert asked == [0] * 6
    selections.of(5, 1 << 20, find)
    selections.of(0, 1 << 20, find)
    assert asked == [0] * 7


@given(
    rows_strategy, st.integers(0, 120), bounds, bounds, st.sets(st.integers(0, 95), min_size=1, max_size=FEW_TAGSETS)
)
@settings(max_examples=300, deadline=None)
def test_rows_found_by_an_index_of_the_first_ones_are_those_found_without(
    keys: list[tuple[int, int]], indexed: int, start: int | None, end: int | None, wanted: set[int]
) -> None:
    tagset_ids = np.array([tagset for tagset, _ in keys], np.int32)
    times = np.array([time for _, time in keys], np.int64)
    count = min(indexed, len(keys))
    order = np.lexsort((times[:count], tagset_ids[:count])).astype(np.int32)
    low, high = NEVER_NS if start is None else start, FOREVER_NS if end is None else end
    chosen = np.array(sorted(wanted), np.int32)
    every = np.arange(len(keys))
    expected = every[find_rows(tagset_ids, times, start_ns=low, end_ns=high, wanted=chosen, in_order=False)]
    found = find_indexed(tagset_ids, times, tagset_ids[order], order, start_ns=low, end_ns=high, wanted=chosen)
    assert every[found].tolist() == expected.tolist()
