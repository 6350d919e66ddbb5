"""Relations that a statement joins with ``series``: what holds for the series holds for their samples and buckets.

Found are inner joins on ``series_id`` and ``series_id IN (SELECT series_id FROM series WHERE ...)``.  When in doubt
nothing is linked, which costs time and never changes an answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from engine.query.syntax import Node, column_of, flatten_and, fold
from engine.query.validation import Select

if TYPE_CHECKING:
    from engine.query.predicates import Source

SERIES_ID = "series_id"


def link_join(join: Node, sources: list[Source]) -> None:
    """Link what an inner join brings together by its series."""
    for conjunct in flatten_and(join.get("condition")):
        link_equal(conjunct, sources)
    sides = [join["left"], join["right"]]
    using = {fold(name) for name in join.get("using_columns", ())}
    if SERIES_ID in using and all(side.get("type") == "BASE_TABLE" for side in sides):
        left, right = (fold(str(side.get("alias") or side["table_name"])) for side in sides)
        _link(left, right, sources)


def link_equal(conjunct: Node, sources: list[Source]) -> None:
    """Link two relations by ``one.series_id = other.series_id``."""
    if conjunct.get("type") == "COMPARE_EQUAL":
        names = [column_of(side)[0] for side in (conjunct["left"], conjunct["right"])]
        aliases = [name[0] for name in names if name is not None and len(name) == 2 and name[1] == SERIES_ID]
        if len(aliases) == 2:
            _link(aliases[0], aliases[1], sources)


def _link(one: str, other: str, sources: list[Source]) -> None:
    pair = [[source for source in sources if source.alias == alias] for alias in (one, other)]
    if [len(found) for found in pair] != [1, 1]:
        return
    (left,), (right,) = pair
    for samples, series in ((left, right), (right, left)):
        if series.name == "series" and _narrows(samples) and _narrows(series) and samples.use and series.use:
            samples.use.linked.append(series.use)


def _narrows(source: Source) -> bool:
    return source.use is not None and source.usable and not source.outer


def link_subquery(
    conjunct: Node, sources: list[Source], gathered: list[tuple[Select, list[Source], list[Node]]]
) -> None:
    """Link a relation by ``series_id IN (SELECT series_id FROM series WHERE ...)``."""
    if conjunct.get("subquery_type") != "ANY" or conjunct.get("comparison_type") != "COMPARE_EQUAL":
        return
    names, key = column_of(conjunct["child"])
    inner = [each for each in gathered if each[0].node is conjunct["subquery"]["node"]]
    if names is None or key is not None or names[-1] != SERIES_ID or len(names) > 2 or len(inner) != 1:
        return
    select, among, _ = inner[0]
    items = select.node.get("select_list", ())
    if len(items) != 1 or len(among) != 1 or among[0].name != "series" or among[0].use is None:
        return
    chosen = column_of(items[0])
    if chosen[0] is None or chosen[0][-1] != SERIES_ID or len(chosen[0]) > 2 or chosen[1] is not None:
        return
    if len(chosen[0]) == 2 and chosen[0][0] != among[0].alias:
        return
    owners = [source for source in sources if len(names) == 1 or source.alias == names[0]]
    if len(owners) == 1 and _narrows(owners[0]) and owners[0].use is not None:
        owners[0].use.linked.append(among[0].use)
