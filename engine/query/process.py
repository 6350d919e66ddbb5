"""One life of the query process: started, spoken to, killed."""

from __future__ import annotations

import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import engine
from engine.query import wire

_INHERITED_VARIABLES = ("HOME", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH", "PATH", "PYTHONUSERBASE", "TMPDIR")


@dataclass(slots=True, eq=False)
class Pending:
    """One call that waits for its reply, or for the end of the process that has it."""

    statement: bool
    #: Where the parts of an answer go that comes in parts; None behind the last one.
    parts: queue.SimpleQueue[bytearray | None] | None = None
    number: int = 0
    started: bool = False
    done: threading.Event = field(default_factory=threading.Event)
    reply: wire.Reply | None = None
    attachment: bytearray = field(default_factory=bytearray)

    def wake(self) -> None:
        """Tell whoever waits that there will be nothing more."""
        self.done.set()
        if self.parts is not None:
            self.parts.put(None)


#: For whom a process was killed: for one call that would not end, or because statements had taken all memory.
Reason = Pending | Literal["memory"]


@dataclass(slots=True, eq=False)
class QueryProcess:
    """A running worker and the calls it has.  ``sending`` is held while a frame, or several together, are sent."""

    popen: subprocess.Popen[bytes]
    connection: socket.socket
    sending: threading.Lock = field(default_factory=threading.Lock)
    pending: dict[int, Pending] = field(default_factory=dict)
    mark: tuple[int, int, int] = (0, 0, 0)
    tagset_files: tuple[str, ...] = ()
    ready: bool = False
    #: It has said why it cannot open the database.
    refused: bool = False
    killed_for: Reason | None = None
    #: How many statements were running when it ended.
    statements_at_end: int = 0
    ended_by: str = ""

    @classmethod
    def start(cls, opened: wire.Open) -> QueryProcess:
        """Start a worker; it says Ready or Failed when it has opened the database.  Raises OSError.

        The calling thread must outlive it: for PR_SET_PDEATHSIG a process's parent is the thread that started it.
        """
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                popen = subprocess.Popen(
                    [sys.executable, "-P", "-m", "engine.query.worker", str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    env=_environment(),
                )
        except BaseException:
            ours.close()
            raise
        with suppress(OSError):
            wire.send(ours, wire.encode(opened))
        return cls(popen, ours)

    def kill(self, reason: Reason) -> bool:
        """Kill the worker unless it has ended; return whether it was this call that did."""
        if self.killed_for is not None or self.popen.poll() is not None:
            return False
        self.killed_for = reason
        self.popen.kill()
        return True

    def bury(self) -> list[Pending]:
        """Wait for the end after the connection has closed, and return the calls that are left."""
        self.connection.close()
        self.popen.kill()
        code = self.popen.wait()
        self.ended_by = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        left = list(self.pending.values())
        self.statements_at_end = sum(pending.started for pending in left)
        return left


def _environment() -> dict[str, str]:
    """Return the worker's environment: what Python and the loader need, nothing that could hold a secret."""
    variables = {name: os.environ[name] for name in _INHERITED_VARIABLES if name in os.environ}
    home = str(Path(engine.__file__).resolve().parent.parent)
    paths = [home, *(path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path)]
    return variables | {
        "PYTHONPATH": os.pathsep.join(paths),
        # One allocator for all, without reserving address space ahead: the worker lives under an address-space limit.
        "ARROW_DEFAULT_MEMORY_POOL": "system",
        "MALLOC_ARENA_MAX": "4",
        "OPENBLAS_NUM_THREADS": "1",
    }
