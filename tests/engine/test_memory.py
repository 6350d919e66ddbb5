"""The heaps of a server's process, in processes of their own."""

from __future__ import annotations

import subprocess
import sys

from engine.query.memory import ARENAS, bound_heaps

PROGRAM = """
import ctypes, threading
from engine.query.memory import bound_heaps

assert not {bound} or bound_heaps({{}})
together = threading.Barrier(8)

def allocate():
    together.wait()
    kept.append([bytes(1000 + number) for number in range(1000)])
    together.wait()

kept = []
threads = [threading.Thread(target=allocate) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
ctypes.CDLL(None).malloc_stats()
"""


def heaps(*, bound: bool) -> int:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(bound=bound)], capture_output=True, text=True, check=True
    )
    return done.stderr.count("Arena ")


def test_threads_share_few_heaps() -> None:
    assert 1 <= heaps(bound=True) <= ARENAS < heaps(bound=False)


def test_who_has_set_the_allocator_is_left_alone() -> None:
    assert not bound_heaps({"MALLOC_ARENA_MAX": "8"})
    assert not bound_heaps({"GLIBC_TUNABLES": "glibc.malloc.arena_max=8"})
