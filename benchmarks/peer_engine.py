"""What every engine in the comparison can do, and what is measured of it."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

from benchmarks.batches import BatchFile
from benchmarks.load import PreparedLoad
from benchmarks.measure import allocated_bytes, free_port, tree_cpu_seconds, tree_pids, wait_until_quiet
from benchmarks.queries import Answer, Query
from benchmarks.sender import SendOrder, SendReport, send
from benchmarks.server import checked
from benchmarks.wire import Connection

START_LIMIT_SECONDS = 60.0
STOP_LIMIT_SECONDS = 60.0
BYTES_PER_RSS_UNIT = 1024


class Engine(ABC):
    """One engine in a fresh folder: start, load, settle, ask, stop.  :meth:`stop` may be called at any time,
    twice.
    """

    name: ClassVar[str]
    note: ClassVar[str]
    """How it is loaded and when it acknowledges; printed below the table."""

    def __init__(self, load: PreparedLoad, folder: Path, connections: int) -> None:
        self.load_data = load
        self.folder = folder
        self.connections = connections
        self.data = folder / "data"
        self.data.mkdir(parents=True)

    @staticmethod
    @abstractmethod
    def absent() -> str:
        """Return why the engine cannot run here, or an empty string when it can."""

    @abstractmethod
    def prepare(self) -> None:
        """Make what is to be loaded; not timed."""

    @abstractmethod
    def start(self) -> None:
        """Be ready to load."""

    @abstractmethod
    def load(self) -> float:
        """Load everything; return the wall seconds until the last write was acknowledged."""

    @abstractmethod
    def settle(self) -> None:
        """Wait until background work is done and everything is in the engine's long-term form."""

    @abstractmethod
    def ask(self, query: Query) -> Any:
        """Return the raw answer; this alone is timed.  NotImplementedError when the engine cannot express
        it.
        """

    @abstractmethod
    def read(self, query: Query, raw: Any) -> Answer:
        """Turn a raw answer into rows; not timed."""

    @abstractmethod
    def stop(self) -> None:
        """End the engine, gracefully if it runs."""

    def cpu_seconds(self) -> float:
        """Return the processor seconds of the process that holds the engine."""
        return time.process_time()

    def peak_rss_bytes(self) -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * BYTES_PER_RSS_UNIT

    def stored_bytes(self) -> int:
        """Return what the data takes on disk after :meth:`stop`, as ``du`` counts it."""
        return allocated_bytes(self.data)

    def raw_bytes(self) -> int:
        """Return the part of :meth:`stored_bytes` that holds raw samples, where the engine keeps more than these."""
        return self.stored_bytes()


def binary_absent(name: str) -> str:
    return "" if shutil.which(name) else f"{name} is not on PATH"


def _peak_rss_bytes(pid: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * BYTES_PER_RSS_UNIT
    return 0


class ServerEngine(Engine):
    """An engine reached over HTTP on loopback."""

    health: ClassVar[str] = "/health"

    def __init__(self, load: PreparedLoad, folder: Path, connections: int) -> None:
        super().__init__(load, folder, connections)
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None

    @abstractmethod
    def command(self) -> list[str]:
        """Return the command line that listens on ``self.port``."""

    def environment(self) -> Mapping[str, str]:
        return {}

    def start(self) -> None:
        log_path = self.folder / "server.log"
        with log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd=self.folder,
                env={**os.environ, **self.environment()},
            )
        deadline = time.perf_counter() + START_LIMIT_SECONDS
        while True:
            if self._process.poll() is not None:
                tail = log_path.read_bytes()[-1000:].decode("utf-8", "replace")
                raise RuntimeError(f"cannot start {self.name}: it ended with code {self._process.returncode}\n{tail}")
            with suppress(OSError), Connection(self.port, timeout_seconds=10.0) as connection:
                if connection.request("GET", self.health).status < 300:
                    return
            if time.perf_counter() > deadline:
                raise RuntimeError(f"cannot start {self.name}: no answer within {START_LIMIT_SECONDS:.0f} s")
            time.sleep(0.05)

    @property
    def connection(self) -> Connection:
        """The kept-alive connection for queries."""
        if self._connection is None:
            self._connection = Connection(self.port)
        return self._connection

    def get(self, target: str) -> bytes:
        return checked(self.connection.request("GET", target), target).body

    def send(
        self,
        batches: BatchFile,
        target: str,
        headers: Mapping[str, str] | None = None,
        connections: int | None = None,
    ) -> float:
        """Post all bodies and return the wall seconds to the last acknowledgement."""
        report: SendReport = send(
            SendOrder(
                port=self.port,
                target=target,
                path=str(batches.path),
                headers=dict(headers or {}),
                connections=connections or self.connections,
            )
        )
        if report.refused or report.samples != batches.samples:
            raise RuntimeError(
                f"cannot load {self.name}: {report.samples} of {batches.samples} samples were acknowledged; "
                f"{'; '.join(report.refused)}"
            )
        return report.wall_seconds

    def wait_until_quiet(self, quiet_seconds: float = 2.0) -> None:
        assert self._process is not None
        wait_until_quiet(self._process.pid, quiet_seconds=quiet_seconds)

    def cpu_seconds(self) -> float:
        return tree_cpu_seconds(self._process.pid) if self._process is not None else 0.0

    def peak_rss_bytes(self) -> int:
        """Return the summed peaks of the server's processes, which need not have been at the same time."""
        assert self._process is not None
        return sum(_peak_rss_bytes(pid) for pid in tree_pids(self._process.pid))

    def stop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
