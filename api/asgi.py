"""The few ASGI verbs that the raw handlers share: read a bounded body, decompress it, answer."""

from __future__ import annotations

import asyncio
import re
import zlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from typing import Any, cast
from urllib.parse import parse_qsl

import cramjam

from api.errors import TooLarge, UnsupportedMedia, encode_error, headers_of, status_of
from api.intake import whole_body
from engine.errors import BadRequest
from native.slabs import Slab

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
Body = bytes | memoryview
DecompressInto = Callable[[Body, Any], int]
_GZIP = 16 + zlib.MAX_WBITS
#: Bodies above this are decompressed in a thread, so that the event loop keeps serving others.
_INLINE_DECODE_BYTES = 64 << 10
#: What does not go into the value of a header, and how long one may be.
_UNTOLD, _MOST_TOLD = re.compile(r"[^ -~]+"), 1_000


class ClientGone(Exception):
    """The client closed the connection before the whole body had arrived."""


def header(scope: Scope, name: bytes) -> str:
    """Return the value of a header (``name`` in lower case), or the empty string."""
    for key, value in scope["headers"]:
        if key == name:
            return str(value.decode("latin-1"))
    return ""


def query_of(scope: Scope) -> dict[str, str]:
    return dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))


async def read_body(scope: Scope, receive: Receive, *, limit: int, decoded_limit: int) -> Body:
    """Return the whole body, decompressed; raises TooLarge, UnsupportedMedia or BadRequest."""
    declared = header(scope, b"content-length")
    if declared.isdigit() and int(declared) > limit:
        raise TooLarge(f"cannot accept a body of {declared} bytes: the limit is {limit}")
    coming = whole_body(scope)
    body = await _chunks(receive, limit) if coming is None else await coming.complete()
    if body is None:
        raise ClientGone
    encoding = header(scope, b"content-encoding").strip().lower()
    if encoding in ("", "identity"):
        return body
    if len(body) <= _INLINE_DECODE_BYTES:
        return decompress(body, encoding, decoded_limit)
    return await asyncio.to_thread(decompress, body, encoding, decoded_limit)


async def _chunks(receive: Receive, limit: int) -> bytes:
    """Return the body that ``receive`` brings in pieces."""
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise TooLarge(f"cannot accept a body of more than {limit} bytes")
        chunks.append(chunk)
        if not message.get("more_body", False):
            break
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def decompress(body: Body, encoding: str, limit: int) -> Body:
    """Decompress gzip (multi-member too), deflate, zstd or snappy, never to more than ``limit`` bytes."""
    try:
        match encoding:
            case "gzip" | "x-gzip":
                # A stream of one member ends with its size; any other goes the slower way, which says what is wrong.
                size = int.from_bytes(body[-4:], "little")
                return _exactly(cramjam.gzip.decompress_into, body, size, limit) or _inflate(body, _GZIP, limit)
            case "deflate":
                return _inflate(body, zlib.MAX_WBITS, limit)
            case "zstd":
                into = cramjam.zstd.decompress_into
                return _exactly(into, body, _zstd_size(body), limit) or _into_bounded(into, body, limit)
            case "snappy":
                size = cramjam.snappy.decompress_raw_len(body)
                if size > limit:
                    raise TooLarge(f"cannot accept a body of more than {limit} bytes once decompressed")
                # Memory that has been used before: getting new pages takes three times as long as decompressing.
                out = memoryview(cast("Any", Slab(size)))
                return out[: cramjam.snappy.decompress_raw_into(body, out)]
    except (zlib.error, cramjam.DecompressionError) as error:
        raise BadRequest(f"cannot decompress the {encoding} body: {error}") from None
    raise UnsupportedMedia(f"cannot accept Content-Encoding {encoding!r}: want gzip, deflate, zstd, snappy or identity")


def _exactly(decompress_into: DecompressInto, body: Body, size: int, limit: int) -> memoryview | None:
    """Return the body if it decompresses to just ``size`` bytes, which must be more than 0 and not beyond ``limit``."""
    if not 0 < size <= limit:
        return None
    out = memoryview(cast("Any", Slab(size)))
    try:
        return out if decompress_into(body, out) == size else None
    except cramjam.DecompressionError:
        return None


def _zstd_size(body: Body) -> int:
    """Return what the first frame says its content's size is (RFC 8878, 3.1.1.1), or 0."""
    head = bytes(body[:18])
    if len(head) < 18 or head[:4] != b"\x28\xb5\x2f\xfd":
        return 0
    whole, flag = head[4] >> 5 & 1, head[4] >> 6
    begin = 5 + (0 if whole else 1) + (0, 1, 2, 4)[head[4] & 3]
    length = (1 if whole else 0, 2, 4, 8)[flag]
    return int.from_bytes(head[begin : begin + length], "little") + (256 if flag == 1 else 0)


def _inflate(body: Body, window_bits: int, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while body:
        member = zlib.decompressobj(window_bits)
        part = member.decompress(body, limit - size + 1)
        size += len(part)
        parts.append(part)
        if size > limit:
            raise TooLarge(f"cannot accept a body of more than {limit} bytes once decompressed")
        if not member.eof:
            raise BadRequest("cannot decompress the body: it ends before its compressed stream does")
        body = member.unused_data
    return b"".join(parts)


def _into_bounded(decompress_into: DecompressInto, body: Body, limit: int) -> bytes:
    size = min(limit, max(4096, 4 * len(body)))
    while True:
        out = bytearray(size)
        try:
            written = decompress_into(body, out)
        except cramjam.DecompressionError as error:
            if "small" not in str(error) and "write whole buffer" not in str(error):
                raise
            if size >= limit:
                raise TooLarge(f"cannot accept a body of more than {limit} bytes once decompressed") from None
            size = min(limit, 4 * size)
            continue
        return bytes(out[:written])


def told_headers(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Return what an answer says about itself as headers ``X-Tidegauge-...``; what a header cannot hold is escaped."""
    # Proxies drop names with underscores.
    told = {name.replace("_", "-"): _told(value) for name, value in metadata.items() if value is not None}
    return {f"X-Tidegauge-{name}": _UNTOLD.sub(_escaped, value)[:_MOST_TOLD] for name, value in told.items()}


def _told(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={each}" for key, each in value.items())
    return str(value).lower() if isinstance(value, bool) else str(value)


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")


async def respond(
    send: Send, status: int, body: bytes = b"", content_type: str = "", headers: Iterable[tuple[str, str]] = ()
) -> None:
    """Send a whole answer."""
    lines = [(b"content-length", str(len(body)).encode())] if status != 204 else []
    if content_type:
        lines.append((b"content-type", content_type.encode()))
    lines += [(name.lower().encode(), value.encode()) for name, value in headers]
    await send({"type": "http.response.start", "status": status, "headers": lines})
    await send({"type": "http.response.body", "body": body})


async def respond_error(send: Send, error: BaseException) -> None:
    """Answer with the error body of ``api.errors``."""
    await respond(send, status_of(error), encode_error(error), "application/json", headers_of(error).items())
