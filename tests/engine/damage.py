"""A data directory to be damaged, and what can be done to its files.

:func:`build` makes a directory as a `kill -9` leaves it: segments, a log of three files with rows that are sealed and
rows that are not, two manifests, tiers partly in DuckDB's own log.  Each :class:`Case` does one thing to it; what must
follow stands beside it (`damage_cases.py`).
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from engine.clock import NS_PER_DAY, ManualClock
from engine.runtime import Engine
from engine.runtime import engine as runtime
from tests.engine.test_engine_rollups import CONFIG, NOW_NS, Twin, random_batch

Change = Callable[[Path], object]


def build(target: Path) -> Twin:
    """Make the directory and return every sample that was acknowledged, in order."""
    rng, twin = np.random.default_rng(5), Twin()
    live = target.with_name("live")
    with pytest.MonkeyPatch.context() as patch:
        # Nothing is to happen but what is asked for here.
        for period in ("FLUSH_SECONDS", "SEAL_CHECK_SECONDS", "RETAIN_SECONDS"):
            patch.setattr(runtime, period, 1e6)
        with Engine.open(str(live), CONFIG, clock=ManualClock(NOW_NS)) as engine:

            def write(batches: int) -> None:
                for _ in range(batches):
                    engine.submit_lines(random_batch(rng, NOW_NS - 3 * NS_PER_DAY, twin)).result(30)
                engine.wal.roll()

            write(3)
            engine.flush_rollups()
            engine.sealer.seal()
            engine.catalog.freeze(1)
            write(3)
            engine.flush_rollups()
            engine.sealer.seal(before_ns=NOW_NS - 2 * NS_PER_DAY)
            write(3)
            engine.flush_rollups()
            write(2)
            write(2)
            shutil.copytree(live, target)
    # As after a while without changes: SQLite has moved its own log into the file.
    with sqlite3.connect(target / CONTROL) as control:
        control.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    control.close()
    return twin


# --- what can be done to a file


def flip(path: Path, at: float) -> None:
    """Flip a bit at a byte (counted from the end when negative), or at a share of the length when below 1."""
    body = bytearray(path.read_bytes())
    body[int(len(body) * at) if 0 < at < 1 else int(at)] ^= 0x10
    path.write_bytes(body)


def cut(path: Path, at: float) -> None:
    """Keep a share of the file, or leave out as many bytes of the end when negative."""
    body = path.read_bytes()
    path.write_bytes(body[: int(at) if at < 0 else int(len(body) * at)])


def zeros(path: Path, since: float = 0.0, until: float = 1.0) -> None:
    body = path.read_bytes()
    first, last = int(len(body) * since), int(len(body) * until)
    path.write_bytes(body[:first] + bytes(last - first) + body[last:])


def swap(first: Path, second: Path) -> None:
    one, other = first.read_bytes(), second.read_bytes()
    first.write_bytes(other)
    second.write_bytes(one)


def of(glob: str, number: int, change: Callable[[Path], object]) -> Change:
    """Apply a change to the file of that number among those that match, in order of their names."""
    return lambda data: change(sorted(data.glob(glob))[number])


def all_of(glob: str, change: Callable[[Path], object]) -> Change:
    def apply(data: Path) -> None:
        found = sorted(data.glob(glob))
        assert found, glob
        for path in found:
            change(path)

    return apply


def both(glob: str, change: Callable[[Path, Path], object]) -> Change:
    return lambda data: change(*sorted(data.glob(glob))[:2])


def append(body: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(path.read_bytes() + body)


def duplicate(name: str) -> Callable[[Path], object]:
    return lambda path: shutil.copyfile(path, path.with_name(name))


LOG, MANIFEST, SEGMENT, CATALOGUE = "wal/*.wal", "manifest-*.json", "segments/cpu/*.parquet", "catalog.log"
TAGSETS = "tagsets/*.tgs"
ROLLUPS, ROLLUPS_LOG, CONTROL = "rollups.duckdb", "rollups.duckdb.wal", "control.sqlite"


@dataclass(frozen=True)
class Case:
    """One damage.

    ``what`` and ``back`` are for the page: what was done, what comes back.  ``kinds``: all that verify must find.
    ``opening``: "tidies" (nothing to worry about is said), "reports" (it opens, and ``says`` matches a sentence of
    readiness), "fails" (it opens, and SQL answers with ``says``), "serves" (it opens, and nothing is noticed),
    "heals" (flushing the tiers makes it good, and then ``says`` matches a sentence of readiness), or
    "refuses" (``says`` matches the error).  ``back``: "everything", or what of it.  ``stays``: what verify still finds
    after a start and a stop.
    """

    part: str
    what: str
    apply: Change
    kinds: frozenset[str]
    opening: str
    says: str
    back: str
    stays: frozenset[str]

    @property
    def all_back(self) -> bool:
        return self.back == "everything"


def case(
    part: str,
    what: str,
    apply: Change,
    kinds: str,
    opening: str,
    says: str = "",
    *,
    back: str = "everything",
    stays: str = "",
) -> Case:
    return Case(part, what, apply, frozenset(kinds.split()), opening, says, back, frozenset(stays.split()))
