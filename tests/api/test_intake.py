"""Large bodies read past the parser: the same answers as uvicorn's own protocol gives, however the bytes arrive."""

from __future__ import annotations

import asyncio
import itertools
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from api.asgi import ClientGone, read_body, respond, respond_error
from api.errors import TooLarge
from api.intake import DIRECT_BYTES, READ_BYTES, AtOnce, intake, whole_body

LIMIT = 4 * DIRECT_BYTES
PATHS = frozenset({"/write"})
TURNS = 12  # of the loop, after which everything that can go on has gone on


class Transport(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.closed = False

    def write(self, data: Any) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        """Bytes come when the test sends them."""

    def resume_reading(self) -> None:
        """Bytes come when the test sends them."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


class App:
    """Answers with the length and a checksum of the body; notes how it came."""

    def __init__(self) -> None:
        self.direct: list[bool] = []
        self.gone = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/refuse":
            await respond(send, 401)
            return
        self.direct.append(whole_body(scope) is not None)
        try:
            body = await read_body(scope, receive, limit=LIMIT, decoded_limit=LIMIT)
        except ClientGone:
            self.gone += 1
        except TooLarge as error:
            await respond_error(send, error)
        else:
            await respond(send, 200, f"{len(body)} {zlib.crc32(body)}\n".encode())


async def turns() -> None:
    for _ in range(TURNS):
        await asyncio.sleep(0)


def give(protocol: Any, data: bytes) -> None:
    """Hand bytes to a protocol as a transport does, in as many reads as it asks for."""
    if isinstance(protocol, asyncio.Protocol):
        protocol.data_received(data)
        return
    while data:
        buffer = protocol.get_buffer(READ_BYTES)
        size = min(len(buffer), len(data))
        buffer[:size] = data[:size]
        protocol.buffer_updated(size)
        data = data[size:]


def talk(
    pieces: list[bytes], *, plain: bool = False, end: bool = False, at_once: AtOnce | None = None
) -> tuple[bytes, App]:
    """Return what one connection answers to these pieces; ``plain`` uses uvicorn's protocol."""

    async def run() -> tuple[bytes, App]:
        app = App()
        config = Config(app, lifespan="off", server_header=False, date_header=False, access_log=False)
        config.load()
        make = HttpToolsProtocol if plain else intake(LIMIT, PATHS, at_once or {})
        transport = Transport()
        protocol: Any = make(config=config, server_state=ServerState(), app_state={})
        protocol.connection_made(transport)
        for piece in pieces:
            give(protocol, piece)
            await turns()
        if end:
            protocol.connection_lost(None)
            await turns()
        return bytes(transport.written), app

    return asyncio.run(run())


def request(size: int, path: str = "/write", *headers: str) -> bytes:
    body = bytes(at * 7 % 251 for at in range(min(size, 997))) * (size // 997 + 1)
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {size}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body[:size]


SIZES = st.sampled_from([0, 10, DIRECT_BYTES - 1, DIRECT_BYTES, DIRECT_BYTES + 1, 2 * DIRECT_BYTES, LIMIT, LIMIT + 1])


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(SIZES, min_size=1, max_size=3), cuts=st.lists(st.floats(0, 1), max_size=6))
def test_answers_are_those_of_the_plain_protocol(sizes: list[int], cuts: list[float]) -> None:
    stream = b"".join(request(size) for size in sizes)
    places = [0, *sorted(int(cut * len(stream)) for cut in cuts), len(stream)]
    pieces = [stream[begin:end] for begin, end in itertools.pairwise(places) if begin < end]
    got, _ = talk(pieces)
    assert got.count(b"HTTP/1.1 ") == len(sizes)
    assert got == talk(pieces, plain=True)[0]


def test_only_large_bodies_of_these_paths_are_read_past_the_parser() -> None:
    stream = request(DIRECT_BYTES) + request(DIRECT_BYTES - 1) + request(DIRECT_BYTES, "/other") + request(LIMIT + 1)
    pieces = [stream[begin : begin + 5_000] for begin in range(0, len(stream), 5_000)]
    got, app = talk(pieces)
    assert app.direct == [True, False, False, False]
    assert got == talk(pieces, plain=True)[0]


def test_a_client_that_waits_is_asked_for_its_body() -> None:
    whole = request(DIRECT_BYTES, "/write", "Expect: 100-continue")
    head, body = whole[:-DIRECT_BYTES], whole[-DIRECT_BYTES:]
    got, app = talk([head, body])
    assert app.direct == [True]
    assert got.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK")


def test_a_body_that_is_refused_is_read_all_the_same() -> None:
    # The answer goes out before the body has come; what follows the body is the next request.
    refused = request(DIRECT_BYTES, "/refuse")
    stream = refused + request(3)
    got, _ = talk([stream[:100], stream[100:40_000], stream[40_000:]])
    assert [line for line in got.split(b"\r\n") if line.startswith(b"HTTP/1.1")] == [
        b"HTTP/1.1 401 Unauthorized",
        b"HTTP/1.1 200 OK",
    ]


def test_a_client_that_goes_away_is_no_error_of_ours() -> None:
    got, app = talk([request(DIRECT_BYTES)[:-1]], end=True)
    assert (got, app.gone) == (b"", 1)


@pytest.mark.parametrize("header", ["Upgrade: websocket\r\nConnection: upgrade", "Transfer-Encoding: chunked"])
def test_what_the_parser_must_see_is_left_to_it(header: str) -> None:
    stream = request(DIRECT_BYTES, "/write", header)
    got, app = talk([stream[:9_000], stream[9_000:]])
    assert True not in app.direct
    assert got == talk([stream[:9_000], stream[9_000:]], plain=True)[0]


class AtOnceAnswers:
    """Answers requests with a number in their query at once, and notes them."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []

    def __call__(self, scope: Any) -> bytes | None:
        assert (scope["method"], scope["path"]) == ("GET", "/quick")
        self.asked.append(scope["query_string"])
        if not scope["query_string"].isdigit():
            return None
        return b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n" + scope["query_string"][:2]


def asking(target: str, *headers: str, method: str = "GET", version: str = "1.1") -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/{version}", "Host: x", *headers, "", ""]).encode()


def bodies(got: bytes) -> list[bytes]:
    return [part.partition(b"\r\n\r\n")[2] for part in got.split(b"HTTP/1.1 200 OK")[1:]]


def test_what_can_be_answered_at_once_is_and_the_connection_goes_on() -> None:
    quick = AtOnceAnswers()
    pieces = [asking("/quick?10"), asking("/quick?no"), asking("/quick?11"), request(3), asking("/quick?12")]
    got, app = talk(pieces, at_once={b"/quick": quick})
    assert bodies(got) == [b"10", b"0 0\n", b"11", f"3 {zlib.crc32(request(3)[-3:])}\n".encode(), b"12"]
    assert (quick.asked, len(app.direct)) == ([b"10", b"no", b"11", b"12"], 2)


@settings(max_examples=60, deadline=None)
@given(
    asked=st.lists(st.sampled_from(["/quick?10", "/quick?no", "/other?11", "/quick"]), min_size=1, max_size=6),
    cuts=st.lists(st.floats(0, 1), max_size=6),
)
def test_answers_come_in_the_order_of_their_requests(asked: list[str], cuts: list[float]) -> None:
    stream = b"".join(asking(target) for target in asked)
    places = [0, *sorted(int(cut * len(stream)) for cut in cuts), len(stream)]
    pieces = [stream[begin:end] for begin, end in itertools.pairwise(places) if begin < end]
    quick = AtOnceAnswers()
    got, app = talk(pieces, at_once={b"/quick": quick})
    # The second and later ones of one read are left to the application, which answers the same but for the body.
    assert len(bodies(got)) == len(asked)
    assert [body for body, target in zip(bodies(got), asked, strict=True) if target != "/quick?10"] == [
        b"0 0\n" for target in asked if target != "/quick?10"
    ]
    assert bodies(got).count(b"10") + len(app.direct) == len(asked)
    if asked[0] == "/quick?10":
        assert bodies(got)[0] == b"10"


@pytest.mark.parametrize(
    "asked",
    [
        asking("/quick?10", method="HEAD"),
        asking("/quick?10", method="DELETE"),
        asking("/quick?10", "Connection: close"),
        asking("/quick?10", version="1.0"),
        asking("/quick?10", "Content-Length: 3") + b"abc",
        asking("/quick?10", "Transfer-Encoding: chunked") + b"0\r\n\r\n",
        asking("/quick?10", "Connection: upgrade", "Upgrade: websocket"),
        asking("/quick?10#11"),
        asking("/quick?"),
        asking("/qui%63k?10"),
    ],
)
def test_whatever_is_not_plain_is_left_to_the_application(asked: bytes) -> None:
    quick = AtOnceAnswers()
    got, app = talk([asked], at_once={b"/quick": quick})
    assert b"10" not in quick.asked
    assert len(app.direct) == 1
    assert got == talk([asked], plain=True)[0]


def test_one_of_several_that_come_in_one_read_is_answered_at_once() -> None:
    quick = AtOnceAnswers()
    got, _ = talk([asking("/quick?10") * 5], at_once={b"/quick": quick})
    assert bodies(got) == [b"10", *[b"0 0\n"] * 4]
