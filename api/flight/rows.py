"""The rows of an answer on their way to one client of Flight: whole when there are few, else a batch at a time."""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pyarrow as pa
from pyarrow import flight

from api.flight.errors import as_flight_errors
from engine.query.answers import SqlStream
from engine.query.deadlines import Stop

LOG = logging.getLogger("tidegauge.flight")
#: An answer with more bytes of Arrow than this is sent as it comes.
WHOLE_BYTES = 4 << 20
#: How often it is looked whether a client that waits is still there, in seconds.
LOOK_SECONDS = 0.1


@contextmanager
def watched(context: Any, stop: Stop) -> Iterator[None]:
    """Ask for a stop when the client of a call goes away while the block runs."""
    done = threading.Event()

    def look() -> None:
        while not done.wait(LOOK_SECONDS):
            if context.is_cancelled():
                stop.ask()
                return

    thread = threading.Thread(target=look, name="flight-client", daemon=True)
    thread.start()
    try:
        yield
    finally:
        # The context is gone once the call has returned.
        done.set()
        thread.join()


class _Open:
    """What is held while an answer is being sent, and since when its reader has had something to read."""

    def __init__(self, held: ExitStack, patience_seconds: float) -> None:
        self.patience_seconds = patience_seconds
        self.cut_off = False
        self._held = held
        self._closed = False
        self._changed = threading.Condition()
        self._handed: float | None = time.monotonic()

    def asked(self) -> None:
        """Note that the reader wants more; raises FlightTimedOutError when it has been cut off."""
        with self._changed:
            if self.cut_off:
                raise flight.FlightTimedOutError(
                    f"cannot go on: the reader took nothing for {self.patience_seconds:g} s (query.reader_patience)"
                )
            self._handed = None

    def handed(self) -> None:
        """Note that the reader has been given something."""
        with self._changed:
            self._handed = time.monotonic()
            self._changed.notify()

    def close(self) -> None:
        """End the statement and give its turn back; harmless when repeated."""
        with self._changed:
            self._close()

    def _close(self) -> None:
        if not self._closed:
            self._closed = True
            self._changed.notify()
            self._held.close()

    def watch(self) -> None:
        """Close when the reader takes nothing for too long; returns at the end."""
        with self._changed:
            while not self._closed:
                if self._handed is None:
                    self._changed.wait()
                    continue
                left = self._handed + self.patience_seconds - time.monotonic()
                if left > 0:
                    self._changed.wait(left)
                    continue
                LOG.warning("cut off the reader of a large answer, who took nothing for %g s", self.patience_seconds)
                self.cut_off = True
                self._close()


class Rows:
    """Batches of an answer that is still being made.  Holds its turn until it is read, dropped, or too slowly read."""

    def __init__(self, batches: Iterator[pa.RecordBatch], held: ExitStack, patience_seconds: float) -> None:
        """``held``: what is to be closed at the end.  A reader that asks for no batch for so long is cut off."""
        self._batches = batches
        # The thread must not hold on to this object, whose end is how a client that has gone is noticed.
        self._open = _Open(held, patience_seconds)
        threading.Thread(target=self._open.watch, name="flight-reader", daemon=True).start()

    def __iter__(self) -> Rows:
        return self

    def __next__(self) -> pa.RecordBatch:
        self._open.asked()
        try:
            with as_flight_errors():
                batch = next(self._batches)
        except BaseException:
            self._open.close()
            raise
        self._open.handed()
        return batch

    def __del__(self) -> None:
        self._open.close()


def rows_of(stream: SqlStream, held: ExitStack, patience_seconds: float) -> flight.FlightDataStream:
    """Return an open answer as Flight sends it; ``held`` is taken over when the answer is large."""
    first, rest = stream.begin(WHOLE_BYTES)
    if rest is not None:
        rows = Rows(itertools.chain(first, rest), held.pop_all(), patience_seconds)
        return flight.GeneratorStream(stream.schema, rows)
    return flight.RecordBatchStream(pa.Table.from_batches(first, stream.schema))
