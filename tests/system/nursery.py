"""Starts servers cheaply: a process that has imported everything and forks one for each start.

What runs in the child is the command as users run it, from its arguments on; only the second of imports is saved, which
is most of a start and nothing that a kill could hit in an interesting place.  ``python -m tests.system.nursery`` reads
a JSON line for each request: ``{"arguments": [...], "out": fifo, "log": file}`` answers the process number,
``{"reap": number}`` waits for its end and answers the exit code (negative: the signal).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO, Any


class Child:
    """A forked server with the verbs of ``subprocess.Popen`` that :class:`tests.system.program.Program` uses."""

    def __init__(self, nursery: Nursery, pid: int, stdout: IO[bytes]) -> None:
        self._nursery, self.pid, self.stdout = nursery, pid, stdout
        self.returncode: int | None = None

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self.returncode = self._nursery.ask({"reap": self.pid})
        return self.returncode


class Nursery:
    """The forking process; a context manager."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._children = folder, 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.system.nursery"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def ask(self, request: dict[str, Any]) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def start(self, arguments: list[str], log: Path) -> Child:
        self._children += 1
        fifo = self._folder / f"stdout-{self._children}"
        os.mkfifo(fifo)
        pid = self.ask({"arguments": arguments, "out": str(fifo), "log": str(log)})
        stdout = fifo.open("rb")
        fifo.unlink()
        return Child(self, pid, stdout)

    def __enter__(self) -> Nursery:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()


def _become(request: dict[str, Any]) -> None:
    from api.cli.main import main

    code = 1
    try:
        for number, path, flags in (
            (0, os.devnull, os.O_RDONLY),
            (1, request["out"], os.O_WRONLY),
            (2, request["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT),
        ):
            descriptor = os.open(path, flags, 0o640)
            os.dup2(descriptor, number)
            os.close(descriptor)
        code = main(request["arguments"])
    finally:
        os._exit(code)


def serve() -> None:
    import uvicorn  # noqa: F401
    import uvloop  # noqa: F401

    import api.app
    import api.cli.serve
    import api.server  # noqa: F401

    # Bytes are read from the descriptor: a child must not inherit what a buffer has read ahead.
    with os.fdopen(0, "rb", buffering=0) as requests:
        while line := requests.readline():
            request = json.loads(line)
            if "reap" in request:
                _, status = os.waitpid(request["reap"], 0)
                answer = os.waitstatus_to_exitcode(status)
            else:
                answer = os.fork()
                if answer == 0:
                    _become(request)
            os.write(1, b"%d\n" % answer)


if __name__ == "__main__":
    serve()
