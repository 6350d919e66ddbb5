"""Asking again what a server or an engine has turned away for the moment."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from engine.errors import Overload, Unavailable

#: How long a server that is away or overloaded is waited for.
PATIENCE_SECONDS = 120.0
FIRST_PAUSE_SECONDS = 0.25
LONGEST_PAUSE_SECONDS = 10.0

T = TypeVar("T")


def patiently(
    ask: Callable[[], T],
    *,
    patience_seconds: float,
    sleep: Callable[[float], None],
    final: tuple[type[Exception], ...] = (),
) -> T:
    """Ask until it is answered; raises what it was turned away with once patience is at its end.

    What is ``final`` is raised at once, however often it were asked.
    """
    waited, pause = 0.0, FIRST_PAUSE_SECONDS
    while True:
        try:
            return ask()
        except (Overload, Unavailable) as error:
            seconds = max(pause, float(error.retry_after_seconds)) if isinstance(error, Overload) else pause
            if isinstance(error, final) or waited + seconds > patience_seconds:
                raise
            sleep(seconds)
            waited += seconds
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
