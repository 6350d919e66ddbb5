"""Prometheus' write paths, as raw ASGI handlers: remote write, and text exposition for loading.

Remote write answers as its specification has it (reference: "Prometheus Remote-Write 2.0 specification", responses):
204 when everything was stored, 400 with a line of text when part was refused (the rest is stored, and sending the same
again would change nothing), 429 and 5xx for what the sender should try again.
"""

from __future__ import annotations

from concurrent.futures import Future
from urllib.parse import parse_qsl

from api.asgi import Receive, Scope, Send, header, respond
from api.errors import UnsupportedMedia, headers_of, status_of
from api.exposition import labels_of
from api.write import BodyHandlers, causes_of, respond_partial, told_of
from engine.errors import TidegaugeError
from engine.ingest.batch import WriteResult

REMOTE_WRITE_PATH = "/api/v1/write"
#: What text exposition takes in the query string.
TEXT_PARAMETERS = ("label",)
PLAIN_TEXT = "text/plain; charset=utf-8"
_PROTOBUF = "application/x-protobuf"
#: Version by the name of the message; a bare type is version 1.
_VERSIONS = {"": 1, "prometheus.WriteRequest": 1, "io.prometheus.write.v2.Request": 2}
#: The last is what curl says of a body unless told otherwise.
_TEXT_KINDS = (
    *("", "text/plain", "application/openmetrics-text", "application/octet-stream"),
    "application/x-www-form-urlencoded",
)
_UNEXPECTED = "the server failed unexpectedly; its log has the details"


class PrometheusHandlers(BodyHandlers):
    """The handlers of one server.  Mounted by path in ``api.app``."""

    async def remote_write(self, scope: Scope, receive: Receive, send: Send) -> None:
        """``POST /api/v1/write``: remote write 1.0 and 2.0."""
        handler = _RemoteWrite(self._engine, self._server)
        await handler(scope, receive, send)

    async def text(self, scope: Scope, receive: Receive, send: Send) -> None:
        """``POST /v1/import/prometheus``: text exposition; ``?label=name=value`` adds labels."""
        result = await self._stored(send, self._submit_text(scope, receive))
        if result is not None:
            await respond_partial(send, result)

    async def _submit_text(self, scope: Scope, receive: Receive) -> Future[WriteResult]:
        kind = header(scope, b"content-type").partition(";")[0].strip().lower()
        if kind not in _TEXT_KINDS:
            raise UnsupportedMedia(
                f"cannot import Content-Type {kind!r}: want text/plain or application/openmetrics-text"
            )
        labels = labels_of_query(scope)
        body = await self._body(scope, receive)
        return self._engine.submit_prometheus_text(
            body, open_metrics=kind == "application/openmetrics-text", labels=labels
        )


class _RemoteWrite(BodyHandlers):
    """Remote write, whose errors are lines of text."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        result = await self._stored(send, self._submit(scope, receive))
        if result is None:
            return
        first = result.refusals[0] if result.refusals else None
        why = f"; time series {first.position}: {first.message}" if first else ""
        text = f"stored {result.samples} samples; refused: {causes_of(result)}{why}\n"
        headers = [*told_of(result), *written(result)]
        await respond(send, 400, text.encode("utf-8", "replace"), PLAIN_TEXT, headers)

    async def _submit(self, scope: Scope, receive: Receive) -> Future[WriteResult]:
        version = version_of(header(scope, b"content-type"))
        return self._engine.submit_remote_write(await self._body(scope, receive), version)

    async def _accepted(self, send: Send, result: WriteResult) -> None:
        await respond(send, 204, headers=[*told_of(result), *written(result)])

    async def _failed(self, send: Send, error: Exception) -> None:
        text = error.message if isinstance(error, TidegaugeError) else _UNEXPECTED
        await respond(
            send, status_of(error), f"{text}\n".encode("utf-8", "replace"), PLAIN_TEXT, headers_of(error).items()
        )


def version_of(content_type: str) -> int:
    """Return the version of remote write that a Content-Type names; raises UnsupportedMedia for any other."""
    kind, *parameters = (part.strip() for part in content_type.split(";"))
    message = next((part.partition("=")[2].strip('" ') for part in parameters if part.startswith("proto=")), "")
    version = _VERSIONS.get(message)
    if kind.lower() != _PROTOBUF or version is None:
        wanted = " or ".join(f"{_PROTOBUF};proto={name}" for name in _VERSIONS if name)
        raise UnsupportedMedia(f"cannot accept Content-Type {content_type!r}: want {wanted}")
    return version


def written(result: WriteResult) -> list[tuple[str, str]]:
    """Return the headers by which a sender of version 2.0 knows what was stored."""
    counts = {"Samples": result.samples, "Histograms": 0, "Exemplars": 0}
    return [(f"X-Prometheus-Remote-Write-{what}-Written", str(count)) for what, count in counts.items()]


def labels_of_query(scope: Scope) -> dict[str, str]:
    """Return the labels that ``?label=name=value`` gives, any number of times; raises BadRequest."""
    pairs = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    return labels_of([text for key, text in pairs if key == "label"])
