"""A statement that runs while somebody waits: how long is shown after a while, and Ctrl-C ends it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from time import perf_counter
from typing import Any, Protocol, TypeVar

#: How often the display is renewed, in seconds.
TICK_SECONDS = 0.1
#: Answers that come sooner need no display, in seconds.
PATIENT_SECONDS = 1.0
#: How long a cancelled statement may take to end before it is left to itself, in seconds.
CANCEL_SECONDS = 5.0
_T = TypeVar("_T")


class Cancellable(Protocol):
    """What runs statements and can be told to stop."""

    def cancel(self) -> None:
        """End what is running, from any thread; harmless when nothing is."""


def waited(call: Callable[[], _T], cancel: Callable[[], None], shown: Callable[[float], None]) -> _T:
    """Return what ``call`` returns, or raise what it raises; it runs in a thread of its own.

    ``shown`` is told the seconds that have passed.  On KeyboardInterrupt ``cancel`` is called, and the interrupt is
    raised once the call has ended, or has not for :data:`CANCEL_SECONDS`.
    """
    outcome: list[_T] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(call())
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run, name="tidegauge-statement", daemon=True)
    started = perf_counter()
    try:
        thread.start()
        while thread.is_alive():
            thread.join(TICK_SECONDS)
            shown(perf_counter() - started)
    except KeyboardInterrupt:
        cancel()
        thread.join(CANCEL_SECONDS)
        raise
    if failure:
        raise failure[0]
    return outcome[0]


class Stopwatch:
    """Shows on a terminal how long a statement has been running; erased when it is left."""

    def __init__(self, terminal: Any = None) -> None:
        self._terminal = terminal or sys.stderr
        self._active = self._terminal.isatty()
        self._drawn = ""

    def __call__(self, seconds: float) -> None:
        text = f"running for {seconds:.0f} s; Ctrl-C cancels"
        if self._active and seconds >= PATIENT_SECONDS and text != self._drawn:
            self._terminal.write(f"\r{text}")
            self._terminal.flush()
            self._drawn = text

    def __enter__(self) -> Stopwatch:
        return self

    def __exit__(self, *_: object) -> None:
        if self._drawn:
            self._terminal.write("\r" + " " * len(self._drawn) + "\r")
            self._terminal.flush()
            self._drawn = ""
