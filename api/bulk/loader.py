"""Sending pieces in the order of their file, one at a time, and keeping account of what became of them.

One at a time, because of two samples with the same series and time the last to arrive counts: a file that corrects
itself must arrive in its own order.  Reading and parsing go on meanwhile in a thread of their own.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from api.bulk.journal import Journal
from api.bulk.patience import PATIENCE_SECONDS, patiently
from api.bulk.pieces import BadRow, Piece, Place
from engine.clock import Clock
from engine.errors import TidegaugeError
from engine.ingest.batch import WriteResult

#: Pieces that are read ahead.
AHEAD = 4
#: How often the journal is written, in seconds.
JOURNAL_SECONDS = 2.0


class Offer(Protocol):
    """Stores one piece and returns what became of it, also when all of it was refused.

    Raises Overload or Unavailable when it should be tried again later.
    """

    def __call__(self, piece: Piece) -> WriteResult: ...


@dataclass(slots=True)
class Account:
    """What became of a file, or of several."""

    rows: int = 0
    samples: int = 0
    rounded: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    waited_seconds: float = 0.0

    def refuse(self, cause: str, count: int = 1) -> None:
        self.refused[cause] = self.refused.get(cause, 0) + count

    @property
    def refused_count(self) -> int:
        return sum(self.refused.values())


class Loader:
    """Loads files through ``offer``.  ``tell(file, bad)`` hears of each refused row that the answer lists."""

    def __init__(
        self,
        offer: Offer,
        *,
        tell: Callable[[str, BadRow], None],
        progressed: Callable[[Piece, Account], None],
        clock: Clock,
        sleep: Callable[[float], None],
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._offer, self._tell, self._progressed = offer, tell, progressed
        self._clock, self._sleep = clock, sleep
        self._patience = patience_seconds
        self.account = Account()

    def load(self, file: str, pieces: Iterator[Piece], journal: Journal | None) -> None:
        """Load one file; raises what the pieces or the destination raise, the journal then says how far it came."""
        saved, reached = self._clock.monotonic(), None
        try:
            for piece in _read_ahead(pieces):
                self._load_piece(file, piece)
                reached = piece.end
                self._progressed(piece, self.account)
                now = self._clock.monotonic()
                if journal is not None and now - saved >= JOURNAL_SECONDS:
                    journal.save(reached)
                    saved = now
        except BaseException:
            if journal is not None and reached is not None:
                journal.save(reached)
            raise
        if journal is not None:
            journal.forget()

    def _load_piece(self, file: str, piece: Piece) -> None:
        account = self.account
        for bad in piece.bad:
            account.refuse(bad.cause)
            self._tell(file, bad)
        if not len(piece.data):
            return
        result = self._patiently(piece)
        account.rows += result.rows
        account.samples += result.samples
        account.rounded += result.rounded
        for cause, count in result.refused.items():
            account.refuse(cause, count)
        for refusal in result.refusals:
            line = piece.lines[refusal.position - 1] if 0 < refusal.position <= len(piece.lines) else 0
            self._tell(file, BadRow(line, refusal.cause, refusal.message))

    def _patiently(self, piece: Piece) -> WriteResult:
        """Offer a piece until it is taken; raises what it was turned away with once patience is at its end."""
        return patiently(lambda: self._offer(piece), patience_seconds=self._patience, sleep=self._wait)

    def _wait(self, seconds: float) -> None:
        self._sleep(seconds)
        self.account.waited_seconds += seconds


@dataclass(frozen=True, slots=True)
class _Failed:
    error: BaseException


def _read_ahead(pieces: Iterator[Piece]) -> Iterator[Piece]:
    """Yield the pieces, read in a thread that is a few of them ahead; it ends with the consumer."""
    waiting: queue.Queue[Piece | _Failed | None] = queue.Queue(AHEAD)
    stop = threading.Event()

    def put(item: Piece | _Failed | None) -> None:
        while not stop.is_set():
            try:
                waiting.put(item, timeout=0.1)
            except queue.Full:
                continue
            return

    def read() -> None:
        try:
            for piece in pieces:
                put(piece)
                if stop.is_set():
                    return
        except BaseException as error:
            put(_Failed(error))
        else:
            put(None)

    thread = threading.Thread(target=read, name="tidegauge-read", daemon=True)
    thread.start()
    try:
        while (item := waiting.get()) is not None:
            if isinstance(item, _Failed):
                raise item.error
            yield item
    finally:
        stop.set()
        thread.join()


def start_of(journal: Journal | None, *, restart: bool) -> Place:
    """Return where to begin: where an earlier load of the same file stopped, unless told to restart."""
    return Place() if journal is None or restart else journal.load()


def why(error: TidegaugeError) -> str:
    """Return what to tell a person whose load has ended early."""
    return f"{error.message}; what was loaded is stored, and the same command goes on from there"
