from __future__ import annotations

import re
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.catalog.catalog import Catalog
from engine.errors import BadRequest, Damage, Unavailable
from engine.model.matchers import Matcher, parse_matchers
from tests.filesystems import FailingFileSystem, MemoryFileSystem, broken_disk

PATH = "data/catalog.log"


def filled() -> Catalog:
    catalog = Catalog()
    cpu = catalog.native.table(b"cpu")
    catalog.native.field(cpu, b"usage_user")
    catalog.native.field(cpu, b"usage_system")
    for host, region in (("a", "eu"), ("b", "us"), ("c", "us"), ("d", "")):
        tags = [(b"host", host.encode())] + ([(b"region", region.encode())] if region else [])
        catalog.native.tagset(cpu, tags)
    disk = catalog.native.table(b"disk")
    catalog.native.field(disk, b"free")
    catalog.native.tagset(disk, [(b"host", b"a")])
    return catalog


def hosts(catalog: Catalog, match: str, table: str = "cpu") -> list[str]:
    table_id = catalog.table_id(table)
    assert table_id is not None
    return [catalog.tags(i)["host"] for i in catalog.tagset_ids(table_id, parse_matchers(match)).tolist()]


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        ("", ["a", "b", "c", "d"]),
        ('host="b"', ["b"]),
        ('host="nobody"', []),
        ('region="us"', ["b", "c"]),
        ('region!="us"', ["a", "d"]),
        ('region=""', ["d"]),
        ('region!=""', ["a", "b", "c"]),
        ('region=~"u.*"', ["b", "c"]),
        ('region=~"u"', []),
        ('region!~"u.*"', ["a", "d"]),
        ('region=~".*"', ["a", "b", "c", "d"]),
        ('region=~"us|"', ["b", "c", "d"]),
        ('unknown=""', ["a", "b", "c", "d"]),
        ('region="us",host!="b"', ["c"]),
        ('{region="us", host=~"b|a"}', ["b"]),
    ],
)
def test_matchers_select_what_prometheus_would(match: str, expected: list[str]) -> None:
    assert hosts(filled(), match) == expected


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("host", "character 1"),
        ('host="a" region="b"', "want a comma"),
        ('host=~"("', "no regular expression"),
        ('host="a', "character 1"),
        ('host=~"' + "x" * 1_001 + '"', "characters"),
    ],
)
def test_unreadable_matchers_say_where(text: str, complaint: str) -> None:
    with pytest.raises(BadRequest, match=complaint):
        parse_matchers(text)


def test_matcher_values_are_unescaped() -> None:
    assert parse_matchers(r'path="a\"b\\c\n"') == (Matcher.of("path", "=", 'a"b\\c\n'),)


labels_strategy = st.dictionaries(st.sampled_from(["host", "zone"]), st.sampled_from(["a", "b", "ab"]), max_size=2)


@given(
    st.lists(labels_strategy, max_size=8),
    st.sampled_from(["host", "zone", "none"]),
    st.sampled_from(["=", "!=", "=~", "!~"]),
    st.sampled_from(["", "a", "b", "a|b", "a.?", ".*"]),
)
@settings(max_examples=200, deadline=None)
def test_postings_agree_with_a_scan(sets: list[dict[str, str]], label: str, operator: str, value: str) -> None:
    catalog = Catalog()
    table = catalog.native.table(b"t")
    ids = {catalog.native.tagset(table, [(k.encode(), v.encode()) for k, v in each.items()]) for each in sets}

    def accepts(present: str) -> bool:
        found = present == value if operator in ("=", "!=") else re.fullmatch(value, present) is not None
        return found if operator in ("=", "=~") else not found

    expected = sorted(i for i in ids if accepts(catalog.tags(i).get(label, "")))
    assert catalog.tagset_ids(table, [Matcher.of(label, operator, value)]).tolist() == expected


def test_metric_names_resolve_to_every_field_that_carries_them() -> None:
    catalog = Catalog()
    for table, field in ((b"a", b"b_c"), (b"a_b", b"c")):
        catalog.native.field(catalog.native.table(table), field)
    assert [(field.table, field.name) for field in catalog.fields_of_metric("a_b_c")] == [
        ("a", "b_c"),
        ("a_b", "c"),
    ]
    assert catalog.fields_of_metric("a_b") == []
    catalog.native.field(catalog.native.table(b"a"), b"b")
    assert [field.name for field in catalog.fields_of_metric("a_b")] == ["b"]
    assert catalog.metric_names() == ["a_b", "a_b_c"]


def test_series_and_labels_list_the_catalogue() -> None:
    catalog = filled()
    found = [(series.metric, series.labels["host"]) for series in catalog.series(None, parse_matchers('host="a"'))]
    assert found == [("cpu_usage_user", "a"), ("cpu_usage_system", "a"), ("disk_free", "a")]
    assert catalog.label_names() == ["host", "region"]
    assert catalog.label_values("region") == ["eu", "us"]


def test_persisted_definitions_come_back_with_the_same_numbers() -> None:
    fs = MemoryFileSystem()
    fs.makedirs("data")
    first = Catalog(fs, PATH)
    table = first.native.table(b"cpu")
    first.native.tagset(table, [(b"host", b"a")])
    first.persist()
    first.native.field(table, b"x")
    first.native.tagset(table, [(b"host", b"b")])
    first.persist()
    first.persist()
    second = Catalog(fs, PATH)
    second.load()
    assert second.native.mark() == first.native.mark()
    assert second.tags(1) == {"host": "b"}
    second.native.tagset(table, [(b"host", b"c")])
    second.persist()
    third = Catalog(fs, PATH)
    third.load()
    assert third.tags(2) == {"host": "c"}


def test_a_torn_tail_is_cut_and_other_damage_is_named() -> None:
    fs = MemoryFileSystem()
    fs.makedirs("data")
    catalog = Catalog(fs, PATH)
    catalog.native.table(b"cpu")
    catalog.persist()
    whole = bytes(fs.read(PATH))
    catalog.native.table(b"disk")
    catalog.persist()
    both = bytes(fs.read(PATH))
    fs.truncate(PATH, len(both) - 1)
    again = Catalog(fs, PATH)
    again.load()
    assert again.table_names() == ["cpu"]
    assert bytes(fs.read(PATH)) == whole
    damaged = bytearray(whole)
    damaged[-1] ^= 1
    fs.write_atomic(PATH, [bytes(damaged)])
    with pytest.raises(Damage, match="catalogue"):
        Catalog(fs, PATH).load()


def test_what_a_start_has_read_survives_the_next_power_cut() -> None:
    memory, broken = MemoryFileSystem(), [True]
    memory.makedirs("data")
    fs = FailingFileSystem(memory, lambda operation, path: broken_disk() if broken[0] and operation == "sync" else None)
    first = Catalog(fs, PATH)
    first.native.table(b"cpu")
    with pytest.raises(Unavailable, match="persist the catalogue"):
        first.persist()
    # The process ends here.  Its successor finds the definitions in the system's memory and builds upon them.
    broken[0] = False
    second = Catalog(fs, PATH)
    second.load()
    assert second.table_names() == ["cpu"]
    second.persist()
    for seed in range(8):
        after = Catalog(memory.crash(Random(seed)), PATH)
        after.load()
        assert after.table_names() == ["cpu"]


def test_a_disk_that_refuses_while_opening_is_told() -> None:
    memory = MemoryFileSystem()
    memory.makedirs("data")
    first = Catalog(memory, PATH)
    first.native.table(b"cpu")
    first.persist()
    fs = FailingFileSystem(memory, lambda operation, path: broken_disk() if operation == "sync_file" else None)
    with pytest.raises(Unavailable, match=r"cannot open the catalogue: .* want a working disk"):
        Catalog(fs, PATH).load()
