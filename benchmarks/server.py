"""The program under test as a user would start it: a process of its own on a free loopback port."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import urlencode

import msgspec

from benchmarks.measure import LOOPBACK, REPOSITORY, TreeUsage, free_port, tree_cpu_seconds, tree_usage
from benchmarks.wire import Connection, Response

READY_LIMIT_SECONDS = 120.0
STOP_LIMIT_SECONDS = 120.0
POLL_SECONDS = 0.005
ARROW_STREAM = "application/vnd.apache.arrow.stream"


def python_path() -> str:
    """Return PYTHONPATH for child processes, so that they import the same code from any folder."""
    return os.pathsep.join([str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])])


class TidegaugeServer:
    """``tidegauge serve`` on ``data``; a context manager that always stops the process.

    Configuration is the product's default unless ``config`` names a file.
    """

    def __init__(self, data: Path, *, config: Path | None = None) -> None:
        self.data = data
        self.port = free_port()
        self.log_path = data.with_name(data.name + ".log")
        self._config = config
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> TidegaugeServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        if error is not None:
            error.add_note(f"the server's log ends:\n{self.log_tail()}")

    def start(self) -> float:
        """Start the process and return the seconds until ``/health/ready`` answered 200."""
        began = time.perf_counter()
        self.launch()
        self.wait_ready()
        return time.perf_counter() - began

    def launch(self) -> None:
        """Start the process without waiting for it."""
        command = [sys.executable, "-P", "-m", "api.cli.main", "serve", "--data", str(self.data)]
        command += ["--listen", f"{LOOPBACK}:{self.port}"]
        if self._config is not None:
            command += ["--config", str(self._config)]
        environment = {**os.environ, "PYTHONPATH": python_path()}
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=environment,
                cwd=self.data.parent,
            )

    def wait_ready(self) -> None:
        self.wait_for("GET", "/health/ready")

    def wait_for(self, method: str, target: str, body: bytes | None = None) -> Response:
        """Repeat a request until it is answered with a 2xx status; RuntimeError after the limit or an early
        end.
        """
        deadline = time.perf_counter() + READY_LIMIT_SECONDS
        last = "no answer"
        while time.perf_counter() < deadline:
            if self._process is None or self._process.poll() is not None:
                raise RuntimeError(f"cannot benchmark: the server ended before it was ready\n{self.log_tail()}")
            try:
                with Connection(self.port, timeout_seconds=10.0) as connection:
                    response = connection.request(method, target, body)
                if 200 <= response.status < 300:
                    return response
                last = f"HTTP {response.status} {response.text()}"
            except OSError as error:
                last = str(error)
            time.sleep(POLL_SECONDS)
        raise RuntimeError(f"cannot benchmark: {method} {target} did not succeed: {last}\n{self.log_tail()}")

    def connect(self) -> Connection:
        return Connection(self.port)

    def stop(self) -> float:
        """Ask the server to end (SIGTERM), wait for it and return the seconds that took; RuntimeError if it
        hangs.
        """
        assert self._process is not None
        began = time.perf_counter()
        self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(STOP_LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise RuntimeError(
                f"cannot stop server: it ran {STOP_LIMIT_SECONDS:.0f} s after SIGTERM\n{self.log_tail()}"
            ) from None
        seconds = time.perf_counter() - began
        self._process = None
        if code != 0:
            raise RuntimeError(f"cannot stop server: it ended with code {code}\n{self.log_tail()}")
        return seconds

    def kill(self) -> None:
        """End the server and its descendants at once (SIGKILL); no error when it is not running."""
        if self._process is None:
            return
        import psutil

        try:
            descendants = psutil.Process(self._process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            descendants = []
        self._process.kill()
        self._process.wait()
        self._process = None
        for process in descendants:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(descendants, timeout=10)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def cpu_seconds(self) -> float:
        """Return the processor seconds of all the server's processes so far."""
        return tree_cpu_seconds(self.pid)

    def usage(self) -> TreeUsage:
        return tree_usage(self.pid)

    def log_tail(self, limit: int = 2_000) -> str:
        try:
            return self.log_path.read_bytes()[-limit:].decode("utf-8", "replace")
        except OSError:
            return ""


class SqlClient:
    """Analysts' SQL over one kept-alive connection."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def head_and_body(self, sql: str, accept: str) -> tuple[bytes, bytes]:
        """Return a request ready to be sent, so that making it is not timed."""
        body = msgspec.json.encode({"sql": sql})
        headers = {"Content-Type": "application/json", "Accept": accept}
        return self._connection.head("POST", "/v1/sql", headers, len(body)), body

    def arrow(self, sql: str) -> Any:
        """Return the answer as a ``pyarrow.Table``; RuntimeError for any status but 200."""
        import pyarrow as pa

        response = checked(self._connection.exchange(*self.head_and_body(sql, ARROW_STREAM)), sql)
        with pa.ipc.open_stream(response.body) as reader:
            return reader.read_all()

    def columns(self, sql: str) -> dict[str, list[object]]:
        """Return the answer as column name -> values."""
        answer: dict[str, list[object]] = self.arrow(sql).to_pydict()
        return answer


def checked(response: Response, what: str) -> Response:
    """Return ``response`` if it is a success; else raise RuntimeError with what the server said."""
    if not 200 <= response.status < 300:
        raise RuntimeError(f"cannot benchmark: HTTP {response.status} for {what[:200]}: {response.text()}")
    return response


def with_query(path: str, parameters: Mapping[str, str | Sequence[str]]) -> str:
    return f"{path}?{urlencode(parameters, doseq=True)}"
