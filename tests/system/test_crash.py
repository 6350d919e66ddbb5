"""kill -9 under load and in recovery: nothing acknowledged is lost, nothing is there twice, the last arrival wins.

Writers send rows of several tables, late ones, repeated ones and corrections of single fields.  Kills fall into any
moment: under load, into recovery (also twice in a row, with and without writes meanwhile), between orderly stops.
``TIDEGAUGE_KILLS`` sets how often (20 by default, `make crash` does 500); ``TIDEGAUGE_SEED`` repeats a run.
"""

from __future__ import annotations

import http.client
import json
import os
import random
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from engine.errors import Unavailable
from engine.maintenance.verify.directory import verify
from tests.system.nursery import Nursery
from tests.system.program import Program

pytestmark = [pytest.mark.crash, pytest.mark.system, pytest.mark.timeout(7_200)]

KILLS = int(os.environ.get("TIDEGAUGE_KILLS", "20"))
SEED = int(os.environ.get("TIDEGAUGE_SEED", "0")) or random.SystemRandom().randrange(1 << 30)
WRITERS = 3
TABLES = ("crash0", "crash1", "crash2")
#: Small limits, so that kills also fall into rolling the log, sealing, flushing and trimming.
CONFIG = """
[storage]
wal_segment = "1MiB"
wal_limit = "%s"
hot_limit = "1MiB"
seal_after = "1s"
[retention]
raw = "30d"
[query]
in_process = %s
"""
STEP_NS = 250_000_000
TIERS = ("rollup_1m", "rollup_5m", "rollup_15m", "rollup_1h", "rollup_1d")
#: Every so many starts is one of the command in a process of its own; the others are forked.
EXECUTED_EVERY = 10


@dataclass
class Writer:
    """One client: numbers rows 0, 1, 2, ... over all tables and corrects some of them.

    A row has ``n`` and ``half``, which never change, and a revision ``rev`` once it has been corrected.
    ``acknowledged``: the rows that the server has answered for; ``revised``: by row, the revision it has answered for
    and the newest that has been sent.
    """

    name: str
    start_ns: int
    rows_a_batch: int
    rng: random.Random
    next_row: int = 0
    revision: int = 0
    acknowledged: set[int] = field(default_factory=set)
    revised: dict[int, tuple[int, int]] = field(default_factory=dict)

    def new_rows(self) -> tuple[list[int], str]:
        rows = list(range(self.next_row, self.next_row + self.rows_a_batch))
        self.next_row += self.rows_a_batch
        if self.rng.random() < 0.5:
            self.rng.shuffle(rows)
        if self.rng.random() < 0.2:
            rows += self.rng.choices(rows, k=3)
        return rows, "".join(self._line(row, f"n={row}i,half={row / 2}") for row in rows)

    def corrections(self) -> tuple[list[int], str]:
        """Correct rows that have been acknowledged, wherever they are by now, recent ones more often than old ones."""
        newest = max(self.acknowledged)
        rows = {newest - int(self.rng.random() ** 3 * newest) for _ in range(self.rng.randrange(1, 20))}
        chosen = sorted(rows & self.acknowledged)
        self.revision += 1
        for row in chosen:
            self.revised[row] = (self.revised.get(row, (0, 0))[0], self.revision)
        return chosen, "".join(self._line(row, f"rev={self.revision}i") for row in chosen)

    def _line(self, row: int, fields: str) -> str:
        return f"{TABLES[row % len(TABLES)]},writer={self.name} {fields} {self.start_ns + row * STEP_NS}\n"

    def run(self, program: Program, stop: threading.Event, on_ack: threading.Semaphore) -> None:
        connection = program.connection()
        try:
            while not stop.is_set():
                correcting = bool(self.acknowledged) and self.rng.random() < 0.3
                rows, body = self.corrections() if correcting else self.new_rows()
                connection.request("POST", "/write", body.encode())
                answer = connection.getresponse()
                answer.read()
                if answer.status == 204:
                    if correcting:
                        self.revised |= dict.fromkeys(rows, (self.revision, self.revision))
                    else:
                        self.acknowledged.update(rows)
                    on_ack.release()
                else:
                    # Turned away whole: nothing of it may be counted on, and nothing of it needs to be there.
                    assert answer.status in (429, 503), answer.status
        except (OSError, http.client.HTTPException):
            return
        finally:
            connection.close()


def ranges(numbers: set[int]) -> list[tuple[int, int]]:
    """Return a set of numbers as disjoint half-open ranges."""
    found: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if found and found[-1][1] == number:
            found[-1] = (found[-1][0], number + 1)
        else:
            found.append((number, number + 1))
    return found


def check(program: Program, writers: list[Writer]) -> None:
    program.wait_recovered()
    known = {name for (name,) in program.sql("SELECT DISTINCT metric FROM metrics")}
    if not any(f"{table}_n" in known for table in TABLES):
        assert not any(writer.acknowledged for writer in writers)
        return
    every = " UNION ALL ".join(f"SELECT * FROM {table}" for table in TABLES if f"{table}_n" in known)
    revised = " UNION ALL ".join(
        f"SELECT writer, n, rev FROM {table} WHERE rev IS NOT NULL" for table in TABLES if f"{table}_rev" in known
    )
    for writer in writers:
        who = f"seed {SEED}, {writer.name}"
        [(rows, times, wrong)] = program.sql(
            "SELECT count(n), count(DISTINCT time), count(*) FILTER (n IS NULL OR half IS NULL OR half <> n / 2"
            f" OR epoch_ns(time) <> ? + n::BIGINT * ?) FROM ({every}) WHERE writer = ?",
            writer.start_ns,
            STEP_NS,
            writer.name,
        )
        assert rows == times, f"{who}: {rows - times} rows are there twice"
        assert wrong == 0, f"{who}: {wrong} rows are not what was sent"
        for first, end in ranges(writer.acknowledged):
            [(found,)] = program.sql(
                f"SELECT count(*) FROM ({every}) WHERE writer = ? AND n >= ? AND n < ?", writer.name, first, end
            )
            assert found == end - first, (
                f"{who}: of the acknowledged rows {first} to {end}, {end - first - found} are lost"
            )
        corrected = (
            {
                int(n): int(rev)
                for n, rev in program.sql(f"SELECT n, rev FROM ({revised}) WHERE writer = ?", writer.name)
            }
            if revised
            else {}
        )
        for row, (acknowledged, sent) in writer.revised.items():
            assert acknowledged <= corrected.get(row, 0) <= sent, (
                f"{who}: row {row} is at revision {corrected.get(row, 0)}, acknowledged was {acknowledged}, sent {sent}"
            )
        assert corrected.keys() <= writer.revised.keys(), f"{who}: rows are corrected that nobody has corrected"
    for metric in sorted(known):
        table, _, column = metric.rpartition("_")
        if table not in TABLES:
            continue
        [expected] = program.sql(f"SELECT count({column}), sum({column}), min({column}), max({column}) FROM {table}")
        for tier in TIERS:
            [found_in_tier] = program.sql(
                f"SELECT sum(count), sum(sum), min(min), max(max) FROM {tier} WHERE metric = ?", metric
            )
            assert found_in_tier == expected, (
                f"seed {SEED}: {tier} of {metric} has {found_in_tier}, the samples make {expected}"
            )


class Campaign:
    """One run: a data directory, its writers, and what has been done to it."""

    def __init__(self, folder: Path, nursery: Nursery) -> None:
        self.rng = random.Random(SEED)
        start_ns = (time.time_ns() // 10**9 - 20 * 86_400) * 10**9
        self.writers = [
            Writer(f"w{at}", start_ns, self.rng.choice([1, 20, 400]), random.Random(SEED + at)) for at in range(WRITERS)
        ]
        self.data, self._nursery = folder / "data", nursery
        self.starts = self.kills = self.in_recovery = self.stops = self.checks = self.verified = 0

    def started(self, *, wait: bool = True) -> Program:
        self.starts += 1
        config = CONFIG % (self.rng.choice(["1MiB", "16MiB"]), "false" if self.rng.random() < 0.2 else "true")
        start = None if self.starts % EXECUTED_EVERY == 0 else self._nursery.start
        return Program(self.data, config, start=start, wait=wait)

    def load(self, program: Program, acknowledgements: int) -> None:
        """Write until so many batches are acknowledged, then kill."""
        stop, acknowledged = threading.Event(), threading.Semaphore(0)
        threads = [threading.Thread(target=writer.run, args=(program, stop, acknowledged)) for writer in self.writers]
        for thread in threads:
            thread.start()
        for _ in range(acknowledgements):
            assert acknowledged.acquire(timeout=60), f"seed {SEED}: the server stopped acknowledging"
        self.kill(program)
        stop.set()
        for thread in threads:
            thread.join()

    def kill(self, program: Program) -> None:
        program.kill()
        self.kills += 1
        if "bytes of log to replay" in program.said() and "recovered" not in program.said():
            self.in_recovery += 1

    def verify(self) -> None:
        """Read all that the kill has left as `tidegauge verify` does: nothing stored is wrong."""
        deadline = time.monotonic() + 30
        while True:
            try:
                report = verify(str(self.data))
                break
            except Unavailable:
                # A query process ends a moment after the server it belonged to.
                assert time.monotonic() < deadline, f"seed {SEED}: the data directory stays in use"
                time.sleep(0.05)
        assert report.clean, f"seed {SEED}: {[each.as_json() for each in report.findings]}"
        self.verified += 1

    def kill_in_recovery(self) -> None:
        """Start, and kill as soon as the log is being replayed or a little later, perhaps with writes meanwhile."""
        with self.started(wait=False) as program:
            program.wait_said("bytes of log to replay")
            if self.rng.random() < 0.3:
                program.wait_ready()
                self.load(program, self.rng.randrange(1, 10))
            else:
                time.sleep(self.rng.random() ** 2 * 0.1)
                self.kill(program)

    def once(self) -> None:
        for _ in range(self.rng.choice([0, 0, 1, 2])):
            self.kill_in_recovery()
        if self.starts and self.rng.random() < 0.15:
            self.verify()
        with self.started() as program:
            if self.rng.random() < 0.15:
                check(program, self.writers)
                self.checks += 1
            if self.rng.random() < 0.1:
                assert program.stop() == 0
                self.stops += 1
                return
            self.load(program, self.rng.randrange(1, 120))


def test_nothing_acknowledged_is_lost_or_doubled(tmp_path: Path) -> None:
    print(f"seed {SEED}, {KILLS} kills")
    began = time.monotonic()
    with Nursery(tmp_path) as nursery:
        campaign = Campaign(tmp_path, nursery)
        while campaign.kills < KILLS:
            campaign.once()
        for end in ("stop", "kill"):
            with campaign.started() as program:
                check(program, campaign.writers)
                if end == "stop":
                    assert program.stop() == 0
                else:
                    program.kill()
            campaign.verify()
    total = sum(len(writer.acknowledged) for writer in campaign.writers)
    corrected = sum(len(writer.revised) for writer in campaign.writers)
    summary = {
        "seed": SEED,
        "kills": campaign.kills,
        "of them in recovery": campaign.in_recovery,
        "orderly stops": campaign.stops,
        "checks in between": campaign.checks,
        "verified": campaign.verified,
        "acknowledged rows": total,
        "corrected rows": corrected,
        "seconds": round(time.monotonic() - began, 1),
    }
    print(json.dumps(summary))
    assert total
    assert corrected
