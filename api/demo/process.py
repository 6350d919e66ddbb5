"""The demo's server: a process of its own, watched until it is ready and stopped with everything else."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Sequence

from engine.errors import Unavailable

READY_PREFIX = "tidegauge: ready at "
_STOP_SECONDS = 20.0
_POLL_SECONDS = 0.05


class ServerProcess:
    """``command`` as a child process; its standard error goes to the file ``log_path``.  A context manager.

    The child has a session of its own, so that Ctrl-C reaches the demo alone, which then ends the child
    gracefully.
    """

    def __init__(self, command: Sequence[str], log_path: str) -> None:
        self._log_path = log_path
        with open(log_path, "wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                text=True,
            )
        self._url = ""
        self._reader = threading.Thread(target=self._read, name="demo-server-output", daemon=True)
        self._reader.start()

    def wait_ready(self, stop: threading.Event, *, seconds: float = 60.0) -> str | None:
        """Return the URL that the server prints when it is ready, None when ``stop`` is set before.

        Raises Unavailable when the server ends, or does not become ready in time.
        """
        for _ in range(round(seconds / _POLL_SECONDS)):
            if self._url:
                return self._url
            self.check()
            if stop.wait(_POLL_SECONDS):
                return None
        raise Unavailable(f"cannot start the server: it is not ready after {seconds:.0f} s ({self._last_words()})")

    def check(self) -> None:
        """Raise Unavailable when the server has ended, with the last thing it said."""
        code = self._process.poll()
        if code is not None:
            raise Unavailable(f"the server has ended with exit code {code}: {self._last_words()}")

    def stop(self) -> None:
        """End the server: SIGTERM, and SIGKILL when that takes too long."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(READY_PREFIX):
                self._url = line.removeprefix(READY_PREFIX).strip()

    def _last_words(self) -> str:
        with open(self._log_path, encoding="utf-8", errors="replace") as log:
            lines = [line.strip() for line in log if line.strip()]
        return lines[-1].removeprefix("tidegauge serve: ") if lines else "it said nothing"


def serve_command(config_path: str, data: str, listen: str) -> list[str]:
    """Return the command line of a server in this Python.

    ``-P``: a source tree in the current directory must not be imported instead of what is installed.
    """
    command = [sys.executable, "-P", "-m", "api.cli.main", "serve"]
    return [*command, "--config", config_path, "--data", data, "--listen", listen]
