"""A disk that is really full: writes are told to come back, reads and alerts go on, and space alone is the cure."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.program import Program, command

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

MIB = 1 << 20
DISK_MIB = 48
CONFIG = """
[storage]
wal_segment = "1MiB"
wal_limit = "4MiB"
hot_limit = "4MiB"
seal_after = "1s"
disk_reserve = "%s"
[watch]
tick = "1s"
[[rules]]
name = "hot"
metric = "room_temperature"
op = ">"
threshold = 30
for = "3s"
severity = "warning"
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own of a few MiB: in memory, else in a file; skipped where neither can be mounted."""
    where, image = tmp_path / "disk", tmp_path / "image"
    where.mkdir()
    image.touch()
    os.truncate(image, DISK_MIB * MIB)
    attempts = [
        [["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", str(where)]],
        [["mkfs.ext4", "-q", "-m", "0", str(image)], ["mount", "-o", "loop", str(image), str(where)]],
    ]
    for commands in attempts:
        try:
            done = [subprocess.run(each, capture_output=True, check=False).returncode for each in commands]
        except FileNotFoundError:
            continue
        if not any(done):
            break
    else:
        pytest.skip("a small file system cannot be mounted here (needs root)")
    try:
        yield where
    finally:
        subprocess.run(["umount", "-l", str(where)], check=True)


def fill(disk: Path, leave: int = 0) -> Path:
    """Take all space but ``leave`` bytes of it; return the file to remove to give it back."""
    ballast = disk / "ballast"
    state = os.statvfs(disk)
    size = max(0, state.f_bavail * state.f_frsize - leave)
    with ballast.open("wb", buffering=0) as file:
        try:
            while size > 0:
                size -= file.write(bytes(min(size, 4096)))
        except OSError:
            pass
    return ballast


def until(what: str, holds: Callable[[], Any], seconds: float = 60.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, f"never {what}"
        time.sleep(0.1)
    return found


class Sender:
    """Writes numbered rows and knows which of them were acknowledged."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.next_row = 0
        self.acknowledged: set[int] = set()
        self.refused: list[tuple[int, bytes]] = []
        self.start_ns = (time.time_ns() // 10**9 - 86_400) * 10**9

    def send(self, rows: int = 500) -> bool:
        numbers = range(self.next_row, self.next_row + rows)
        self.next_row += rows
        body = "".join(f"num,host=h{n % 7} n={n}i,r={n * 0.37} {self.start_ns + n * 10**8}\n" for n in numbers)
        connection = self.program.connection()
        try:
            connection.request("POST", "/write", body.encode())
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        if answer.status == 204:
            self.acknowledged.update(numbers)
            return True
        assert answer.status == 503, (answer.status, text)
        assert int(answer.headers["Retry-After"]) >= 1
        assert b'"error":"disk_full"' in text, text
        self.refused.append((answer.status, text))
        return False

    def check(self) -> None:
        found = {int(n) for (n,) in self.program.sql("SELECT n FROM num")}
        [(rows,)] = self.program.sql("SELECT count(*) FROM num")
        assert rows == len(found), "rows are there twice"
        assert self.acknowledged <= found, f"{len(self.acknowledged - found)} acknowledged rows are lost"
        [(count, total)] = self.program.sql("SELECT sum(count), sum(sum) FROM rollup_1h WHERE metric = 'num_n'")
        assert (count, total) == (len(found), sum(found))


def test_below_the_reserve_writes_are_refused_and_alerts_still_fire(small_disk: Path) -> None:
    with Program(small_disk / "data", CONFIG % "8MiB") as program:
        sender = Sender(program)
        assert sender.send()
        program.write("room,name=attic temperature=35")
        ballast = fill(small_disk, leave=6 * MIB)
        until("refused", lambda: not sender.send())
        assert b"are kept in reserve" in sender.refused[0][1]
        alerts = until("fired", lambda: program.get("/v1/alerts?state=firing")["alerts"])
        assert [alert["rule"] for alert in alerts] == ["hot"]
        assert program.get("/health/live")["status"] == "alive"
        sender.check()
        ballast.unlink()
        until("taken again", sender.send)
        sender.check()
        assert program.stop() == 0


def test_a_disk_without_a_byte_left_stops_writes_and_nothing_else(small_disk: Path) -> None:
    data = small_disk / "data"
    with Program(data, CONFIG % "0B") as program:
        sender = Sender(program)
        for _ in range(20):
            assert sender.send()
        sender.check()
        for _ in range(2):
            # Not a byte for anything: log, segments, tiers and control state all run into it.
            program.write("room,name=attic temperature=35")
            ballast = fill(small_disk)
            until("refused", lambda: not sender.send())
            for _ in range(40):
                sender.send(50)
            time.sleep(7)  # flushes, seals and ticks all come by and fail
            assert program.process.poll() is None
            assert program.get("/health/live")["status"] == "alive"
            assert program.get("/v1/query?metric=num_n&agg=max&step=1h&start=-30h&by=")["series"]
            [(rows,)] = program.sql("SELECT count(*) FROM num")
            assert rows >= len(sender.acknowledged)
            ballast.unlink()
            until("taken again", sender.send)
            for _ in range(10):
                until("taken", sender.send)
            until("right again", lambda: program.request("GET", "/v1/sql?q=SELECT%20*%20FROM%20rollup_1h")[0] == 200)
            sender.check()
        until("alerted", lambda: program.get("/v1/alerts?state=all")["alerts"])
        assert program.stop() == 0
    with Program(data, CONFIG % "0B") as program:
        program.wait_recovered()
        sender.program = program
        sender.check()
        program.kill()


def test_a_start_on_a_full_disk_works_or_says_why_not(small_disk: Path) -> None:
    data = small_disk / "data"
    with Program(data, CONFIG % "0B") as program:
        sender = Sender(program)
        for _ in range(5):
            assert sender.send()
        program.kill()
    ballast = fill(small_disk)
    arguments = ["serve", "--data", str(data), "--listen", "127.0.0.1:0"]
    process = subprocess.Popen(command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.terminate()
    _, errors = process.communicate(timeout=60)
    assert b"Traceback" not in errors, errors.decode()
    if process.returncode:
        assert b"disk" in errors, errors.decode()
    ballast.unlink()
    with Program(data, CONFIG % "0B") as program:
        program.wait_recovered()
        sender.program = program
        sender.check()
        assert sender.send()
        assert program.stop() == 0
