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


class Scheduler:
    """Runs jobs until closed, one thread each, so that a slow job never delays another."""

    def __init__(self, vitals: Vitals) -> None:
        self._vitals = vitals
        self._stop = threading.Event()
        self._wake: dict[str, threading.Event] = {}
        self._threads: list[threading.Thread] = []

    def start(self, job: Job) -> None:
        self._wake[job.name] = threading.Event()
        thread = threading.Thread(target=self._loop, args=(job,), name=f"tidegauge-{job.name}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def nudge(self, name: str) -> None:
        """Let a job run now."""
        self._wake[name].set()

    def _loop(self, job: Job) -> None:
        wake = self._wake[job.name]
        told = ""
        while not self._stop.is_set():
            wake.wait(job.interval_seconds)
            wake.clear()
            if self._stop.is_set():
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
        self._stop.set()
        for wake in self._wake.values():
            wake.set()
        for thread in self._threads:
            thread.join()
