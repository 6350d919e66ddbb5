"""The buffer on disk against a plain list, over restarts, crashes and a full disk."""

from __future__ import annotations

import errno
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.collect.buffer import DiskBuffer, Lost
from engine.errors import Unavailable
from tests.filesystems import FullFileSystem, MemoryFileSystem


def contents(buffer: DiskBuffer) -> list[bytes]:
    """Empty the buffer and return what it held, oldest first."""
    bodies = []
    while (waiting := buffer.oldest()) is not None:
        bodies.append(waiting[1])
        buffer.remove(waiting[0])
    return bodies


def test_batches_come_back_in_order_after_a_restart() -> None:
    filesystem = MemoryFileSystem()
    buffer = DiskBuffer(filesystem, "/b", limit_bytes=1_000)
    for number in range(20):
        assert not buffer.append(b"line %d\n" % number)
    buffer.close()
    again = DiskBuffer(filesystem, "/b", limit_bytes=1_000)
    assert (len(again), again.size_bytes) == (20, 150)
    again.append(b"last\n")
    assert contents(again) == [*(b"line %d\n" % number for number in range(20)), b"last\n"]
    assert (len(again), again.size_bytes) == (0, 0)


def test_the_oldest_are_dropped_first_and_counted() -> None:
    buffer = DiskBuffer(MemoryFileSystem(), "/b", limit_bytes=10)
    buffer.append(b"a\nb\n")
    buffer.append(b"c\n")
    assert buffer.append(b"defghi\n") == Lost(1, 2, 4)
    assert contents(buffer) == [b"c\n", b"defghi\n"]
    assert buffer.lost == Lost(1, 2, 4)


def test_a_batch_beyond_the_whole_buffer_is_lost_itself() -> None:
    buffer = DiskBuffer(MemoryFileSystem(), "/b", limit_bytes=4)
    buffer.append(b"a\n")
    assert buffer.append(b"12345\n") == Lost(1, 1, 6)
    assert contents(buffer) == [b"a\n"]


def test_a_full_disk_loses_the_new_batch_and_counts_it() -> None:
    filesystem = FullFileSystem(MemoryFileSystem(), capacity_bytes=12)
    buffer = DiskBuffer(filesystem, "/b", limit_bytes=1_000)
    buffer.append(b"123456\n")
    with pytest.raises(OSError) as caught:
        buffer.append(b"1234567\n")
    assert caught.value.errno == errno.ENOSPC
    assert buffer.lost == Lost(1, 1, 8)
    assert contents(buffer) == [b"123456\n"]


def test_one_process_at_a_time() -> None:
    filesystem = MemoryFileSystem()
    buffer = DiskBuffer(filesystem, "/b", limit_bytes=10)
    with pytest.raises(Unavailable):
        DiskBuffer(filesystem, "/b", limit_bytes=10)
    buffer.close()
    DiskBuffer(filesystem, "/b", limit_bytes=10).close()


def test_names_of_others_are_left_alone() -> None:
    filesystem = MemoryFileSystem()
    filesystem.makedirs("/b")
    for name in ("notes.txt", "0000000000000007.lp.tmp", "7.lp"):
        filesystem.write_atomic(f"/b/{name}", [b"x"])
    buffer = DiskBuffer(filesystem, "/b", limit_bytes=10)
    assert len(buffer) == 0
    buffer.append(b"a\n")
    assert contents(buffer) == [b"a\n"]
    assert filesystem.exists("/b/notes.txt")


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 9), max_size=20), st.integers(0, 2**32))
def test_no_batch_that_was_kept_is_lost_by_a_crash(sizes: list[int], seed: int) -> None:
    filesystem = MemoryFileSystem()
    buffer = DiskBuffer(filesystem, "/b", limit_bytes=1_000)
    bodies = [b"%03d" % number + b"x" * size for number, size in enumerate(sizes)]
    for body in bodies:
        buffer.append(body)
    after = DiskBuffer(filesystem.crash(Random(seed)), "/b", limit_bytes=1_000)
    assert contents(after) == bodies


STEPS = st.lists(st.one_of(st.integers(1, 12).map(lambda size: ("append", size)), st.just(("take", 0))), max_size=30)


@settings(max_examples=80, deadline=None)
@given(STEPS, st.integers(1, 30))
def test_it_behaves_as_a_bounded_list(steps: list[tuple[str, int]], limit: int) -> None:
    buffer = DiskBuffer(MemoryFileSystem(), "/b", limit_bytes=limit)
    model: list[bytes] = []
    lost_bytes = 0
    for number, (step, size) in enumerate(steps):
        if step == "append":
            body = bytes([65 + number]) * size
            buffer.append(body)
            model.append(body)
            if size > limit:
                lost_bytes += len(model.pop())
            while sum(map(len, model)) > limit:
                lost_bytes += len(model.pop(0))
        elif model:
            waiting = buffer.oldest()
            assert waiting is not None
            assert waiting[1] == model.pop(0)
            buffer.remove(waiting[0])
        else:
            assert buffer.oldest() is None
        assert (len(buffer), buffer.size_bytes) == (len(model), sum(map(len, model)))
    assert buffer.lost.size_bytes == lost_bytes
    assert contents(buffer) == model
