"""Questions for rows of one table as people ask them."""

from __future__ import annotations

from collections.abc import Sequence

from api.arguments import parse_time
from engine.errors import BadRequest
from engine.model.matchers import Matcher
from engine.model.rows import FOREVER_NS, NEVER_NS
from engine.query.comparisons import Comparison
from engine.query.ordered import Order
from engine.query.wide import Last, RowsQuery

#: What ``last`` may be, and what it means.
_LAST: dict[str, Last | None] = {
    "": None, "0": None, "false": None, "1": "row", "true": "row", "row": "row", "values": "values",
}  # fmt: skip
_ORDERS: dict[str, Order | None] = {"": None, "time": "time", "-time": "-time"}
_SYNONYMS = ("", "0", "1", "false", "true")
MAX_LIMIT = 1_000_000_000


def names_in(text: str | None) -> tuple[str, ...] | None:
    """Return the names in a list with commas between, None for none given."""
    return None if text is None else tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def rows_query(
    now_ns: int,
    table: str,
    *,
    fields: Sequence[str] | None = None,
    tags: Sequence[str] | None = None,
    matchers: tuple[Matcher, ...] = (),
    where: tuple[Comparison, ...] = (),
    start: str | None = None,
    end: str | None = None,
    last: str = "",
    order: str = "",
    limit: int | None = None,
) -> RowsQuery:
    """Return a question for rows as people ask it; raises BadRequest for a value that there is not.

    Without times: the last hour, with ``last`` all of time.
    """
    for name, value, known in (("last", last, _LAST), ("order", order, _ORDERS)):
        if value not in known:
            wanted = " or ".join(repr(each) for each in known if each not in _SYNONYMS)
            raise BadRequest(f"cannot read rows: got {name}={value!r}, want {wanted}")
    newest = _LAST[last]
    start_ns, end_ns = (NEVER_NS, FOREVER_NS) if newest else (parse_time("-1h", now_ns), now_ns)
    return RowsQuery(
        table,
        start_ns if start is None else parse_time(start, now_ns),
        end_ns if end is None else parse_time(end, now_ns),
        None if fields is None else tuple(fields),
        None if tags is None else tuple(tags),
        matchers,
        where,
        newest,
        _ORDERS[order],
        limit,
    )
