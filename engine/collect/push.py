"""Delivery of the agent's batches: in order, buffered while the server is away, never silently given up.

What an answer means (InfluxDB's write API and RFC 9110 for Retry-After):

====================  ====================================================================================
2xx                   stored
400, 413, 415, 422    part or all of it refused for good: reported, not sent again
429, 5xx              later: after Retry-After, else after 1, 2, 4 ... 60 s
401, 403, 404, other  later as well, after 60 s: an operator has to change something, and no sample is lost
no answer             later
====================  ====================================================================================
"""

from __future__ import annotations

import email.utils
import json
from collections.abc import Callable
from random import Random

from engine.clock import NS_PER_SECOND, Clock
from engine.collect.buffer import DiskBuffer
from engine.collect.transport import Response, Transport

WRITE_PATH = "/write?precision=ns"
_HEADERS = {"Content-Type": "text/plain; charset=utf-8"}
_REFUSED_FOR_GOOD = frozenset({400, 413, 415, 422})
_FIRST_WAIT_SECONDS = 1.0
_LONGEST_WAIT_SECONDS = 60.0
_LONGEST_RETRY_AFTER_SECONDS = 3_600.0


class Pusher:
    """Sends batches through ``transport``; what cannot be sent now waits in ``buffer``.

    ``report`` is called with a sentence when something changes that an operator should know; ``random``
    spreads the waiting times of many agents.  Not thread-safe.
    """

    def __init__(
        self,
        transport: Transport,
        buffer: DiskBuffer,
        clock: Clock,
        *,
        report: Callable[[str], None],
        random: Random,
    ) -> None:
        self._transport = transport
        self._buffer = buffer
        self._clock = clock
        self._report = report
        self._random = random
        self._retry_at = 0.0
        self._failures = 0
        self._trouble = ""
        self.delivered_lines = 0
        self.refused_lines = 0

    @property
    def lost_lines(self) -> int:
        """Lines that were dropped because the buffer or its disk was full."""
        return self._buffer.lost.lines

    @property
    def waiting_batches(self) -> int:
        return len(self._buffer)

    @property
    def waiting_bytes(self) -> int:
        return self._buffer.size_bytes

    def push(self, body: bytes) -> bool:
        """Send ``body``, after everything that waits; return False when it waits now itself."""
        if not body:
            return True
        if self.drain(seconds=0.0) and self._send(body):
            return True
        self._keep(body)
        return False

    def drain(self, *, seconds: float) -> bool:
        """Send what waits, oldest first, for about ``seconds``; return whether nothing waits any more.

        At least one batch is tried, unless the server has asked for time or was away a moment ago.
        """
        end = self._clock.monotonic() + seconds
        while (waiting := self._buffer.oldest()) is not None:
            if self._clock.monotonic() < self._retry_at:
                return False
            name, body = waiting
            if not self._send(body):
                return False
            self._buffer.remove(name)
            if self._clock.monotonic() >= end:
                break
        return not len(self._buffer) and self._clock.monotonic() >= self._retry_at

    def _keep(self, body: bytes) -> None:
        try:
            lost = self._buffer.append(body)
        except OSError as error:
            reason = error.strerror or error
            self._report(f"cannot buffer a batch: {reason}; {body.count(10)} lines are lost")
            return
        if lost:
            self._report(f"the buffer is full: dropped the oldest {lost.batches} batches, {lost.lines} lines")

    def _send(self, body: bytes) -> bool:
        """Return whether the fate of ``body`` is settled: stored, or refused for good."""
        try:
            response = self._transport.request("POST", WRITE_PATH, body, _HEADERS)
        except OSError as error:
            self._later(f"cannot reach the server: {error.strerror or error}", None)
            return False
        if 200 <= response.status < 300:
            self.delivered_lines += body.count(b"\n")
        elif response.status in _REFUSED_FOR_GOOD:
            lines = body.count(b"\n")
            refused = min(lines, _refused_count(response, lines))
            self.refused_lines += refused
            self.delivered_lines += lines - refused
            self._report(f"the server refused {refused} of {lines} lines ({response.status}): {_message(response)}")
        else:
            told = _retry_after(response, self._clock.now_ns())
            if told is None and response.status < 500 and response.status != 429:
                told = _LONGEST_WAIT_SECONDS
            self._later(f"the server does not take batches now ({response.status}): {_message(response)}", told)
            return False
        self._back()
        return True

    def _later(self, trouble: str, seconds: float | None) -> None:
        if seconds is None:
            longest = min(_LONGEST_WAIT_SECONDS, _FIRST_WAIT_SECONDS * 2.0**self._failures)
            # Between half and all of it, so that agents which failed together do not return together.
            seconds = longest * self._random.uniform(0.5, 1.0)
        self._failures = min(self._failures + 1, 16)
        self._retry_at = self._clock.monotonic() + seconds
        if trouble != self._trouble:
            self._report(f"{trouble}; batches wait in the buffer")
            self._trouble = trouble

    def _back(self) -> None:
        if self._trouble:
            self._report(f"the server takes batches again; {len(self._buffer)} wait in the buffer")
        self._failures, self._trouble = 0, ""


def _refused_count(response: Response, lines: int) -> int:
    """Return how many lines an answer refuses; all of them when it does not say."""
    try:
        answer = json.loads(response.body)
    except ValueError:
        return lines
    if not isinstance(answer, dict):
        return lines
    refused, listed = answer.get("refused"), answer.get("data")
    if isinstance(refused, dict) and refused and all(isinstance(count, int) for count in refused.values()):
        return sum(refused.values())
    if isinstance(listed, list) and "partial" in str(answer.get("error", "")):
        return len(listed)
    return lines


def _message(response: Response) -> str:
    """Return what an answer says in words, in one line."""
    try:
        answer = json.loads(response.body)
    except ValueError:
        answer = None
    if isinstance(answer, dict):
        text = str(answer.get("message") or answer.get("error") or "no reason given")
    else:
        text = response.body.decode("utf-8", "replace").strip() or "no reason given"
    return " ".join(text.split())[:300]


def _retry_after(response: Response, now_ns: int) -> float | None:
    """Return the seconds that Retry-After asks for, as a number or a date; None without a usable one."""
    text = response.headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text), _LONGEST_RETRY_AFTER_SECONDS)
    try:
        until = email.utils.parsedate_to_datetime(text).timestamp()
    except ValueError:
        return None
    return min(max(0.0, until - now_ns / NS_PER_SECOND), _LONGEST_RETRY_AFTER_SECONDS)
