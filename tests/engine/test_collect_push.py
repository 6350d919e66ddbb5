"""Delivery over a server that comes and goes: in order, each batch once, nothing lost without a word."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.clock import ManualClock
from engine.collect.buffer import DiskBuffer
from engine.collect.push import WRITE_PATH, Pusher
from engine.collect.transport import Response
from tests.filesystems import FullFileSystem, MemoryFileSystem

STORED = Response(204, {}, b"")


class Scripted:
    """A transport whose answers come from a function; ``stored`` holds the bodies answered with 2xx."""

    def __init__(self, answer: Callable[[], Response | OSError]) -> None:
        self.answer = answer
        self.stored: list[bytes] = []
        self.attempts = 0

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Response:
        assert (method, path) == ("POST", WRITE_PATH)
        assert body is not None
        self.attempts += 1
        answer = self.answer()
        if isinstance(answer, OSError):
            raise answer
        if answer.status < 300:
            self.stored.append(body)
        return answer

    def close(self) -> None:
        pass


class Rig:
    def __init__(self, answer: Response | OSError = STORED, *, limit_bytes: int = 1_000) -> None:
        self.now: Response | OSError = answer
        self.transport = Scripted(lambda: self.now)
        self.clock = ManualClock()
        self.said: list[str] = []
        self.buffer = DiskBuffer(MemoryFileSystem(), "/b", limit_bytes=limit_bytes)
        self.pusher = Pusher(self.transport, self.buffer, self.clock, report=self.said.append, random=Random(1))


def test_a_batch_is_sent_at_once() -> None:
    rig = Rig()
    assert rig.pusher.push(b"a\nb\n")
    assert rig.transport.stored == [b"a\nb\n"]
    assert (rig.pusher.delivered_lines, rig.pusher.waiting_batches, rig.said) == (2, 0, [])
    assert rig.pusher.push(b"")
    assert rig.transport.attempts == 1


def test_an_outage_is_bridged_in_order_and_told_once() -> None:
    rig = Rig(ConnectionRefusedError(111, "Connection refused"))
    for number in range(4):
        assert not rig.pusher.push(b"%d\n" % number)
        rig.clock.advance(120)
    rig.now = STORED
    assert not rig.pusher.push(b"4\n")
    assert rig.pusher.drain(seconds=60.0)
    assert rig.transport.stored == [b"%d\n" % number for number in range(5)]
    assert rig.said == [
        "cannot reach the server: Connection refused; batches wait in the buffer",
        "the server takes batches again; 4 wait in the buffer",
    ]


def test_waiting_doubles_up_to_a_minute() -> None:
    rig = Rig(TimeoutError("timed out"))
    waits = []
    for _ in range(9):
        attempts = rig.transport.attempts
        rig.pusher.push(b"x\n")
        assert rig.transport.attempts == attempts + 1
        waited = 0.0
        while not waits or rig.transport.attempts == attempts + 1:
            rig.clock.advance(0.25)
            waited += 0.25
            rig.pusher.drain(seconds=0.0)
            if rig.transport.attempts > attempts + 1:
                break
        waits.append(waited)
        rig.clock.advance(120)
    assert 0.5 <= waits[0] <= 1.25
    assert all(low <= high for low, high in zip([0.5, 2, 8, 30], [waits[0], waits[1], waits[2], waits[8]], strict=True))
    assert max(waits) <= 60.25


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7),
        ({"retry-after": "Tue, 14 Nov 2023 22:13:50 GMT"}, 30),  # the clock stands at 22:13:20
        ({"retry-after": "999999999"}, 3_600),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_honoured(status: int, headers: dict[str, str], seconds: int) -> None:
    rig = Rig(Response(status, headers, b'{"error":"queue_full","message":"come back"}'))
    assert not rig.pusher.push(b"x\n")
    assert rig.said == [f"the server does not take batches now ({status}): come back; batches wait in the buffer"]
    rig.now = STORED
    rig.clock.advance(seconds - 0.01)
    assert not rig.pusher.drain(seconds=1.0)
    assert rig.transport.attempts == 1
    rig.clock.advance(0.02)
    assert rig.pusher.drain(seconds=1.0)
    assert rig.transport.stored == [b"x\n"]


@pytest.mark.parametrize("text", ["", "soon", "-1", "1.5", "٣"])
def test_a_retry_after_that_says_nothing_is_as_none(text: str) -> None:
    rig = Rig(Response(503, {"retry-after": text}, b""))
    rig.pusher.push(b"x\n")
    rig.now = STORED
    rig.clock.advance(1.01)
    assert rig.pusher.drain(seconds=1.0)


@pytest.mark.parametrize("status", [401, 403, 404, 301])
def test_what_an_operator_can_mend_is_not_given_up(status: int) -> None:
    rig = Rig(Response(status, {}, b'{"message":"the token is not known"}'))
    assert not rig.pusher.push(b"x\n")
    rig.now = STORED
    rig.clock.advance(59)
    assert not rig.pusher.drain(seconds=1.0)
    rig.clock.advance(2)
    assert rig.pusher.drain(seconds=1.0)
    assert rig.pusher.refused_lines == 0


@pytest.mark.parametrize(
    ("status", "answer", "refused"),
    [
        (400, {"error": "partial write of line protocol occurred", "refused": {"too_old": 2}, "message": "m"}, 2),
        (400, {"error": "partial write of line protocol occurred", "data": [{"line_number": 1}]}, 1),
        (400, {"error": "parsing failed for write_lp endpoint", "data": [{"line_number": 1}]}, 3),
        (400, ["?"], 3),
        (413, {"error": "too_large", "message": "m"}, 3),
        (422, {"refused": {"a": 500}}, 3),
    ],
)
def test_what_is_refused_for_good_is_told_and_not_sent_again(status: int, answer: object, refused: int) -> None:
    rig = Rig(Response(status, {}, json.dumps(answer).encode()))
    assert rig.pusher.push(b"a\nb\nc\n")
    assert (rig.pusher.refused_lines, rig.pusher.delivered_lines) == (refused, 3 - refused)
    assert rig.said[0].startswith(f"the server refused {refused} of 3 lines ({status}): ")
    assert rig.pusher.waiting_batches == 0
    assert rig.transport.attempts == 1


def test_an_answer_that_is_no_json_is_quoted_in_one_line() -> None:
    rig = Rig(Response(400, {}, b"<html>\n bad " + b"x" * 1_000))
    rig.pusher.push(b"a\n")
    assert rig.said == ["the server refused 1 of 1 lines (400): <html> bad " + "x" * 289]


def test_a_full_buffer_says_what_it_dropped() -> None:
    rig = Rig(TimeoutError("timed out"), limit_bytes=6)
    for body in (b"a\n", b"b\n", b"c\n", b"d\ne\n"):
        rig.pusher.push(body)
    assert rig.said[1:] == ["the buffer is full: dropped the oldest 2 batches, 2 lines"]
    assert (rig.pusher.lost_lines, rig.pusher.waiting_bytes) == (2, 6)


def test_a_disk_that_fails_says_what_is_lost() -> None:
    said: list[str] = []
    buffer = DiskBuffer(FullFileSystem(MemoryFileSystem(), 3), "/b", limit_bytes=100)
    transport = Scripted(lambda: TimeoutError("timed out"))
    pusher = Pusher(transport, buffer, ManualClock(), report=said.append, random=Random(1))
    pusher.push(b"a\nb\n")
    assert said[1:] == ["cannot buffer a batch: No space left on device; 2 lines are lost"]
    assert pusher.lost_lines == 2


def test_draining_stops_when_its_time_is_over() -> None:
    rig = Rig(TimeoutError("timed out"))
    for number in range(5):
        rig.pusher.push(b"%d\n" % number)
    rig.clock.advance(100)

    def slow() -> Response:
        rig.clock.advance(1.0)
        return STORED

    rig.transport.answer = slow
    assert not rig.pusher.drain(seconds=2.0)
    assert len(rig.transport.stored) == 2
    assert not rig.pusher.push(b"5\n")
    assert rig.pusher.drain(seconds=100.0)
    assert rig.transport.stored == [b"%d\n" % number for number in range(6)]


OUTCOMES = st.sampled_from(
    [
        STORED,
        STORED,
        ConnectionResetError(104, "reset"),
        Response(503, {"retry-after": "2"}, b""),
        Response(429, {}, b""),
    ]
)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(OUTCOMES, st.integers(0, 90), st.booleans()), max_size=25), st.integers(0, 99))
def test_every_batch_arrives_once_and_in_order_whatever_happens(
    script: list[tuple[Response | OSError, int, bool]], seed: int
) -> None:
    rig = Rig()
    rig.pusher = Pusher(rig.transport, rig.buffer, rig.clock, report=rig.said.append, random=Random(seed))
    pushed = []
    for number, (outcome, seconds, drains) in enumerate(script):
        rig.now = outcome
        rig.clock.advance(seconds)
        if drains:
            rig.pusher.drain(seconds=5.0)
        body = b"%d\n" % number
        delivered = rig.pusher.push(body)
        assert not delivered or rig.transport.stored[-1] == body
        pushed.append(body)
    rig.now = STORED
    rig.clock.advance(4_000)
    assert rig.pusher.drain(seconds=1e6)
    assert rig.transport.stored == pushed
    assert rig.pusher.delivered_lines == len(pushed)
