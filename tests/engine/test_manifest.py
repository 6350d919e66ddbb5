"""engine.segments.manifest: one truth, whatever happens to the machine or to the newest file."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import Bug, Damage, DiskFull, Unavailable
from engine.segments import manifest_format
from engine.segments.deletions import Deletion
from engine.segments.layout import FieldColumn, SegmentMeta, segment_file
from engine.segments.manifest import Finding, ManifestStore
from engine.segments.manifest_format import Manifest, decode_manifest, encode_manifest
from native.checksum import crc32c
from tests.filesystems import (
    FailingFileSystem,
    FullFileSystem,
    MemoryFileSystem,
    RecordingFileSystem,
    broken_disk,
)

ROOT = "data"
HOUR = 3_600_000_000_000
BODY = b"some bytes that stand for a segment"


def listed(start_hour: int, sequence: int, *, table_id: int = 1, hours: int = 1, through: int = 0) -> SegmentMeta:
    table = f"table{table_id}"
    start_ns, end_ns = start_hour * HOUR, (start_hour + hours) * HOUR
    return SegmentMeta(
        table_id=table_id,
        table=table,
        file=segment_file(table, start_ns, end_ns, sequence),
        start_ns=start_ns,
        end_ns=end_ns,
        min_time_ns=start_ns,
        max_time_ns=end_ns - 1,
        rows=3,
        samples=5,
        bytes=len(BODY),
        crc32c=crc32c(BODY),
        footer_bytes=1,
        footer_crc32c=2,
        group_crc32c=(7,),
        sealed_through=through,
        created_ns=0,
        sequence=sequence,
        columns=(FieldColumn("usage", 0, "integer"),),
    )


def write(fs: object, meta: SegmentMeta) -> SegmentMeta:
    path = f"{ROOT}/{meta.file}"
    fs.makedirs(path.rpartition("/")[0])  # type: ignore[attr-defined]
    fs.write_atomic(path, [BODY])  # type: ignore[attr-defined]
    return meta


def opened(fs: object) -> ManifestStore:
    store = ManifestStore(fs, ROOT)  # type: ignore[arg-type]
    store.load()
    return store


def segment_names(fs: MemoryFileSystem, table_id: int = 1) -> list[str]:
    return fs.listdir(f"{ROOT}/segments/table{table_id}")


def manifest_names(fs: MemoryFileSystem) -> list[str]:
    return [name for name in fs.listdir(ROOT) if name.startswith("manifest-")]


def name_of(version: int) -> str:
    return f"manifest-{version:016x}.json"


def kinds(findings: list[Finding]) -> list[str]:
    return sorted(finding.kind for finding in findings)


# --- bytes


def test_the_bytes_of_a_manifest() -> None:
    manifest = Manifest(version=3, next_sequence=9, wal_floor=41, segments=(listed(1, 8, through=40),))
    body = (
        b'{"format":1,"version":3,"next_sequence":9,"wal_floor":41,"segments":[{"table_id":1,"table":"table1",'
        b'"file":"segments/table1/19700101T010000Z-19700101T020000Z-0000000000000008.parquet",'
        b'"start_ns":3600000000000,"end_ns":7200000000000,"min_time_ns":3600000000000,"max_time_ns":7199999999999,'
        b'"rows":3,"samples":5,"bytes":35,"crc32c":%d,"footer_bytes":1,"footer_crc32c":2,"group_crc32c":[7],'
        b'"sealed_through":40,"created_ns":0,"sequence":8,"columns":[["usage",0,"integer"]],"format":1}]}\n'
    ) % crc32c(BODY)
    data = body + b"crc32c %08x\n" % crc32c(body)
    # Format 1, which had no deletions, is still read.
    assert decode_manifest(data, "x") == manifest
    deletion = Deletion(
        table_id=1, tagsets=((3, 5), (8, 8)), start_ns=-7, end_ns=9, through=41, before_file=9, created_ns=6
    )
    body = body.replace(b'{"format":1,"version', b'{"format":2,"version').removesuffix(b"}\n") + (
        b',"deletions":[{"table_id":1,"tagsets":[[3,5],[8,8]],"start_ns":-7,"end_ns":9,"through":41,"before_file":9,'
        b'"created_ns":6,"tiers":false}]}\n'
    )
    data = body + b"crc32c %08x\n" % crc32c(body)
    manifest = replace(manifest, deletions=(deletion,))
    assert encode_manifest(manifest) == data
    assert decode_manifest(data, "x") == manifest


@given(
    hours=st.sets(st.tuples(st.integers(0, 3), st.integers(-500, 500))),
    floor=st.integers(0, 2**63),
    at=st.integers(0, 10**6),
    bit=st.integers(0, 7),
)
@settings(max_examples=100, deadline=None)
def test_manifests_come_back_and_damage_is_noticed(hours: set[tuple[int, int]], floor: int, at: int, bit: int) -> None:
    segments = tuple(listed(hour, number, table_id=table) for number, (table, hour) in enumerate(sorted(hours)))
    manifest = Manifest(7, 99, floor, segments)
    data = encode_manifest(manifest)
    assert decode_manifest(data, "x") == manifest
    at %= len(data)
    for other in (data[:at], data[:at] + bytes([data[at] ^ (1 << bit)]) + data[at + 1 :], data + b" "):
        with pytest.raises(Damage):
            decode_manifest(other, "x")


def sealed(body: object) -> bytes:
    line = msgspec.json.encode(body) + b"\n"
    return line + b"crc32c %08x\n" % crc32c(line)


@pytest.mark.parametrize(
    ("segments", "words"),
    [
        ((listed(1, 1, hours=2), listed(2, 2)), "overlaps"),
        ((listed(2, 1), listed(1, 2)), "out of order"),
        ((listed(2, 1, table_id=2), listed(1, 2)), "out of order"),
        ((listed(1, 1), msgspec.structs.replace(listed(2, 2), file=listed(1, 1).file)), "listed twice"),
        ((listed(1, 1, hours=0),), "empty range"),
    ],
)
def test_a_whole_manifest_that_cannot_be_true_is_damage(segments: tuple[SegmentMeta, ...], words: str) -> None:
    with pytest.raises(Damage, match=words):
        decode_manifest(encode_manifest(Manifest(1, 9, 0, segments)), "x")


def test_json_that_is_no_manifest_is_damage() -> None:
    for body in (
        {},
        [],
        {"format": 1},
        {"format": 1, "version": 1, "next_sequence": 1, "wal_floor": 0, "segments": [1]},
    ):
        with pytest.raises(Damage, match="cannot read manifest"):
            decode_manifest(sealed(body), "x")


# --- one version after the other


def test_a_new_directory_gets_an_empty_manifest() -> None:
    fs = MemoryFileSystem()
    store = opened(fs)
    assert store.current == Manifest(version=1)
    assert manifest_names(fs) == [name_of(1)]
    assert store.findings == []
    assert opened(fs).current == store.current


def test_commits_are_found_again_and_two_manifests_are_kept() -> None:
    fs = MemoryFileSystem()
    store = opened(fs)
    first = write(fs, listed(5, store.reserve_sequence()))
    second = write(fs, listed(3, store.reserve_sequence()))
    other = write(fs, listed(1, store.reserve_sequence(), table_id=2))
    store.commit(add=[first])
    store.commit(add=[other, second], wal_floor=12)
    store.commit(wal_floor=15)
    current = store.current
    assert (current.version, current.next_sequence, current.wal_floor) == (4, 4, 15)
    assert current.segments == (second, first, other)
    assert current.of_table(1) == (second, first)
    assert current.of_table(9) == ()
    assert manifest_names(fs) == [name_of(3), name_of(4)]
    again = opened(fs)
    assert again.current == current
    assert again.reserve_sequence() == 4


@pytest.mark.parametrize(
    ("start", "end", "found"),
    [(0, 1, ""), (0, 2, "b"), (2, 3, ""), (1, 2, "b"), (1, 5, "be"), (5, 6, ""), (4, 9, "e"), (0, 99, "be")],
)
def test_segments_of_a_range(start: int, end: int, found: str) -> None:
    named = {"b": listed(1, 1), "e": listed(4, 2)}
    manifest = Manifest(1, 3, 0, tuple(named.values()))
    assert manifest.overlapping(1, start * HOUR, end * HOUR) == tuple(named[name] for name in found)


def test_without_a_change_nothing_is_written() -> None:
    fs = MemoryFileSystem()
    store = opened(fs)
    before = store.commit(wal_floor=3)
    recorder = RecordingFileSystem(fs)
    store._fs = recorder
    assert store.commit() is before
    assert store.commit(wal_floor=3) is before
    assert recorder.operations == []


def test_what_a_commit_does_to_the_disk() -> None:
    recorder = RecordingFileSystem(MemoryFileSystem())
    store = opened(recorder)
    old, new = write(recorder, listed(1, 1)), write(recorder, listed(1, 2))
    store.commit(add=[old])
    recorder.operations.clear()
    store.commit(add=[new], remove=[old])
    store.delete_file(old)
    assert recorder.operations == [("write_atomic", f"{ROOT}/{name_of(3)}"), ("remove", f"{ROOT}/{name_of(1)}")]
    recorder.operations.clear()
    store.commit(wal_floor=1)
    assert recorder.operations == [
        ("write_atomic", f"{ROOT}/{name_of(4)}"),
        ("remove", f"{ROOT}/{name_of(2)}"),
        ("remove", f"{ROOT}/{old.file}"),
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"remove": [listed(7, 7)]}, "not listed"),
        ({"add": [listed(1, 9)]}, "overlaps"),
        ({"add": [listed(1, 1)]}, "listed twice"),
        ({"wal_floor": 4}, "want at least 5"),
        ({"add": [listed(9, 9)], "wal_floor": 4}, "want at least 5"),
    ],
)
def test_impossible_changes_are_our_own_bug_and_change_nothing(change: dict[str, object], words: str) -> None:
    fs = MemoryFileSystem()
    store = opened(fs)
    before = store.commit(add=[write(fs, listed(1, 1))], wal_floor=5)
    with pytest.raises(Bug, match=words):
        store.commit(**change)  # type: ignore[arg-type]
    assert store.current is before
    assert opened(fs).current == before


def test_using_a_store_before_it_is_loaded_is_our_own_bug() -> None:
    with pytest.raises(Bug, match="not been loaded"):
        _ = ManifestStore(MemoryFileSystem(), ROOT).current


def test_a_listed_file_is_not_deleted() -> None:
    fs = MemoryFileSystem()
    store = opened(fs)
    meta = write(fs, listed(1, 1))
    store.commit(add=[meta])
    with pytest.raises(Bug, match="the manifest lists it"):
        store.delete_file(meta)


@pytest.mark.parametrize("failure", [DiskFull, Unavailable])
def test_a_commit_that_cannot_be_written_leaves_all_as_it_was(failure: type[Exception]) -> None:
    memory = MemoryFileSystem()
    store = opened(memory)
    old, new = write(memory, listed(1, 1)), write(memory, listed(1, 2))
    before = store.commit(add=[old])
    store._fs = {
        DiskFull: FullFileSystem(memory, memory.used_bytes()),
        Unavailable: FailingFileSystem(memory, lambda name, _: broken_disk() if name == "write_atomic" else None),
    }[failure]
    with pytest.raises(failure, match="cannot write manifest"):
        store.commit(add=[new], remove=[old])
    assert store.current is before
    assert opened(memory).current == before
    store._fs = memory
    after = store.commit(add=[new], remove=[old])
    assert after.version == before.version + 2, "a version that may be on disk is not written twice"
    assert opened(memory).current == after


def test_a_commit_whose_rename_reached_the_disk_without_our_knowing() -> None:
    """The file counts for the next start, and is gone after the next commit."""
    memory = MemoryFileSystem()
    store = opened(memory)
    old, new = write(memory, listed(1, 1)), write(memory, listed(1, 2))
    store.commit(add=[old])

    class LosesTheAnswer(RecordingFileSystem):
        def write_atomic(self, path: str, parts: object) -> None:
            super().write_atomic(path, parts)  # type: ignore[arg-type]
            raise broken_disk()

    store._fs = LosesTheAnswer(memory)
    with pytest.raises(Unavailable):
        store.commit(add=[new], remove=[old])
    assert opened(memory).current.segments == (new,)
    store._fs = memory
    store.commit(wal_floor=1)
    assert opened(memory).current.segments == (old,)


def test_a_file_that_cannot_be_removed_is_reported_and_tried_again() -> None:
    memory = MemoryFileSystem()
    store = opened(memory)
    old = write(memory, listed(1, 1))
    store.commit(add=[old])
    store.commit(remove=[old])
    store._fs = FailingFileSystem(
        memory, lambda name, path: broken_disk() if name == "remove" and path.endswith(".parquet") else None
    )
    store.delete_file(old)
    assert store.findings == []
    store.commit(wal_floor=1)
    store.commit(wal_floor=2)
    assert [(found.kind, found.path, found.removed) for found in store.findings] == [
        ("undeleted", f"{ROOT}/{old.file}", False)
    ]
    store._fs = memory
    store.commit(wal_floor=3)
    assert segment_names(memory) == []


def test_a_replaced_file_is_deleted_after_a_restart_too() -> None:
    fs, _, newest = two_versions()
    store = opened(fs)
    assert len(segment_names(fs)) == 3
    store.commit(wal_floor=1)
    assert sorted(f"segments/table1/{name}" for name in segment_names(fs)) == sorted(newest.files())


def test_how_much_of_the_log_may_go() -> None:
    fs = MemoryFileSystem()
    store = opened(fs)
    assert store.droppable_through == 0
    store.commit(add=[write(fs, listed(1, 1))], wal_floor=5)
    assert store.droppable_through == 0, "the spare does not list the segment yet"
    assert opened(fs).droppable_through == 0
    store.commit(add=[write(fs, listed(2, 2))])
    assert store.droppable_through == 5
    store.commit(wal_floor=9)
    assert store.droppable_through == 9, "the spare lists all there is"
    assert opened(fs).droppable_through == 9


# --- opening after a mishap


def deletion(through: int, before_file: int, *, tiers: bool = True) -> Deletion:
    return Deletion(
        table_id=1,
        tagsets=((1, 1),),
        start_ns=2 * HOUR,
        end_ns=4 * HOUR,
        through=through,
        before_file=before_file,
        created_ns=0,
        tiers=tiers,
    )


def test_a_deletion_is_in_both_manifests_and_stays_until_nothing_can_hold_its_rows() -> None:
    fs = MemoryFileSystem()
    store = opened(fs)
    old = [write(fs, listed(hour, store.reserve_sequence())) for hour in (1, 2, 3, 4)]
    store.commit(add=old)
    made = deletion(7, store.reserve_sequence(), tiers=False)
    assert store.commit(deletions=[made]).deletions == (made,)
    assert store._spare is not None
    assert store._spare.deletions == (made,)
    assert opened(fs).current.deletions == (made,)
    # Its tiers have not followed, two segments may hold its rows, and the log up to 7 may come back.
    store.commit(wal_floor=7)
    assert store.current.deletions == (made,)
    followed = replace_tiers(made)
    store.commit(deletions=[followed])
    assert store.current.deletions == (followed,)
    new = [write(fs, listed(hour, store.reserve_sequence())) for hour in (2, 3)]
    store.commit(add=new[:1], remove=old[1:2])
    assert store.current.deletions == (followed,)
    store.commit(add=new[1:], remove=old[2:3])
    assert store.current.deletions == ()
    assert store.commit(deletions=[deletion(8, 99)]).deletions == (deletion(8, 99),)


def replace_tiers(made: Deletion) -> Deletion:
    return msgspec.structs.replace(made, tiers=True)


def two_versions() -> tuple[MemoryFileSystem, Manifest, Manifest]:
    """A directory whose newest manifest replaced one segment and added another."""
    fs = MemoryFileSystem()
    store = opened(fs)
    old, new, more = (write(fs, listed(hour, store.reserve_sequence())) for hour in (1, 1, 2))
    spare = store.commit(add=[old])
    newest = store.commit(add=[new, more], remove=[old])
    store.delete_file(old)
    return fs, spare, newest


def spoil(change: Callable[[bytes], bytes], fs: MemoryFileSystem, version: int) -> None:
    path = f"{ROOT}/{name_of(version)}"
    fs.write_atomic(path, [change(fs.read(path))])


DAMAGE = {
    "cut": lambda data: data[: len(data) // 2],
    "empty": lambda _: b"",
    "one bit": lambda data: data[:70] + bytes([data[70] ^ 4]) + data[71:],
    "zeros": lambda data: bytes(len(data)),
    "another version's": lambda data: encode_manifest(Manifest(version=99)),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_newest_manifest_makes_way_for_the_one_before(damage: str) -> None:
    fs, spare, newest = two_versions()
    spoil(DAMAGE[damage], fs, newest.version)
    store = opened(fs)
    assert store.current == spare
    assert kinds(store.findings) == ["damaged", "fallback", "orphan", "orphan"]
    assert not any(found.removed for found in store.findings)
    assert store.check() == [
        Finding("orphan", f"{ROOT}/{meta.file}", "no manifest lists this file") for meta in newest.segments
    ]
    assert f"{name_of(newest.version)}.damaged" in manifest_names(fs)
    assert store.reserve_sequence() > max(meta.sequence for meta in newest.segments)
    follower = store.commit(add=[write(fs, listed(7, store.reserve_sequence()))])
    assert follower.version > newest.version
    assert opened(fs).current == follower


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_spare_is_set_aside(damage: str) -> None:
    fs, spare, newest = two_versions()
    spoil(DAMAGE[damage], fs, spare.version)
    store = opened(fs)
    assert store.current == newest
    assert kinds(store.findings) == ["damaged", "orphan"]
    assert opened(fs).findings == []


def test_nothing_is_guessed_when_both_are_damaged() -> None:
    fs, spare, newest = two_versions()
    for manifest in (spare, newest):
        spoil(DAMAGE["cut"], fs, manifest.version)
    before = manifest_names(fs), segment_names(fs)
    with pytest.raises(Damage, match=r"does not end in a checksum.*3 segment files exist"):
        opened(fs)
    assert (manifest_names(fs), segment_names(fs)) == before


def test_an_older_manifest_that_came_back_is_not_believed() -> None:
    fs, spare, newest = two_versions()
    fs.write_atomic(f"{ROOT}/{name_of(1)}", [encode_manifest(Manifest(version=1))])
    for manifest in (spare, newest):
        spoil(DAMAGE["cut"], fs, manifest.version)
    with pytest.raises(Damage):
        opened(fs)


def test_segments_without_a_manifest_are_not_an_empty_store() -> None:
    fs = MemoryFileSystem()
    write(fs, listed(1, 1))
    with pytest.raises(Damage, match="there is no manifest; 1 segment files exist"):
        opened(fs)


def test_a_newer_format_is_refused_by_name_and_not_replaced_by_the_spare(monkeypatch: pytest.MonkeyPatch) -> None:
    fs, _, newest = two_versions()
    with monkeypatch.context() as patch:
        patch.setattr(manifest_format, "MANIFEST_FORMAT", 3)
        spoil(lambda _: encode_manifest(newest), fs, newest.version)
    with pytest.raises(Damage, match="got format 3, want at most 2; it was written by a newer version"):
        opened(fs)


def test_the_rest_of_unfinished_writes_is_removed() -> None:
    fs = MemoryFileSystem()
    opened(fs)
    meta = listed(1, 1)
    fs.makedirs(f"{ROOT}/segments/table1")
    for path in (f"{ROOT}/{name_of(2)}.tmp", f"{ROOT}/{meta.file}.tmp"):
        fs.write_file_synced(path, [b"half"])
    store = opened(fs)
    assert [(found.kind, found.removed) for found in store.findings] == [("temporary", True)] * 2
    assert manifest_names(fs) == [name_of(1)]
    assert segment_names(fs) == []


def test_orphans_older_than_the_manifest_are_removed_and_younger_ones_reported() -> None:
    fs = MemoryFileSystem()
    store = opened(fs)
    given_up = write(fs, listed(4, store.reserve_sequence()))
    store.commit(add=[write(fs, listed(1, store.reserve_sequence()))])
    store.commit(wal_floor=1)
    young = write(fs, listed(5, store.reserve_sequence()))
    store = opened(fs)
    assert [(found.path, found.removed) for found in store.findings] == [
        (f"{ROOT}/{given_up.file}", True),
        (f"{ROOT}/{young.file}", False),
    ]
    assert store.reserve_sequence() > young.sequence
    store.commit(wal_floor=2)
    assert [found.removed for found in opened(fs).findings] == [True]


def test_files_that_are_not_ours_are_left_alone() -> None:
    fs = MemoryFileSystem()
    opened(fs)
    fs.makedirs(f"{ROOT}/segments/table1")
    for path in ("segments/note.txt", "segments/table1/mine.parquet", "manifest-old.json", "segments/table1/a.txt"):
        fs.write_file_synced(f"{ROOT}/{path}", [b"mine"])
    store = opened(fs)
    assert [(found.kind, found.path) for found in store.findings] == [("stray", f"{ROOT}/segments/table1/mine.parquet")]
    assert kinds(store.check()) == ["stray"]


def test_a_directory_that_cannot_be_read_is_not_damage() -> None:
    memory = MemoryFileSystem()
    opened(memory)
    for operation in ("listdir", "read", "makedirs"):
        fs = FailingFileSystem(
            memory,
            lambda name, _, wanted=operation: OSError(errno.EIO, os.strerror(errno.EIO)) if name == wanted else None,
        )
        with pytest.raises(Unavailable, match="cannot open manifest"):
            opened(fs)


# --- checking


def test_check_names_what_is_missing_or_damaged() -> None:
    fs = MemoryFileSystem()
    store = opened(fs)
    fine, gone, short, flipped = (write(fs, listed(hour, hour)) for hour in range(1, 5))
    store.commit(add=[fine, gone, short, flipped])
    assert store.check() == []
    fs.remove(f"{ROOT}/{gone.file}")
    fs.truncate(f"{ROOT}/{short.file}", 3)
    fs.write_atomic(f"{ROOT}/{flipped.file}", [BODY[:-1] + b"!"])
    assert [(found.kind, found.path) for found in store.check()] == [
        ("missing", f"{ROOT}/{gone.file}"),
        ("damaged", f"{ROOT}/{short.file}"),
    ]
    found = {finding.path: finding for finding in store.check(checksums=True)}
    assert "3 rows" in found[f"{ROOT}/{gone.file}"].message
    assert "got 3 bytes, want 35" in found[f"{ROOT}/{short.file}"].message
    assert "checksum" in found[f"{ROOT}/{flipped.file}"].message


# --- crashes


class PowerCut(BaseException):
    """Ends the program at once; nothing in it may catch this."""


@dataclass
class Machine:
    """A store whose segments hold numbered rows, a log of the rows, and what was promised to the world.

    ``sealed`` says which rows a segment file holds.  Row n has log sequence n; ``dropped`` is how far the log went.
    """

    fs: MemoryFileSystem = field(default_factory=MemoryFileSystem)
    operations_left: int | None = None
    sealed: dict[str, frozenset[int]] = field(default_factory=dict)
    rows: int = 0
    hours: int = 0
    dropped: int = 0
    promised: Manifest | None = None
    under_way: list[tuple[SegmentMeta, ...]] = field(default_factory=list)

    def start(self) -> None:
        self.store = ManifestStore(FailingFileSystem(self.fs, self._count), ROOT)
        self.store.load()

    def _count(self, operation: str, path: str) -> None:
        if self.operations_left is not None and operation not in RecordingFileSystem.QUIET:
            if self.operations_left == 0:
                raise PowerCut
            self.operations_left -= 1

    def _commit(self, add: list[SegmentMeta], remove: list[SegmentMeta], floor: int | None = None) -> None:
        before = self.store.current.segments
        after = [meta for meta in before if meta not in remove] + add
        self.under_way = [before, tuple(sorted(after, key=lambda meta: meta.start_ns))]
        self.promised = self.store.commit(add=add, remove=remove, wal_floor=floor)
        self.under_way = []
        for meta in remove:
            self.store.delete_file(meta)

    def _new(self, start_hour: int, hours: int, rows: frozenset[int]) -> SegmentMeta:
        meta = listed(start_hour, self.store.reserve_sequence(), hours=hours, through=max(rows))
        assert (
            meta.file not in self.sealed or self.sealed[meta.file] == rows or not self.fs.exists(f"{ROOT}/{meta.file}")
        )
        self.sealed[meta.file] = rows
        return write(self.store._fs, meta)

    def seal(self, with_floor: bool) -> None:
        """Seal new rows into a new range."""
        fresh = frozenset(range(self.rows + 1, self.rows + 4))
        self.rows += 3
        unsealed = frozenset(range(1, self.rows + 1)) - self._rows_in(self.store.current)
        self.hours += 1
        self._commit([self._new(self.hours, 1, unsealed | fresh)], [], self.rows if with_floor else None)

    def merge(self, random: Random) -> None:
        """Put two neighbours into one."""
        segments = self.store.current.segments
        if len(segments) < 2:
            return
        first = random.randrange(len(segments) - 1)
        old = list(segments[first : first + 2])
        hours = (old[1].end_ns - old[0].start_ns) // HOUR
        rows = self.sealed[old[0].file] | self.sealed[old[1].file]
        self._commit([self._new(old[0].start_ns // HOUR, hours, rows)], old)

    def move_floor(self) -> None:
        rows = self._rows_in(self.store.current)
        floor = next((row for row in range(1, self.rows + 1) if row not in rows), self.rows + 1) - 1
        if floor > self.store.current.wal_floor:
            self._commit([], [], floor)

    def drop_log(self) -> None:
        self.dropped = max(self.dropped, self.store.droppable_through)

    def _rows_in(self, manifest: Manifest) -> frozenset[int]:
        return frozenset().union(*(self.sealed[meta.file] for meta in manifest.segments))

    def check(self) -> None:
        """Assert that the open store is one that the world was promised, whole, and lacks no row the log lost."""
        current = self.store.current
        wanted = self.under_way or ([self.promised.segments] if self.promised else [()])
        assert current.segments in wanted
        assert [found for found in self.store.check() if found.kind in ("missing", "damaged")] == []
        rows = self._rows_in(current)
        assert rows >= set(range(1, max(self.dropped, current.wal_floor) + 1))

    def lose_the_newest_manifest(self) -> bool:
        """Damage the newest manifest where there are two; return whether there were."""
        names = [name for name in manifest_names(self.fs) if name.endswith(".json")]
        if len(names) > 1:
            spoil(DAMAGE["cut"], self.fs, int(names[-1][9:25], 16))
        return len(names) > 1


STEPS = ("seal", "seal", "seal with floor", "merge", "merge", "floor", "drop", "restart")


@settings(max_examples=150, deadline=None)
@given(
    steps=st.lists(st.sampled_from(STEPS), min_size=1, max_size=14),
    cuts=st.lists(st.integers(0, 25), max_size=3),
    seed=st.integers(0, 2**32),
)
def test_after_a_crash_at_any_operation_the_promised_state_is_there(
    steps: list[str], cuts: list[int], seed: int
) -> None:
    random = Random(seed)
    machine = Machine()
    machine.start()
    queue = list(steps)
    for cut in (*cuts, None):
        machine.operations_left = cut
        try:
            while queue:
                step = queue.pop(0)
                if step.startswith("seal"):
                    machine.seal(with_floor=step != "seal")
                elif step == "merge":
                    machine.merge(random)
                elif step == "floor":
                    machine.move_floor()
                elif step == "drop":
                    machine.drop_log()
                else:
                    machine.start()
        except PowerCut:
            machine.fs = machine.fs.crash(random)
        machine.operations_left = None
        machine.start()
        machine.check()
        machine.promised, machine.under_way = machine.store.current, []

    if machine.lose_the_newest_manifest():
        spare = machine.store._spare
        assert spare is not None
        machine.promised = spare
        machine.start()
        machine.check()
        assert "fallback" in kinds(machine.store.findings)
