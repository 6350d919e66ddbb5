"""Why a range query has found nothing, or nothing of a metric, in a sentence.

A misspelt metric and a quiet hour look alike otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence

from engine.catalog.catalog import Catalog
from engine.model.matchers import Matcher
from engine.model.times import time_text
from engine.query.range import RangeAnswer, RangeQuery
from engine.spelling import meant


def why_lacking(catalog: Catalog, query: RangeQuery, answer: RangeAnswer, within: Sequence[Matcher] = ()) -> str | None:
    """Return why the answer to ``query`` has no series, or which of its metrics there are not; None for neither.

    ``within``: what series must satisfy to exist for the caller.  Says nothing of others.
    """
    if answer.tells_of(query.metrics):
        return None
    counts = {metric: _series(catalog, metric, within) for metric in query.metrics}
    unknown = [metric for metric, count in counts.items() if not count]
    if unknown:
        return "; ".join(_no_metric(catalog, metric, within) for metric in unknown)
    if answer.series:
        return None
    named = " or ".join(repr(metric) for metric in counts)
    if not any(_series(catalog, metric, (*within, *query.matchers)) for metric in query.metrics):
        wanted = ",".join(matcher.text for matcher in query.matchers)
        return f"none of the {sum(counts.values())} series of {named} satisfies {wanted}"
    start, end = time_text(query.start_ns), time_text(query.end_ns)
    return f"no series of {named} that was asked for has a value of {query.aggregate!r} from {start} to {end}"


def _series(catalog: Catalog, metric: str, matchers: Sequence[Matcher]) -> int:
    fields = catalog.fields_of_metric(metric)
    return sum(len(catalog.tagset_ids(one.table_id, (*one.matchers, *matchers))) for one in fields)


def _no_metric(catalog: Catalog, metric: str, within: Sequence[Matcher]) -> str:
    hint = meant(metric, catalog.metric_names(within), "GET /v1/metrics-names lists them")
    return f"there is no metric {metric!r}; {hint}"
