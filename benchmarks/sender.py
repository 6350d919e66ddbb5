"""The sending process: posts a file of bodies over some connections and reports when each was acknowledged.

``python -m benchmarks.sender`` reads one JSON :class:`SendOrder` line on standard input, prints ``ready``
once the bodies are in memory and the connections stand, begins at the next line on standard input, and prints
one JSON :class:`SendReport`.  It is a process of its own so that its processor time is not the server's or
the measurer's.
"""

from __future__ import annotations

import itertools
import mmap
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from benchmarks.batches import BatchFile
from benchmarks.server import python_path
from benchmarks.wire import Connection

RETRY_STATUSES = (429, 503)
RETRY_PAUSE_SECONDS = 0.02
MAX_RETRIES = 3_000


class SendOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What to send where; ``from_batch`` and ``batches`` choose a part of the file (0 = all that follow).

    ``samples_per_second``: when each batch is due, whatever became of those before it (0 = as soon as a connection is
    free).  An acknowledgement is then timed from the moment the batch was due, so that waiting counts.
    """

    port: int
    target: str
    path: str
    headers: dict[str, str] = {}
    connections: int = 2
    from_batch: int = 0
    batches: int = 0
    samples_per_second: float = 0.0


class SendReport(msgspec.Struct, kw_only=True):
    """``ack_seconds``: for each batch sent, from its first byte sent (or from when it was due) to its answer's last
    byte, in order sent.

    ``wall_seconds`` is from the start of the first request to the last acknowledgement; ``samples`` counts
    only what was acknowledged with a 2xx status; ``refused`` holds the first few other answers.
    """

    wall_seconds: float
    cpu_seconds: float
    samples: int
    batches: int
    body_bytes: int
    retries: int
    ack_seconds: list[float]
    refused: list[str]


def send(order: SendOrder) -> SendReport:
    """Run the sending process for ``order`` and return its report; RuntimeError when it fails."""
    environment = {**os.environ, "PYTHONPATH": python_path()}
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "benchmarks.sender"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(msgspec.json.encode(order) + b"\n")
        process.stdin.flush()
        if process.stdout.readline().strip() != b"ready":
            raise RuntimeError(f"cannot send batches: the sending process ended with code {process.wait()}")
        process.stdin.write(b"go\n")
        process.stdin.close()
        answer = process.stdout.read()
        if process.wait() != 0:
            raise RuntimeError(f"cannot send batches: the sending process ended with code {process.returncode}")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()
    return msgspec.json.decode(answer, type=SendReport)


class _Work:
    """The bodies still to be sent, handed out in order to the connections' threads."""

    def __init__(self, order: SendOrder, bodies: memoryview, batches: BatchFile) -> None:
        self._lock = threading.Lock()
        last = order.from_batch + order.batches if order.batches else len(batches)
        chosen = slice(order.from_batch, last)
        samples = batches.index.samples[chosen]
        rate = order.samples_per_second
        dues = [before / rate if rate else 0.0 for before in itertools.accumulate(samples, initial=0)]
        self._places = iter(list(zip(list(batches.slices())[chosen], samples, dues, strict=False)))
        self._open_loop = rate > 0
        self.began = 0.0
        self._bodies = bodies
        self.ack_seconds: list[float] = []
        self.samples = 0
        self.body_bytes = 0
        self.retries = 0
        self.refused: list[str] = []

    def send_all(self, connection: Connection, target: str, headers: Mapping[str, str]) -> None:
        while not self.refused:
            with self._lock:
                place, samples, due = next(self._places, (None, 0, 0.0))
            if place is None:
                return
            body = self._bodies[place]
            head = connection.head("POST", target, headers, len(body))
            began = time.perf_counter()
            if self._open_loop:
                wait = self.began + due - began
                if wait > 0:
                    time.sleep(wait)
                began = self.began + due
            response = connection.exchange(head, body)
            retries = 0
            while response.status in RETRY_STATUSES and retries < MAX_RETRIES:
                time.sleep(RETRY_PAUSE_SECONDS)
                response = connection.exchange(head, body)
                retries += 1
            seconds = time.perf_counter() - began
            with self._lock:
                self.retries += retries
                self.ack_seconds.append(seconds)
                if 200 <= response.status < 300:
                    self.samples += samples
                    self.body_bytes += len(body)
                else:
                    self.refused.append(f"HTTP {response.status} {response.text()}")


def _run_threads(work: _Work, connections: list[Connection], order: SendOrder) -> None:
    failures: list[str] = []

    def run(connection: Connection) -> None:
        try:
            work.send_all(connection, order.target, order.headers)
        except OSError as error:
            failures.append(f"connection failed: {error}")

    threads = [threading.Thread(target=run, args=(connection,)) for connection in connections]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    work.refused += failures


def main() -> int:
    order = msgspec.json.decode(sys.stdin.buffer.readline(), type=SendOrder)
    batches = BatchFile.open(Path(order.path))
    with batches.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        with memoryview(mapped) as bodies:
            # Touching every page now keeps page faults on the file out of the timing.
            sum(bodies[:: mmap.PAGESIZE])
            work = _Work(order, bodies, batches)
            connections = [Connection(order.port) for _ in range(order.connections)]
            sys.stdout.write("ready\n")
            sys.stdout.flush()
            sys.stdin.buffer.readline()
            cpu_began, began = time.process_time(), time.perf_counter()
            work.began = began
            _run_threads(work, connections, order)
            wall_seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
            for connection in connections:
                connection.close()
        report = SendReport(
            wall_seconds=wall_seconds,
            cpu_seconds=cpu_seconds,
            samples=work.samples,
            batches=len(work.ack_seconds),
            body_bytes=work.body_bytes,
            retries=work.retries,
            ack_seconds=work.ack_seconds,
            refused=work.refused[:5],
        )
    sys.stdout.buffer.write(msgspec.json.encode(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
