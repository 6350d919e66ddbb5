"""The write paths, as raw ASGI handlers: body in, engine, answer out.

Line protocol answers as InfluxDB 3 does (reference: InfluxDB 3 Core, "Write data", responses): 204 when everything was
stored; 400 with one entry a refused line when part was refused, the rest being stored all the same.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from concurrent.futures import Future

import msgspec

from api.asgi import Body, ClientGone, Receive, Scope, Send, header, query_of, read_body, respond, respond_error
from api.errors import UnsupportedMedia
from engine.config import Server
from engine.errors import BadRequest, TidegaugeError
from engine.ingest.batch import WriteResult
from engine.ingest.lines import precision_ns
from engine.runtime import Engine

LOG = logging.getLogger("tidegauge.api")
ARROW_STREAM = "application/vnd.apache.arrow.stream"
BATCH_PATH = "/v1/ingest"
BATCH_PARAMETERS = ("table",)
LINE_PATHS = ("/write", "/api/v2/write", "/api/v3/write_lp")
Handler = Callable[[Scope, Receive, Send], Awaitable[None]]


class BodyHandlers:
    """What every write path does: take the body, wait for what became of it."""

    def __init__(self, engine: Engine, server: Server) -> None:
        self._engine, self._server = engine, server

    async def _body(self, scope: Scope, receive: Receive) -> Body:
        return await read_body(
            scope, receive, limit=int(self._server.max_body), decoded_limit=int(self._server.max_decoded_body)
        )

    async def _stored(self, send: Send, submitting: Awaitable[Future[WriteResult]]) -> WriteResult | None:
        """Wait for the write; return its result when part of it was refused, else answer and return None."""
        try:
            result = await asyncio.wrap_future(await submitting)
        except ClientGone:
            return None
        except Exception as error:
            if not isinstance(error, TidegaugeError):
                LOG.exception("a write failed unexpectedly", exc_info=error)
            await self._failed(send, error)
            return None
        if result.refused:
            return result
        await self._accepted(send, result)
        return None

    async def _accepted(self, send: Send, result: WriteResult) -> None:
        await respond(send, 204, headers=told_of(result))

    async def _failed(self, send: Send, error: Exception) -> None:
        await respond_error(send, error)


class WriteHandlers(BodyHandlers):
    """The handlers of one server.  Mounted by path in ``api.app``."""

    async def lines(self, scope: Scope, receive: Receive, send: Send) -> None:
        """``POST /write``, ``/api/v2/write``, ``/api/v3/write_lp``: Influx line protocol."""
        result = await self._stored(send, self._submit_lines(scope, receive))
        if result is None:
            return
        kept = "partial write of line protocol occurred" if result.rows else "parsing failed for write_lp endpoint"
        first = result.refusals[0].message if result.refusals else "every line was refused"
        answer = {
            "error": kept,
            "code": "invalid",
            "message": f"{first} ({result.rows} rows stored; refused: {causes_of(result)})",
            "data": [
                {
                    "original_line": refusal.original,
                    "line_number": refusal.position,
                    "error_message": refusal.message,
                    "cause": refusal.cause,
                }
                for refusal in result.refusals
            ],
            "stored_rows": result.rows,
            "refused": dict(result.refused),
        }
        await respond(send, 400, msgspec.json.encode(answer), "application/json", told_of(result))

    async def batch(self, scope: Scope, receive: Receive, send: Send) -> None:
        """``POST /v1/ingest``: an Arrow IPC stream or a JSON batch, by Content-Type."""
        result = await self._stored(send, self._submit_batch(scope, receive))
        if result is None:
            return
        await respond_partial(send, result)

    async def ping(self, scope: Scope, receive: Receive, send: Send) -> None:
        """``GET /ping``: the probe of Influx clients."""
        await respond(send, 204, headers=[("X-Influxdb-Version", "1.8-tidegauge"), ("X-Influxdb-Build", "OSS")])

    # --- from a request to what became of it

    async def _submit_lines(self, scope: Scope, receive: Receive) -> Future[WriteResult]:
        default = "auto" if scope["path"].endswith("write_lp") else "ns"
        unit_ns = precision_ns(query_of(scope).get("precision", default))
        return self._engine.submit_lines(await self._body(scope, receive), unit_ns)

    async def _submit_batch(self, scope: Scope, receive: Receive) -> Future[WriteResult]:
        kind = header(scope, b"content-type").partition(";")[0].strip().lower()
        if kind not in (ARROW_STREAM, "application/json"):
            raise UnsupportedMedia(f"cannot ingest Content-Type {kind!r}: want {ARROW_STREAM} or application/json")
        table = query_of(scope).get("table")
        if table is not None and kind != ARROW_STREAM:
            raise BadRequest("cannot ingest JSON with ?table=: each of its samples names its own 'table'")
        body = await self._body(scope, receive)
        if kind == ARROW_STREAM:
            return self._engine.submit_arrow(body, table)
        return self._engine.submit_objects(body)


async def respond_partial(send: Send, result: WriteResult) -> None:
    """Answer that part of a batch was refused: which elements, by their place, and why."""
    answer = {
        "error": "partial_write" if result.rows else "nothing_stored",
        "message": f"stored {result.rows} rows; refused: {causes_of(result)}",
        "details": {
            "stored_rows": result.rows,
            "stored_samples": result.samples,
            "refused": dict(result.refused),
            "refusals": [
                {"position": refusal.position, "cause": refusal.cause, "message": refusal.message}
                for refusal in result.refusals
            ],
        },
    }
    await respond(send, 400, msgspec.json.encode(answer), "application/json", told_of(result))


def causes_of(result: WriteResult) -> str:
    return ", ".join(f"{count} {cause}" for cause, count in sorted(result.refused.items())) or "nothing"


def told_of(result: WriteResult) -> list[tuple[str, str]]:
    """Return the headers that say what was stored, and what was stored other than sent."""
    told = [
        ("X-Tidegauge-Rows", str(result.rows)),
        ("X-Tidegauge-Samples", str(result.samples)),
        ("X-Tidegauge-Sequence", str(result.sequence)),
    ]
    if result.dropped:
        told.append(("X-Tidegauge-Dropped", str(result.dropped)))
    if result.rounded:
        told.append(("X-Tidegauge-Rounded", str(result.rounded)))
    return told
