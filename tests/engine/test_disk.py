from __future__ import annotations

import errno
import os
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.disk.filesystem import FileSystem, storage_error
from engine.disk.real import RealFileSystem
from engine.errors import DiskFull, TidegaugeError, Unavailable
from tests.filesystems import (
    FailingFileSystem,
    FullFileSystem,
    LayeredFileSystem,
    MemoryFileSystem,
    RecordingFileSystem,
    broken_disk,
)

Place = tuple[FileSystem, str]

# What every file system does


@pytest.fixture(params=["real", "memory", "layered"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A file system and an existing directory on it."""
    if request.param == "real":
        return RealFileSystem(), str(tmp_path)
    memory = MemoryFileSystem()
    memory.makedirs("root")
    return (memory if request.param == "memory" else LayeredFileSystem(memory)), "root"


def test_appending(place: Place) -> None:
    fs, root = place
    path = f"{root}/log"
    file = fs.open_append(path)
    assert file.position == 0
    file.write(b"one")
    file.writev([b"", bytearray(b"two"), memoryview(b"three"), b""])
    assert file.position == 11
    file.sync()
    file.close()
    again = fs.open_append(path)
    assert again.position == 11
    again.write(b"!")
    again.sync()
    again.close()
    assert fs.read(path) == b"onetwothree!"
    assert fs.size(path) == 12


def test_appending_more_parts_than_one_system_call_takes(place: Place) -> None:
    fs, root = place
    parts = [bytes([index % 251]) * (index % 5) for index in range(3000)]
    file = fs.open_append(f"{root}/log")
    file.writev(parts)
    assert file.position == len(b"".join(parts))
    file.sync()
    file.close()
    assert fs.read(f"{root}/log") == b"".join(parts)


def test_directories(place: Place) -> None:
    fs, root = place
    fs.makedirs(f"{root}/a/b/c")
    fs.makedirs(f"{root}/a/b/c")
    fs.write_file_synced(f"{root}/a/z", [])
    fs.write_file_synced(f"{root}/a/k", [b"x"])
    assert fs.listdir(f"{root}/a") == ["b", "k", "z"]
    assert fs.exists(f"{root}/a/b")
    assert fs.exists(f"{root}/a/k")
    assert not fs.exists(f"{root}/b")
    with pytest.raises(FileNotFoundError):
        fs.listdir(f"{root}/nowhere")
    with pytest.raises(FileNotFoundError):
        fs.open_append(f"{root}/nowhere/file")
    with pytest.raises(FileNotFoundError):
        fs.sync_dir(f"{root}/nowhere")
    fs.sync_dir(root)


def test_replacing(place: Place) -> None:
    fs, root = place
    path = f"{root}/file"
    for write in (fs.write_file_synced, fs.write_atomic):
        write(path, [b"first"])
        assert fs.read(path) == b"first"
        write(path, [b"2", b"nd"])
        assert fs.read(path) == b"2nd"
    assert fs.listdir(root) == ["file"]


def test_renaming_removing_truncating(place: Place) -> None:
    fs, root = place
    fs.write_file_synced(f"{root}/a", [b"aaaa"])
    fs.write_file_synced(f"{root}/b", [b"bb"])
    fs.rename(f"{root}/a", f"{root}/b")
    assert (fs.listdir(root), fs.read(f"{root}/b")) == (["b"], b"aaaa")
    fs.truncate(f"{root}/b", 3)
    assert fs.read(f"{root}/b") == b"aaa"
    fs.makedirs(f"{root}/d")
    fs.rename(f"{root}/b", f"{root}/d/c")
    assert fs.read(f"{root}/d/c") == b"aaa"
    fs.remove(f"{root}/d/c")
    assert not fs.exists(f"{root}/d/c")
    for missing in (fs.remove, fs.read, fs.size, fs.map, lambda path: fs.read_range(path, 0, 1)):
        with pytest.raises(FileNotFoundError):
            missing(f"{root}/gone")
    with pytest.raises(FileNotFoundError):
        fs.truncate(f"{root}/gone", 0)
    with pytest.raises(FileNotFoundError):
        fs.rename(f"{root}/gone", f"{root}/d/gone")


def test_syncing_what_another_process_has_written(place: Place) -> None:
    fs, root = place
    file = fs.open_append(f"{root}/log")
    file.write(b"one")
    file.close()
    fs.sync_file(f"{root}/log")
    assert fs.read(f"{root}/log") == b"one"
    if isinstance(fs, MemoryFileSystem):
        assert all(fs.crash(Random(seed)).read(f"{root}/log") == b"one" for seed in range(8))
    with pytest.raises(FileNotFoundError):
        fs.sync_file(f"{root}/nothing")


def test_reading_a_part(place: Place) -> None:
    fs, root = place
    fs.write_file_synced(f"{root}/a", [b"0123456789"])
    parts = [fs.read_range(f"{root}/a", offset, size) for offset, size in ((0, 10), (3, 4), (8, 9), (10, 1), (50, 1))]
    assert parts == [b"0123456789", b"3456", b"89", b"", b""]
    assert fs.read_range(f"{root}/a", 4, 0) == b""
    assert fs.read_ranges(f"{root}/a", [(3, 4), (8, 9), (50, 1), (0, 0)]) == [b"3456", b"89", b"", b""]
    assert fs.read_ranges(f"{root}/a", []) == []
    with pytest.raises(FileNotFoundError):
        fs.read_ranges(f"{root}/gone", [(0, 1)])


def test_names(place: Place) -> None:
    fs, root = place
    fs.makedirs(f"{root}/d/e")
    fs.write_file_synced(f"{root}/d/a", [b"a"], sync_name=False)
    fs.link(f"{root}/d/a", f"{root}/d/e/b")
    with pytest.raises(FileExistsError):
        fs.link(f"{root}/d/a", f"{root}/d/e/b")
    with pytest.raises(FileNotFoundError):
        fs.link(f"{root}/d/gone", f"{root}/d/c")
    fs.rename(f"{root}/d", f"{root}/f")
    assert not fs.exists(f"{root}/d")
    fs.remove(f"{root}/f/a")
    assert (fs.listdir(f"{root}/f"), fs.read(f"{root}/f/e/b")) == (["e"], b"a")


def test_a_name_that_is_not_synced_can_be_lost() -> None:
    fs = MemoryFileSystem()
    fs.makedirs("root")
    fs.write_file_synced("root/a", [b"aa"], sync_name=False)
    found = [fs.crash(Random(seed)) for seed in range(8)]
    assert {each.exists("root/a") for each in found} == {True, False}
    assert {each.read("root/a") for each in found if each.exists("root/a")} == {b"aa"}
    fs.sync_dir("root")
    assert all(fs.crash(Random(seed)).read("root/a") == b"aa" for seed in range(8))


def test_mapping(place: Place) -> None:
    fs, root = place
    fs.write_file_synced(f"{root}/full", [b"content"])
    fs.write_file_synced(f"{root}/empty", [])
    view = fs.map(f"{root}/full")
    assert view.readonly
    fs.remove(f"{root}/full")
    assert bytes(view) == b"content"
    assert bytes(fs.map(f"{root}/empty")) == b""


def test_a_file_can_be_written_after_it_lost_its_name(place: Place) -> None:
    fs, root = place
    file = fs.open_append(f"{root}/log")
    fs.remove(f"{root}/log")
    file.write(b"into the void")
    file.close()
    assert fs.listdir(root) == []


def test_locking(place: Place) -> None:
    fs, root = place
    lock = fs.lock(f"{root}/LOCK")
    with pytest.raises(Unavailable) as caught:
        fs.lock(f"{root}/LOCK")
    assert str(caught.value) == (f"cannot open data directory {root}: it is in use by process {os.getpid()}")
    lock.release()
    fs.lock(f"{root}/LOCK").release()


def test_free_space_is_a_number(place: Place) -> None:
    fs, root = place
    assert fs.free_bytes(root) > 0


# The real one


def test_a_failed_write_leaves_no_file_behind(tmp_path: Path) -> None:
    fs = RealFileSystem()
    with pytest.raises(TypeError):
        fs.write_atomic(f"{tmp_path}/file", [b"good", "bad"])  # type: ignore[list-item]
    assert fs.listdir(str(tmp_path)) == []


def test_atomic_replacement_survives_a_leftover_of_an_earlier_one(tmp_path: Path) -> None:
    fs = RealFileSystem()
    (tmp_path / "file.tmp").write_bytes(b"half of something much longer")
    fs.write_atomic(f"{tmp_path}/file", [b"new"])
    assert (tmp_path / "file").read_bytes() == b"new"
    assert fs.listdir(str(tmp_path)) == ["file"]


def test_files_are_not_for_everybody(tmp_path: Path) -> None:
    fs = RealFileSystem()
    fs.makedirs(f"{tmp_path}/data")
    fs.write_atomic(f"{tmp_path}/data/file", [b"x"])
    fs.open_append(f"{tmp_path}/data/log").close()
    assert (tmp_path / "data").stat().st_mode & 0o007 == 0
    assert (tmp_path / "data" / "file").stat().st_mode & 0o007 == 0
    assert (tmp_path / "data" / "log").stat().st_mode & 0o007 == 0


def test_a_name_is_synced_with_the_first_sync_of_a_new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    monkeypatch.setattr(os, "fdatasync", os.fsync)
    file = RealFileSystem().open_append(f"{tmp_path}/log")
    for text in (b"one", b"two"):
        file.write(text)
        file.sync()
    file.close()
    again = RealFileSystem().open_append(f"{tmp_path}/log")
    again.sync()
    again.close()
    assert synced == [f"{tmp_path}/log", str(tmp_path), f"{tmp_path}/log", f"{tmp_path}/log"]


def test_atomic_replacement_syncs_content_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    rename = os.rename
    monkeypatch.setattr(os, "fsync", lambda descriptor: done.append(os.readlink(f"/proc/self/fd/{descriptor}")))

    def noted_rename(old: str, new: str) -> None:
        done.append("rename")
        rename(old, new)

    monkeypatch.setattr(os, "rename", noted_rename)
    RealFileSystem().write_atomic(f"{tmp_path}/file", [b"x"])
    assert done == [f"{tmp_path}/file.tmp", "rename", str(tmp_path)]


# The crashing one


def after_crashes(fs: MemoryFileSystem, path: str) -> set[bytes | None]:
    found = set()
    for seed in range(200):
        crashed = fs.crash(Random(seed))
        found.add(crashed.read(path) if crashed.exists(path) else None)
    return found


def memory() -> MemoryFileSystem:
    fs = MemoryFileSystem()
    fs.makedirs("d")
    return fs


def test_what_was_not_synced_may_be_there_in_part() -> None:
    fs = memory()
    file = fs.open_append("d/log")
    file.write(b"abc")
    assert after_crashes(fs, "d/log") == {None, b""} | {b"a", b"ab", b"abc"} | {
        b"\x00", b"\x00\x00", b"\x00\x00\x00", b"a\x00", b"a\x00\x00", b"ab\x00"
    }  # fmt: skip
    file.sync()
    assert after_crashes(fs, "d/log") == {b"abc"}
    file.write(b"d")
    assert after_crashes(fs, "d/log") == {b"abc", b"abcd", b"abc\x00"}


def test_removed_files_may_come_back_until_the_directory_is_synced() -> None:
    fs = memory()
    fs.write_file_synced("d/file", [b"x"])
    fs.remove("d/file")
    assert not fs.exists("d/file")
    assert after_crashes(fs, "d/file") == {None, b"x"}
    fs.sync_dir("d")
    assert after_crashes(fs, "d/file") == {None}


def test_what_has_returned_stays() -> None:
    fs = memory()
    fs.write_file_synced("d/a", [b"old"])
    fs.write_atomic("d/a", [b"new"])
    assert after_crashes(fs, "d/a") == {b"new"}
    fs.rename("d/a", "d/b")
    assert after_crashes(fs, "d/a") == {None}
    assert after_crashes(fs, "d/b") == {b"new"}
    fs.truncate("d/b", 1)
    assert after_crashes(fs, "d/b") == {b"n"}


def test_names_reach_the_disk_in_order() -> None:
    fs = memory()
    for name in "abc":
        fs.open_append(f"d/{name}")
    seen = {tuple(fs.crash(Random(seed)).listdir("d")) for seed in range(100)}
    assert seen == {(), ("a",), ("a", "b"), ("a", "b", "c")}
    fs.open_append("d/d").sync()
    assert fs.crash(Random(0)).listdir("d") == ["a", "b", "c", "d"]


@given(seed=st.integers(0, 2**32), synced=st.binary(max_size=20), unsynced=st.binary(max_size=20))
@settings(max_examples=50, deadline=None)
def test_a_crash_keeps_what_was_synced_and_changes_nothing_here(seed: int, synced: bytes, unsynced: bytes) -> None:
    fs = memory()
    file = fs.open_append("d/log")
    file.write(synced)
    file.sync()
    file.write(unsynced)
    crashed = fs.crash(Random(seed))
    assert crashed.read("d/log").startswith(synced)
    assert crashed.size("d/log") <= fs.size("d/log")
    crashed.truncate("d/log", 0)
    assert fs.read("d/log") == synced + unsynced
    assert crashed.crash(Random(seed)).read("d/log") == b""


# The failing and the full one


def test_failures_are_chosen_by_operation_and_path() -> None:
    inner = memory()
    fs = FailingFileSystem(
        inner,
        lambda operation, path: broken_disk() if (operation, path) == ("write", "d/bad") else None,
        written_before_failing=lambda size: size // 2,
    )
    good, bad = fs.open_append("d/good"), fs.open_append("d/bad")
    good.writev([b"ab", b"cd"])
    with pytest.raises(OSError, match="Input/output error") as caught:
        bad.writev([b"ab", b"cd"])
    assert caught.value.errno == errno.EIO
    assert (inner.read("d/good"), inner.read("d/bad")) == (b"abcd", b"ab")
    assert (good.position, bad.position) == (4, 2)


def test_a_full_device_takes_what_fits() -> None:
    inner = memory()
    fs = FullFileSystem(inner, 10)
    file = fs.open_append("d/log")
    file.write(b"1234567")
    assert fs.free_bytes("d") == 3
    with pytest.raises(OSError, match="No space left") as caught:
        file.write(b"89abcd")
    assert caught.value.errno == errno.ENOSPC
    assert inner.read("d/log") == b"123456789a"
    with pytest.raises(OSError, match="No space left"):
        fs.write_atomic("d/file", [b"x"])
    fs.truncate("d/log", 1)
    fs.write_atomic("d/file", [b"x"])
    assert fs.free_bytes("d") == 8


def test_the_record_holds_what_changes_or_waits() -> None:
    fs = RecordingFileSystem(memory())
    file = fs.open_append("d/log")
    file.writev([b"a", b"b"])
    file.sync()
    fs.read("d/log")
    fs.rename("d/log", "d/old")
    assert fs.operations == [("open_append", "d/log"), ("write", "d/log"), ("sync", "d/log"), ("rename", "d/log")]


# Errors in words


@pytest.mark.parametrize(
    ("number", "kind", "message"),
    [
        (errno.ENOSPC, DiskFull, "cannot append to log: got 'No space left on device', want free disk space (d/x)"),
        (errno.EDQUOT, DiskFull, "cannot append to log: got 'Disk quota exceeded', want free disk space (d/x)"),
        (errno.EIO, Unavailable, "cannot append to log: got 'Input/output error', want a working disk (d/x)"),
    ],
)
def test_system_errors_become_ours(number: int, kind: type[TidegaugeError], message: str) -> None:
    error = storage_error("append to log", OSError(number, os.strerror(number)), "d/x")
    assert type(error) is kind
    assert str(error) == message


def test_system_errors_without_a_number() -> None:
    assert str(storage_error("read log", OSError(), "d")) == "cannot read log: got 'OSError', want a working disk (d)"
