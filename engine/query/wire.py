"""Frames and messages between the main process and the query process.

A frame is u32 message bytes | u32 attachment bytes (both little-endian) | message (msgpack) | attachment.  Large things
(answers, rollup buckets, definitions) travel as attachments, so that they are neither packed nor unpacked.  The socket
carries them faster than files in shared memory did: 200 MB took 0.16 s against 0.25 s, 20 kB 0.03 ms against 0.06 ms.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from typing import TypeVar

import msgspec

from engine import errors
from engine.query.sources import JsonScalar, Needed, SqlRequest, Visible

_HEADER = struct.Struct("<II")
_Room = TypeVar("_Room", bytearray, bytearray | memoryview)


class Open(msgspec.Struct, frozen=True, tag=True):
    """First message to the worker.  ``path`` None: tiers in memory only; ``repair``: set damaged files aside;
    ``statement_bytes``: what each of ``statements`` at once is sure of; ``nice``: by how
    much others of this machine go before it.
    """

    path: str | None
    memory_limit_bytes: int
    statement_bytes: int
    statements: int
    threads: int
    pooled_tables: tuple[str, ...]
    findings: tuple[str, ...]
    parent_pid: int
    repair: bool = False
    nice: int = 0
    extensions: tuple[str, ...] = ()


class Define(msgspec.Struct, frozen=True, tag=True):
    """Native catalogue definitions, in the attachment.  Has no reply: what they are for fails if they do.

    ``tagset_files``: paths of the tag-set files that hold the lowest numbers, None when they are the same as before.
    """

    tagset_files: tuple[str, ...] | None = None


class AskNeeded(msgspec.Struct, frozen=True, tag=True):
    id: int
    sql: str
    parameters: list[JsonScalar]
    visible: Visible = ()


class RunSql(msgspec.Struct, frozen=True, tag=True):
    """``window_bytes``: how much of the answer may be on its way; 0: it comes as a whole, in the last reply."""

    id: int
    request: SqlRequest
    window_bytes: int = 0


class Taken(msgspec.Struct, frozen=True, tag=True):
    """So many bytes of the answer's parts have been used: as many more may come.  Has no reply."""

    id: int
    bytes: int


class StopSql(msgspec.Struct, frozen=True, tag=True):
    """The answer is no longer wanted.  The statement's own reply is the only one."""

    id: int


class Flush(msgspec.Struct, frozen=True, tag=True):
    """Attachment: the pieces, as :mod:`engine.rollups.transfer` makes them."""

    id: int
    sequence: int


class Delete(msgspec.Struct, frozen=True, tag=True):
    """Attachment: int32 tag sets."""

    id: int
    table_id: int
    start_ns: int
    end_ns: int


class AskStats(msgspec.Struct, frozen=True, tag=True):
    id: int


class ReadRows(msgspec.Struct, frozen=True, tag=True):
    """Attachment: int64 series identifiers, when ``selected``."""

    id: int
    tier: str
    start_ns: int
    end_ns: int
    selected: bool
    names: tuple[str, ...]


class AskWatermark(msgspec.Struct, frozen=True, tag=True):
    id: int


class Retain(msgspec.Struct, frozen=True, tag=True):
    id: int
    cutoffs: dict[str, int]


class Forget(msgspec.Struct, frozen=True, tag=True):
    """Attachment: int32 tag sets, all of the table."""

    id: int
    tier: str
    table_id: int
    before_ns: int


class Close(msgspec.Struct, frozen=True, tag=True):
    id: int


class Ready(msgspec.Struct, frozen=True, tag=True):
    pid: int


class Started(msgspec.Struct, frozen=True, tag=True):
    """A statement is about to run.  If the worker ends before this, the statement is not why."""

    id: int


class Part(msgspec.Struct, frozen=True, tag=True):
    """The next bytes of an answer's stream are in the attachment."""

    id: int


class Answered(msgspec.Struct, frozen=True, tag=True):
    """``stream`` of an answer, or what is left of it, is in the attachment."""

    id: int
    rows: int
    elapsed_seconds: float
    rows_read: int
    files: int


class FoundNeeded(msgspec.Struct, frozen=True, tag=True):
    id: int
    needed: Needed


class FoundStats(msgspec.Struct, frozen=True, tag=True):
    """(tier, rows, bytes) each."""

    id: int
    tiers: list[tuple[str, int, int]]


class Done(msgspec.Struct, frozen=True, tag=True):
    """``value`` is a count or a watermark; rollup rows are in the attachment as an Arrow stream."""

    id: int
    value: int = 0


class Failed(msgspec.Struct, frozen=True, tag=True):
    """Any of our errors.  ``id`` 0: the database could not be opened."""

    id: int
    code: str
    message: str
    details: object = None
    retry_after_seconds: int = 1


Request = (
    Open
    | Define
    | AskNeeded
    | RunSql
    | Taken
    | StopSql
    | Flush
    | ReadRows
    | AskWatermark
    | AskStats
    | Retain
    | Delete
    | Forget
    | Close
)
Reply = Ready | Started | Part | Answered | FoundNeeded | FoundStats | Done | Failed

_ENCODER = msgspec.msgpack.Encoder()
REQUESTS: msgspec.msgpack.Decoder[Request] = msgspec.msgpack.Decoder(Request)
REPLIES: msgspec.msgpack.Decoder[Reply] = msgspec.msgpack.Decoder(Reply)


def encode(message: Request | Reply) -> bytes:
    return _ENCODER.encode(message)


def send(connection: socket.socket, message: bytes, *attachment: bytes | memoryview) -> None:
    """Send one frame.  Raises OSError when the other side is gone; callers take turns by a lock of theirs."""
    size = sum(len(part) for part in attachment)
    connection.sendall(_HEADER.pack(len(message), size) + message)
    for part in attachment:
        connection.sendall(part)


def receive(connection: socket.socket, room: Callable[[int], _Room]) -> tuple[bytearray, _Room] | None:
    """Return the next frame as (message, attachment), None when the other side has closed.

    ``room(size)``: writable memory for the attachment, such as ``bytearray``.
    """
    header = _exactly(connection, bytearray(_HEADER.size))
    if header is None:
        return None
    message_bytes, attachment_bytes = _HEADER.unpack(header)
    message = _exactly(connection, bytearray(message_bytes))
    attachment = _exactly(connection, room(attachment_bytes))
    return None if message is None or attachment is None else (message, attachment)


def _exactly(connection: socket.socket, data: _Room) -> _Room | None:
    """Fill ``data``; return it, or None when the other side has closed before."""
    view = memoryview(data)
    while view:
        try:
            got = connection.recv_into(view)
        except ConnectionError:
            return None
        if not got:
            return None
        view = view[got:]
    return data


def _classes(root: type[errors.TidegaugeError]) -> dict[str, type[errors.TidegaugeError]]:
    """Return the classes of the tree by code; a class that has no code of its own is told as the one above it."""
    found: dict[str, type[errors.TidegaugeError]] = {}
    for child in root.__subclasses__():
        found |= _classes(child)
    return found | {root.code: root}


def failed(request_id: int, error: errors.TidegaugeError) -> Failed:
    """Return the message for an error."""
    retry_after_seconds = error.retry_after_seconds if isinstance(error, errors.Overload) else 1
    return Failed(request_id, error.code, error.message, error.details, retry_after_seconds)


def error_of(reply: Failed) -> errors.TidegaugeError:
    """Return the error that a message stands for, as it was raised on the other side."""
    kind = _classes(errors.TidegaugeError).get(reply.code, errors.Bug)
    error = kind.__new__(kind)
    errors.TidegaugeError.__init__(error, reply.message, details=reply.details)
    if isinstance(error, errors.Overload):
        error.retry_after_seconds = reply.retry_after_seconds
    if isinstance(error, errors.Damage) and isinstance(reply.details, dict):
        error.path, error.offset = str(reply.details.get("path")), reply.details.get("offset")
    return error
