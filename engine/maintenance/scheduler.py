"""Jobs and their threads: each job runs by itself, a failing run is counted, logged and tried again at the next."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from engine.errors import TidegaugeError
from engine.vitals import Vitals

LOG = logging.getLogger("tidegauge.jobs")


@dataclass(frozen=True, slots=True)
class Job:
    """Something to do every ``interval_seconds``, measured from the end of one run to the start of the next."""

    name: str
    interval_seconds: float
    run: Callable[[], object]


class _Wake:
    """What lets a job run before its interval is over, or end."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self.stopped = False

    def stop(self) -> None:
        self.stopped = True
        self.event.set()


class Scheduler:
    """Runs jobs until closed, one thread each, so that a slow job never delays another.  Jobs may come and go."""

    def __init__(self, vitals: Vitals) -> None:
        self._vitals = vitals
        self._lock = threading.Lock()
        self._closed = False
        self._wake: dict[str, _Wake] = {}
        self._threads: list[threading.Thread] = []

    def start(self, job: Job) -> None:
        with self._lock:
            if self._closed:
                return
            wake = self._wake[job.name] = _Wake()
            thread = threading.Thread(target=self._loop, args=(job, wake), name=f"tidegauge-{job.name}", daemon=True)
            self._threads = [*(each for each in self._threads if each.is_alive()), thread]
            thread.start()

    def stop(self, name: str) -> None:
        """Let a job not run again; a run under way goes on to its end."""
        with self._lock:
            self._wake.pop(name).stop()

    def nudge(self, name: str) -> None:
        """Let a job run now."""
        self._wake[name].event.set()

    def _loop(self, job: Job, wake: _Wake) -> None:
        told = ""
        while True:
            wake.event.wait(job.interval_seconds)
            wake.event.clear()
            if wake.stopped:
                return
            try:
                job.run()
            except Exception as error:
                self._vitals.job_failures.labels(job.name).inc()
                # A full disk fails every run: it is said once, and a traceback is for what nobody expects.
                expected = isinstance(error, TidegaugeError | OSError)
                if str(error) != told or not expected:
                    LOG.warning(
                        "job %s failed and will be tried again: %s",
                        job.name,
                        error,
                        exc_info=None if expected else error,
                    )
                told = str(error)
            else:
                if told:
                    LOG.info("job %s works again", job.name)
                told = ""

    def close(self) -> None:
        """Stop and wait for the runs under way to end."""
        with self._lock:
            self._closed = True
            for wake in self._wake.values():
                wake.stop()
        for thread in self._threads:
            thread.join()
