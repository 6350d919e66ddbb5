"""The program as a user runs it: the command in a process of its own, reached over loopback."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

START_SECONDS = 60
STOP_SECONDS = 60


def command(*arguments: str) -> list[str]:
    """Return the command line of ``tidegauge`` in this environment."""
    script = Path(sys.executable).with_name("tidegauge")
    return [str(script), *arguments] if script.exists() else [sys.executable, "-m", "api.cli.main", *arguments]


class Program:
    """A running server.  A context manager that ends the process whatever happens."""

    def __init__(
        self,
        data_dir: Path,
        config: str = "",
        *,
        log: Path | None = None,
        start: Callable[[list[str], Path], Any] | None = None,
        wait: bool = True,
    ) -> None:
        """``start`` starts the command with these arguments and this log file in another way than by executing it.

        Without ``wait`` it returns at once; :meth:`wait_ready` is then the caller's to call.
        """
        self.data_dir = data_dir
        config_file = data_dir.with_suffix(".toml")
        config_file.write_text(config)
        self._log_path = log or data_dir.with_suffix(".log")
        self._log = self._log_path.open("ab")
        self._log_start = self._log_path.stat().st_size
        arguments = ["serve", "--data", str(data_dir), "--listen", "127.0.0.1:0", "--config", str(config_file)]
        if start is not None:
            self.process = start(arguments, self._log_path)
        else:
            environment = os.environ | {"PYTHONUNBUFFERED": "1"}
            self.process = subprocess.Popen(
                command(*arguments), stdout=subprocess.PIPE, stderr=self._log, env=environment
            )
        self.url = ""
        if wait:
            self.wait_ready()

    def wait_ready(self) -> None:
        """Wait for the line with the URL."""
        timer = threading.Timer(START_SECONDS, self.process.kill)
        timer.start()
        try:
            assert self.process.stdout is not None
            for line in self.process.stdout:
                if b"ready at " in line:
                    self.url = line.decode().strip().rpartition(" ")[2]
                    return
        finally:
            timer.cancel()
        raise AssertionError(f"the server did not get ready:\n{self._log_path.read_text()[-4000:]}")

    def said(self) -> str:
        """Return what this process has logged."""
        with self._log_path.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode("utf-8", "replace")

    def wait_said(self, text: str) -> None:
        """Wait until the process has logged ``text``."""
        deadline = time.monotonic() + START_SECONDS
        while text not in self.said():
            assert time.monotonic() < deadline, f"never said {text!r}:\n{self.said()[-4000:]}"
            assert self.process.poll() is None, f"ended before it said {text!r}:\n{self.said()[-4000:]}"
            time.sleep(0.002)

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self._log.close()

    def kill(self) -> None:
        """kill -9."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM, and wait for the graceful end; return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_SECONDS)

    def wait_recovered(self, timeout_seconds: float = 120.0) -> dict[str, Any]:
        """Wait until every sample can be read; return what ``/health/ready`` says."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            status, body = self.request("GET", "/health/ready")
            if status == 200:
                return dict(json.loads(body))
            assert time.monotonic() < deadline, body
            time.sleep(0.02)

    # --- requests

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=60)

    def request(
        self, method: str, path: str, body: bytes | str | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        connection = self.connection()
        try:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        status, body = self.request("GET", path)
        assert status == 200, (path, status, body[:500])
        return json.loads(body)

    def write(self, lines: str, *, path: str = "/write") -> None:
        status, body = self.request("POST", path, lines.encode())
        assert status == 204, (status, body[:1000])

    def sql(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        status, body = self.request(
            "POST",
            "/v1/sql",
            json.dumps({"sql": statement, "parameters": list(parameters)}),
            {"Content-Type": "application/json"},
        )
        assert status == 200, (statement, status, body[:1000])
        return [tuple(row) for row in json.loads(body)["rows"]]
