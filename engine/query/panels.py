"""Metrics as matrices: for each service and metric the aligned values of its instances.

Who a series belongs to is told by its labels: the first of a list that it has names its service, the others its
instance.  Series that differ in further labels only are merged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from engine.catalog.catalog import Catalog
from engine.errors import BadRequest, QueryLimit
from engine.model.rows import Float64Array
from engine.query.range import RangeQuery, RangeReader

#: Of a histogram or summary, the sum over the count is its mean; its buckets say nothing by themselves.
SUM, COUNT, BUCKET = "_sum", "_count", "_bucket"


@dataclass(frozen=True, slots=True)
class Panel:
    """One metric of one service.  ``values``: float64[rows, instances], NaN for "not reported".

    ``counted``: rates of a counter, which add up over instances.
    """

    service: str
    metric: str
    counted: bool
    instances: tuple[str, ...]
    values: Float64Array


@dataclass(slots=True)
class Panels:
    """``series``: how many were read; ``left_out``: how many were not, being too many or of no service."""

    panels: list[Panel] = field(default_factory=list)
    series: int = 0
    left_out: int = 0


class PanelReader:
    """Reads panels of one engine; callable from any thread."""

    def __init__(self, catalog: Catalog, ranges: RangeReader, raw_since_ns: Callable[[int], int]) -> None:
        self._catalog, self._ranges, self._raw_since_ns = catalog, ranges, raw_since_ns

    def read(
        self,
        metrics: Sequence[str],
        is_counter: Callable[[str], bool],
        *,
        labels: Sequence[str],
        start_ns: int,
        end_ns: int,
        step_ns: int,
        max_series: int,
    ) -> Panels:
        """Return the panels of ``metrics``, the first ones first, as long as there is room for their series."""
        found = Panels()
        names = set(metrics)
        for metric in metrics:
            stem = (
                metric.removesuffix(SUM) if metric.endswith(SUM) and metric.removesuffix(SUM) + COUNT in names else ""
            )
            if metric.endswith(BUCKET) and metric.removesuffix(BUCKET) + COUNT in names:
                continue
            series = self._count(metric)
            if found.series + series > max_series:
                found.left_out += series
                continue
            found.series += series
            counted = bool(stem) or is_counter(metric)
            shape = (start_ns, end_ns, step_ns)
            lines = self._lines(metric, counted, labels, shape, found)
            if stem:
                below = self._lines(stem + COUNT, True, labels, shape, Panels())
                lines = {key: _ratio(values, below[key]) for key, values in lines.items() if key in below}
                metric, counted = f"{stem}_mean", False
            of_service: dict[str, list[tuple[str, Float64Array]]] = {}
            for (service, instance), values in lines.items():
                of_service.setdefault(service, []).append((instance, values))
            found.panels += [
                Panel(
                    service,
                    metric.replace("/", "|"),
                    counted,
                    tuple(instance for instance, _ in each),
                    np.column_stack([values for _, values in each]),
                )
                for service, each in of_service.items()
            ]
        return found

    def _count(self, metric: str) -> int:
        return sum(
            len(self._catalog.tagset_ids(each.table_id, each.matchers))
            for each in self._catalog.fields_of_metric(metric)
        )

    def _lines(
        self, metric: str, counted: bool, labels: Sequence[str], shape: tuple[int, int, int], found: Panels
    ) -> dict[tuple[str, str], Float64Array]:
        """Return the values of each (service, instance); what cannot be read or belongs to no service is counted."""
        start_ns, end_ns, step_ns = shape
        query = RangeQuery(metric, start_ns, end_ns, step_ns, aggregate="rate" if counted else "avg", by=tuple(labels))
        try:
            answer = self._ranges.answer(query, raw_since_ns=self._raw_since_ns)
        except (BadRequest, QueryLimit):
            # Not kept for all of the time, or too much: the others are still worth a look.
            found.left_out += self._count(metric)
            return {}
        lines: dict[tuple[str, str], Float64Array] = {}
        for points in answer.series:
            names = [points.labels[label] for label in labels if points.labels[label]]
            if not names:
                found.left_out += 1
                continue
            values = np.full((end_ns - start_ns) // step_ns, np.nan)
            values[(points.times - start_ns) // step_ns] = points.values
            key = (names[0], ", ".join(names[1:]))
            # Two tables may have a metric of one name.
            lines[key] = values if key not in lines else np.where(np.isfinite(values), values, lines[key])
        return lines


def _ratio(above: Float64Array, below: Float64Array) -> Float64Array:
    ratio: Float64Array = np.where(below > 0, above / np.where(below > 0, below, 1.0), np.nan)
    return ratio
