"""Tag sets that move from memory and catalog.log into files: the same numbers whatever happens in between."""

from __future__ import annotations

import itertools
from random import Random

import numpy as np
import pytest

from engine.catalog.catalog import Catalog
from engine.catalog.tagsetfiles import _to_merge, file_name
from engine.errors import Damage, NewerFormat, Unavailable
from engine.model.matchers import parse_matchers
from native.tagsetfile import TagsetFile
from tests.filesystems import FailingFileSystem, MemoryFileSystem, broken_disk

PATH = "data/catalog.log"
FILES = "data/tagsets"


def catalog_on(fs: MemoryFileSystem | FailingFileSystem) -> Catalog:
    catalog = Catalog(fs, PATH, seed=lambda: 7)
    catalog.load()
    return catalog


def new_fs() -> MemoryFileSystem:
    fs = MemoryFileSystem()
    fs.makedirs("data")
    return fs


def define(catalog: Catalog, first: int, last: int, table: bytes = b"cpu") -> None:
    table_id = catalog.native.table(table)
    catalog.native.field(table_id, b"value")
    for number in range(first, last):
        tags = [(b"host", b"h%d" % number), (b"zone", b"z%d" % (number % 3))]
        assert catalog.native.tagset(table_id, tags) == number


def assert_same(catalog: Catalog, count: int) -> None:
    assert [catalog.tags(number)["host"] for number in range(count)] == [f"h{number}" for number in range(count)]
    for number in range(count):
        tags = [(b"host", b"h%d" % number), (b"zone", b"z%d" % (number % 3))]
        assert catalog.native.find_tagset(0, tags) == number


def test_frozen_definitions_come_back_and_the_log_starts_anew() -> None:
    fs = new_fs()
    catalog = catalog_on(fs)
    define(catalog, 0, 100)
    catalog.persist()
    logged = fs.size(PATH)
    assert catalog.freeze(at_least=101) == 0
    assert catalog.freeze(at_least=100) == 100
    assert fs.listdir(FILES) == [file_name(0, 100)]
    assert fs.size(PATH) < logged
    define(catalog, 100, 110)
    catalog.persist()
    again = catalog_on(fs)
    assert again.native.mark() == catalog.native.mark() == (1, 1, 110)
    assert again.native.frozen_count == 100
    assert_same(again, 110)
    # Labels of old and new ones are found alike.
    assert again.tagset_ids(0, parse_matchers('zone="z1",host=~"h.?.?9"')).tolist() == [19, 49, 79, 109]
    assert again.tagset_ids(0, parse_matchers('zone="z1"'), since=100).tolist() == [100, 103, 106, 109]
    assert again.label_names() == ["host", "zone"]
    assert again.label_values("zone") == ["z0", "z1", "z2"]
    assert again.tag_columns(np.array([2, 105], np.int32)) == (["host", "zone"], [["h2", "h105"], ["z2", "z0"]])
    assert again.native.find_tagset(0, [(b"host", b"h3"), (b"zone", b"z0")]) == 3


def test_definitions_of_an_earlier_version_are_taken_over() -> None:
    """catalog.log alone, as versions before tag-set files wrote it."""
    fs = new_fs()
    first = catalog_on(fs)
    define(first, 0, 50)
    first.persist()
    define(first, 50, 60, b"cpu")
    first.persist()
    assert not fs.exists(FILES)
    catalog = catalog_on(fs)
    assert catalog.freeze(at_least=1) == 60
    assert_same(catalog_on(fs), 60)


def test_small_files_are_merged_and_what_they_were_is_removed_later() -> None:
    fs = new_fs()
    catalog = catalog_on(fs)
    for step in range(1, 21):
        define(catalog, (step - 1) * 10, step * 10)
        catalog.freeze(at_least=1)
    sizes = [len(file) for file in catalog.native.tagset_files()]
    assert sum(sizes) == 200
    assert len(sizes) <= 5
    assert all(large >= 2 * small for large, small in itertools.pairwise(sizes))
    used = {file.path.rpartition("/")[2] for file in catalog.native.tagset_files()}
    assert used < set(fs.listdir(FILES))  # a query process may be about to open those replaced last
    again = catalog_on(fs)
    assert set(fs.listdir(FILES)) == used
    assert_same(again, 200)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [([], None), ([5], None), ([4, 2], None), ([3, 2], (0, 2)), ([8, 3, 2], (0, 3)), ([100, 3, 2], (1, 3)),
     ([300_000, 300_000], None), ([200_000, 200_000], (0, 2))],
)  # fmt: skip
def test_what_is_merged(sizes: list[int], expected: tuple[int, int] | None) -> None:
    assert _to_merge([range(size) for size in sizes]) == expected  # type: ignore[misc]


def failing_at(fs: MemoryFileSystem, at: int) -> FailingFileSystem:
    """Return a file system whose operations all fail from the ``at``-th on."""
    operations = itertools.count(1)
    return FailingFileSystem(fs, lambda operation, path: broken_disk() if next(operations) >= at else None)


@pytest.mark.parametrize("seed", range(60))
def test_killed_anywhere_the_numbers_stay(seed: int) -> None:
    """A crash at any operation of persisting, freezing and merging loses nothing that was persisted before."""
    random = Random(seed)
    fs = new_fs()
    count = 0
    for _ in range(4):
        failing = failing_at(fs, random.randrange(1, 60))
        try:
            catalog = catalog_on(failing)
            known = catalog.native.tagset_count
            assert known >= count
            assert_same(catalog, known)
            for _ in range(3):
                define(catalog, known, known + 10)
                known += 10
                catalog.persist()
                count = known
                catalog.freeze(at_least=random.choice([1, 15]))
        except (OSError, Unavailable):
            pass
        fs = fs.crash(random)
    catalog = catalog_on(fs)
    assert catalog.native.tagset_count >= count
    assert_same(catalog, count)


def test_a_failed_freeze_changes_nothing_and_can_be_repeated() -> None:
    failed = 0
    for at in range(1, 40):
        fs = new_fs()
        define(first := catalog_on(fs), 0, 10)
        first.freeze(at_least=1)
        catalog = catalog_on(fs)
        define(catalog, 10, 20)
        failing = failing_at(fs, at)
        catalog._fs = catalog._files._fs = failing  # type: ignore[union-attr]
        try:
            catalog.freeze(at_least=1)
        except (OSError, Unavailable):
            failed += 1
        assert_same(catalog, 20)
        catalog._fs = catalog._files._fs = fs  # type: ignore[union-attr]
        catalog.freeze(at_least=1)
        catalog.persist()
        assert_same(catalog_on(fs), 20)
    assert failed > 3


def filled() -> MemoryFileSystem:
    fs = new_fs()
    catalog = catalog_on(fs)
    define(catalog, 0, 40)
    catalog.freeze(at_least=1)
    define(catalog, 40, 50)
    catalog.freeze(at_least=1)
    return fs


def test_a_damaged_file_is_named() -> None:
    fs = filled()
    path = f"{FILES}/{file_name(0, 40)}"
    data = bytearray(fs.read(path))
    data[200] ^= 1
    fs.write_file_synced(path, [bytes(data)])
    with pytest.raises(Damage, match="checksum of its body") as caught:
        catalog_on(fs)
    assert caught.value.path == path


def test_a_newer_version_is_refused_by_name() -> None:
    fs = filled()
    path = f"{FILES}/{file_name(0, 40)}"
    data = bytearray(fs.read(path))
    data[8] = 9
    fs.write_file_synced(path, [bytes(data)])
    with pytest.raises(NewerFormat, match="got version 9, want version 1"):
        catalog_on(fs)


def test_a_missing_file_is_named() -> None:
    fs = filled()
    fs.remove(f"{FILES}/{file_name(0, 40)}")
    with pytest.raises(Damage, match=r"no file of the tag sets 0 to 40, want tagsets-0000000000-\*\.tgs"):
        catalog_on(fs)
    fs = filled()
    fs.remove(f"{FILES}/{file_name(40, 50)}")
    # catalog.log says where it goes on: nothing can be defined under a number that was given to something else.
    with pytest.raises(Damage, match="got item 50 of its kind next, want 40"):
        catalog_on(fs)


def test_a_file_under_another_name_is_refused() -> None:
    fs = filled()
    fs.rename(f"{FILES}/{file_name(0, 40)}", f"{FILES}/{file_name(0, 39)}")
    with pytest.raises(Damage, match="want those its name says"):
        catalog_on(fs)


def test_leftovers_of_a_merge_are_removed() -> None:
    fs = new_fs()
    catalog = catalog_on(fs)
    define(catalog, 0, 30)
    catalog.freeze(at_least=1)
    whole = fs.read(f"{FILES}/{file_name(0, 30)}")
    define(catalog, 30, 40)
    catalog.freeze(at_least=1)
    fs.write_file_synced(f"{FILES}/{file_name(0, 10)}", [whole])
    fs.write_file_synced(f"{FILES}/{file_name(0, 50)}.tmp", [b"torn"])
    fs.write_file_synced(f"{FILES}/notes.txt", [b"not ours"])
    assert_same(catalog_on(fs), 40)
    assert fs.listdir(FILES) == ["notes.txt", file_name(0, 30), file_name(30, 40)]


def test_a_file_without_its_table_is_damage() -> None:
    fs = filled()
    fs.remove(PATH)
    with pytest.raises(Damage, match="got a tag set of table 0, want one of the 0 tables"):
        catalog_on(fs)


def test_files_say_their_own_range() -> None:
    fs = filled()
    file = TagsetFile(fs.map(f"{FILES}/{file_name(40, 50)}"))
    assert (file.first, file.last) == (40, 50)
