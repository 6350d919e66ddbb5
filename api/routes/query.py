"""What analysts and dashboards ask: SQL, aligned series, the catalogue."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

import msgspec
from litestar import Request, Response, delete, get, post
from litestar.handlers import BaseRouteHandler
from litestar.params import FromQuery, JSONBody, QueryParameter

from api.arguments import parse_range, parse_time
from api.asgi import told_headers
from api.auth import caller_of
from api.ranges import MAX_SERIES, range_json, range_metadata, range_objects
from api.sql import StreamedAnswers
from api.turns import QueryThreads, turn_of
from engine.catalog.callers import Caller
from engine.errors import BadRequest
from engine.model.matchers import Matcher, parse_matchers
from engine.model.rows import FOREVER_NS, NEVER_NS
from engine.query.answers import SqlStream
from engine.query.deadlines import Stop
from engine.query.range import RangeQuery
from engine.runtime import Engine

FORMATS = {
    "application/json": "json",
    "text/csv": "csv",
    "application/vnd.apache.arrow.stream": "arrow",
    "application/vnd.apache.parquet": "parquet",
}
#: ``columns``: an object with the answer's properties; ``rows``: an array of objects, as Grafana and others take it.
Shape = Literal["columns", "rows"]


class SqlBody(msgspec.Struct, forbid_unknown_fields=True):
    """One statement with its parameters (``?`` or ``$1`` in the text)."""

    sql: str
    parameters: list[Any] = []


def negotiate(accept: str) -> tuple[str, str]:
    """Return the media type and the format for an Accept header; raises BadRequest when none is offered."""
    if not accept:
        return "application/json", "json"
    for part in accept.split(","):
        kind = part.partition(";")[0].strip().lower()
        if kind in FORMATS:
            return kind, FORMATS[kind]
        if kind in ("*/*", "application/*", "text/html"):
            return "application/json", "json"
    raise BadRequest(f"cannot answer as {accept!r}: want one of {', '.join(FORMATS)}")


def form_of(request: Request[Any, Any, Any], shape: Shape) -> tuple[str, str]:
    """Return the media type and the form of an answer with rows; raises BadRequest when there is none as asked for."""
    media_type, form = negotiate(request.headers.get("accept", ""))
    if shape == "columns":
        return media_type, form
    if form != "json":
        raise BadRequest(f"cannot answer with shape=rows as {media_type}: want application/json")
    return media_type, "objects"


def query_routes(engine: Engine) -> list[BaseRouteHandler]:
    """Return the routes of one engine."""
    # Counting reads every tag set in use: one at a time.
    counting = asyncio.Lock()
    threads = QueryThreads(2 * engine.config.query.concurrency)

    answers = StreamedAnswers(engine.sql_turns, threads, engine.config.query.reader_patience.seconds)

    async def answer(
        statement: str, parameters: list[Any], request: Request[Any, Any, Any], shape: Shape
    ) -> Response[bytes]:
        media_type, form = form_of(request, shape)

        def opening(caller: Caller, stop: Stop) -> SqlStream:
            return engine.stream_sql(statement, parameters, caller, stop)

        return await answers.answer(opening, media_type, form, request)

    @post("/v1/sql", status_code=200, summary="Run one SELECT; the form of the answer by Accept")
    async def post_sql(
        data: JSONBody[SqlBody], request: Request[Any, Any, Any], shape: FromQuery[Shape] = "columns"
    ) -> Response[bytes]:
        return await answer(data.sql, data.parameters, request, shape)

    @get("/v1/sql", summary="Run one SELECT given as ?q=")
    async def get_sql(
        q: FromQuery[str], request: Request[Any, Any, Any], shape: FromQuery[Shape] = "columns"
    ) -> Response[bytes]:
        return await answer(q, [], request, shape)

    def run_query(query: RangeQuery, caller: Caller, limit: int, shape: Shape) -> Response[bytes]:
        written = range_objects if shape == "rows" else range_json
        found = engine.query(query, caller)
        headers = told_headers(range_metadata(found))
        return Response(written(found, limit), media_type="application/json", headers=headers)

    @get("/v1/query", summary="Aligned aggregated series from raw samples or the best tier")
    async def get_query(
        request: Request[Any, Any, Any],
        metric: FromQuery[list[str]],
        match: FromQuery[str] = "",
        start: FromQuery[str] = "-1h",
        end: FromQuery[str] = "now",
        step: FromQuery[str] = "1m",
        agg: FromQuery[str] = "avg",
        by: FromQuery[str | None] = None,
        topk: Annotated[int | None, QueryParameter(ge=1, le=MAX_SERIES)] = None,
        bottomk: Annotated[int | None, QueryParameter(ge=1, le=MAX_SERIES)] = None,
        limit: Annotated[int, QueryParameter(ge=1, le=MAX_SERIES)] = MAX_SERIES,
        shape: FromQuery[Shape] = "columns",
    ) -> Response[bytes]:
        start_ns, end_ns, step_ns = parse_range(start, end, step, engine.clock.now_ns())
        query = RangeQuery(
            metric[0],
            start_ns,
            end_ns,
            step_ns,
            agg,
            parse_matchers(match),
            None if by is None else tuple(label for label in by.split(",") if label),
            further_metrics=tuple(metric[1:]),
            top=topk,
            bottom=bottomk,
        )
        caller = caller_of(request)
        async with turn_of(engine.query_turns, caller):
            return await threads.run(lambda: run_query(query, caller, limit, shape))

    @get("/v1/series", summary="The series of the catalogue")
    async def get_series(
        request: Request[Any, Any, Any],
        match: FromQuery[str] = "",
        metric: FromQuery[str | None] = None,
        limit: Annotated[int, QueryParameter(ge=1, le=MAX_SERIES)] = 1_000,
    ) -> dict[str, Any]:
        return await asyncio.to_thread(list_series, match, metric, limit, caller_of(request))

    def list_series(match: str, metric: str | None, limit: int, caller: Caller) -> dict[str, Any]:
        matchers = parse_matchers(match)
        if metric is None:
            metric, matchers = _metric_of(matchers)
        matchers = (*matchers, *caller.matchers)
        found: list[dict[str, Any]] = []
        more = False
        for series in engine.catalog.series(metric, matchers):
            if len(found) == limit:
                more = True
                break
            found.append({"series_id": series.series_id, "metric": series.metric, "labels": series.labels})
        return {"series": found, "truncated": more}

    @delete("/v1/series", status_code=200, summary="Delete the rows of series; scope admin")
    async def delete_series(
        request: Request[Any, Any, Any],
        match: FromQuery[str] = "",
        table: FromQuery[str | None] = None,
        start: FromQuery[str | None] = None,
        end: FromQuery[str | None] = None,
        dry_run: FromQuery[bool] = False,
    ) -> dict[str, Any]:
        now_ns = engine.clock.now_ns()
        done = await asyncio.to_thread(
            engine.delete_series,
            parse_matchers(match),
            table=table,
            start_ns=NEVER_NS if start is None else parse_time(start, now_ns),
            end_ns=FOREVER_NS if end is None else parse_time(end, now_ns),
            dry_run=dry_run,
            caller=caller_of(request),
        )
        return {
            "tables": done.tables,
            "tag_sets": done.tag_sets,
            "series": done.series,
            "rows": done.rows,
            "sequence": done.sequence,
            "dry_run": done.dry_run,
            "tiers": "done" if done.tiers else "pending",
            "problem": done.problem,
        }

    @get("/v1/metrics-names", summary="The names of all metrics")
    async def get_metric_names(request: Request[Any, Any, Any]) -> dict[str, list[str]]:
        return {"metrics": await asyncio.to_thread(engine.catalog.metric_names, caller_of(request).matchers)}

    @get("/v1/labels", summary="The names of all labels, or the values of one")
    async def get_labels(request: Request[Any, Any, Any], label: FromQuery[str | None] = None) -> dict[str, list[str]]:
        matchers = caller_of(request).matchers
        if label is None:
            return {"labels": await asyncio.to_thread(engine.catalog.label_names, matchers)}
        return {"values": await asyncio.to_thread(engine.catalog.label_values, label, matchers)}

    @get("/v1/cardinality", summary="How many tag sets there are, and which tables and labels have the most")
    async def get_cardinality(
        request: Request[Any, Any, Any], top: Annotated[int, QueryParameter(ge=1, le=1_000)] = 10
    ) -> dict[str, Any]:
        async with counting:
            return await asyncio.to_thread(engine.keeper.cardinality, top, caller_of(request).matchers)

    return [post_sql, get_sql, get_query, get_series, delete_series, get_metric_names, get_labels, get_cardinality]


def _metric_of(matchers: tuple[Matcher, ...]) -> tuple[str | None, tuple[Matcher, ...]]:
    """Take ``__name__="…"`` out of the matchers, as Prometheus users write it."""
    metric = None
    rest = []
    for matcher in matchers:
        if matcher.label == "__name__" and matcher.operator == "=":
            metric = matcher.value
        else:
            rest.append(matcher)
    return metric, tuple(rest)
