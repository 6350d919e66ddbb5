"""Keeps a query process running: starts it in the background, starts it again when it ends, settles what it leaves."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress

import msgspec

from engine.errors import QueryLimit, TidegaugeError, Unavailable
from engine.query import wire
from engine.query.process import Pending, QueryProcess, Reason
from native.catalogue import Catalogue

START_SECONDS = 60.0
CLOSE_SECONDS = 30.0
FIRST_DELAY_SECONDS = 0.05
LONGEST_DELAY_SECONDS = 10.0

#: Makes a request with the number given to it.
Maker = Callable[[int], wire.Request]


class LinkCounters(msgspec.Struct):
    """``starts``: query processes started; ``deaths``: ended on their own; ``kills``: killed by the link;
    ``repeated``: calls run once more because of either."""

    starts: int = 0
    deaths: int = 0
    kills: int = 0
    repeated: int = 0


class Supervisor:
    """One worker at a time, all started by one thread that lives as long as the supervisor."""

    def __init__(self, opened: wire.Open, catalogue: Catalogue) -> None:
        """Nothing is started before :meth:`want`.  ``catalogue``: where definitions for the worker come from."""
        self._opened, self._catalogue = opened, catalogue
        self._state = threading.Condition()
        self._process: QueryProcess | None = None
        self._start_error: TidegaugeError | None = None
        self._thread: threading.Thread | None = None
        self._wanted = False
        self._starting = False
        self._failures = 0
        self._next_id = 0
        self._counters = LinkCounters()
        self.closed = False

    # --- for callers

    def counters(self) -> LinkCounters:
        with self._state:
            return msgspec.structs.replace(self._counters)

    def count_repeated(self) -> None:
        with self._state:
            self._counters.repeated += 1

    @property
    def pid(self) -> int | None:
        with self._state:
            return self._process.popen.pid if self._process is not None and self._process.ready else None

    def want(self) -> None:
        """See to it that a worker runs or is being started."""
        with self._state:
            if self.closed:
                raise Unavailable("cannot reach the query process: it is closed")
            self._wanted = True
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="query-process", daemon=True)
                self._thread.start()
            self._state.notify_all()

    def ready(self) -> QueryProcess:
        """Return the worker once it is ready.  Raises what kept it from opening the database, or Unavailable."""
        self.want()
        with self._state:
            self._start_error = None
            self._state.wait_for(self._settled_start, START_SECONDS)
            if self.closed:
                raise Unavailable("cannot reach the query process: it is closed")
            if self._process is not None and self._process.ready:
                return self._process
            raise self._start_error or Unavailable(
                f"cannot reach the query process: it was not ready after {START_SECONDS:g} s"
            )

    def _settled_start(self) -> bool:
        ready = self._process is not None and self._process.ready
        return self.closed or ready or self._start_error is not None

    def submit(self, process: QueryProcess, message: Maker, pending: Pending, *attachment: bytes | memoryview) -> None:
        """Send a request, after the definitions that it may need; ``pending`` is woken in any case."""
        with self._state:
            if process is not self._process:
                pending.wake()
                return
            self._next_id += 1
            number = pending.number = self._next_id
            process.pending[number] = pending
        # When the worker ends meanwhile, the supervisor sees that as well and wakes what is pending.
        with suppress(OSError), process.sending:
            self._define(process)
            wire.send(process.connection, wire.encode(message(number)), *attachment)

    def tell(self, process: QueryProcess, message: wire.Request) -> None:
        """Send what has no reply; a worker that has ended hears nothing."""
        with suppress(OSError), process.sending:
            wire.send(process.connection, wire.encode(message))

    def fate(self, process: QueryProcess, pending: Pending, seconds: float) -> TidegaugeError | None:
        """Return why a call must fail whose worker has ended, None when it may be repeated."""
        if self.closed:
            return Unavailable("cannot reach the query process: it is being closed")
        if not pending.statement:
            return None
        if process.killed_for is pending:
            return QueryLimit(
                f"cannot run SQL: it took longer than {seconds:g} s and could not be interrupted;"
                " the query process was started again"
            )
        if process.killed_for == "memory":
            return QueryLimit("cannot run SQL: statements have taken all memory; the query process was started again")
        # Of several that were running any may be the one that ended the worker: they get one more chance each.
        if process.killed_for is None and pending.started and process.statements_at_end == 1:
            return Unavailable(
                f"cannot run SQL: the query process ended while the statement ran ({process.ended_by});"
                " it was started again"
            )
        return None

    def kill(self, process: QueryProcess, reason: Reason) -> None:
        with self._state:
            if process.kill(reason):
                self._counters.kills += 1

    def kill_current(self, reason: Reason) -> None:
        with self._state:
            process = self._process
        if process is not None:
            self.kill(process, reason)

    def wait_closed(self, seconds: float) -> None:
        """Return after ``seconds``, or earlier when the supervisor is being closed."""
        with self._state:
            self._state.wait_for(lambda: self.closed, seconds)

    def close(self) -> None:
        """Let the worker close its database, and end; harmless when repeated."""
        with self._state:
            if self.closed:
                return
            self.closed = True
            self._state.notify_all()
            thread = self._thread
            # One that is just being started is waited for; nothing would end it otherwise.
            self._state.wait_for(lambda: not self._starting, START_SECONDS)
            process = self._process
        if process is not None:
            pending = Pending(statement=False)
            self.submit(process, wire.Close, pending)
            pending.done.wait(CLOSE_SECONDS)
            try:
                process.popen.wait(1.0 if pending.reply is not None else 0.0)
            except subprocess.TimeoutExpired:
                process.popen.kill()
        if thread is not None:
            thread.join()

    # --- the worker's lives

    def _run(self) -> None:
        while True:
            with self._state:
                self._state.wait_for(lambda: self.closed or self._wanted)
                delay = min(LONGEST_DELAY_SECONDS, FIRST_DELAY_SECONDS * 2 ** min(self._failures, 20))
                if self.closed or (self._failures and self._state.wait_for(lambda: self.closed, delay)):
                    return
                self._wanted, self._starting = False, True
                self._counters.starts += 1
            try:
                # Only at first, when the caller looks whether the tiers are complete, may an empty file take its place.
                first = self._counters.starts == 1
                process = QueryProcess.start(msgspec.structs.replace(self._opened, repair=first))
            except OSError as error:
                self._failed_to_start(Unavailable(f"cannot start the query process: {error}"))
                continue
            with self._state:
                self._process, self._starting = process, False
                self._state.notify_all()
            self._attend(process)
            self._settle(process)

    def _define(self, process: QueryProcess) -> None:
        """Send the definitions that the worker does not have yet.  Under its ``sending`` lock."""
        files = self._catalogue.tagset_files()
        mark = self._catalogue.mark()
        paths = tuple(file.path for file in files)
        if paths != process.tagset_files and all(paths):
            # Tables first: a statement that is running may come upon the tag sets as soon as the files are there.
            self._send_definitions(process, (mark[0], mark[1], process.mark[2]), None)
            process.mark = (mark[0], mark[1], max(process.mark[2], files[-1].last))
            self._send_definitions(process, mark, paths)
            process.tagset_files = paths
        elif mark != process.mark:
            self._send_definitions(process, mark, None)

    def _send_definitions(
        self, process: QueryProcess, until: tuple[int, int, int], files: tuple[str, ...] | None
    ) -> None:
        definitions = self._catalogue.definitions(process.mark, until)
        wire.send(process.connection, wire.encode(wire.Define(files)), definitions)
        process.mark = until

    def _attend(self, process: QueryProcess) -> None:
        """Take in replies until the worker's end."""
        while True:
            frame = wire.receive(process.connection, bytearray)
            if frame is None:
                return
            reply = wire.REPLIES.decode(frame[0])
            if isinstance(reply, wire.Ready):
                with process.sending, suppress(OSError):
                    self._define(process)
                with self._state:
                    process.ready = True
                    self._state.notify_all()
            elif isinstance(reply, wire.Failed) and reply.id == 0:
                process.refused = True
                self._failed_to_start(wire.error_of(reply))
            else:
                with self._state:
                    self._failures = 0
                    pending = process.pending.get(reply.id)
                    if isinstance(reply, wire.Started):
                        if pending is not None:
                            pending.started = True
                        continue
                    if isinstance(reply, wire.Part):
                        if pending is not None and pending.parts is not None:
                            pending.parts.put(frame[1])
                        continue
                    process.pending.pop(reply.id, None)
                if pending is not None:
                    pending.reply, pending.attachment = reply, frame[1]
                    pending.wake()

    def _failed_to_start(self, error: TidegaugeError) -> None:
        with self._state:
            self._failures += 1
            self._start_error, self._starting = error, False
            self._state.notify_all()

    def _settle(self, process: QueryProcess) -> None:
        """Note how a worker ended and wake the calls it has left."""
        with self._state:
            self._process = None
        left = process.bury()
        if process.killed_for is None and not process.ready and not process.refused:
            self._failed_to_start(Unavailable(f"cannot start the query process: it ended at once ({process.ended_by})"))
        with self._state:
            if process.killed_for is None and not self.closed:
                self._counters.deaths += 1
                self._failures += process.ready
            # One that was in use is started again without waiting for the next call.
            self._wanted = self._wanted or process.ready
            self._state.notify_all()
        for pending in left:
            pending.wake()
