"""The application: typed routes for people and programs, raw handlers for what must be fast, one gate before both.

The write paths and the scaling decision are plain ASGI functions; everything else is a litestar route, whose types give
the OpenAPI page at ``/docs``.  The gate checks tokens, counts nothing twice and turns any error into the one body.
"""

from __future__ import annotations

import logging
from typing import Any

from litestar import Litestar, Request, Response
from litestar.exceptions import HTTPException
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import SwaggerRenderPlugin

from api.asgi import Receive, Scope, Send, respond, respond_error, told_headers
from api.auth import CALLER_KEY, Gate
from api.errors import body_of, headers_of, status_of
from api.exposition import TEXT_PATH
from api.prometheus import REMOTE_WRITE_PATH, TEXT_PARAMETERS, PrometheusHandlers
from api.promptly import QUERY_PATH, PromptQueries
from api.promptrows import ROWS_PATH, PromptRows
from api.ranges import range_metadata
from api.routes.anomalies import anomaly_routes
from api.routes.bottlenecks import bottleneck_routes
from api.routes.deploys import deploy_routes
from api.routes.forecast import forecast_routes
from api.routes.health import health_routes
from api.routes.notifications import notification_routes
from api.routes.query import query_routes
from api.routes.rows import rows_routes
from api.routes.silences import silence_routes
from api.routes.tokens import token_routes
from api.routes.watch import WatchHandlers, watch_routes
from api.unknown import refuse_unknown, refuse_unknown_here, told_of_body
from api.write import BATCH_PARAMETERS, BATCH_PATH, LINE_PATHS, Handler, WriteHandlers
from engine.config import Config
from engine.errors import BadRequest, TidegaugeError
from engine.runtime import Engine

LOG = logging.getLogger("tidegauge.api")
#: Largest JSON body of a typed route; ingest bodies have their own limit.
MAX_ROUTE_BODY_BYTES = 1 << 20


def _engine_error(request: Request[Any, Any, Any], error: Exception) -> Response[dict[str, Any]]:
    if not isinstance(error, TidegaugeError):
        LOG.exception("a request failed unexpectedly: %s %s", request.method, request.url.path, exc_info=error)
    return Response(body_of(error), status_code=status_of(error), headers=headers_of(error))


def _http_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[dict[str, Any]]:
    codes = {400: "bad_request", 404: "not_found", 405: "method_not_allowed", 413: "too_large"}
    if error.status_code >= 500:
        return _engine_error(request, error)
    details, headers = getattr(error, "extra", None), dict(error.headers or {})
    why = error.detail or "the request is not valid"
    if error.status_code == 404:
        why = "there is no such path; GET /docs lists them"
    elif error.status_code == 405:
        allowed = next((value for name, value in headers.items() if name.lower() == "allow"), "")
        why = f"want {' or '.join(sorted(set(allowed.split(', ')) - {'OPTIONS'}))}"
    elif details:
        why = "; ".join(_told(request, each) for each in (details if isinstance(details, list) else [details]))
    message = f"cannot serve {request.method} {request.url.path}: {why}"
    body = {"error": codes.get(error.status_code, "bad_request"), "message": message, "details": details or None}
    return Response(body, status_code=error.status_code, headers=headers)


def _told(request: Request[Any, Any, Any], detail: Any) -> str:
    """Return in words what is wrong with one parameter, or with the body."""
    if not isinstance(detail, dict):
        return str(detail)
    place, wrong = detail.get("key", ""), detail.get("message", detail)
    if detail.get("source") == "body":
        # What a handler without a body says is the name of its parameter.
        if wrong == "'data'":
            return "there is no body, want a JSON object"
        wrong = told_of_body(request.route_handler, place, wrong)
        return f"{'body' if place == 'data' else place}: {wrong}"
    return f"{place}: {wrong}"


class Application:
    """The ASGI application of one engine."""

    def __init__(self, engine: Engine, config: Config) -> None:
        self.gate = Gate(
            config.server.tokens, engine.tokens.valid, lambda: config.server.require_token or engine.tokens.used
        )
        write = WriteHandlers(engine, config.server)
        watch = WatchHandlers(engine)
        self._raw: dict[tuple[str, str], Handler] = {("POST", path): write.lines for path in LINE_PATHS}
        self._raw["POST", BATCH_PATH] = write.batch
        prometheus = PrometheusHandlers(engine, config.server)
        self._raw["POST", REMOTE_WRITE_PATH] = prometheus.remote_write
        self._raw["POST", TEXT_PATH] = prometheus.text
        self._raw["GET", "/ping"] = self._raw["HEAD", "/ping"] = write.ping
        #: Where large bodies are POSTed to, whose handlers take them whole (``api.intake``).
        self.body_paths = frozenset(path for method, path in self._raw if method == "POST")
        #: The parameters of raw handlers on our own paths.
        self._parameters: dict[str, tuple[str, ...]] = {BATCH_PATH: BATCH_PARAMETERS, TEXT_PATH: TEXT_PARAMETERS}
        self._prompt = PromptQueries(engine, self.gate)
        #: What answers some requests where they are read, in place of a call of the application (``api.intake``).
        self.at_once = {
            QUERY_PATH.encode(): self._prompt.response,
            ROWS_PATH.encode(): PromptRows(engine, self.gate).response,
        }
        self._prefixed: tuple[tuple[str, Handler], ...] = (("/v1/scale/", watch.scale),)
        self._routes = Litestar(
            route_handlers=[
                *health_routes(engine),
                *query_routes(engine),
                *rows_routes(engine),
                *watch_routes(engine),
                *silence_routes(engine),
                *notification_routes(engine),
                *anomaly_routes(engine),
                *forecast_routes(engine),
                *token_routes(engine),
                *bottleneck_routes(engine),
                *deploy_routes(engine),
            ],
            guards=[refuse_unknown_here],
            exception_handlers={HTTPException: _http_error, Exception: _engine_error},
            openapi_config=OpenAPIConfig(
                title="Tidegauge",
                version="1",
                path="/docs",
                render_plugins=[SwaggerRenderPlugin(path="/swagger")],
                description="Time-series engine for the metrics of running systems. Ingest paths: POST /write,"
                " /api/v2/write, /api/v3/write_lp (line protocol), POST /v1/ingest (Arrow IPC stream or JSON batch),"
                " POST /api/v1/write (Prometheus remote write), POST /v1/import/prometheus (Prometheus text);"
                " decisions: GET /v1/scale/{target} and /v1/scale/{target}/keda.",
            ),
            request_max_body_size=MAX_ROUTE_BODY_BYTES,
            debug=False,
            logging_config=None,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._routes(scope, receive, send)  # type: ignore[arg-type]
            return
        method, path = scope["method"], scope["path"]
        try:
            scope[CALLER_KEY] = self.gate.check(scope)
        except TidegaugeError as error:
            await respond_error(send, error)
            return
        if path == QUERY_PATH and method == "GET":
            found = self._prompt.found(scope, scope[CALLER_KEY])
            if found is not None:
                answer, body = found
                await respond(send, 200, body, "application/json", told_headers(range_metadata(answer)).items())
                return
        handler = self._raw.get((method, path))
        if handler is None and method == "GET":
            handler = next((found for prefix, found in self._prefixed if path.startswith(prefix)), None)
        if handler is not None:
            try:
                refuse_unknown(scope, self._parameters.get(path, ()))
            except TidegaugeError as error:
                await respond_error(send, error)
                return
            await handler(scope, receive, send)
        elif ("POST", path) in self._raw or ("GET", path) in self._raw:
            allowed = "POST" if ("POST", path) in self._raw else "GET"
            await respond_error(send, BadRequest(f"cannot {method} {path}: want {allowed}"))
        else:
            await self._routes(scope, receive, send)  # type: ignore[arg-type]
