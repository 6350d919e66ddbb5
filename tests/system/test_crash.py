"""kill -9 under load: nothing acknowledged is lost, nothing is there twice, tiers equal the samples.

``TIDEGAUGE_KILLS`` sets how often (20 by default, `make crash` does 500); ``TIDEGAUGE_SEED`` repeats a run.
"""

from __future__ import annotations

import http.client
import os
import random
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.system.program import Program

pytestmark = [pytest.mark.crash, pytest.mark.system, pytest.mark.timeout(7_200)]

KILLS = int(os.environ.get("TIDEGAUGE_KILLS", "20"))
SEED = int(os.environ.get("TIDEGAUGE_SEED", "0")) or random.SystemRandom().randrange(1 << 30)
WRITERS = 3
#: Small limits, so that kills also fall into rolling the log, sealing, flushing and trimming.
CONFIG = """
[storage]
wal_segment = "1MiB"
wal_limit = "1MiB"
hot_limit = "1MiB"
seal_after = "1s"
[retention]
raw = "30d"
"""
STEP_NS = 250_000_000
TIERS = ("rollup_1m", "rollup_5m", "rollup_15m", "rollup_1h", "rollup_1d")


@dataclass
class Writer:
    """One client: numbers rows 0, 1, 2, …; ``acknowledged`` are those the server has answered for."""

    name: str
    start_ns: int
    rows_a_batch: int
    next_row: int = 0
    acknowledged: list[tuple[int, int]] = field(default_factory=list)

    def lines(self) -> tuple[int, int, bytes]:
        first, end = self.next_row, self.next_row + self.rows_a_batch
        self.next_row = end
        text = "".join(
            f"crash,writer={self.name} n={row}i,half={row / 2} {self.start_ns + row * STEP_NS}\n"
            for row in range(first, end)
        )
        return first, end, text.encode()

    def run(self, program: Program, stop: threading.Event, on_ack: threading.Semaphore) -> None:
        connection = program.connection()
        try:
            while not stop.is_set():
                first, end, body = self.lines()
                connection.request("POST", "/write", body)
                answer = connection.getresponse()
                answer.read()
                if answer.status == 204:
                    self.acknowledged.append((first, end))
                    on_ack.release()
                else:
                    # Turned away whole: nothing of it may be counted on, and nothing of it needs to be there.
                    assert answer.status in (429, 503), answer.status
        except (OSError, http.client.HTTPException):
            return
        finally:
            connection.close()

    def acknowledged_ranges(self) -> list[tuple[int, int]]:
        """Return what was acknowledged as disjoint half-open ranges of row numbers."""
        merged: list[tuple[int, int]] = []
        for first, end in sorted(self.acknowledged):
            if merged and merged[-1][1] == first:
                merged[-1] = (merged[-1][0], end)
            else:
                merged.append((first, end))
        return merged

    def acknowledged_rows(self) -> int:
        return sum(end - first for first, end in self.acknowledged)


def check(program: Program, writers: list[Writer]) -> None:
    program.wait_recovered()
    for writer in writers:
        who = f"seed {SEED}, {writer.name}"
        [(rows, times, total, low, high, wrong)] = program.sql(
            "SELECT count(*), count(DISTINCT time), sum(n), min(n), max(n),"
            " count(*) FILTER (half <> n / 2 OR epoch_ns(time) <> ? + n::BIGINT * ?) FROM crash WHERE writer = ?",
            writer.start_ns,
            STEP_NS,
            writer.name,
        )
        assert rows == times, f"{who}: {rows - times} rows are there twice"
        assert wrong == 0, f"{who}: {wrong} rows are not what was sent"
        for first, end in writer.acknowledged_ranges():
            [(found,)] = program.sql(
                "SELECT count(*) FROM crash WHERE writer = ? AND n >= ? AND n < ?", writer.name, first, end
            )
            assert found == end - first, (
                f"{who}: of the acknowledged rows {first} to {end}, {end - first - found} are lost"
            )
        for tier in TIERS:
            [found_in_tier] = program.sql(
                f"SELECT sum(count), sum(sum), min(min), max(max) FROM {tier}"
                " WHERE metric = 'crash_n' AND labels['writer'] = ?",
                writer.name,
            )
            expected = (rows, total, low, high) if rows else (None,) * 4
            assert found_in_tier == expected, f"{who}: {tier} has {found_in_tier}, the samples make {expected}"


def test_nothing_acknowledged_is_lost_or_doubled(tmp_path: Path) -> None:
    print(f"seed {SEED}, {KILLS} kills")
    rng = random.Random(SEED)
    start_ns = (time.time_ns() // 10**9 - 20 * 86_400) * 10**9
    writers = [Writer(f"w{at}", start_ns, rng.choice([1, 20, 400])) for at in range(WRITERS)]
    data = tmp_path / "data"
    for kill in range(KILLS):
        with Program(data, CONFIG) as program:
            if kill and rng.random() < 0.3:
                check(program, writers)
            stop, acknowledged = threading.Event(), threading.Semaphore(0)
            threads = [threading.Thread(target=writer.run, args=(program, stop, acknowledged)) for writer in writers]
            for thread in threads:
                thread.start()
            for _ in range(rng.randrange(1, 120)):
                assert acknowledged.acquire(timeout=60), "the server stopped acknowledging"
            program.kill()
            stop.set()
            for thread in threads:
                thread.join()
    with Program(data, CONFIG) as program:
        check(program, writers)
        assert program.stop() == 0
    with Program(data, CONFIG) as program:
        check(program, writers)
    total = sum(writer.acknowledged_rows() for writer in writers)
    print(f"{total} acknowledged rows survived {KILLS} kills")
    assert total
