"""``GET /v1/rows`` answered at once: what is told from few series or from newest values in memory.

As :mod:`api.promptly` does for ``/v1/query``: whatever is not written plainly, needs more than about a millisecond, or
is a mistake goes to the typed route, which gives the same answers.
"""

from __future__ import annotations

from functools import lru_cache

from api.arguments import unquoted
from api.asgi import Scope, header, told_headers
from api.auth import Gate
from api.routes.query import negotiate
from api.rows import MAX_LIMIT, names_in, rows_query
from engine.errors import TidegaugeError
from engine.model.matchers import parse_matchers
from engine.query.comparisons import parse_comparisons
from engine.query.results import render
from engine.query.wide import RowsQuery
from engine.runtime import Engine

ROWS_PATH = "/v1/rows"
#: Most values of an answer, by its form: texts take longer to make.
MOST_CELLS = {"arrow": 50_000, "json": 1_500, "objects": 1_500}
_NAMES = frozenset(("table", "fields", "tags", "match", "where", "start", "end", "last", "order", "limit", "shape"))
_parsed_matchers = lru_cache(1_024)(parse_matchers)
_parsed_comparisons = lru_cache(1_024)(parse_comparisons)
_names_in = lru_cache(1_024)(names_in)


class PromptRows:
    """Answers of one engine that are given at once; called from the event loop only."""

    def __init__(self, engine: Engine, gate: Gate) -> None:
        self._engine, self._gate = engine, gate

    def response(self, scope: Scope) -> bytes | None:
        """Return a whole HTTP/1.1 response to a request for ``ROWS_PATH``, None when it is to go the usual way."""
        try:
            caller = self._gate.check(scope)
            media_type, form = negotiate(header(scope, b"accept"))
            query, shape = self._asked(scope["query_string"])
        except (TidegaugeError, UnicodeError, ValueError, KeyError):
            return None
        if shape == "rows" and form == "json":
            form = "objects"
        elif shape != "columns":
            return None
        if form not in MOST_CELLS:
            return None
        answer = self._engine.prompt_rows(query, caller, MOST_CELLS[form])
        if answer is None:
            return None
        try:
            body = render(answer.table, form, answer.metadata)
        except TidegaugeError:
            return None
        told = "".join(f"{name.lower()}: {value}\r\n" for name, value in told_headers(answer.metadata).items())
        head = f"HTTP/1.1 200 OK\r\ncontent-type: {media_type}\r\ncontent-length: {len(body)}\r\n{told}\r\n"
        return head.encode("ascii") + body

    def _asked(self, query_string: bytes) -> tuple[RowsQuery, str]:
        """Return the question and its shape; raises ValueError for what is better read by the typed route."""
        texts: dict[str, str] = {}
        for part in query_string.decode("ascii").split("&"):
            name, _, value = part.partition("=")
            if name not in _NAMES or name in texts:
                raise ValueError(name)
            texts[name] = unquoted(value)
        limit = texts.get("limit")
        if limit is not None and not (limit.isdecimal() and 1 <= int(limit) <= MAX_LIMIT):
            raise ValueError(limit)
        query = rows_query(
            self._engine.clock.now_ns(),
            texts["table"],
            fields=_names_in(texts.get("fields")),
            tags=_names_in(texts.get("tags")),
            matchers=_parsed_matchers(texts.get("match", "")),
            where=_parsed_comparisons(texts.get("where", "")),
            start=texts.get("start"),
            end=texts.get("end"),
            last=texts.get("last", ""),
            order=texts.get("order", ""),
            limit=None if limit is None else int(limit),
        )
        return query, texts.get("shape", "columns")
