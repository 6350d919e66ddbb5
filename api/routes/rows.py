"""Rows of one table as they are, without SQL."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Annotated, Any

from litestar import Request, Response, get
from litestar.handlers import BaseRouteHandler
from litestar.params import FromQuery, QueryParameter

from api.routes.query import Shape, form_of
from api.rows import MAX_LIMIT, names_in, rows_query
from api.sql import StreamedAnswers
from api.turns import QueryThreads
from engine.catalog.callers import Caller
from engine.model.matchers import parse_matchers
from engine.query.comparisons import parse_comparisons
from engine.query.deadlines import Stop
from engine.query.rowstream import RowsStream
from engine.runtime import Engine


def rows_routes(engine: Engine) -> list[BaseRouteHandler]:
    """Return the routes of one engine."""
    settings = engine.config.query
    answers = StreamedAnswers(engine.query_turns, QueryThreads(settings.concurrency), settings.reader_patience.seconds)

    @get("/v1/rows", summary="Rows of one table whose fields satisfy conditions, or the newest of each tag set")
    async def get_rows(
        request: Request[Any, Any, Any],
        table: FromQuery[str],
        fields: FromQuery[str | None] = None,
        tags: FromQuery[str | None] = None,
        match: FromQuery[str] = "",
        where: FromQuery[str] = "",
        start: FromQuery[str | None] = None,
        end: FromQuery[str | None] = None,
        last: FromQuery[str] = "",
        order: FromQuery[str] = "",
        limit: Annotated[int | None, QueryParameter(ge=1, le=MAX_LIMIT)] = None,
        shape: FromQuery[Shape] = "columns",
    ) -> Response[bytes]:
        query = rows_query(
            engine.clock.now_ns(),
            table,
            fields=names_in(fields),
            tags=names_in(tags),
            matchers=parse_matchers(match),
            where=parse_comparisons(where),
            start=start,
            end=end,
            last=last,
            order=order,
            limit=limit,
        )
        media_type, form = form_of(request, shape)

        def opening(caller: Caller, stop: Stop) -> AbstractContextManager[RowsStream]:
            return engine.stream_rows(query, caller, stop)

        return await answers.answer(opening, media_type, form, request)

    return [get_rows]
