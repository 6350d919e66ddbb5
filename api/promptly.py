"""``GET /v1/query`` answered at once: what needs few samples of memory is not worth a task, a thread or a second look.

Requests whose parameters are written plainly and whose query is prompt (``engine.query.prompt``) are answered where
they are read, in less time than handing them to a thread takes.  Everything else, mistakes included, goes to the typed
route, which gives the same answers.
"""

from __future__ import annotations

from functools import lru_cache

from api.arguments import parse_range, unquoted
from api.asgi import Scope, told_headers
from api.auth import Gate
from api.ranges import MAX_SERIES, range_json
from engine.catalog.callers import Caller
from engine.clock import NS_PER_SECOND
from engine.errors import TidegaugeError
from engine.model.matchers import parse_matchers
from engine.query.range import RangeAnswer, RangeQuery
from engine.runtime import Engine

QUERY_PATH = "/v1/query"
_TEXTS = frozenset(("match", "start", "end", "step", "agg", "by", "shape"))
_COUNTS = frozenset(("topk", "bottomk", "limit"))
_parsed_matchers = lru_cache(1_024)(parse_matchers)


class PromptQueries:
    """Answers of one engine that are given at once; called from the event loop only."""

    def __init__(self, engine: Engine, gate: Gate) -> None:
        self._engine, self._gate = engine, gate

    def response(self, scope: Scope) -> bytes | None:
        """Return a whole HTTP/1.1 response to a request for ``QUERY_PATH``, None when it is to go the usual way."""
        try:
            caller = self._gate.check(scope)
        except TidegaugeError:
            return None
        found = self.found(scope, caller)
        if found is None:
            return None
        answer, body = found
        return _head(answer, len(body)) + body

    def found(self, scope: Scope, caller: Caller) -> tuple[RangeAnswer, bytes] | None:
        """Return the answer and its body if it can be had at once."""
        asked = self._asked(scope["query_string"])
        if asked is None:
            return None
        query, limit = asked
        answer = self._engine.prompt_query(query, caller)
        return None if answer is None else (answer, range_json(answer, limit))

    def _asked(self, query_string: bytes) -> tuple[RangeQuery, int] | None:
        """Return the query and how many series to give; None for what is better read by the typed route."""
        metrics: list[str] = []
        texts: dict[str, str] = {}
        counts: dict[str, int] = {}
        try:
            for part in query_string.decode("ascii").split("&"):
                name, _, value = part.partition("=")
                value = unquoted(value)
                if name == "metric":
                    metrics.append(value)
                elif name in _TEXTS and name not in texts:
                    texts[name] = value
                elif name in _COUNTS and name not in counts and value.isdecimal():
                    counts[name] = int(value)
                else:
                    return None
            if not metrics or texts.get("shape", "columns") != "columns":
                return None
            if not all(1 <= count <= MAX_SERIES for count in counts.values()):
                return None
            start_ns, end_ns, step_ns = parse_range(
                texts.get("start", "-1h"), texts.get("end", "now"), texts.get("step", "1m"), self._engine.clock.now_ns()
            )
            by = texts.get("by")
            query = RangeQuery(
                metrics[0],
                start_ns,
                end_ns,
                step_ns,
                texts.get("agg", "avg"),
                _parsed_matchers(texts.get("match", "")),
                None if by is None else tuple(label for label in by.split(",") if label),
                further_metrics=tuple(metrics[1:]),
                top=counts.get("topk"),
                bottom=counts.get("bottomk"),
            )
        except (TidegaugeError, UnicodeError, ValueError):
            return None
        return query, counts.get("limit", MAX_SERIES)


def _head(answer: RangeAnswer, size: int) -> bytes:
    """Return the response's head; its lines are those of ``told_headers``, written without a look at each."""
    # A prompt answer has samples; nothing else of it has a value.
    sources = ", ".join(f"{name}={rows}" for name, rows in answer.sources.items())
    return (
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
        f"{_asked_lines(answer.metric, answer.aggregate, answer.step_ns, answer.tier)}"
        f"x-tidegauge-rows-read: {answer.rows_read}\r\nx-tidegauge-sources: {sources}\r\n"
        f"x-tidegauge-fresh-to: {answer.fresh_to_ns}\r\n"
        f"x-tidegauge-series-total: {len(answer.series)}\r\ncontent-length: {size}\r\n\r\n"
    ).encode("ascii")


@lru_cache(1_024)
def _asked_lines(metric: str, aggregate: str, step_ns: int, tier: str) -> str:
    told = told_headers(
        {"metric": metric, "aggregate": aggregate, "step_seconds": step_ns / NS_PER_SECOND, "tier": tier}
    )
    return "".join(f"{name.lower()}: {value}\r\n" for name, value in told.items())
